//! Where else the peer of a connection may be: at its addresses of the other family, or behind a NAT64.

use std::net::IpAddr;

use datapath::Datapath;
use migration::Timestamp;
use wire::tuple::{Endpoint, Tuple};

use super::*;

/// How long an attempt in the family of the wire tuple is alone.
const OTHER_FAMILY_AFTER: std::time::Duration = std::time::Duration::from_millis(300);

/// An endpoint at which the peer may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub endpoint: Endpoint,
    /// It means something on the peer's own link only.
    pub on_link_only: bool,
}

impl<D: Datapath> Agent<D> {
    /// Endpoints of the peer that are not of the wire tuple's family, the likeliest first.
    pub fn other_places(&self, identity: Tuple) -> Vec<Place> {
        let Some(managed) = self.sessions.get(&identity) else {
            return Vec::new();
        };
        let wire = managed.machine.wire().remote;
        let mut places = Vec::new();
        // The peer's own port where nothing maps it.
        let port = self
            .datapath
            .connection(&identity)
            .map(|connection| connection.peer_direct_port)
            .filter(|port| *port != 0)
            .unwrap_or(identity.remote.port);
        let mut add = |endpoint: Endpoint, on_link_only: bool| {
            let known = places.iter().any(|place: &Place| place.endpoint == endpoint);
            let own = self.network.device_of(endpoint.address).is_some();
            if endpoint.address.is_ipv4() != wire.address.is_ipv4() && !known && !own {
                places.push(Place {
                    endpoint,
                    on_link_only,
                });
            }
        };
        add(identity.remote, false);
        for prefix in &self.nat64 {
            if let Some(v4) = prefix.extract(wire.address) {
                add(Endpoint::new(v4.into(), wire.port), false);
            }
        }
        let keys = managed.keys();
        if let Some(pair) = self.pairs.under(keys.pair_id, keys.epoch) {
            for address in pair
                .peer_direct_addresses
                .iter()
                .filter(|address| is_place(**address))
            {
                let seen = pair.peer_observed.address == *address;
                add(Endpoint::new(*address, port), !seen && is_private(*address));
            }
        }
        if let IpAddr::V4(v4) = wire.address {
            for prefix in &self.nat64 {
                add(Endpoint::new(prefix.embed(v4), wire.port), false);
            }
        }
        places
    }

    /// Whether an attempt from an address of this family is under way.
    pub fn attempts_in(&self, identity: Tuple, ipv4: bool) -> bool {
        self.sessions.get(&identity).is_some_and(|managed| {
            let mut attempts = managed.machine.attempts().iter();
            attempts.any(|attempt| {
                attempt.from.address.is_ipv4() == ipv4
                    && self.network.device_of(attempt.from.address).is_some()
            })
        })
    }

    /// The attempt in the wire tuple's family gets a head start on the other one.
    pub(super) fn other_family_later(&mut self, identity: Tuple, now: Timestamp) {
        if let Some(managed) = self.sessions.get_mut(&identity) {
            managed.other_family_at = managed.machine.is_parked().then(|| now + OTHER_FAMILY_AFTER);
        }
    }

    /// Connections whose first attempt was alone for long enough.
    pub(super) fn try_other_families(&mut self, now: Timestamp) {
        for managed in self.sessions.values_mut() {
            if managed.other_family_at.take_if(|at| *at <= now).is_some() && managed.machine.is_parked() {
                self.effects.push(Effect::FindOtherWay {
                    identity: managed.identity,
                    anew: false,
                });
            }
        }
    }

    /// The network's own NAT64 has been looked for; what waits for a way out in IPv6 is tried there.
    pub fn nat64_found(&mut self, found: Vec<Nat64Prefix>, configured: Vec<Nat64Prefix>) {
        let mut known = found;
        known.extend(configured);
        let mut once = Vec::with_capacity(known.len());
        for prefix in known {
            if !once.contains(&prefix) {
                once.push(prefix);
            }
        }
        let new = once.iter().any(|prefix| !self.nat64.contains(prefix));
        if std::mem::replace(&mut self.nat64, once) == self.nat64 {
            return;
        }
        let names: Vec<String> = self.nat64.iter().map(Nat64Prefix::to_string).collect();
        self.timeline.note("", "nat64", names.join(", "));
        tracing::info!(
            prefixes = names.join(", "),
            "IPv4 is looked for under these prefixes"
        );
        if !new {
            return;
        }
        let waiting = self
            .sessions
            .values()
            .filter(|managed| managed.machine.is_parked() && managed.machine.wire().remote.address.is_ipv4());
        let waiting = waiting.map(|managed| Effect::FindOtherWay {
            identity: managed.identity,
            anew: true,
        });
        self.effects.extend(waiting);
    }

    /// Whether segments of any connection grow by a longer header after they have left their socket.
    pub fn grows(&self) -> bool {
        !self.growing.is_empty()
    }
}

/// An address at which another host may be.
fn is_place(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// An address that many networks use for hosts of their own.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_private() || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}
