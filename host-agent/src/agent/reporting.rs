//! What the mobility servers are told: one report for each pair with connections in trouble, from the moment their
//! MSYNs go out, until they have resumed by whatever path.
//!
//! 1. Whenever a connection's machine has taken a step, the connection is touched.
//! 2. [`Agent::review_reports`] looks at what was touched: in trouble, on its way from a new address, or waiting for
//!    a peer whose MSYNs may not get in.
//! 3. A pair with such connections has a report. Another address of ours, or more connections, are a new report
//!    with a higher number; fewer connections are none. With the last one the report is withdrawn.
//! 4. What is wanted of the servers follows as one value ([`Wanted`]); the loop publishes it when it has changed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
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

/// Only a silence of this length makes an end that has not moved ask the servers: timeouts are common.
const WAITING_AFTER: Duration = Duration::from_secs(1);
/// A pair exchange that has not come about by itself after this time gets a tunnel ...
const TUNNEL_AFTER: Duration = Duration::from_millis(1500);
/// ... for so long.
const TUNNEL_FOR: Duration = Duration::from_secs(60);
/// How often the pairs to be pushed for are counted anew.
const PRESENCE_EVERY: Duration = Duration::from_secs(1);
/// Connections in one report, at most.
const MAX_CONNECTIONS: usize = 16_384;
/// Addresses that are told to the peer alone, at most.
const MAX_CANDIDATES: usize = 16;
/// Withdrawals that are remembered for streams that come back.
const MAX_WITHDRAWN: usize = 64;

/// Why a connection is in a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    /// It is to go on from there.
    Moved(Endpoint),
    /// It has not moved, and the peer is silent.
    Waiting(IpAddr),
    /// The host has no address for it: nothing can be said until there is one.
    Away,
}

/// A pair with connections in trouble.
#[derive(Default)]
struct Trouble {
    needs: BTreeMap<Tuple, Need>,
    /// What was reported, and from where.
    report: Option<(said::MobilityReport, IpAddr, HashSet<Tuple>)>,
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
    troubles: BTreeMap<Uuid, Trouble>,
    in_trouble: HashMap<Tuple, Uuid>,
    unpaired: HashMap<Tuple, Timestamp>,
    counted: Option<Timestamp>,
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

    /// What is wanted, when it is not what was taken last.
    pub fn take_changed(&mut self) -> Option<Wanted> {
        if self.wanted == self.published {
            return None;
        }
        self.published = self.wanted.clone();
        Some(self.wanted.clone())
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

    /// Says again, under new numbers, what is in force.
    fn renew(&mut self) -> usize {
        let mut renewed = 0;
        for trouble in self.troubles.values_mut() {
            renewed += usize::from(trouble.report.take().is_some());
        }
        renewed
    }
}

impl<D: Datapath> Agent<D> {
    /// `host-agent report`: every report in force is made anew.
    pub fn report_again(&mut self, now: Timestamp) -> usize {
        let renewed = self.reporting.renew();
        self.review_reports(now);
        renewed
    }

    /// Brings what is wanted of the servers up to date.
    pub fn review_reports(&mut self, now: Timestamp) {
        if self.reporting.me.is_none() {
            return;
        }
        self.note_silent(now);
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
            self.review_pair(pair);
        }
        let due = self
            .reporting
            .counted
            .is_none_or(|at| now.since(at) >= PRESENCE_EVERY);
        if due {
            self.reporting.counted = Some(now);
            self.count_presence();
            self.wish_for_tunnels(now);
        }
        self.failed_tries(now);
        self.reporting.wanted.from = self.stream_address();
        self.reporting.wanted.agent_port = self.reporting.agent_port;
        self.reporting.wanted.addresses = self.network.usable().map(|(address, _)| address).collect();
    }

    /// Silences that have lasted long enough are looked at once more.
    fn note_silent(&mut self, now: Timestamp) {
        let reporting = &mut self.reporting;
        let due = reporting
            .silent
            .iter()
            .filter(|(_, since)| now.since(**since) >= WAITING_AFTER)
            .map(|(identity, _)| *identity);
        let due: Vec<Tuple> = due
            .filter(|identity| !reporting.in_trouble.contains_key(identity))
            .collect();
        reporting.touched.extend(due);
    }

    /// Puts one connection where it belongs; says which pairs this concerns.
    fn classify(&mut self, identity: Tuple, now: Timestamp) -> Vec<Uuid> {
        let before = self.reporting.in_trouble.get(&identity).copied();
        let after = self.need_of(identity, now);
        let mut changed: Vec<Uuid> = before.into_iter().collect();
        let pair = self.sessions.get(&identity).map(|managed| managed.keys().pair_id);
        let after = after.zip(pair);
        if let Some(pair) = before
            && after.is_none_or(|(_, now_of)| now_of != pair)
        {
            self.reporting.in_trouble.remove(&identity);
            if let Some(trouble) = self.reporting.troubles.get_mut(&pair) {
                trouble.needs.remove(&identity);
            }
        }
        if let Some((need, pair)) = after {
            self.reporting.in_trouble.insert(identity, pair);
            let trouble = self.reporting.troubles.entry(pair).or_default();
            trouble.needs.insert(identity, need);
            changed.push(pair);
        }
        changed
    }

    fn need_of(&mut self, identity: Tuple, now: Timestamp) -> Option<Need> {
        let managed = self.sessions.get(&identity).filter(|managed| managed.is_live());
        let Some(machine) = managed.map(|managed| &managed.machine) else {
            self.reporting.silent.remove(&identity);
            return None;
        };
        if !machine.troubled() {
            self.reporting.silent.remove(&identity);
            return None;
        }
        let usable = |address: IpAddr| self.network.device_of(address).is_some();
        let here = machine.wire().local;
        let attempt = machine
            .attempts()
            .iter()
            .rev()
            .find(|attempt| usable(attempt.from.address));
        if machine.is_parked() || !machine.is_confirmed() {
            self.reporting.silent.remove(&identity);
            return match attempt.map(|attempt| attempt.from) {
                Some(from) => Some(Need::Moved(from)),
                None if !machine.is_parked() && usable(here.address) => Some(Need::Moved(here)),
                None => Some(Need::Away),
            };
        }
        let silent = machine.state() == State::Suspect || attempt.is_some();
        if !silent || !usable(here.address) {
            return None;
        }
        let since = *self.reporting.silent.entry(identity).or_insert(now);
        let waits = now.since(since) >= WAITING_AFTER || attempt.is_some();
        waits.then_some(Need::Waiting(here.address))
    }

    fn review_pair(&mut self, id: Uuid) {
        let Some(trouble) = self.reporting.troubles.get(&id) else {
            return;
        };
        if trouble.needs.is_empty() {
            return self.withdraw(id);
        }
        let mut froms: BTreeMap<(IpAddr, bool), usize> = BTreeMap::new();
        for need in trouble.needs.values() {
            match need {
                Need::Moved(from) => *froms.entry((from.address, false)).or_default() += 1,
                Need::Waiting(from) => *froms.entry((*from, true)).or_default() += 1,
                Need::Away => {}
            }
        }
        // Most of a pair's connections move together; the others are told by their labels.
        let Some(((from, waiting), _)) = froms.into_iter().max_by_key(|(_, count)| *count) else {
            return;
        };
        let known = trouble
            .report
            .as_ref()
            .filter(|(report, address, _)| *address == from && report.waiting == waiting)
            .is_some_and(|(.., named)| {
                trouble
                    .needs
                    .keys()
                    .take(MAX_CONNECTIONS)
                    .all(|one| named.contains(one))
            });
        if known {
            return;
        }
        let Some(pair) = self.pairs.by_id(&id).cloned() else {
            return;
        };
        let servers = self.servers_of(&pair);
        if servers.is_empty() {
            return;
        }
        let counter = self.reporting.counter.take();
        let Some(report) = self.compose(&pair, from, waiting, counter) else {
            return;
        };
        let named: HashSet<Tuple> = self
            .reporting
            .troubles
            .get(&id)
            .map(|trouble| trouble.needs.keys().copied().collect())
            .unwrap_or_default();
        self.timeline.note(
            "",
            "report",
            format!(
                "{counter} for {}: {} connections, {}{from}",
                pair.peer_name,
                report.connections.len(),
                if waiting { "waiting at " } else { "now at " },
            ),
        );
        self.reporting.tries.forget(id);
        self.reporting.wanted.reports.insert(
            id,
            Reported {
                report: report.clone(),
                servers,
            },
        );
        if let Some(trouble) = self.reporting.troubles.get_mut(&id) {
            trouble.report = Some((report, from, named));
        }
    }

    /// The configured servers that both ends may use.
    pub(super) fn servers_of(&self, pair: &Pair) -> Vec<String> {
        let known = pair.common_servers.iter();
        known
            .filter(|url| self.reporting.servers.contains_key(*url))
            .cloned()
            .collect()
    }

    fn compose(
        &self,
        pair: &Pair,
        from: IpAddr,
        waiting: bool,
        counter: u64,
    ) -> Option<said::MobilityReport> {
        let trouble = self.reporting.troubles.get(&pair.pair_id)?;
        let mut connections = Vec::with_capacity(trouble.needs.len());
        let mut before: BTreeMap<(IpAddr, IpAddr, IpAddr), usize> = BTreeMap::new();
        for (identity, need) in trouble.needs.iter().take(MAX_CONNECTIONS) {
            let Some(managed) = self.sessions.get(identity) else {
                continue;
            };
            let wire = managed.machine.wire();
            let unmoved = managed.machine.committed() == wire::reqno::ReqNo::UNMOVED;
            let peer_direct = self
                .datapath
                .connection(identity)
                .filter(|connection| unmoved && connection.peer_direct_port != 0)
                .map_or(wire.remote.port, |connection| connection.peer_direct_port);
            let after = match need {
                Need::Moved(from) if from.port != wire.local.port => from.port,
                _ => 0,
            };
            connections.push(said::ConnectionPorts {
                source_port_before: u32::from(wire.local.port),
                destination_port_before: u32::from(peer_direct),
                source_port_after: u32::from(after),
                destination_port_after: 0,
                label: managed.keys().keys.label(),
                req_no: managed.machine.committed().0,
            });
            let addresses = (identity.local.address, wire.remote.address, wire.local.address);
            *before.entry(addresses).or_default() += 1;
        }
        let ((source_before, destination_before, confirmed), _) =
            before.into_iter().max_by_key(|(_, count)| *count)?;
        let candidates = said::SealedCandidates {
            move_counter: counter,
            addresses: self
                .network
                .usable()
                .take(MAX_CANDIDATES)
                .map(|(address, _)| bytes_of(address))
                .collect(),
        };
        let me = self.reporting.me.as_ref()?;
        let sealed = sealed::seal(pair, me, &candidates.encode_to_vec()).unwrap_or_default();
        Some(said::MobilityReport {
            pair_id: pair.pair_id.as_bytes().to_vec(),
            peer: pair.peer.to_string(),
            move_counter: counter,
            source_before: bytes_of(source_before),
            destination_before: bytes_of(destination_before),
            source_after: bytes_of(from),
            connections,
            confirmed_source: match confirmed == source_before {
                true => Vec::new(),
                false => bytes_of(confirmed),
            },
            sealed,
            waiting,
            keep_seconds: u32::try_from(self.policy.mig_wait.as_secs()).unwrap_or(u32::MAX),
            mapping: None,
        })
    }

    fn withdraw(&mut self, id: Uuid) {
        let Some(trouble) = self.reporting.troubles.remove(&id) else {
            return;
        };
        self.reporting.wanted.reports.remove(&id);
        let Some((report, _, named)) = trouble.report else {
            return;
        };
        let alive = named.iter().any(|identity| {
            self.sessions
                .get(identity)
                .is_some_and(|managed| managed.is_live())
        });
        let reason = match alive {
            true => said::withdraw::Reason::Resumed,
            false => said::withdraw::Reason::Closed,
        };
        self.timeline.note(
            "",
            "report_withdrawn",
            format!("{} {reason:?}", report.move_counter),
        );
        let heard = self.reporting.tries.heard(id);
        self.reporting.tries.forget(id);
        self.say_withdrawn(id, report.move_counter, reason, heard);
    }

    pub(super) fn say_withdrawn(
        &mut self,
        id: Uuid,
        counter: u64,
        reason: said::withdraw::Reason,
        heard: BTreeMap<String, u64>,
    ) {
        let withdrawn = &mut self.reporting.wanted.withdrawn;
        withdrawn.retain(|known| {
            known.withdraw.pair_id != id.as_bytes() || known.withdraw.move_counter != counter
        });
        if withdrawn.len() >= MAX_WITHDRAWN {
            withdrawn.remove(0);
        }
        withdrawn.push(Withdrawn {
            withdraw: said::Withdraw {
                pair_id: id.as_bytes().to_vec(),
                move_counter: counter,
                reason: reason.into(),
                decision: 0,
            },
            heard,
        });
    }

    /// Pairs that a server must be able to push for: an end is behind a NAPT, or was elsewhere before.
    fn count_presence(&mut self) {
        let mut wanted: HashSet<Uuid> = HashSet::new();
        let mut behind: HashMap<Uuid, bool> = HashMap::new();
        for managed in self.sessions.values().filter(|managed| managed.is_live()) {
            let id = managed.keys().pair_id;
            if wanted.contains(&id) {
                continue;
            }
            let napt = *behind.entry(id).or_insert_with(|| {
                self.pairs
                    .by_id(&id)
                    .is_some_and(|pair| pair.self_behind_napt || pair.peer_behind_napt)
            });
            if napt || managed.machine.committed() != wire::reqno::ReqNo::UNMOVED {
                wanted.insert(id);
            }
        }
        self.reporting.wanted.pairs = wanted
            .into_iter()
            .filter_map(|id| {
                let pair = self.pairs.by_id(&id)?;
                let servers = self.servers_of(pair);
                let peer = pair.peer.to_string();
                (!servers.is_empty()).then_some((id, Presence { peer, servers }))
            })
            .collect();
    }

    /// Connections whose peer has an agent that no exchange has reached.
    fn wish_for_tunnels(&mut self, now: Timestamp) {
        let reporting = &mut self.reporting;
        reporting
            .unpaired
            .retain(|identity, _| self.unpaired.contains(identity));
        reporting.wanted.tunnels.clear();
        for identity in &self.unpaired {
            let since = *reporting.unpaired.entry(*identity).or_insert(now);
            let waited = now.since(since);
            if waited < TUNNEL_AFTER || waited > TUNNEL_FOR {
                continue;
            }
            let Some(connection) = self.datapath.connection(identity) else {
                continue;
            };
            let isns = match connection.role {
                Role::Initiator => (connection.isn_local, connection.isn_remote),
                Role::Acceptor => (connection.isn_remote, connection.isn_local),
            };
            let wish = TunnelWish {
                local: identity.local,
                remote: identity.remote,
            };
            reporting.wanted.tunnels.insert(connection_hash(isns), wish);
        }
    }

    /// Where the stream comes from: what most reports say, or else what connections use.
    fn stream_address(&self) -> Option<IpAddr> {
        let usable = |address: &IpAddr| self.network.device_of(*address).is_some();
        let reported = self
            .reporting
            .troubles
            .values()
            .filter_map(|trouble| trouble.report.as_ref().map(|(_, from, _)| *from).filter(usable));
        if let Some(from) = reported.into_iter().next() {
            return Some(from);
        }
        let current = self.reporting.wanted.from.filter(usable);
        let presence = &self.reporting.wanted.pairs;
        let used = || {
            self.sessions
                .values()
                .filter(|managed| managed.is_live() && presence.contains_key(&managed.keys().pair_id))
                .map(|managed| managed.machine.wire().local.address)
                .find(usable)
        };
        current
            .or_else(used)
            .or_else(|| self.network.usable().map(|(address, _)| address).next())
    }
}

/// The same at both ends of a connection, and of no use to who has not seen its first segments.
fn connection_hash((initiator, acceptor): (u32, u32)) -> u64 {
    let digest = Sha256::new()
        .chain_update(b"mobility pair wanted v1")
        .chain_update(initiator.to_be_bytes())
        .chain_update(acceptor.to_be_bytes())
        .finalize();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
