//! A NAPT before one address of a host: every endpoint behind it has a port of its own outside.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::segment::Segment;
use wire::tuple::Endpoint;

pub struct Napt {
    inside: IpAddr,
    outside: IpAddr,
    /// By endpoint inside: its port outside.
    ports: BTreeMap<Endpoint, u16>,
    next: u16,
}

impl Napt {
    pub fn new(inside: IpAddr, outside: IpAddr) -> Napt {
        Napt {
            inside,
            outside,
            ports: BTreeMap::new(),
            next: 50_000,
        }
    }

    /// Forgets everything. The next endpoint that speaks gets this port.
    pub fn reboot(&mut self, next: u16) {
        self.ports.clear();
        self.next = next;
    }

    /// What comes out at the other side; none: nobody inside is meant.
    pub fn pass(&mut self, segment: &Segment) -> Option<Segment> {
        let mut passed = segment.clone();
        if segment.source.address == self.inside {
            let next = &mut self.next;
            let port = *self.ports.entry(segment.source).or_insert_with(|| {
                *next += 1;
                *next - 1
            });
            passed.source = Endpoint::new(self.outside, port);
        }
        if segment.destination.address == self.outside {
            let port = segment.destination.port;
            let inner = self.ports.iter().find(|(_, outer)| **outer == port);
            passed.destination = *inner?.0;
        }
        Some(passed)
    }
}
