//! The data path in memory: what the BPF programs and maps do, without a kernel, for tests without privileges.
//!
//! [`FakeDatapath`] holds the same maps under the same names and decides as `src/bpf` does: [`FakeDatapath::arrive`]
//! is the ingress of a physical device (`handshake.h`, `translate.h`), [`FakeDatapath::leave`] what happens to a
//! segment that a socket sends, and the methods of `sockets` stand for the kernel's TCP (`offer.h`, `walk.h`).
//! What is missing: options as bytes (a [`Segment`] cannot be malformed), fragments, ICMP, checksums, and routing.
//!
//! A test sets sockets up, lets the agent drive the [`Datapath`] trait, takes what it sent
//! ([`FakeDatapath::take_sent`]) and lets it arrive at another fake.

mod arriving;
mod driven;
mod leaving;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::token::Token;
use wire::tuple::Tuple;

use crate::event::Event;
use crate::kernel::COUNTERS;
use crate::types::{Arrival, Connection, Heads, Leg, Path, Session, Source, WireState};

pub use leaving::Departure;
pub use sockets::Socket;

/// How many connections one token may name, as `TOKEN_ENTRIES` in `intf.h`.
const TOKEN_ENTRIES: usize = 4;

/// What became of a segment that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the local stack as it is.
    Passed,
    /// It carries a Migrate-Request and never reaches the stack.
    Stolen,
    /// A reset that waits for the agent's decision.
    Held,
    /// Nobody gets it.
    Dropped,
    /// It goes to the local stack with identity addresses.
    HandedIn(Segment),
}

/// A packet that the agent sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// From the IP header on.
    pub packet: Vec<u8>,
    /// The device it was to leave by, if the agent named one.
    pub ifindex: Option<u32>,
}

/// How many entries the maps hold; the defaults are those of `maps.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions.
    pub sessions: usize,
    /// Tokens; each may name four connections.
    pub tokens: usize,
    /// Connections that are moved or parked.
    pub wires: usize,
    /// Wire tuples on which segments may arrive.
    pub arrivals: usize,
    /// Local addresses.
    pub sources: usize,
    /// Events that wait for the agent.
    pub events: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 131_072,
            tokens: 262_144,
            wires: 131_072,
            arrivals: 262_144,
            sources: 256,
            events: 5_000,
        }
    }
}

/// One of the connections that a token may name.
#[derive(Clone, Debug)]
struct TokenEntry {
    identity: Tuple,
    key_in: MacKey,
    candidate: u32,
}

/// The data path of one host, in memory.
#[derive(Default)]
pub struct FakeDatapath {
    /// How many entries the maps hold; may be lowered at any time.
    pub limits: Limits,
    /// The clock of the data path; the test moves it.
    pub now: Duration,
    /// How old the agent's last sign of life may be before resets pass.
    pub heartbeat_limit: Duration,
    /// Sends fail as if there were no route.
    pub unreachable: bool,
    /// How often all sockets were looked at for plain connections.
    pub listings: u32,
    connections: BTreeMap<Tuple, Connection>,
    sessions: BTreeMap<Tuple, Session>,
    legs: BTreeMap<Tuple, Leg>,
    tokens: BTreeMap<Token, Vec<TokenEntry>>,
    wires: BTreeMap<Tuple, WireState>,
    arrivals: BTreeMap<Tuple, Arrival>,
    /// Old tuples on which a stranger has a shadow port.
    shadows: BTreeSet<Tuple>,
    sources: BTreeMap<IpAddr, Source>,
    heads: BTreeMap<Tuple, Heads>,
    peers: BTreeSet<(IpAddr, u16)>,
    sockets: BTreeMap<Tuple, Socket>,
    closing: BTreeSet<Tuple>,
    events: VecDeque<Event>,
    opened: VecDeque<Tuple>,
    sent: Vec<Sent>,
    delivered: Vec<Vec<u8>>,
    heartbeat: Duration,
    load: (u32, u32),
    walks: usize,
    counters: BTreeMap<&'static str, u64>,
}

impl FakeDatapath {
    /// An idle host without sockets, whose agent has just shown a sign of life.
    pub fn new() -> Self {
        Self {
            heartbeat_limit: Duration::from_secs(5),
            ..Self::default()
        }
    }

    /// What the agent has sent since the last call, oldest first.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }

    /// The IP packets that the agent has handed to the local stack since the last call.
    pub fn take_delivered(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.delivered)
    }

    /// One counter.
    ///
    /// # Panics
    /// When the data path has no counter of that name: the test means another.
    pub fn counter(&self, name: &str) -> u64 {
        assert!(COUNTERS.contains(&name), "no counter is called {name}");
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// What is left of connections in the maps, by name; empty when nothing leaks.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut look = |map: &str, entries: Vec<String>| {
            left.extend(entries.into_iter().map(|entry| format!("{map}: {entry}")));
        };
        look("sessions", self.sessions.keys().map(Tuple::to_string).collect());
        look("legs", self.legs.keys().map(Tuple::to_string).collect());
        look("tokens", self.tokens.keys().map(Token::to_string).collect());
        look("wires", self.wires.keys().map(Tuple::to_string).collect());
        look("arrivals", self.arrivals.keys().map(Tuple::to_string).collect());
        look("heads", self.heads.keys().map(Tuple::to_string).collect());
        let unusable = self.sources.iter().filter(|(_, source)| !source.usable);
        look(
            "sources",
            unusable.map(|(address, _)| address.to_string()).collect(),
        );
        left
    }

    /// Empties the maps, as a reboot does.
    pub fn forget_everything(&mut self) {
        self.connections.clear();
        self.sessions.clear();
        self.legs.clear();
        self.tokens.clear();
        self.wires.clear();
        self.arrivals.clear();
        self.shadows.clear();
        self.heads.clear();
        self.peers.clear();
    }

    /// Sessions that exist and how many of them are moved or parked, as the agent said last.
    pub fn load(&self) -> (u32, u32) {
        self.load
    }

    /// How often the sockets were brought to what their sessions ask for.
    pub fn walks(&self) -> usize {
        self.walks
    }

    /// Whether segments may leave from a local address; `None`: the address is nothing to the data path.
    pub fn source(&self, address: IpAddr) -> Option<Source> {
        self.sources.get(&address).copied()
    }

    fn count(&mut self, name: &'static str) {
        debug_assert!(COUNTERS.contains(&name), "{name}");
        *self.counters.entry(name).or_default() += 1;
    }

    /// As a ring buffer: what finds no room is lost and counted. False: it was lost.
    fn tell(&mut self, event: Event) -> bool {
        if self.events.len() >= self.limits.events {
            self.count("event_lost");
            return false;
        }
        self.events.push_back(event);
        true
    }

    /// Makes an attempt the connection's wire tuple if no later one is; false: the map is full.
    fn commit_wire(&mut self, identity: &Tuple, wire: &Tuple, path: &Path, req_no: ReqNo) -> bool {
        let fresh = WireState {
            req_no,
            wire: *wire,
            path: *path,
        };
        match self.wires.get_mut(identity) {
            Some(state) if req_no >= state.req_no => *state = fresh,
            Some(_) => {}
            None => return self.insert_wire(identity, fresh),
        }
        true
    }

    fn insert_wire(&mut self, identity: &Tuple, state: WireState) -> bool {
        if self.wires.len() >= self.limits.wires {
            self.count("map_full");
            return false;
        }
        self.wires.insert(*identity, state);
        true
    }
}
