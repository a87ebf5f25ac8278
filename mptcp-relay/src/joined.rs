//! What the deployment hears of connections, and what the relay hears from there.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use mptcp_pm::{Event, Token};
use proto::mobility::v1 as said;

use crate::deployment::Path;
use crate::queue::{Held, Queue, Verdict};
use crate::relay::{Happening, Relay};
use crate::server;
use crate::syn::{Asks, Ends, Syn};

/// Joins whose owners are sought at once, at most; one more goes its way.
const MOST_SOUGHT: usize = 256;
/// A token that nobody has is not sought again for so long.
const NOBODY: Duration = Duration::from_secs(5);
/// A join that was handed over is repeated within this time, if at all.
const REPEATED: Duration = Duration::from_secs(60);
/// The owner may have accepted the connection a moment ago: it is asked for so often, with these pauses.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(150),
    Duration::from_millis(300),
];

/// Joins that belong to connections of other relays.
#[derive(Default)]
pub(crate) struct Handing {
    /// SYNs whose owner is sought.
    sought: HashMap<Ends, (Held, Token)>,
    /// When they were handed over.
    handed: HashMap<Ends, Duration>,
    /// When nobody had them.
    unknown: HashMap<Token, Duration>,
}

impl Relay {
    /// A connection's subflows may be others now.
    pub(crate) async fn joined_or_left(&mut self, event: &Event) {
        let token = match event {
            Event::SubflowEstablished(subflow) | Event::SubflowClosed(subflow) => subflow.token,
            Event::Established(made) => made.token,
            _ => return,
        };
        self.tell_paths(token);
        if matches!(event, Event::SubflowEstablished(_)) {
            self.end_proven(token).await;
        }
    }

    /// The deployment hears of a connection's subflows.
    pub(crate) fn tell_paths(&self, token: Token) {
        let paths: Vec<Path> = self
            .policy
            .subflows(token)
            .map(|(local, remote, subflow)| Path {
                local,
                remote,
                backup: subflow.backup,
            })
            .collect();
        if !paths.is_empty() {
            self.deployment.paths(token, &paths);
        }
    }

    /// An agent says that paths of its host are lost.
    pub(crate) async fn paths_lost(&mut self, lost: said::LostPathsOf) {
        let observed = lost.observed.as_ref();
        let Some(observed) = observed.and_then(|observed| server::address(&observed.address)) else {
            return;
        };
        self.counters.count("loss_reports");
        let flows = mptcp_pm::subflows().await.unwrap_or_default();
        for path in lost.paths {
            let token = Token(path.token);
            let doomed: Vec<(SocketAddr, SocketAddr)> = flows
                .iter()
                .filter(|flow| flow.token == token && u32::from(flow.remote_id) == path.address_id)
                .map(|flow| (flow.local, flow.remote))
                .collect();
            tracing::debug!(%token, agent = lost.agent, %observed, subflows = doomed.len(), "said to be lost");
            let now = self.began.elapsed();
            self.losses.heard(token, observed, doomed, now);
            self.end_proven(token).await;
        }
    }

    async fn end_proven(&mut self, token: Token) {
        let stands: Vec<(SocketAddr, SocketAddr)> = self
            .policy
            .subflows(token)
            .map(|(local, remote, _)| (local, remote))
            .collect();
        for (local, remote) in self.losses.proven(token, &stands, self.began.elapsed()) {
            match self.client.destroy_subflow(token, local, remote).await {
                Ok(()) => {
                    tracing::info!(%token, %remote, "a subflow has ended because its terminal's agent says so");
                    self.counters.count("subflows_lost");
                }
                Err(error) if error.is_gone() => {}
                Err(error) => tracing::warn!(%error, "the kernel refuses"),
            }
        }
    }

    /// Whether the owner of a join that is none of ours is worth seeking.
    pub(crate) fn seeks(&self, syn: &Syn) -> bool {
        let Asks::Join(token) = syn.asks else { return false };
        let now = self.began.elapsed();
        let unknown = self.handing.unknown.get(&token);
        self.deployment.is_joined() && unknown.is_none_or(|since| now.saturating_sub(*since) >= NOBODY)
    }

    /// Another relay of the deployment may have the connection that this SYN joins.
    pub(crate) fn seek(&mut self, syn: Syn, held: Held, queue: &Queue) {
        let (ends, now) = (syn.ends, self.began.elapsed());
        let Asks::Join(token) = syn.asks else { return };
        if self
            .handing
            .handed
            .get(&ends)
            .is_some_and(|at| now.saturating_sub(*at) < REPEATED)
        {
            return self.let_go(&held, self.marks.own, queue);
        }
        if self.handing.sought.contains_key(&ends) {
            self.counters.count("repeated");
            let _ = queue.decide(held.id, Verdict::Drop);
            return;
        }
        let finder = self.deployment.finder();
        let (Some(finder), true) = (finder, self.handing.sought.len() < MOST_SOUGHT) else {
            self.counters.count("passed_stranger");
            return self.let_go(&held, 0, queue);
        };
        self.counters.count("sought");
        self.handing.sought.insert(ends, (held, token));
        let (happening, rules) = (self.happening.clone(), self.rules.clone());
        tokio::spawn(async move {
            let mut owner = None;
            for pause in [Duration::ZERO].into_iter().chain(PAUSES) {
                tokio::time::sleep(pause).await;
                let addresses = finder.clone().find(token).await.unwrap_or_default();
                let alike = |address: &std::net::IpAddr| address.is_ipv4() == ends.server.is_ipv4();
                owner = addresses.into_iter().find(alike);
                if owner.is_some() {
                    break;
                }
            }
            let handed = match owner {
                Some(owner) => tokio::task::spawn_blocking(move || rules.hand_over(ends, owner))
                    .await
                    .map_err(|error| error.to_string())
                    .and_then(|done| done.map_err(|error| error.to_string()))
                    .inspect_err(|error| tracing::warn!(error, %ends, "a join is not handed over"))
                    .is_ok(),
                None => false,
            };
            let _ = happening.send(Happening::Sought(ends, handed)).await;
        });
    }

    /// What has become of the search.
    pub(crate) fn sought(&mut self, ends: Ends, handed: bool, queue: &Queue) {
        let Some((held, token)) = self.handing.sought.remove(&ends) else {
            return;
        };
        let now = self.began.elapsed();
        match handed {
            true => {
                tracing::debug!(%ends, %token, "handed to the relay that has the connection");
                self.counters.count("handed_over");
                self.handing
                    .handed
                    .retain(|_, at| now.saturating_sub(*at) < REPEATED);
                self.handing.handed.insert(ends, now);
                self.let_go(&held, self.marks.own, queue);
            }
            false => {
                self.counters.count("passed_stranger");
                self.handing
                    .unknown
                    .retain(|_, since| now.saturating_sub(*since) < NOBODY);
                self.handing.unknown.insert(token, now);
                self.let_go(&held, 0, queue);
            }
        }
    }
}
