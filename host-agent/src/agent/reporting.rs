//! What the mobility servers are told: one report for each pair with connections in trouble, from the moment their
//! MSYNs go out, until they have resumed by whatever path.
//!
//! 1. Whenever a connection's machine has taken a step, the connection is touched.
//! 2. [`Agent::review_reports`] looks at what was touched: in trouble, on its way from a new address, or waiting for
//!    a peer whose MSYNs may not get in.
//! 3. A pair with such connections has a report. Another address of ours, or more connections, are a new report
//!    with a higher number; fewer connections are none. With the last one the report is withdrawn.
//! 4. A connection that goes through a symmetric proxy is reported as well, as one with which nothing is wrong: for as
//!    long as that lasts, a direct path is looked for.
//! 5. A server that knows nothing of a report any more says so: the pair is reported again, with a higher number.
//! 6. What is wanted of the servers follows as one value ([`Wanted`]); the loop publishes it when it has changed.

mod holding;
mod mapping;
mod needs;
mod presence;
mod renewing;
mod saying;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use datapath::Datapath;
use identity::{AgentId, Pair, sealed};
use migration::{State, Timestamp};
use prost::Message;
use proto::mobility::v1 as said;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use wire::tuple::{Endpoint, Tuple};

use super::destinations::Tries;
use super::*;
use crate::server::bytes_of;
use crate::server::counter::MoveCounter;
use crate::server::wanted::{Presence, Reported, TunnelWish, Wanted, Withdrawn};

/// How often the pairs to be pushed for are counted anew.
const PRESENCE_EVERY: Duration = Duration::from_secs(1);

/// Why a connection is in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It is to go on from there.
    Moved(Endpoint),
    /// It has not moved, and the peer is silent.
    Waiting(IpAddr),
    /// The host has no address for it: nothing can be said until there is one.
    Away,
    /// Nothing is wrong, but a direct path would be better than the proxy: it would go on from there.
    Better(Endpoint),
}

impl Need {
    /// Whether something is wrong.
    fn is_real(self) -> bool {
        !matches!(self, Need::Better(_))
    }
}

/// A pair with connections in trouble.
#[derive(Default)]
struct Trouble {
    /// All of its connections that are in need.
    needs: BTreeMap<Tuple, Need>,
    /// What was reported, from where, and where the connections in it went.
    report: Option<(said::MobilityReport, IpAddr, HashMap<Tuple, Endpoint>)>,
    /// When it is to be reported under a new number, though nothing has changed here.
    renew_at: Option<Timestamp>,
    /// When that was done last.
    renewed: Option<Timestamp>,
}

impl Trouble {
    /// What is reported. While something is wrong with one connection, the others that go through a proxy are named too,
    /// and not as a wish: an end notices only where it sends, and a server brings together what both have named. Of one
    /// that has no address yet nothing can be said: the peer would take the port that it had for its port now.
    fn pressing(&self) -> impl Iterator<Item = (&Tuple, &Need)> {
        self.needs.iter().filter(|(_, need)| !matches!(need, Need::Away))
    }

    /// Whether something is wrong.
    fn is_real(&self) -> bool {
        self.needs.values().any(|need| need.is_real())
    }
}

/// What is known of servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerState {
    /// Whether there is a stream.
    pub open: bool,
    /// Where the server sees this host.
    pub observed: Option<Endpoint>,
    /// Our end of the stream.
    pub local: Option<Endpoint>,
    /// Why there is none.
    pub why: String,
    /// Changes when it has lost what it had stored.
    pub epoch: Vec<u8>,
    /// Its clock less ours, in milliseconds.
    pub skew: Option<i64>,
}

/// The agent's books about servers.
#[derive(Default)]
pub struct Reporting {
    /// Who we are; none: no servers are used.
    pub(super) me: Option<AgentId>,
    pub(super) servers: BTreeMap<String, ServerState>,
    agent_port: u16,
    counter: MoveCounter,
    touched: HashSet<Tuple>,
    silent: HashMap<Tuple, Timestamp>,
    /// Since when connections go through a proxy, with nothing wrong.
    relayed: HashMap<Tuple, Timestamp>,
    troubles: BTreeMap<Uuid, Trouble>,
    in_trouble: HashMap<Tuple, Uuid>,
    unpaired: HashMap<Tuple, Timestamp>,
    counted: Option<Timestamp>,
    /// How the NAPT in front of each of our addresses maps, where a probe has shown it.
    mappings: BTreeMap<IpAddr, said::Mapping>,
    /// Whether servers are told of connections for operators to see.
    pub(crate) list_sessions: bool,
    /// Connections that were there at the last count.
    lived: HashSet<(Uuid, u64)>,
    /// Since when direct paths have been wished for without a new look, and how long until the next one.
    wished: Option<(Timestamp, Duration)>,
    wanted: Wanted,
    published: Wanted,
    pub(super) tries: Tries,
}

impl Reporting {
    /// For an agent that may use these servers.
    pub fn new(me: AgentId, servers: &[String], agent_port: u16, counter: MoveCounter) -> Self {
        Self {
            me: (!servers.is_empty()).then_some(me),
            servers: servers
                .iter()
                .map(|url| (url.clone(), ServerState::default()))
                .collect(),
            agent_port,
            counter,
            ..Self::default()
        }
    }

    /// A connection's machine may have changed.
    pub(super) fn touch(&mut self, identity: Tuple) {
        if self.me.is_some() {
            self.touched.insert(identity);
        }
    }

    /// A connection goes by another label now: what has been said of its pair is said anew.
    pub(super) fn renew(&mut self, pair_id: Uuid, identity: Tuple) {
        if self.in_trouble.contains_key(&identity)
            && let Some(trouble) = self.troubles.get_mut(&pair_id)
        {
            trouble.report = None;
            self.touch(identity);
        }
    }

    /// What is wanted, when it is not what was taken last.
    pub fn take_changed(&mut self) -> Option<Wanted> {
        if self.wanted == self.published {
            return None;
        }
        self.published = self.wanted.clone();
        Some(self.wanted.clone())
    }

    /// What there is to say of this host's Multipath TCP connections.
    pub fn set_multipath(&mut self, multipath: crate::multipath::Multipath) {
        self.wanted.multipath = multipath;
    }

    /// The number of the report in force for a pair, and of the connections in it.
    pub fn in_force(&self) -> impl Iterator<Item = (Uuid, u64, usize)> + '_ {
        self.troubles.iter().filter_map(|(id, trouble)| {
            let (report, ..) = trouble.report.as_ref()?;
            Some((*id, report.move_counter, trouble.needs.len()))
        })
    }

    /// The servers, and what is known of them.
    pub fn servers(&self) -> impl Iterator<Item = (&String, &ServerState)> {
        self.servers.iter()
    }

    /// The connection for which a tunnel was asked under this hash.
    pub fn tunnel_for(&self, connection: u64) -> Option<TunnelWish> {
        self.wanted.tunnels.get(&connection).copied()
    }

    pub(super) fn report_of(&self, pair: &Uuid) -> Option<&said::MobilityReport> {
        self.troubles
            .get(pair)?
            .report
            .as_ref()
            .map(|(report, ..)| report)
    }
}

impl<D: Datapath> Agent<D> {
    /// Brings what is wanted of the servers up to date.
    pub fn review_reports(&mut self, now: Timestamp) {
        if self.reporting.me.is_none() {
            return;
        }
        self.note_silent(now);
        self.renew_due(now);
        self.wish_again(now);
        let mut changed: HashSet<Uuid> = HashSet::new();
        for identity in std::mem::take(&mut self.reporting.touched) {
            changed.extend(self.classify(identity, now));
        }
        let open: Vec<Uuid> = self
            .reporting
            .troubles
            .iter()
            .filter(|(_, trouble)| trouble.report.is_none())
            .map(|(id, _)| *id)
            .collect();
        changed.extend(open);
        for pair in changed {
            self.review_pair(pair, now);
        }
        let due = self
            .reporting
            .counted
            .is_none_or(|at| now.since(at) >= PRESENCE_EVERY);
        if due {
            self.reporting.counted = Some(now);
            self.count_presence();
            self.count_sessions(now);
            self.wish_for_tunnels(now);
        }
        self.failed_tries(now);
        self.reporting.wanted.from = self.stream_address();
        self.reporting.wanted.agent_port = self.reporting.agent_port;
        self.reporting.wanted.addresses = self.network.usable().map(|(address, _)| address).collect();
    }

    /// The configured servers that both ends may use.
    pub(super) fn servers_of(&self, pair: &Pair) -> Vec<String> {
        let known = pair.common_servers.iter();
        known
            .filter(|url| self.reporting.servers.contains_key(*url))
            .cloned()
            .collect()
    }
}
