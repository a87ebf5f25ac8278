//! What is stored of a pair.

use std::net::IpAddr;

use wire::Endpoint;

use crate::time::Timestamp;

use super::event::ProxyGrant;
use super::plan::Try;
use super::report::{AgentName, PairKey, Report};

/// Which end of a pair; the order is that of the names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Side {
    /// The end with the smaller name.
    First,
    /// The other.
    Second,
}

impl Side {
    /// Both, in order.
    pub const BOTH: [Side; 2] = [Side::First, Side::Second];

    /// The other end.
    pub fn other(self) -> Side {
        match self {
            Side::First => Side::Second,
            Side::Second => Side::First,
        }
    }

    /// Its place in [`PairRecord::ends`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A report with what the server has seen of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// What is known of the end: its last report, with the addresses before the move that the peer knows.
    pub report: Report,
    /// The stream's local endpoint as the agent said it.
    pub local: Endpoint,
    /// The stream's source as the server saw it.
    pub observed: Endpoint,
    /// Grows with every report of either end: who reported later.
    pub arrival: u64,
    /// When it is forgotten.
    pub expires: Timestamp,
}

/// An open stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Presence {
    /// Its local endpoint as the agent said it.
    pub local: Endpoint,
    /// Its source as the server saw it.
    pub observed: Endpoint,
}

/// What an inbound probe has said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reachability {
    /// What was probed.
    pub address: IpAddr,
    /// Whether a connection could be made; none while nobody has answered yet.
    pub reachable: Option<bool>,
}

/// What is stored of one end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct End {
    /// Its report in force.
    pub held: Option<Held>,
    /// Its stream.
    pub present: Option<Presence>,
    /// The probe of its address.
    pub reachability: Option<Reachability>,
    /// The highest counter that was withdrawn or has expired: nothing up to it is believed any more.
    pub settled: u64,
}

/// What was decided and is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Its number, from 1.
    pub number: u64,
    /// When it was made.
    pub made: Timestamp,
    /// What is tried.
    pub what: Try,
    /// The counters of the reports that it matched; 0 for an end that was only present.
    pub counters: [u64; 2],
    /// Labels of the connections that it concerns; empty: all.
    pub labels: Vec<u64>,
    /// What the proxy has granted.
    pub grants: Vec<ProxyGrant>,
    /// From where both ends are to come to the proxy that was asked; none: none was.
    pub asked_for: Option<[IpAddr; 2]>,
    /// Labels of the connections for which it was asked, now or under a decision whose grants these are.
    pub asked: Vec<u64>,
}

/// What is stored of a pair.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PairRecord {
    /// What it is stored under.
    pub key: PairKey,
    /// Both ends, in the order of their names.
    pub ends: [End; 2],
    /// How many reports were heard.
    pub arrivals: u64,
    /// How many decisions were made.
    pub decisions: u64,
    /// The decision in force.
    pub decision: Option<Decision>,
    /// What was tried since the last report.
    pub tried: Vec<Try>,
    /// The counters of the reports for which it was tried; 0 for an end that was only present.
    pub tried_for: [u64; 2],
    /// The labels to which failures have narrowed the tries; empty: all.
    pub narrowed: Vec<u64>,
    /// When the tries begin anew, after the last one.
    pub rests_until: Option<Timestamp>,
    /// When it became empty.
    pub empty_since: Option<Timestamp>,
    /// The addresses of the proxy that has to be left; empty: none has.
    pub leaving: Vec<IpAddr>,
    /// The addresses of proxies that have granted something with which nothing came about, since the tries began.
    pub avoided: Vec<IpAddr>,
}

impl PairRecord {
    /// A record in which nothing is stored.
    pub fn new(key: PairKey) -> Self {
        Self {
            key,
            ends: [End::default(), End::default()],
            arrivals: 0,
            decisions: 0,
            decision: None,
            tried: Vec::new(),
            tried_for: [0, 0],
            narrowed: Vec::new(),
            rests_until: None,
            empty_since: None,
            leaving: Vec::new(),
            avoided: Vec::new(),
        }
    }

    /// The end on this side.
    pub fn end(&self, side: Side) -> &End {
        &self.ends[side.index()]
    }

    pub(super) fn end_mut(&mut self, side: Side) -> &mut End {
        &mut self.ends[side.index()]
    }

    /// Nothing counts as tried any more.
    pub(super) fn begin_anew(&mut self) {
        self.tried.clear();
        self.avoided.clear();
        self.rests_until = None;
    }

    /// Who is on this side.
    pub fn name(&self, side: Side) -> &AgentName {
        &self.key.names[side.index()]
    }

    /// On which side this agent is; none for a stranger.
    pub fn side_of(&self, agent: &AgentName) -> Option<Side> {
        Side::BOTH.into_iter().find(|&side| self.name(side) == agent)
    }

    /// Whether nothing is stored but what refuses late reports.
    pub fn is_empty(&self) -> bool {
        let empty = |end: &End| end.held.is_none() && end.present.is_none();
        self.ends.iter().all(empty)
    }

    /// When [`ServerEvent::TimerFired`](super::ServerEvent::TimerFired) is due next.
    pub fn next_timeout(&self, rules: &super::Rules) -> Option<Timestamp> {
        let expiries = self
            .ends
            .iter()
            .filter_map(|end| end.held.as_ref().map(|held| held.expires));
        let patience = self
            .decision
            .as_ref()
            .map(|decision| decision.made + rules.try_patience);
        let linger = self.empty_since.map(|since| since + rules.linger);
        expiries
            .chain(patience)
            .chain(self.rests_until)
            .chain(linger)
            .min()
    }
}
