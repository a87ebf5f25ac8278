//! The network of a scenario: which way a segment goes, what happens to it there, and who hears it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use migration::{Endpoint, Timestamp};

pub use super::segment::{Kind, Segment};

use super::random::Random;
use crate::language::Scenario;
use crate::language::ast::{Deed, Interference, Kind as Node, Ports, Segments};

/// Where a host can send from: an address on a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub link: usize,
    pub node: usize,
    address: IpAddr,
}

impl Place {
    pub fn new(node: usize, link: usize, address: IpAddr) -> Self {
        Self { link, node, address }
    }

    pub fn address(self) -> IpAddr {
        self.address
    }
}

/// What a link does now.
#[derive(Clone, Debug)]
pub struct Link {
    pub up: bool,
    /// Frames of the node at this end vanish; of both for `None` inside.
    pub blackhole: Option<Option<usize>>,
    pub delay: Duration,
    pub loss: f64,
    interferences: Vec<(Interference, u64)>,
}

/// A segment on its way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub connection: usize,
    pub node: usize,
    pub at: Endpoint,
    pub segment: Segment,
}

#[derive(Clone, Debug, Default)]
struct Napt {
    /// (inside, remote) to outside port.
    table: BTreeMap<(Endpoint, Endpoint), u16>,
    down_until: Timestamp,
}

/// Everything between the hosts.
pub struct Network {
    scenario: Scenario,
    pub links: Vec<Link>,
    napts: BTreeMap<usize, Napt>,
    pub in_flight: BTreeMap<(Timestamp, u64), Flight>,
    pub random: Random,
    /// Whose segments are sent now; what the token says in real ones.
    pub connection: usize,
    /// Who sleeps hears nothing.
    pub asleep: BTreeSet<usize>,
    pub now: Timestamp,
    next_port: u16,
    order: u64,
}

/// Where a segment ends up.
struct Arrival {
    node: usize,
    src: Endpoint,
    dst: Endpoint,
    delay: Duration,
    copies: u32,
    genuine: bool,
}

/// How many links and nodes a segment may pass.
const HOPS: u32 = 16;

impl Network {
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let links = scenario.links.iter().map(|link| Link {
            up: !link.down,
            blackhole: None,
            delay: link.shape.delay,
            loss: link.shape.loss,
            interferences: Vec::new(),
        });
        Self {
            links: links.collect(),
            scenario: scenario.clone(),
            napts: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            random: Random::new(seed),
            connection: 0,
            asleep: BTreeSet::new(),
            now: Timestamp::START,
            next_port: 20_000,
            order: 0,
        }
    }

    /// A port never given out before.
    pub fn fresh_port(&mut self) -> u16 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(20_001);
        self.next_port
    }

    pub fn node(&self, name: &str) -> Option<usize> {
        self.scenario.nodes.iter().position(|node| node.name.text == name)
    }

    pub fn link(&self, name: &str) -> Option<usize> {
        self.scenario.links.iter().position(|link| link.name.text == name)
    }

    pub fn interfere(&mut self, link: usize, interference: Interference) {
        self.links[link].interferences.push((interference, 0));
    }

    pub fn flush(&mut self, napt: usize, outage: Duration) {
        let until = self.now + outage;
        self.napts.insert(
            napt,
            Napt {
                table: BTreeMap::new(),
                down_until: until,
            },
        );
    }

    /// Sends from a host that has these places; lost when none of them owns the source address.
    pub fn send(&mut self, places: &[Place], from: Endpoint, to: Endpoint, kind: Kind, _: Timestamp) {
        let Some(&place) = places.iter().find(|place| place.address() == from.address) else {
            return;
        };
        if let Some(arrival) = self.carry(place, from, to, Some(kind)) {
            for _ in 0..arrival.copies {
                let (src, dst, genuine) = (arrival.src, arrival.dst, arrival.genuine);
                let jitter = self.random.below(1 + arrival.delay.as_micros() as u64 / 4);
                let at = self.now + arrival.delay + Duration::from_micros(jitter);
                self.order += 1;
                let segment = Segment {
                    src,
                    dst,
                    kind,
                    genuine,
                };
                let (connection, node) = (self.connection, arrival.node);
                let flight = Flight {
                    connection,
                    node,
                    at: dst,
                    segment,
                };
                self.in_flight.insert((at, self.order), flight);
            }
        }
    }

    /// How a connection from there to there is seen at the other end: who accepts it, at which endpoint, from whom.
    pub fn connect(
        &mut self,
        place: Place,
        from: Endpoint,
        to: Endpoint,
    ) -> Option<(usize, Endpoint, Endpoint)> {
        let arrival = self.carry(place, from, to, None)?;
        Some((arrival.node, arrival.dst, arrival.src))
    }

    /// Behind which NAPT a place is, if it is.
    pub fn napt_of(&self, place: Place) -> Option<usize> {
        let far = self.far(place.link, place.node)?;
        matches!(self.scenario.nodes[far].kind, Node::Napt(_)).then_some(far)
    }

    /// What the rest of the world sees of a place.
    pub fn observed(&self, place: Place) -> Option<IpAddr> {
        if !self.links[place.link].up || self.links[place.link].blackhole.is_some() {
            return None;
        }
        match self.napt_of(place) {
            Some(napt)
                if self
                    .napts
                    .get(&napt)
                    .is_some_and(|state| state.down_until > self.now) =>
            {
                None
            }
            Some(napt) => self.outside_address(napt, place.address().is_ipv4()),
            None => Some(place.address()),
        }
    }

    /// Whether the NAPT keeps ports.
    pub fn keeps_ports(&self, napt: usize) -> bool {
        matches!(&self.scenario.nodes[napt].kind, Node::Napt(rule) if rule.ports == Ports::Kept)
    }

    fn outside_link(&self, napt: usize) -> Option<usize> {
        let outside = self.scenario.outside_of(&self.scenario.nodes[napt])?;
        self.link(&outside.name.text)
    }

    fn outside_address(&self, napt: usize, ipv4: bool) -> Option<IpAddr> {
        let link = &self.scenario.links[self.outside_link(napt)?];
        let end = link.end_at(&self.scenario.nodes[napt].name.text)?;
        let mut addresses = link.ends[end].addresses.iter().map(|prefix| prefix.address);
        addresses.find(|address| address.is_ipv4() == ipv4)
    }

    fn far(&self, link: usize, node: usize) -> Option<usize> {
        let link = &self.scenario.links[link];
        let end = link.end_at(&self.scenario.nodes[node].name.text)?;
        self.node(&link.ends[1 - end].node.text)
    }

    /// Walks the segment along its way; NAPTs make mappings as it passes.
    fn carry(&mut self, place: Place, src: Endpoint, dst: Endpoint, kind: Option<Kind>) -> Option<Arrival> {
        let mut on = Arrival {
            node: place.node,
            src,
            dst,
            delay: Duration::from_micros(200),
            copies: 1,
            genuine: true,
        };
        let mut link = place.link;
        for _ in 0..HOPS {
            self.pass(link, &mut on, kind)?;
            on.node = self.far(link, on.node)?;
            link = match self.scenario.nodes[on.node].kind.clone() {
                Node::Host => return Some(on),
                Node::Router => self.next_hop(on.node, link, on.dst.address)?,
                Node::Napt(_) => self.translate(link, &mut on)?,
            };
        }
        None
    }

    /// One link: it may be down, lose, delay, repeat.
    fn pass(&mut self, link: usize, on: &mut Arrival, kind: Option<Kind>) -> Option<()> {
        let state = &mut self.links[link];
        let swallowed = state
            .blackhole
            .is_some_and(|from| from.is_none_or(|node| node == on.node));
        if !state.up || swallowed {
            return None;
        }
        on.delay += state.delay;
        let Some(kind) = kind else { return Some(()) };
        if self.random.happens(state.loss) {
            return None;
        }
        let name = &self.scenario.nodes[on.node].name;
        for (interference, passed) in &mut state.interferences {
            let other_end = interference.from.as_ref().is_some_and(|from| from != name);
            if other_end || !meant(interference.segments, kind) {
                continue;
            }
            *passed += 1;
            if *passed < interference.first || interference.last.is_some_and(|last| *passed > last) {
                continue;
            }
            match interference.deed {
                Deed::Drop => return None,
                Deed::Delay(by) => on.delay += by,
                Deed::Duplicate => on.copies += 1,
                Deed::Flip(_) => on.genuine = false,
                Deed::Record(_) => {}
            }
        }
        Some(())
    }

    /// The link of a router that leads to the address: to who has it, or to another router that knows.
    fn next_hop(&self, router: usize, came: usize, to: IpAddr) -> Option<usize> {
        let links =
            || (0..self.links.len()).filter(move |&link| link != came && self.far(link, router).is_some());
        let leads = |link: usize| {
            self.scenario.links[link]
                .ends
                .iter()
                .flat_map(|end| &end.addresses)
        };
        let direct = links().find(|&link| leads(link).any(|prefix| prefix.address == to));
        let near = || links().find(|&link| leads(link).any(|prefix| prefix.contains(to)));
        let further = || {
            let mut routers = links().filter(|&link| {
                let far = self.far(link, router);
                far.is_some_and(|far| self.scenario.nodes[far].kind == Node::Router)
            });
            routers.find(|&link| {
                self.far(link, router)
                    .is_some_and(|far| self.next_hop(far, link, to).is_some())
            })
        };
        direct.or_else(near).or_else(further)
    }

    /// A NAPT with address-and-port-dependent mapping and filtering, as Linux's is. The link that comes next.
    fn translate(&mut self, came: usize, on: &mut Arrival) -> Option<usize> {
        let node = on.node;
        let outside = self.outside_link(node)?;
        let own = self.outside_address(node, on.dst.address.is_ipv4())?;
        let keeps = self.keeps_ports(node);
        let now = self.now;
        if self.napts.entry(node).or_default().down_until > now {
            return None;
        }
        if came == outside {
            let table = &self.napts[&node].table;
            let fits = |(&(inside, remote), &port): (&(Endpoint, Endpoint), &u16)| {
                (port == on.dst.port && remote == on.src && own == on.dst.address).then_some(inside)
            };
            on.dst = table.iter().find_map(fits)?;
            return self.inside_link(node, outside, on.dst.address);
        }
        if let Some(inside) = self.inside_link(node, outside, on.dst.address) {
            return Some(inside);
        }
        let key = (on.src, on.dst);
        let mapped = self.napts[&node].table.get(&key).copied();
        let port = mapped.unwrap_or_else(|| {
            let taken = |port| {
                let mut others = self.napts[&node].table.iter();
                others.any(|(&(_, remote), &other)| other == port && remote == on.dst)
            };
            if keeps && !taken(on.src.port) {
                on.src.port
            } else {
                self.fresh_port()
            }
        });
        self.napts.entry(node).or_default().table.insert(key, port);
        on.src = Endpoint::new(own, port);
        Some(outside)
    }

    fn inside_link(&self, napt: usize, outside: usize, to: IpAddr) -> Option<usize> {
        let name = &self.scenario.nodes[napt].name;
        (0..self.links.len()).find(|&link| {
            let ends = &self.scenario.links[link].ends;
            let here = ends.iter().any(|end| end.node == *name);
            here && link != outside
                && ends
                    .iter()
                    .flat_map(|end| &end.addresses)
                    .any(|prefix| prefix.address == to)
        })
    }
}

fn meant(segments: Segments, kind: Kind) -> bool {
    match segments {
        Segments::Any => true,
        Segments::Syn | Segments::SynAck => false,
        Segments::Fin => matches!(kind, Kind::Fin { .. }),
        Segments::Rst => matches!(kind, Kind::Rst),
        Segments::Data => matches!(kind, Kind::Data { .. }),
        Segments::Msyn => matches!(kind, Kind::Msyn { .. }),
        Segments::MsynAck => matches!(kind, Kind::MsynAck { .. }),
        Segments::MigrateAck => matches!(kind, Kind::MigrateAck { .. }),
        Segments::MigrateReset => matches!(kind, Kind::MigrateReset { .. }),
    }
}
