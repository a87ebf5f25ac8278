//! The connections that can migrate: their machines, their keys, and what the data path holds for them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use datapath::{Path, Session, SessionFlags, TcpState};
use identity::ticket::LegKey;
use migration::{Adopted, Machine, Policy, Timestamp};
use uuid::Uuid;
use wire::keys::{ConnectionKeys, MacKey, Role, TokenKey};
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

/// The keys that one pair would give a connection.
#[derive(Clone)]
pub struct KeySet {
    /// The keys.
    pub keys: ConnectionKeys,
    /// The pair.
    pub pair_id: Uuid,
    /// The pair key's epoch.
    pub epoch: u32,
}

/// Tokens of so many numbers back are still known for their keys'.
const RETIRED: u32 = 64;

/// What must be seen before the kernel gets its own timeouts back.
#[derive(Clone, Copy, Debug)]
pub struct Restoring {
    /// SND.UNA when the connection resumed.
    pub snd_una: u32,
    /// Whether data was outstanding then.
    pub outstanding: bool,
}

/// Data was outstanding when the connection was kicked, and nothing of it is acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub struct Stalled {
    /// SND.UNA then.
    pub snd_una: u32,
    /// When to kick again.
    pub again: Timestamp,
    /// The wait before that; doubles.
    pub wait: Duration,
}

/// A symmetric proxy that a server has named for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayLeg {
    /// Where this end sends to.
    pub proxy: Endpoint,
    /// Between this agent and the proxy; it proves nothing about the peer.
    pub key: LegKey,
}

/// One connection that can migrate.
pub struct Managed {
    /// As its socket knows it.
    pub identity: Tuple,
    /// This end's role.
    pub role: Role,
    /// Initial sequence numbers: the initiator's, the acceptor's.
    pub isns: (u32, u32),
    /// Where it stands.
    pub machine: Machine,
    /// Keys under each pair that the peer may belong to; the first is right unless several agents share the
    /// peer's address.
    pub candidates: Vec<KeySet>,
    /// The candidate that counts.
    pub chosen: usize,
    /// Whether a MAC has fitted it; until then what is sent is signed with each candidate's key.
    pub proven: bool,
    /// The candidate that the peer used last: answers are signed with that, for it need not have the one that counts
    /// here.
    pub asked_under: Option<usize>,
    /// What its socket is asked for.
    pub flags: SessionFlags,
    /// The numbers whose tokens the data path knows.
    pub tokens: BTreeSet<ReqNo>,
    /// The tuples the data path knows, with the attempt each belongs to.
    pub tuples: HashMap<Tuple, ReqNo>,
    /// Ways out, by our own endpoint.
    pub paths: HashMap<Endpoint, Path>,
    /// Set while the kernel's timeouts wait to be restored.
    pub restoring: Option<Restoring>,
    /// Set while a kick has not shown an effect.
    pub stalled: Option<Stalled>,
    /// The question to the peer's agent about a reset that is held.
    pub question: Option<u64>,
    /// Until then resets are dropped unasked.
    pub quiet_until: Option<Timestamp>,
    /// When it was last resumed because the path had changed.
    pub repaired_at: Option<Timestamp>,
    /// Since when it is suspect; in the future: the agents have talked about it.
    pub suspect_since: Option<Timestamp>,
    /// What the socket said when it became suspect.
    pub suspected_at: Option<TcpState>,
    /// When it was detached, until it has resumed.
    pub detached_at: Option<Timestamp>,
    /// When an address for it became usable, until it has resumed.
    pub usable_at: Option<Timestamp>,
    /// How often it has moved.
    pub moves: u32,
    /// From a usable address to the commit, last time.
    pub last_resumption: Option<Duration>,
    /// How long it was detached, last time.
    pub last_outage: Option<Duration>,
    /// The reset that is held back: its tuple and numbers.
    pub held_reset: Option<HeldReset>,
    /// When its machine wants to be woken.
    pub alarm: Option<Timestamp>,
    /// Kept on the device of its address though routes lead elsewhere.
    pub pinned: bool,
    /// What its socket had sent when it was read last, and from which address.
    pub sent: Option<(std::net::IpAddr, crate::agent::Sent)>,
    /// When that was.
    pub sampled_at: Option<Timestamp>,
    /// When the other family is tried too.
    pub other_family_at: Option<Timestamp>,
    /// From where it would go on directly, when it goes through a proxy: a port that no NAPT has mapped yet.
    pub offered: Option<Endpoint>,
    /// Where the peer is said to be, and told to send from at the same moment.
    pub crossing: Option<Endpoint>,
    /// The same, while only the peer's MSYNs are to arrive: ours open the way through our NAPT, and go no further.
    pub opening: Option<Endpoint>,
    /// The proxies that count: that of the wire tuple, and the one that was named last.
    pub legs: Vec<RelayLeg>,
    /// The proxy whose leg the data path keeps for the next agent.
    pub kept_leg: Option<Endpoint>,
    /// The wire tuple, when it leads to a proxy.
    pub relayed: Option<Tuple>,
    /// Everything but its keys is released.
    pub released: bool,
}

/// A plain reset that waits for a verdict.
#[derive(Clone, Copy, Debug)]
pub struct HeldReset {
    /// Its sequence number.
    pub seq: u32,
    /// Its acknowledgement number.
    pub ack: u32,
    /// Its TCP flags.
    pub flags: u8,
}

impl Managed {
    /// A connection that has never moved.
    pub fn new(
        identity: Tuple,
        role: Role,
        isns: (u32, u32),
        candidates: Vec<KeySet>,
        policy: Policy,
    ) -> Self {
        Self::with_machine(
            identity,
            role,
            isns,
            candidates,
            Machine::new(role, identity, policy),
        )
    }

    /// One that an earlier agent left behind.
    pub fn adopt(
        identity: Tuple,
        session: &Session,
        adopted: Adopted,
        policy: Policy,
        now: Timestamp,
    ) -> Self {
        let (initiator_to_acceptor, acceptor_to_initiator) = match session.role {
            Role::Initiator => (session.key_out.clone(), session.key_in.clone()),
            Role::Acceptor => (session.key_in.clone(), session.key_out.clone()),
        };
        let keys = ConnectionKeys {
            initiator_to_acceptor,
            acceptor_to_initiator,
            token_key: TokenKey::new(*session.key_token.as_bytes()),
        };
        let set = KeySet {
            keys,
            pair_id: Uuid::from_bytes(session.pair_id),
            epoch: session.epoch,
        };
        let machine = Machine::adopt(session.role, adopted, policy, now);
        let isns = (session.isn_initiator, session.isn_acceptor);
        let mut managed = Self::with_machine(identity, session.role, isns, vec![set], machine);
        managed.flags = session.flags;
        // These were made for it, and nothing else was.
        managed.proven = session.flags.enrolled;
        managed.relayed = session.flags.relayed.then(|| managed.machine.wire());
        managed
    }

    fn with_machine(
        identity: Tuple,
        role: Role,
        isns: (u32, u32),
        candidates: Vec<KeySet>,
        machine: Machine,
    ) -> Self {
        Self {
            identity,
            role,
            isns,
            machine,
            candidates,
            chosen: 0,
            proven: false,
            asked_under: None,
            flags: SessionFlags {
                hold_reset: true,
                watch: true,
                ..SessionFlags::default()
            },
            tokens: BTreeSet::new(),
            tuples: HashMap::new(),
            paths: HashMap::new(),
            restoring: None,
            stalled: None,
            question: None,
            quiet_until: None,
            repaired_at: None,
            suspect_since: None,
            suspected_at: None,
            detached_at: None,
            usable_at: None,
            moves: 0,
            last_resumption: None,
            last_outage: None,
            held_reset: None,
            alarm: None,
            pinned: false,
            sent: None,
            sampled_at: None,
            other_family_at: None,
            offered: None,
            crossing: None,
            opening: None,
            legs: Vec::new(),
            kept_leg: None,
            relayed: None,
            released: false,
        }
    }

    /// Whether the connection has not ended; what is left of an ended one only answers for it.
    pub fn is_live(&self) -> bool {
        !self.released
            && !matches!(
                self.machine.state(),
                migration::State::Closed | migration::State::Buried
            )
    }

    /// Whether its keys may still be others than those in force: what both ends agree last counts until its first move.
    pub fn is_open(&self) -> bool {
        self.is_live() && self.machine.committed() == ReqNo::UNMOVED && !self.flags.enrolled
    }

    /// The keys in force.
    pub fn keys(&self) -> &KeySet {
        &self.candidates[self.chosen]
    }

    /// The keys that a segment is signed with, each in a copy of its own: only the right agent knows the token of its
    /// own. What the peer hears first counts at once.
    pub fn signers(&self, answers: bool) -> Vec<&KeySet> {
        if answers {
            return vec![self.answer_keys()];
        }
        let mut sets = vec![self.keys()];
        if !self.proven {
            let others = self.candidates.iter().enumerate();
            sets.extend(
                others
                    .filter(|(place, _)| *place != self.chosen)
                    .map(|(_, set)| set),
            );
        }
        sets
    }

    /// The keys that the peer used last.
    pub fn answer_keys(&self) -> &KeySet {
        let place = self.asked_under.unwrap_or(self.chosen);
        self.candidates.get(place).unwrap_or(self.keys())
    }

    /// The peer has used a candidate's keys; `decides`: the connection goes on under them.
    pub fn shown(&mut self, place: usize, decides: bool) {
        self.asked_under = Some(place);
        let unmoved = self.machine.committed() == ReqNo::UNMOVED;
        let (held, shown) = (self.keys(), &self.candidates[place]);
        let newer = held.pair_id == shown.pair_id && held.epoch > shown.epoch;
        let counts = decides || unmoved && !(self.proven && newer);
        if counts {
            self.chosen = place;
        }
        self.proven |= self.chosen == place;
    }

    /// The numbers whose tokens a segment may carry: one may have been retired while its segment was on the way here.
    pub fn numbers(&self) -> BTreeSet<ReqNo> {
        let mut numbers = self.tokens.clone();
        if self.machine.committed() == ReqNo::UNMOVED {
            numbers.insert(ReqNo::UNMOVED);
        }
        numbers.extend([self.machine.committed(), self.machine.known()]);
        numbers
    }

    /// The candidate that gives this token, `likely` before the others.
    pub fn place_of(&self, token: Token, likely: usize) -> Option<usize> {
        let first = |fits: &mut dyn FnMut(&KeySet) -> bool| {
            let places = std::iter::once(likely).chain(0..self.candidates.len());
            let mut held = places.filter_map(|place| Some((place, self.candidates.get(place)?)));
            held.find(|(_, set)| fits(set)).map(|(place, _)| place)
        };
        let known = self.numbers();
        let newest = self.machine.highest_seen().0;
        let retired = newest.saturating_sub(RETIRED)..=newest;
        first(&mut |set| known.iter().any(|number| set.keys.token(*number) == token)).or_else(|| {
            first(&mut |set| {
                retired
                    .clone()
                    .any(|number| set.keys.token(ReqNo(number)) == token)
            })
        })
    }

    /// Takes up further keys, of a connection for which no MAC has shown yet which are right: at most `most`. Where
    /// there is no room, a pair's oldest give way to its newest. The newest of the pair count from then on, for both
    /// ends have those of the newest exchange that both know of, and the servers match connections by them. Returns
    /// those that gave way, or nothing when nothing has changed.
    pub fn add_candidates(&mut self, fresh: Vec<KeySet>, most: usize) -> Option<Vec<KeySet>> {
        let mut gone = Vec::new();
        let mut changed = false;
        for set in fresh {
            let label = set.keys.label();
            let known = self.candidates.iter().any(|held| held.keys.label() == label);
            // What has just given way is not taken up again.
            if known || gone.iter().any(|old: &KeySet| old.keys.label() == label) {
                continue;
            }
            if self.candidates.len() < most {
                self.candidates.push(set);
                changed = true;
                continue;
            }
            let older = self
                .candidates
                .iter_mut()
                .filter(|held| held.pair_id == set.pair_id && held.epoch < set.epoch);
            if let Some(oldest) = older.min_by_key(|held| held.epoch) {
                gone.push(std::mem::replace(oldest, set));
                changed = true;
            }
        }
        let pair_id = self.keys().pair_id;
        let newest = (0..self.candidates.len())
            .filter(|index| self.candidates[*index].pair_id == pair_id)
            .max_by_key(|index| self.candidates[*index].epoch);
        let before = self.chosen;
        self.chosen = newest.unwrap_or(before);
        (changed || before != self.chosen).then_some(gone)
    }

    /// Takes up keys that the peer has shown to use; where there is no room, the oldest give way, the pair's own first.
    /// Returns their place among the candidates, and those that gave way.
    pub fn admit(&mut self, set: KeySet, most: usize) -> (usize, Option<KeySet>) {
        let label = set.keys.label();
        let known = self.candidates.iter().position(|held| held.keys.label() == label);
        if let Some(known) = known {
            return (known, None);
        }
        if self.candidates.len() < most {
            self.candidates.push(set);
            return (self.candidates.len() - 1, None);
        }
        let place = (0..self.candidates.len())
            .filter(|place| *place != self.chosen)
            .min_by_key(|place| {
                let held = &self.candidates[*place];
                (held.pair_id != set.pair_id, held.epoch)
            })
            .unwrap_or(self.chosen);
        (place, Some(std::mem::replace(&mut self.candidates[place], set)))
    }

    /// What the data path keeps of it across a restart of the agent.
    pub fn session(&self) -> Session {
        let set = self.keys();
        Session {
            key_out: set.keys.outgoing(self.role).clone(),
            key_in: set.keys.incoming(self.role).clone(),
            key_token: MacKey::new(*set.keys.token_key.as_bytes()),
            pair_id: *set.pair_id.as_bytes(),
            epoch: set.epoch,
            isn_initiator: self.isns.0,
            isn_acceptor: self.isns.1,
            req_committed: self.machine.known(),
            req_stored: self.machine.highest_seen(),
            flags: self.flags,
            role: self.role,
        }
    }

    /// Whether the data path has to look at more than the connection's keys.
    pub fn is_active(&self) -> bool {
        !self.released
            && (self.machine.committed() != ReqNo::UNMOVED
                || self.machine.is_parked()
                || !self.machine.attempts().is_empty()
                || !self.machine.answered().is_empty())
    }

    /// Whether what its socket sends may get a longer header.
    pub fn grows(&self) -> bool {
        self.identity.is_ipv4() && self.wanted_tuples().keys().any(|tuple| !tuple.is_ipv4())
    }

    /// The tuples on which its segments may arrive, with the attempt of each.
    pub fn wanted_tuples(&self) -> HashMap<Tuple, ReqNo> {
        let machine = &self.machine;
        let mut wanted = HashMap::new();
        if self.released {
            return wanted;
        }
        for (tuple, req_no) in &self.tuples {
            let attempted = machine
                .attempts()
                .iter()
                .any(|a| a.req_no == *req_no && a.from == tuple.local && a.tried(tuple.remote));
            if attempted {
                wanted.insert(*tuple, *req_no);
            }
        }
        wanted.extend(machine.lingering().iter().map(|l| (l.tuple, l.req_no)));
        wanted.extend(machine.answered().iter().map(|a| (a.tuple, a.req_no)));
        if machine.committed() != ReqNo::UNMOVED {
            wanted.insert(machine.wire(), machine.committed());
        }
        wanted
    }
}
