//! What the agent wants of its servers, as one value.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::mobility::v1 as said;
use uuid::Uuid;
use wire::tuple::Endpoint;

use super::{bytes_of, endpoint_of};

/// Pairs in one hello, at most.
const MAX_PAIRS: usize = 4096;
/// Direct addresses in one hello, at most.
const MAX_ADDRESSES: usize = 64;

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

/// Everything that is wanted now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
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
}

impl Wanted {
    /// Whether a server is to be attended.
    pub fn needs(&self, server: &str) -> bool {
        let uses = |servers: &[String]| servers.iter().any(|known| known == server);
        !self.tunnels.is_empty()
            || self.pairs.values().any(|pair| uses(&pair.servers))
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
