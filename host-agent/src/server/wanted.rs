//! What the agent wants of its servers, as one value.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proto::mobility::v1 as said;
use uuid::Uuid;
use wire::tuple::{Endpoint, Tuple};

use super::{bytes_of, endpoint_of};
use crate::multipath::Multipath;

/// Pairs in one hello, at most.
const MAX_PAIRS: usize = 4096;
/// Direct addresses in one hello, at most.
const MAX_ADDRESSES: usize = 64;
/// Connections in one message, at most.
const MAX_HELD: usize = 1024;
/// Connections that a server lists, at most.
const MAX_SESSIONS: usize = 16_384;

/// A pair for which a server may push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    /// URI of the peer's certificate.
    pub peer: String,
    /// The servers that both ends may use.
    pub servers: Vec<String>,
}

/// A report and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Reported {
    /// What is said.
    pub report: said::MobilityReport,
    /// The servers that both ends may use.
    pub servers: Vec<String>,
}

/// A report that is not needed any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Withdrawn {
    /// What is said.
    pub withdraw: said::Withdraw,
    /// Decisions that were heard for it, by server.
    pub heard: BTreeMap<String, u64>,
}

/// A pair exchange that needs a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelWish {
    /// Our end of the connection.
    pub local: Endpoint,
    /// The other end as we see it.
    pub remote: Endpoint,
}

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeldKind {
    /// As it was opened.
    Direct,
    /// It has moved.
    Migrated,
    /// Through a symmetric proxy.
    Relayed,
}

/// A connection for the servers to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldConnection {
    /// How it goes.
    pub kind: HeldKind,
    /// Whether this host has opened it.
    pub initiator: bool,
    /// As its socket knows it.
    pub identity: Tuple,
    /// On the wire.
    pub wire: Tuple,
}

/// The connections for the servers to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldSessions {
    /// With each, all of it is said anew.
    pub round: u64,
    /// By pair and label.
    pub held: BTreeMap<(Uuid, u64), HeldConnection>,
    /// The pairs.
    pub peers: BTreeMap<Uuid, Presence>,
}

impl HeldSessions {
    fn used_by(&self, server: &str) -> impl Iterator<Item = (&(Uuid, u64), &HeldConnection, &Presence)> {
        let own = self.held.iter().filter_map(|(name, held)| {
            let presence = self.peers.get(&name.0)?;
            Some((name, held, presence))
        });
        let server = server.to_owned();
        own.filter(move |(.., presence)| presence.servers.contains(&server))
            .take(MAX_SESSIONS)
    }

    /// What a server has to be told that knows of `before`.
    fn changes(&self, before: &Self, server: &str) -> Vec<said::SessionsHeld> {
        let message = |(pair, label): &(Uuid, u64), presence: &Presence| said::HeldSession {
            pair_id: pair.as_bytes().to_vec(),
            peer: presence.peer.clone(),
            label: *label,
            ..said::HeldSession::default()
        };
        let now = self
            .used_by(server)
            .filter(|(name, held, _)| before.round != self.round || before.held.get(*name) != Some(*held));
        let held = now.map(|(name, held, presence)| said::HeldSession {
            kind: match held.kind {
                HeldKind::Direct => said::session::Kind::Direct,
                HeldKind::Migrated => said::session::Kind::Migrated,
                HeldKind::Relayed => said::session::Kind::Relayed,
            }
            .into(),
            initiator: held.initiator,
            local: Some(endpoint_of(held.identity.local)),
            remote: Some(endpoint_of(held.identity.remote)),
            wire_local: Some(endpoint_of(held.wire.local)),
            wire_remote: Some(endpoint_of(held.wire.remote)),
            ..message(name, presence)
        });
        let gone = before
            .used_by(server)
            .filter(|(name, ..)| !self.held.contains_key(*name))
            .map(|(name, _, presence)| message(name, presence));
        let all: Vec<said::HeldSession> = held.chain(gone).collect();
        all.chunks(MAX_HELD)
            .map(|held| said::SessionsHeld { held: held.to_vec() })
            .collect()
    }
}

/// Everything that is wanted now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Grows when the streams are to be made anew: a new one shows how the NAPT in front of this host maps now.
    pub round: u64,
    /// The address to connect from: the one that is reported. None: the host has no address.
    pub from: Option<IpAddr>,
    /// Where this agent accepts pair exchanges.
    pub agent_port: u16,
    /// Addresses of the host.
    pub addresses: Vec<IpAddr>,
    /// Pairs to be pushed for.
    pub pairs: BTreeMap<Uuid, Presence>,
    /// The reports in force.
    pub reports: BTreeMap<Uuid, Reported>,
    /// What was withdrawn lately.
    pub withdrawn: Vec<Withdrawn>,
    /// Exchanges that need a tunnel, by the connection's hash.
    pub tunnels: BTreeMap<u64, TunnelWish>,
    /// Connections to be listed.
    pub sessions: Arc<HeldSessions>,
    /// What there is to say of this host's Multipath TCP connections.
    pub multipath: Multipath,
}

impl Wanted {
    /// Whether a server is to be attended.
    pub fn needs(&self, server: &str) -> bool {
        let uses = |servers: &[String]| servers.iter().any(|known| known == server);
        !self.tunnels.is_empty()
            || self.multipath.live
            || self.pairs.values().any(|pair| uses(&pair.servers))
            || (!self.sessions.held.is_empty()
                && self.sessions.peers.values().any(|pair| uses(&pair.servers)))
            || self.reports.values().any(|reported| uses(&reported.servers))
    }

    /// The first words on a stream whose own end is `local`.
    pub fn hello(&self, server: &str, local: Endpoint) -> said::AgentHello {
        let uses = |servers: &[String]| servers.iter().any(|known| known == server);
        let present = self
            .pairs
            .iter()
            .filter(|(_, pair)| uses(&pair.servers))
            .map(|(id, pair)| (*id, pair.peer.clone()));
        let reported = self
            .reports
            .iter()
            .filter(|(id, reported)| uses(&reported.servers) && !self.pairs.contains_key(*id))
            .map(|(id, reported)| (*id, reported.report.peer.clone()));
        said::AgentHello {
            version: 1,
            local: Some(endpoint_of(local)),
            agent_port: u32::from(self.agent_port),
            pairs: present
                .chain(reported)
                .take(MAX_PAIRS)
                .map(|(id, peer)| said::PairPresence {
                    pair_id: id.as_bytes().to_vec(),
                    peer,
                })
                .collect(),
            direct_addresses: self
                .addresses
                .iter()
                .take(MAX_ADDRESSES)
                .map(|address| bytes_of(*address))
                .collect(),
        }
    }

    /// What has to be said on an open stream after `before` was wanted. `before` empty: everything.
    pub fn changes(&self, before: &Wanted, server: &str) -> Vec<said::agent_message::Body> {
        use said::agent_message::Body;
        let uses = |servers: &[String]| servers.iter().any(|known| known == server);
        let mut words = Vec::new();
        for withdrawn in &self.withdrawn {
            let known = before.withdrawn.iter().any(|said| {
                said.withdraw == withdrawn.withdraw && said.heard.get(server) == withdrawn.heard.get(server)
            });
            if !known {
                words.push(Body::Withdraw(said::Withdraw {
                    decision: withdrawn.heard.get(server).copied().unwrap_or(0),
                    ..withdrawn.withdraw.clone()
                }));
            }
        }
        for (id, reported) in self
            .reports
            .iter()
            .filter(|(_, reported)| uses(&reported.servers))
        {
            if before.reports.get(id).map(|said| &said.report) != Some(&reported.report) {
                words.push(Body::Report(reported.report.clone()));
            }
        }
        for (connection, wish) in &self.tunnels {
            if !before.tunnels.contains_key(connection) {
                words.push(Body::PairWanted(said::PairWanted {
                    local: Some(endpoint_of(wish.local)),
                    remote: Some(endpoint_of(wish.remote)),
                    connection: *connection,
                }));
            }
        }
        for connection in before.tunnels.keys() {
            if !self.tunnels.contains_key(connection) {
                words.push(Body::PairSettled(said::PairSettled {
                    connection: *connection,
                }));
            }
        }
        words.extend(self.multipath.changes(&before.multipath).map(Body::PathsLost));
        let sessions = self.sessions.changes(&before.sessions, server);
        words.extend(sessions.into_iter().map(Body::Sessions));
        words
    }

    /// Whether what the hello said is still true.
    pub fn greets_like(&self, other: &Wanted) -> bool {
        self.from == other.from
            && self
                .pairs
                .iter()
                .all(|(id, pair)| other.pairs.get(id) == Some(pair) || other.reports.contains_key(id))
    }
}
