//! The loop's side of the mobility servers: tasks that attend them, and what they ask for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proto::mobility::v1 as said;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::agent::Reporting;
use crate::pairs::PairEvent;
use crate::server::attend::Attendance;
use crate::server::counter::MoveCounter;
use crate::server::renewal::Renewal;
use crate::server::standing::{Peers, Standing};
use crate::server::tunnel::{self, Invited};
use crate::server::wanted::Wanted;
use crate::server::{Failed, ServerEvent, connect, enrolment};

/// What the loop holds of the servers.
pub struct Servers {
    wanted: watch::Sender<Arc<Wanted>>,
    failed: BTreeMap<String, mpsc::Sender<said::TryFailed>>,
    /// What the servers said.
    pub events: mpsc::Receiver<ServerEvent>,
    /// There is a new certificate on disk.
    pub renewed: mpsc::Receiver<()>,
    renewed_sender: mpsc::Sender<()>,
    /// The peers of whom servers are asked whether they were revoked.
    peers: watch::Sender<Arc<Peers>>,
    // Without servers nobody else holds one, and the channel must not count as closed.
    events_sender: mpsc::Sender<ServerEvent>,
}

/// The configured servers, or else those that the enrolment has named.
pub fn servers_of(config: &Config) -> anyhow::Result<Vec<String>> {
    let urls = match config.servers.is_empty() {
        true => enrolment::servers_of(&config.identity),
        false => config.servers.clone(),
    };
    for url in &urls {
        connect::host_and_port(url).context("`servers`")?;
    }
    Ok(urls)
}

/// The authorities that vouch for servers.
pub fn authorities(config: &Config) -> PathBuf {
    match &config.trust {
        TrustSetting::Ca(bundle) => bundle.clone(),
        TrustSetting::Pinned(_) => config.identity.join("ca.pem"),
    }
}

impl Default for Servers {
    fn default() -> Self {
        Self::new()
    }
}

impl Servers {
    /// Nobody is attended yet.
    pub fn new() -> Self {
        let (events_sender, events) = mpsc::channel(256);
        let (renewed_sender, renewed) = mpsc::channel(1);
        Self {
            wanted: watch::channel(Arc::default()).0,
            failed: BTreeMap::new(),
            events,
            renewed,
            renewed_sender,
            peers: watch::channel(Arc::default()).0,
            events_sender,
        }
    }

    /// Starts a task for each server, and the renewal of the certificate.
    pub fn start(&mut self, config: &Config, servers: &[String], credentials: watch::Receiver<Credentials>) {
        if servers.is_empty() {
            return;
        }
        for server in servers {
            let (failed_sender, failed) = mpsc::channel(64);
            self.failed.insert(server.clone(), failed_sender);
            let attendance = Attendance {
                server: server.clone(),
                wanted: self.wanted.subscribe(),
                credentials: credentials.clone(),
                authorities: authorities(config),
                mark: config.agent_mark,
                failed,
                events: self.events_sender.clone(),
            };
            tokio::spawn(attendance.run());
        }
        let standing = Standing {
            servers: servers.to_vec(),
            peers: self.peers.subscribe(),
            every: Duration::from_secs_f64(config.timeouts.revocation),
            credentials: credentials.clone(),
            authorities: authorities(config),
            mark: config.agent_mark,
            events: self.events_sender.clone(),
        };
        tokio::spawn(standing.run());
        let renewal = Renewal {
            servers: servers.to_vec(),
            credentials,
            identity: config.identity.clone(),
            authorities: authorities(config),
            mark: config.agent_mark,
            renewed: self.renewed_sender.clone(),
        };
        tokio::spawn(renewal.run());
    }

    /// There are keys with these peers.
    pub(super) fn paired_with(&self, peers: Peers) {
        self.peers.send_if_modified(|known| {
            let differs = **known != peers;
            if differs {
                *known = Arc::new(peers);
            }
            differs
        });
    }

    fn tell_failed(&self, failed: Failed) {
        if let Some(sender) = self.failed.get(&failed.server) {
            // A stream that is full or gone: the server's own patience ends too.
            let _ = sender.try_send(failed.what);
        }
    }
}

/// The agent's books, for these servers.
pub fn reporting(config: &Config, servers: &[String], me: identity::AgentId) -> Reporting {
    let counter = match servers.is_empty() {
        true => MoveCounter::default(),
        false => MoveCounter::open(Path::new(&config.state_dir)),
    };
    Reporting::new(me, servers, config.agent_port, counter)
}

impl Driver {
    /// Whatever happened: what is wanted of the servers follows.
    pub(super) fn attend(&mut self) {
        let now = self.clock.now();
        let usable: crate::multipath::Addresses = self.agent.network.usable().collect();
        self.addresses.send_if_modified(|known| {
            let differs = *known != usable;
            *known = usable;
            differs
        });
        self.agent.review_reports(now);
        if let Some(wanted) = self.agent.reporting.take_changed() {
            self.servers.wanted.send_replace(Arc::new(wanted));
        }
        for failed in self.agent.take_failed() {
            self.servers.tell_failed(failed);
        }
    }

    /// Attempts towards where servers say that peers are; one look at the routing table for each.
    pub(super) async fn find_ways_to(&mut self, wanted: Vec<(Tuple, Endpoint)>) {
        let mut ways: BTreeMap<IpAddr, Option<WayOut>> = BTreeMap::new();
        for (begun, (identity, to)) in wanted.into_iter().enumerate() {
            let way = match ways.get(&to.address) {
                Some(way) => *way,
                None => {
                    let way = self.way_to(to.address, None).await;
                    ways.insert(to.address, way);
                    way
                }
            };
            let Some(way) = way else { continue };
            let now = self.clock.now();
            self.agent.try_way_out(identity, way, Some(to), now);
            if begun % 16 == 15 {
                self.datapath_events();
            }
        }
    }

    pub(super) fn tunnel(&self, server: String, tunnel: Vec<u8>, dial: bool, peer: IpAddr) {
        let invited = Invited {
            server,
            invitation: said::TunnelInvitation {
                tunnel,
                connection: 0,
                dial,
            },
            peer,
            from: self.servers.wanted.borrow().from,
            mark: self.config.agent_mark,
        };
        let credentials = self.credentials.borrow().clone();
        let authorities = authorities(&self.config);
        let local = Local::clone(&self.facts.borrow());
        let events = self.pair_events.0.clone();
        tokio::spawn(async move {
            let at = std::net::SocketAddr::new(invited.peer, 0);
            let event = match tunnel::exchange(invited, credentials, &authorities, local).await {
                Ok(pair) => PairEvent::Agreed(Box::new(pair)),
                Err((reason, detail)) => PairEvent::Failed {
                    peer: at,
                    dialled: false,
                    reason,
                    detail,
                },
            };
            let _ = events.send(Told::Pair(event)).await;
        });
    }
}
