//! Hosts that roam: both ends of every connection, the programs that use them, and what a driver does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use migration::{Endpoint, Event, Policy, Role, State, Timestamp, Tuple};

use super::agents::Agents;
use super::host::{Host, Notice};
use super::network::{Network, Place};
use crate::language::Scenario;
use crate::language::ast::Talking;

/// Segments of one transfer: enough that it is under way for a while, few enough for a thousand runs.
const SEGMENTS: u64 = 120;
/// How long the heartbeat through a NAPT needs to see that it has forgotten.
const HEARTBEAT: Duration = Duration::from_secs(3);

/// One connection and what is done with it.
pub struct Connection {
    pub ends: [Host; 2],
    pub nodes: [usize; 2],
    pub talking: Talking,
    pub name: String,
    /// Bytes that one segment stands for.
    pub unit: u64,
    /// When the next question of an echo is due.
    next: Option<Timestamp>,
    /// Questions still to be asked; none: for ever.
    left: Option<u64>,
}

impl Connection {
    pub fn wanted(&self) -> u32 {
        match self.talking {
            Talking::Echo { count, .. } => count.map_or(u32::MAX, |count| count as u32),
            // Visits never come here: many connections are not for this world.
            Talking::Idle | Talking::Visits(_) => u32::MAX,
            Talking::Fetch(_) | Talking::Push(_) | Talking::Exchange(_) => SEGMENTS as u32,
        }
    }

    /// Whether everything has arrived.
    pub fn is_done(&self) -> bool {
        let got = |h: usize| self.ends[h].kernel.received >= self.wanted();
        match self.talking {
            Talking::Fetch(_) | Talking::Echo { .. } => got(0),
            Talking::Push(_) => got(1),
            Talking::Exchange(_) => got(0) && got(1),
            Talking::Idle | Talking::Visits(_) => false,
        }
    }

    /// Segments that the program has seen arrive: its own, or at the server for what it pushes.
    pub fn arrived(&self) -> u64 {
        let end = usize::from(matches!(self.talking, Talking::Push(_)));
        u64::from(self.ends[end].kernel.received)
    }

    /// Whether this end needs help.
    pub fn is_troubled(&self, h: usize) -> bool {
        let machine = &self.ends[h].machine;
        let waits = matches!(
            machine.state(),
            State::MigWait(_) | State::MigSent | State::Suspect
        );
        !self.ends[h].has_ended() && (waits || machine.is_parked() || !machine.is_confirmed())
    }
}

/// The simulated world.
pub struct World {
    pub net: Network,
    pub connections: Vec<Connection>,
    /// Where each host is, the best place last.
    pub places: BTreeMap<usize, Vec<Place>>,
    pub agents: Agents,
    policies: BTreeMap<usize, Policy>,
    wakes: BTreeMap<usize, Timestamp>,
    /// Hosts whose heartbeat will fail then.
    heartbeats: Vec<(Timestamp, usize)>,
    pub timeline: Vec<(Timestamp, String)>,
}

impl World {
    pub fn new(scenario: &Scenario, seed: u64, policies: BTreeMap<usize, Policy>) -> Self {
        Self {
            net: Network::new(scenario, seed),
            connections: Vec::new(),
            places: BTreeMap::new(),
            agents: Agents::default(),
            policies,
            wakes: BTreeMap::new(),
            heartbeats: Vec::new(),
            timeline: Vec::new(),
        }
    }

    pub fn now(&self) -> Timestamp {
        self.net.now
    }

    pub fn note(&mut self, text: String) {
        self.timeline.push((self.net.now, text));
    }

    pub fn is_awake(&self, node: usize) -> bool {
        !self.net.asleep.contains(&node)
    }

    pub fn place(&self, node: usize) -> Option<Place> {
        self.places.get(&node).and_then(|places| places.last().copied())
    }

    /// The host gets an address on a link.
    pub fn arrive(&mut self, node: usize, link: usize, address: IpAddr) {
        let place = Place::new(node, link, address);
        self.places.entry(node).or_default().push(place);
        self.learn(node, |host| {
            host.places.push(place);
            vec![Notice::Usable {
                place,
                candidates: None,
            }]
        });
        self.reattend(node);
    }

    /// The host loses its address on a link.
    pub fn depart(&mut self, node: usize, link: usize) {
        let places = self.places.entry(node).or_default();
        let gone: Vec<Place> = places.extract_if(.., |place| place.link == link).collect();
        let left = places.last().copied();
        for place in gone {
            self.learn(node, |host| {
                host.places.retain(|other| *other != place);
                let lost = Notice::Event(Event::AddressLost {
                    local: place.address(),
                });
                let other = left.map(|place| Notice::Usable {
                    place,
                    candidates: None,
                });
                std::iter::once(lost).chain(other).collect()
            });
        }
        self.reattend(node);
    }

    /// Every end at this host learns something; who sleeps reads it when awake.
    fn learn(&mut self, node: usize, what: impl Fn(&mut Host) -> Vec<Notice>) {
        for c in 0..self.connections.len() {
            for h in 0..2 {
                if self.connections[c].nodes[h] == node {
                    let notices = what(&mut self.connections[c].ends[h]);
                    self.connections[c].ends[h].notices.extend(notices);
                }
            }
            self.drain(c);
        }
    }

    /// The stream to the server is made anew from where the host is now.
    fn reattend(&mut self, node: usize) {
        if self.is_awake(node) {
            Agents::attend(self, node);
        }
    }

    pub fn forget_mappings(&mut self, napt: usize, outage: Duration) {
        self.net.flush(napt, outage);
        let due = self.net.now + outage + HEARTBEAT;
        let behind = self.places.iter().filter(|(_, places)| {
            places
                .last()
                .is_some_and(|&place| self.net.napt_of(place) == Some(napt))
        });
        let behind: Vec<usize> = behind.map(|(&node, _)| node).collect();
        self.heartbeats.extend(behind.into_iter().map(|node| (due, node)));
    }

    pub fn sleep(&mut self, node: usize, how_long: Duration) {
        self.net.asleep.insert(node);
        let until = self.net.now + how_long;
        self.wakes.insert(node, until);
    }

    /// A client connects; none when there is no way to the server.
    pub fn connect(
        &mut self,
        name: &str,
        node: usize,
        to: Endpoint,
        talking: Talking,
        count: Option<u64>,
    ) -> Option<usize> {
        let place = self.place(node)?;
        let from = Endpoint::new(place.address(), self.net.fresh_port());
        let (server, at, seen) = self.net.connect(place, from, to)?;
        let there = *self
            .places
            .get(&server)?
            .iter()
            .find(|place| place.address() == at.address)?;
        let policy = |node: &usize| self.policies.get(node).copied().unwrap_or_default();
        let ends = [
            Host::new(Role::Initiator, Tuple::new(from, to), place, policy(&node)),
            Host::new(Role::Acceptor, Tuple::new(at, seen), there, policy(&server)),
        ];
        let size = match talking {
            Talking::Fetch(size) | Talking::Push(size) | Talking::Exchange(size) => size,
            Talking::Echo { .. } | Talking::Idle | Talking::Visits(_) => SEGMENTS,
        };
        let now = self.net.now;
        self.connections.push(Connection {
            ends,
            nodes: [node, server],
            talking,
            name: name.to_owned(),
            unit: size.div_ceil(SEGMENTS),
            next: matches!(talking, Talking::Echo { .. }).then_some(now),
            left: count,
        });
        let c = self.connections.len() - 1;
        for (h, end) in [(0, node), (1, server)] {
            self.connections[c].ends[h].places = self.places.get(&end).cloned().unwrap_or_default();
        }
        let writers: &[usize] = match talking {
            Talking::Fetch(_) => &[1],
            Talking::Push(_) => &[0],
            Talking::Exchange(_) => &[0, 1],
            Talking::Echo { .. } | Talking::Idle | Talking::Visits(_) => &[],
        };
        for &h in writers {
            for _ in 0..SEGMENTS {
                self.write(c, h);
            }
        }
        Agents::introduce(self, node, server);
        Some(c)
    }

    /// An end writes one segment; only what is at the head of line goes out at once.
    pub fn write(&mut self, c: usize, h: usize) {
        let now = self.net.now;
        self.net.connection = c;
        let host = &mut self.connections[c].ends[h];
        let idle = !host.kernel.outstanding();
        if host.kernel.write(now) && idle {
            host.transmit(host.kernel.head(), &mut self.net, now);
        }
    }

    /// When anything happens next.
    pub fn next_time(&self) -> Option<Timestamp> {
        let flights = self.net.in_flight.first_key_value().map(|(&(at, _), _)| at);
        let ends = self.connections.iter().flat_map(|connection| {
            let timers = (0..2)
                .filter(|&h| self.is_awake(connection.nodes[h]))
                .flat_map(|h| {
                    let host = &connection.ends[h];
                    [host.alarm, host.kernel.rto_due]
                });
            timers
                .flatten()
                .chain(connection.next.filter(|_| self.is_awake(connection.nodes[0])))
        });
        let heartbeats = self.heartbeats.iter().map(|&(at, _)| at);
        let agents = self.agents.next_time();
        let own = self.wakes.values().copied().chain(heartbeats).chain(agents);
        flights.into_iter().chain(ends).chain(own).min()
    }

    /// Everything that is due by `until` happens.
    pub fn happen(&mut self, until: Timestamp) {
        self.net.now = self.net.now.max(until);
        let now = self.net.now;
        while let Some(entry) = self
            .net
            .in_flight
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            let flight = entry.remove();
            let c = flight.connection;
            for h in 0..2 {
                if self.connections[c].nodes[h] == flight.node && self.is_awake(flight.node) {
                    self.net.connection = c;
                    self.connections[c].ends[h].hear(flight.segment, flight.at, &mut self.net, now);
                    break;
                }
            }
            self.drain(c);
        }
        let awake: Vec<usize> = self
            .wakes
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(&node, _)| node)
            .collect();
        for node in awake {
            self.wakes.remove(&node);
            self.net.asleep.remove(&node);
            self.note(format!("node {node} wakes"));
            self.reattend(node);
        }
        let due: Vec<(Timestamp, usize)> = self.heartbeats.extract_if(.., |&mut (at, _)| at <= now).collect();
        for (_, node) in due {
            if let Some(place) = self.place(node) {
                let lost = Event::AddressLost {
                    local: place.address(),
                };
                self.learn(node, |_| {
                    vec![
                        Notice::Event(lost.clone()),
                        Notice::Usable {
                            place,
                            candidates: None,
                        },
                    ]
                });
            }
        }
        for c in 0..self.connections.len() {
            self.timers(c);
            self.drain(c);
            self.serve(c);
        }
        Agents::act(self);
    }

    fn timers(&mut self, c: usize) {
        let now = self.net.now;
        self.net.connection = c;
        for h in 0..2 {
            let connection = &mut self.connections[c];
            if self.net.asleep.contains(&connection.nodes[h]) {
                continue;
            }
            connection.ends[h].ring_alarm(&mut self.net, now);
            connection.ends[h].kernel_timer(&mut self.net, now);
        }
    }

    /// What the two drivers have been told.
    pub fn drain(&mut self, c: usize) {
        let now = self.net.now;
        self.net.connection = c;
        for h in 0..2 {
            if self.net.asleep.contains(&self.connections[c].nodes[h]) {
                continue;
            }
            let host = &mut self.connections[c].ends[h];
            while host.drain_one(false, &mut self.net, now) || host.drain_one(true, &mut self.net, now) {}
        }
    }

    /// The programs: who echoes answers, who asks asks again when it is time.
    fn serve(&mut self, c: usize) {
        let now = self.net.now;
        let connection = &mut self.connections[c];
        let (mut asks, mut answers) = (0, 0);
        if let Talking::Echo { every, .. } = connection.talking
            && connection.next.is_some_and(|due| due <= now)
            && !self.net.asleep.contains(&connection.nodes[0])
        {
            connection.left = connection.left.map(|left| left.saturating_sub(1));
            asks = 1;
            connection.next = (connection.left != Some(0)).then_some(now + every);
        }
        if matches!(connection.talking, Talking::Echo { .. } | Talking::Idle) {
            let server = &connection.ends[1].kernel;
            answers = server.received.saturating_sub(server.sent);
        }
        for _ in 0..asks {
            self.write(c, 0);
        }
        for _ in 0..answers {
            self.write(c, 1);
        }
    }
}
