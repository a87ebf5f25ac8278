//! The good end: the network loses nothing any more, the drivers do what drivers do, and both ends must come to
//! rest on one wire tuple, or both be closed, or (when neither can reach the other) wait and then end alike.

use std::time::Duration;

use migration::{Endpoint, Event, State, Timestamp};

use super::World;
use super::host::Notice;
use super::network::Place;

/// How both ends stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rest {
    /// On one wire tuple.
    Together,
    /// Both are over.
    Ended,
    /// Neither.
    Apart,
}

impl World {
    /// Runs with a good network until both ends rest, or until `patience` has passed.
    pub fn run_good(&mut self, patience: Duration) -> Rest {
        self.settle_in();
        let end = self.now + patience;
        for h in 0..2 {
            self.write(h);
        }
        let mut next_server = self.now + Duration::from_secs(2);
        while self.now < end {
            self.drain_all();
            if self.is_quiet() {
                return self.rest();
            }
            for h in 0..2 {
                self.answer_reset(h, true);
            }
            self.drain_all();
            let next = self.next_time().unwrap_or(end).min(next_server).min(end);
            self.now = self.now.max(next);
            self.deliver_due();
            self.advance(Duration::ZERO);
            if self.now >= next_server {
                self.serve();
                next_server = self.now + Duration::from_secs(2);
            }
        }
        self.drain_all();
        self.rest()
    }

    /// What is in flight arrives, the drivers learn what they can learn without the network's help.
    pub fn settle_in(&mut self) {
        self.net.strangers = false;
        self.deliver_all();
        self.drain_all();
        self.heartbeats();
        self.drain_all();
    }

    /// Everything in flight arrives now, in order; nothing new is waited for.
    pub fn deliver_all(&mut self) {
        while let Some((_, segment)) = self.net.in_flight.pop_front() {
            self.deliver(segment);
        }
    }

    fn deliver_due(&mut self) {
        let mut index = 0;
        while index < self.net.in_flight.len() {
            if self.net.in_flight[index].0 <= self.now {
                let (_, segment) = self.net.in_flight.remove(index).expect("checked");
                self.deliver(segment);
            } else {
                index += 1;
            }
        }
    }

    fn next_time(&self) -> Option<Timestamp> {
        let flights = self.net.in_flight.iter().map(|&(at, _)| at);
        let alarms = self.hosts.iter().filter_map(|host| host.alarm);
        let kernels = self.hosts.iter().filter_map(|host| host.kernel.rto_due);
        flights.chain(alarms).chain(kernels).min()
    }

    fn is_quiet(&self) -> bool {
        let idle = |h: usize| {
            let host = &self.hosts[h];
            let settled = matches!(
                host.machine.state(),
                State::Established
                    | State::FinWait1
                    | State::FinWait2
                    | State::CloseWait
                    | State::Closing
                    | State::LastAck
                    | State::TimeWait
            );
            host.has_ended() || (settled && !host.kernel.outstanding() && host.machine.is_confirmed())
        };
        self.net.in_flight.is_empty() && idle(0) && idle(1) && self.rest() != Rest::Apart
    }

    pub fn rest(&self) -> Rest {
        match (self.hosts[0].has_ended(), self.hosts[1].has_ended()) {
            (true, true) => Rest::Ended,
            (false, false) if self.same_wire() => Rest::Together,
            _ => Rest::Apart,
        }
    }

    /// Whether what one sends on its wire tuple arrives on the other's, both ways.
    pub fn same_wire(&self) -> bool {
        let observed = |h: usize| -> Option<(Endpoint, Endpoint)> {
            let wire = self.hosts[h].machine.wire();
            Some(match self.hosts[h].place_of(wire.local)? {
                Place::Public(_) => (wire.local, wire.remote),
                Place::Behind { napt, .. } if self.net.is_mapped(napt, wire.local, wire.remote) => (
                    self.net.clone().translate(napt, wire.local, wire.remote),
                    wire.remote,
                ),
                Place::Behind { .. } => return None,
            })
        };
        let free = self.hosts.iter().all(|host| !host.datapath.parked);
        match (observed(0), observed(1)) {
            (Some((a, to_b)), Some((b, to_a))) => free && to_b == b && to_a == a,
            _ => false,
        }
    }

    /// Heartbeats through NAPTs find those that have lost the wire tuple's mapping.
    fn heartbeats(&mut self) {
        for h in 0..2 {
            let wire = self.hosts[h].machine.wire();
            let Some(place @ Place::Behind { napt, .. }) = self.hosts[h].place_of(wire.local) else {
                continue;
            };
            if !self.net.is_mapped(napt, wire.local, wire.remote) {
                let lost = Event::AddressLost {
                    local: place.address(),
                };
                self.hosts[h].notices.push_back(Notice::Event(lost));
                self.hosts[h].notices.push_back(Notice::Usable {
                    place,
                    candidates: None,
                });
            }
        }
    }

    /// The heartbeat of an end that has nothing to send stays unanswered when the peer is not there any more.
    fn probe_idle_ends(&mut self) {
        for h in 0..2 {
            let host = &mut self.hosts[h];
            if !host.kernel.outstanding() && !host.has_ended() {
                host.ring.push_back(Event::ProbeUnanswered);
            }
        }
    }

    /// The mobility server: who waits, reports; one of the two is told where the other is.
    fn serve(&mut self) {
        if self.rest() == Rest::Apart {
            self.probe_idle_ends();
        }
        if !self.server {
            return;
        }
        let waits = |h: usize| {
            let state = self.hosts[h].machine.state();
            matches!(state, State::MigWait(_) | State::MigSent | State::Suspect)
        };
        if !(waits(0) || waits(1)) {
            return;
        }
        let sender = match (self.destination(0).is_some(), self.destination(1).is_some()) {
            (false, true) | (true, true) => 0,
            (true, false) => 1,
            (false, false) => return,
        };
        self.command(sender);
    }
}
