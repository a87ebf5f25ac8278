//! Whether peers were revoked: asked of every server when there are keys with others than before, and now and then.
//!
//! A stream is open only while a host needs the server, and two hosts in the open may never need it; without this
//! neither would hear that the other was revoked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::Credentials;
use proto::mobility::v1 as said;
use said::agents_client::AgentsClient;
use said::server_message::Body;
use tokio::sync::{mpsc, watch};

use super::ServerEvent;
use super::connect::connect;

/// Members in one question, at most.
const MAX_MEMBERS: usize = 4096;
/// Exchanges come in bursts.
const SOON: Duration = Duration::from_secs(1);
/// How long one server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The peers that there are keys with, by URI, and the servers that both ends may use.
pub type Peers = BTreeMap<String, Vec<String>>;

/// How to ask.
pub struct Standing {
    /// The deployment's servers. Each has its own list, unless they share a store: all are asked.
    pub servers: Vec<String>,
    /// Whom to ask about.
    pub peers: watch::Receiver<Arc<Peers>>,
    /// How often.
    pub every: Duration,
    /// Who we are.
    pub credentials: watch::Receiver<Credentials>,
    /// Whom servers must be vouched for by (PEM).
    pub authorities: PathBuf,
    /// Mark of the agent's own segments.
    pub mark: u32,
    /// Where it is told.
    pub events: mpsc::Sender<ServerEvent>,
}

impl Standing {
    /// Asks for ever.
    pub async fn run(mut self) {
        loop {
            let peers = self.peers.borrow_and_update().clone();
            if !peers.is_empty() {
                self.ask_all(&peers).await;
            }
            // Fixed waits would bring all agents back in the same instant.
            let again = self.every.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::select! {
                () = tokio::time::sleep(again) => {}
                changed = self.peers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(SOON).await;
                }
            }
        }
    }

    async fn ask_all(&self, peers: &Peers) {
        let asked = self.servers.iter().map(|server| async move {
            let uses = |known: &&Vec<String>| known.contains(server);
            let members: Vec<String> = peers
                .iter()
                .filter(|(_, known)| uses(known))
                .map(|(uri, _)| uri.clone())
                .collect();
            if members.is_empty() {
                return;
            }
            let answer = tokio::time::timeout(PATIENCE, self.ask(server, &members)).await;
            let answer = answer.unwrap_or_else(|_| Err("it does not answer".to_owned()));
            let revoked = answer.unwrap_or_else(|why| {
                tracing::debug!(server, why, "cannot learn whether peers were revoked");
                Vec::new()
            });
            for agent in revoked.into_iter().filter(|uri| peers.contains_key(uri)) {
                let body = Body::Revoked(said::Revoked { agent });
                let server = server.clone();
                let _ = self.events.send(ServerEvent::Said { server, body }).await;
            }
        });
        futures_util::future::join_all(asked).await;
    }

    async fn ask(&self, server: &str, members: &[String]) -> Result<Vec<String>, String> {
        let tls = {
            let credentials = self.credentials.borrow();
            identity::towards_servers(credentials.identity(), &self.authorities)
        };
        let tls = tls.map_err(|error| error.to_string())?;
        let connected = connect(server, None, self.mark, tls)
            .await
            .map_err(|error| error.to_string())?;
        let mut client = AgentsClient::new(connected.channel);
        let mut revoked = Vec::new();
        for some in members.chunks(MAX_MEMBERS) {
            let members = some.to_vec();
            let answer = client.standing(said::StandingRequest { members }).await;
            revoked.extend(
                answer
                    .map_err(|status| status.message().to_owned())?
                    .into_inner()
                    .revoked,
            );
        }
        Ok(revoked)
    }
}
