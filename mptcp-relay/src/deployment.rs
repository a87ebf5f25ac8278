//! The relay as a member of a deployment: its connections are sessions there, beside those of agents and proxies.
//!
//! All of it is optional. Without a certificate the relay relays; with one, and no server that answers, it relays just
//! the same.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use identity::{Credentials, MemberRole};
use member::renewal::Renewal;
use member::standing::{self, StandingError};
use mptcp_pm::Token;
use proto::mobility::v1 as said;
use said::sessions_client::SessionsClient;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::config::Config;
use crate::registry::{Registry, SessionId};
use crate::server::{self, Attendance, ServerEvent};
use crate::syn::Ends;

/// How long servers have at the end to hear that everything is over.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long a server may take to say who has a token.
const FIND_WITHIN: Duration = Duration::from_secs(2);

/// One path of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// This end, under the server's address or one of the relay's.
    pub local: SocketAddr,
    /// The terminal's.
    pub remote: SocketAddr,
    /// Whether it is in reserve.
    pub backup: bool,
}

struct Held {
    id: SessionId,
    ends: Ends,
    token: Option<Token>,
}

struct Server {
    url: String,
    attended: bool,
    why: String,
    client: Arc<Mutex<Option<SessionsClient<Channel>>>>,
}

/// What the loop holds of the deployment.
pub struct Deployment {
    me: Option<String>,
    config: Config,
    registry: Arc<Registry>,
    /// By the relay's own number.
    held: HashMap<u64, Held>,
    numbers: HashMap<Token, u64>,
    servers: Vec<Server>,
    connections: watch::Sender<u64>,
    events: mpsc::Receiver<ServerEvent>,
    renewed: mpsc::Receiver<()>,
    credentials: Option<watch::Sender<Credentials>>,
    // Without servers nobody else holds these, and the channels must not count as closed.
    _senders: (mpsc::Sender<ServerEvent>, mpsc::Sender<()>),
}

/// Who this relay is.
///
/// # Errors
/// There is no usable identity, or it is not a relay's.
pub fn credentials(config: &Config) -> Result<Credentials, StandingError> {
    standing::credentials(&config.identity, MemberRole::Relay, "mptcp-relay")
}

/// The servers of its deployment; empty: it is in none.
///
/// # Errors
/// One is no URL.
pub fn servers_of(config: &Config) -> anyhow::Result<Vec<String>> {
    standing::servers(&config.servers, &config.identity).context("`servers`")
}

/// Addresses of this host that others may reach.
fn own_addresses() -> Vec<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut found: Vec<IpAddr> = all
        .filter_map(|interface| {
            let address = interface.address?;
            if let Some(v4) = address.as_sockaddr_in() {
                return Some(IpAddr::V4(v4.ip()));
            }
            Some(IpAddr::V6(address.as_sockaddr_in6()?.ip()))
        })
        .filter(|address| match address {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    found.sort();
    found.dedup();
    found.truncate(64);
    found
}

impl Deployment {
    /// Joins the configured deployment, if there is one: a task for each server. Without a usable certificate the relay is in
    /// none, and relays: terminals do not care.
    ///
    /// # Errors
    /// A server is no URL.
    pub fn join(config: &Config) -> anyhow::Result<Self> {
        let mut urls = servers_of(config)?;
        let credentials = match urls.is_empty() {
            true => None,
            false => credentials(config)
                .inspect_err(|error| tracing::error!("the relay is in no deployment: {error}; or leave `servers` empty, for a relay of its own"))
                .ok(),
        };
        if credentials.is_none() {
            urls.clear();
        }
        let (events_sender, events) = mpsc::channel(256);
        let (renewed_sender, renewed) = mpsc::channel(1);
        let (connections, counted) = watch::channel(0);
        let me = credentials
            .as_ref()
            .map(|credentials| credentials.identity().uri().to_owned());
        let registry = Arc::new(Registry::new(urls.len()));
        let servers: Vec<Server> = urls
            .iter()
            .map(|url| Server {
                url: url.clone(),
                attended: false,
                why: String::new(),
                client: Arc::default(),
            })
            .collect();
        let authorities = config.identity.join("ca.pem");
        let credentials = credentials.map(|credentials| {
            let (sender, receiver) = watch::channel(credentials);
            let addresses = match config.addresses.is_empty() {
                true => own_addresses(),
                false => config.addresses.clone(),
            };
            for (index, server) in servers.iter().enumerate() {
                let attendance = Attendance {
                    index,
                    url: server.url.clone(),
                    credentials: receiver.clone(),
                    authorities: authorities.clone(),
                    addresses: addresses.clone(),
                    capacity: config.limits.sessions as u64,
                    registry: registry.clone(),
                    connections: counted.clone(),
                    client: server.client.clone(),
                    events: events_sender.clone(),
                };
                tokio::spawn(attendance.run());
            }
            let renewal = Renewal {
                servers: urls.clone(),
                credentials: receiver,
                identity: config.identity.clone(),
                authorities,
                mark: 0,
                renewed: renewed_sender.clone(),
            };
            tokio::spawn(renewal.run());
            sender
        });
        Ok(Self {
            me,
            config: config.clone(),
            registry,
            held: HashMap::new(),
            numbers: HashMap::new(),
            servers,
            connections,
            events,
            renewed,
            credentials,
            _senders: (events_sender, renewed_sender),
        })
    }

    /// Whether there is one.
    pub fn is_joined(&self) -> bool {
        !self.servers.is_empty()
    }

    /// What agents have said of lost paths, when something has come; never, without a deployment.
    pub async fn next(&mut self) -> said::LostPathsOf {
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => match event {
                    ServerEvent::PathsLost(lost) => return lost,
                    ServerEvent::Attended(index) => {
                        tracing::info!(server = self.servers[index].url, "attended");
                        self.servers[index].attended = true;
                    }
                    ServerEvent::Closed(index, why) => {
                        let server = &mut self.servers[index];
                        match std::mem::take(&mut server.attended) {
                            true => tracing::warn!(server = server.url, why, "the stream has ended"),
                            false => tracing::debug!(server = server.url, why, "not reached"),
                        }
                        server.why = why;
                    }
                },
                Some(()) = self.renewed.recv() => match credentials(&self.config) {
                    Ok(renewed) => {
                        if let Some(sender) = &self.credentials {
                            sender.send_replace(renewed);
                        }
                    }
                    Err(error) => tracing::error!("the new certificate cannot be used: {error}"),
                },
            }
        }
    }

    /// A connection is relayed.
    pub fn opened(&mut self, number: u64, ends: Ends, token: Option<Token>) {
        if !self.is_joined() {
            return;
        }
        let id = rand::random();
        self.held.insert(number, Held { id, ends, token });
        if let Some(token) = token {
            self.numbers.insert(token, number);
        }
        let first = Path {
            local: ends.server,
            remote: ends.terminal,
            backup: false,
        };
        self.publish(number, &[first]);
        self.connections.send_replace(self.held.len() as u64);
    }

    /// A connection has these paths now.
    pub fn paths(&self, token: Token, paths: &[Path]) {
        if let Some(number) = self.numbers.get(&token) {
            self.publish(*number, paths);
        }
    }

    /// A connection has ended.
    pub fn ended(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else {
            return;
        };
        if let Some(token) = held.token
            && self.numbers.get(&token) == Some(&number)
        {
            self.numbers.remove(&token);
        }
        self.registry.gone(&held.id);
        self.connections.send_replace(self.held.len() as u64);
    }

    fn publish(&self, number: u64, paths: &[Path]) {
        let Some(held) = self.held.get(&number) else {
            return;
        };
        let endpoint = |address: SocketAddr| {
            Some(said::Endpoint {
                address: server::bytes(address.ip().to_canonical()),
                port: address.port().into(),
            })
        };
        let path = |path: &Path| said::Path {
            local: endpoint(path.local),
            remote: endpoint(path.remote),
            role: if path.backup { "backup" } else { "established" }.into(),
            ..said::Path::default()
        };
        let session = said::Session {
            session_id: held.id.to_vec(),
            kind: said::session::Kind::Multipath.into(),
            client: endpoint(held.ends.terminal),
            server: endpoint(held.ends.server),
            paths: paths.iter().map(path).collect(),
            lease_seconds: server::LEASE.as_secs() as u32,
            mptcp_token: held.token.map_or(0, |token| token.0),
            ..said::Session::default()
        };
        self.registry.put(held.id, session);
    }

    /// How to ask who has a token; none: no server is attended.
    pub fn finder(&self) -> Option<Finder> {
        let clients = self.servers.iter().filter_map(|server| {
            let client = server.client.lock().unwrap_or_else(PoisonError::into_inner);
            client.clone()
        });
        let clients: Vec<_> = clients.collect();
        (!clients.is_empty()).then(|| Finder {
            me: self.me.clone().unwrap_or_default(),
            clients,
        })
    }

    /// The servers hear that all connections have ended, if they listen.
    pub async fn leave(&self) {
        self.registry.all_gone();
        let told = async {
            for (index, server) in self.servers.iter().enumerate() {
                while server.attended && !self.registry.is_told(index) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, told).await;
    }

    /// For `status`.
    pub fn status(&self) -> Value {
        let server = |server: &Server| {
            json!({
                "url": server.url,
                "attended": server.attended,
                "why": if server.attended { "" } else { server.why.as_str() },
            })
        };
        json!({
            "relay": self.me,
            "servers": self.servers.iter().map(server).collect::<Vec<_>>(),
        })
    }
}

/// Asks the servers who has a token.
#[derive(Clone)]
pub struct Finder {
    me: String,
    clients: Vec<SessionsClient<Channel>>,
}

impl Finder {
    /// Addresses of the other relay that has a connection with this token; none: no relay has, as far as the servers that
    /// answer know.
    pub async fn find(self, token: Token) -> Option<Vec<IpAddr>> {
        for mut client in self.clients {
            let request = said::FindSessionRequest { mptcp_token: token.0 };
            let answer = tokio::time::timeout(FIND_WITHIN, client.find(request)).await;
            let Ok(Ok(answer)) = answer else { continue };
            let answer = answer.into_inner();
            let addresses: Vec<IpAddr> = answer
                .relay_addresses
                .iter()
                .filter_map(|bytes| server::address(bytes))
                .collect();
            let other = answer.session.is_some_and(|session| session.owner != self.me);
            if other && !addresses.is_empty() {
                return Some(addresses);
            }
        }
        None
    }
}
