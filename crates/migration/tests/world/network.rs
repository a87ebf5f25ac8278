//! The network between the two hosts: segments in flight, NAPTs with port tables, strangers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use migration::{Endpoint, Timestamp};

pub use super::segment::{Kind, Segment};

/// Where a host can send from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Reachable from everywhere.
    Public(IpAddr),
    /// At `inside` behind NAPT number `napt`.
    Behind { inside: IpAddr, napt: usize },
}

impl Place {
    pub fn address(self) -> IpAddr {
        match self {
            Place::Public(address) => address,
            Place::Behind { inside, .. } => inside,
        }
    }

    pub fn is_public(self) -> bool {
        matches!(self, Place::Public(_))
    }
}

/// An address-and-port-dependent NAPT, as Linux's masquerade is.
#[derive(Clone, Debug)]
pub struct Napt {
    pub outside: IpAddr,
    /// (inside, remote) to public port.
    table: BTreeMap<(Endpoint, Endpoint), u16>,
}

/// Everything between the hosts.
#[derive(Clone, Debug)]
pub struct Network {
    pub napts: Vec<Napt>,
    /// Segments under way, with the time they would arrive if nothing happened to them.
    pub in_flight: VecDeque<(Timestamp, Segment)>,
    /// What was seen on the wire lately, for whoever wants to replay it.
    pub seen: VecDeque<Segment>,
    /// Whether addresses that nobody of ours owns have listeners that answer.
    pub strangers: bool,
    next_port: u16,
}

pub const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 66));

impl Network {
    pub fn new() -> Self {
        let outside = |n: u8| IpAddr::from([192, 0, 2, n]);
        let napts = (1..=4)
            .map(|n| Napt {
                outside: outside(n),
                table: BTreeMap::new(),
            })
            .collect();
        Self {
            napts,
            in_flight: VecDeque::new(),
            seen: VecDeque::new(),
            strangers: false,
            next_port: 20_000,
        }
    }

    /// A port never given out before.
    pub fn fresh_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Sends from a host that has these places; lost when none of them owns the source address.
    pub fn send(&mut self, places: &[Place], from: Endpoint, to: Endpoint, kind: Kind, arrives: Timestamp) {
        let Some(&place) = places.iter().find(|place| place.address() == from.address) else {
            return;
        };
        let src = match place {
            Place::Public(_) => from,
            Place::Behind { napt, .. } => self.translate(napt, from, to),
        };
        let segment = Segment {
            src,
            dst: to,
            kind,
            genuine: true,
        };
        self.seen.push_front(segment);
        self.seen.truncate(24);
        self.in_flight.push_back((arrives, segment));
    }

    /// How `from` appears to `to` behind this NAPT; makes the mapping when there is none.
    pub fn translate(&mut self, napt: usize, from: Endpoint, to: Endpoint) -> Endpoint {
        let fresh = self.next_port + 1;
        let port = *self.napts[napt].table.entry((from, to)).or_insert(fresh);
        if port == fresh {
            self.next_port = fresh;
        }
        Endpoint::new(self.napts[napt].outside, port)
    }

    /// Which place and inside endpoint a segment to `dst` reaches.
    pub fn route(&self, place: Place, src: Endpoint, dst: Endpoint) -> Option<Endpoint> {
        match place {
            Place::Public(address) => (address == dst.address).then_some(dst),
            Place::Behind { inside, napt } => {
                let napt = &self.napts[napt];
                let fits = |(&(from, to), &port): (&(Endpoint, Endpoint), &u16)| {
                    (port == dst.port && to == src && from.address == inside).then_some(from)
                };
                (napt.outside == dst.address)
                    .then(|| napt.table.iter().find_map(fits))
                    .flatten()
            }
        }
    }

    /// Whether the NAPT still has a mapping for this pair.
    pub fn is_mapped(&self, napt: usize, from: Endpoint, to: Endpoint) -> bool {
        self.napts[napt].table.contains_key(&(from, to))
    }

    /// The NAPT reboots: every mapping is gone.
    pub fn reboot(&mut self, napt: usize) {
        self.napts[napt].table.clear();
    }

    /// What a stranger at an address that none of the hosts owns answers.
    pub fn stranger_answers(&mut self, to: Segment, arrives: Timestamp) {
        if !self.strangers || to.dst.address == ATTACKER {
            return;
        }
        let kind = match to.kind {
            Kind::Msyn { seq, .. } => Kind::StrangeSynAck {
                ack: seq.wrapping_add(1),
            },
            Kind::Data { .. } | Kind::Fin { .. } => Kind::Rst,
            _ => return,
        };
        self.in_flight.push_back((
            arrives,
            Segment {
                src: to.dst,
                dst: to.src,
                kind,
                genuine: true,
            },
        ));
    }
}
