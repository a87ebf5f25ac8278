//! Addresses come and go: detaching, and ways out.

use std::net::IpAddr;

use datapath::{Datapath, Source};
use migration::{Attempt, Event, Timestamp};
use wire::tuple::{Endpoint, Tuple};

use super::*;

impl<D: Datapath> Agent<D> {
    /// A change of the host's network.
    pub fn network_changed(&mut self, event: NetworkEvent, now: Timestamp) {
        match event {
            NetworkEvent::DeviceAppeared {
                ifindex,
                name,
                ethernet,
            } => {
                self.effects.push(Effect::Attach {
                    ifindex,
                    name,
                    ethernet,
                });
            }
            NetworkEvent::AddressLost { address } => self.address_lost(address, now),
            NetworkEvent::AddressGained { address, ifindex } => self.address_gained(address, ifindex, now),
            NetworkEvent::RoutesChanged => {
                self.effects.push(Effect::FindWaysOut);
                self.doubt_paths("routes have changed", now);
                self.routes_changed(now);
            }
            NetworkEvent::NeighbourChanged { address } => {
                self.timeline.note("", "neighbour_changed", address.to_string());
                self.doubt_paths("a neighbour has another hardware address", now);
            }
            NetworkEvent::AddressRenewed { address: _ } => {
                self.doubt_paths("an address was given again", now);
            }
        }
        self.walk_if_due();
    }

    pub(super) fn address_lost(&mut self, address: IpAddr, now: Timestamp) {
        self.lines_lose(address, now);
        self.quality.forget(address);
        // First of all, nothing leaves from there any more.
        let concerned: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| {
                let machine = &managed.machine;
                !managed.released
                    && (machine.wire().local.address == address
                        || machine
                            .attempts()
                            .iter()
                            .any(|attempt| attempt.from.address == address)
                        || machine
                            .answered()
                            .iter()
                            .any(|answered| answered.tuple.local.address == address)
                        || machine
                            .lingering()
                            .iter()
                            .any(|lingering| lingering.tuple.local.address == address))
            })
            .map(|managed| managed.identity)
            .collect();
        self.keep_address(address);
        for identity in &concerned {
            self.advance(*identity, Event::AddressLost { local: address }, now);
        }
        self.timeline.note(
            "",
            "address_lost",
            format!("{address}, {} connections detached", concerned.len()),
        );
        tracing::info!(%address, connections = concerned.len(), "address lost");
        self.effects.push(Effect::UpdateFacts);
        self.effects.push(Effect::FindWaysOut);
    }

    /// An address that has gone is kept for the connections that still hold it.
    fn keep_address(&mut self, address: IpAddr) {
        if !self.holders.contains_key(&address) {
            self.datapath.remove_source(address);
            return;
        }
        self.write(|datapath| {
            datapath.put_source(
                address,
                Source {
                    ifindex: 0,
                    usable: false,
                },
            )
        });
        if self.retired.insert(address) {
            self.effects.push(Effect::Retire(address));
        }
    }

    /// Connections whose address went while they waited for keys: they move now that they can.
    pub(super) fn follow_late(&mut self, now: Timestamp) {
        let late = std::mem::take(&mut self.late);
        let late: Vec<Tuple> = late
            .into_iter()
            .filter(|identity| self.network.device_of(identity.local.address).is_none())
            .filter(|identity| self.sessions.get(identity).is_some_and(Managed::is_live))
            .collect();
        for identity in &late {
            let address = identity.local.address;
            self.keep_address(address);
            self.advance(*identity, Event::AddressLost { local: address }, now);
            self.timeline
                .note(identity, "moves_late", "its address went before it had keys");
        }
        if !late.is_empty() {
            self.effects.push(Effect::FindWaysOut);
        }
    }

    pub(super) fn address_gained(&mut self, address: IpAddr, ifindex: u32, now: Timestamp) {
        self.write(|datapath| {
            datapath.put_source(
                address,
                Source {
                    ifindex,
                    usable: true,
                },
            )
        });
        let name = self.network.name(ifindex).unwrap_or("?").to_string();
        self.timeline
            .note("", "address_gained", format!("{address} on {name}"));
        tracing::info!(%address, device = name, "address gained");
        let returned: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.is_live() && managed.machine.has_lost(address))
            .map(|managed| managed.identity)
            .collect();
        for identity in returned {
            self.advance(identity, Event::AddressReturned { local: address }, now);
        }
        for managed in self
            .sessions
            .values_mut()
            .filter(|managed| managed.machine.is_parked())
        {
            managed.usable_at.get_or_insert(now);
        }
        self.pairs.forgive();
        self.lines_return(now);
        self.effects.push(Effect::UpdateFacts);
        if address.is_ipv6() {
            self.effects.push(Effect::SearchNat64);
        }
        self.effects.push(Effect::FindWaysOut);
    }

    /// The connections that need an endpoint to send an MSYN from: parked, with no attempt from a usable address. One
    /// that has ended needs one to say so.
    pub fn in_need(&self) -> Vec<Tuple> {
        let usable = |address| self.network.device_of(address).is_some();
        self.sessions
            .values()
            .filter(|managed| {
                !managed.released
                    && managed.machine.is_parked()
                    && !match managed.machine.state() {
                        migration::State::Closed => managed.paths.keys().any(|from| usable(from.address)),
                        // One in the other family does not keep the first choice from being tried, nor does one to
                        // where somebody else says that the peer is.
                        _ => managed.machine.attempts().iter().any(|attempt| {
                            let last = managed.machine.wire().remote;
                            usable(attempt.from.address) && attempt.destinations().contains(&last)
                        }),
                    }
            })
            .map(|managed| managed.identity)
            .collect()
    }

    /// The device that the connection's socket is bound to: it moves with that device, and by no other.
    pub fn bound_device(&mut self, identity: Tuple) -> Option<u32> {
        let tcp = self.datapath.read_tcp(&identity).ok().flatten();
        tcp.map(|tcp| tcp.bound).filter(|bound| *bound != 0)
    }

    /// Starts an attempt from a way out that was found, at `peer` or where the peer was last.
    pub fn try_way_out(&mut self, identity: Tuple, way: WayOut, peer: Option<Endpoint>, now: Timestamp) {
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        match peer {
            Some(peer) => {
                let local = self.reported_from(identity, way.source, peer);
                self.try_from(identity, way, local, vec![peer], true, now);
            }
            None => {
                let last = managed.machine.wire().remote;
                self.try_to(identity, way, vec![last], false, now);
                self.other_family_later(identity, now);
            }
        }
    }

    /// Starts an attempt at endpoints of the peer, one after another. `command`: on somebody's word.
    pub fn try_to(
        &mut self,
        identity: Tuple,
        way: WayOut,
        candidates: Vec<Endpoint>,
        command: bool,
        now: Timestamp,
    ) {
        self.try_from(identity, way, None, candidates, command, now);
    }

    /// The endpoint that the servers were told, while an attempt is under way from there: a peer behind a NAPT of its own
    /// lets in nothing but what comes from where it was told to send.
    fn reported_from(&self, identity: Tuple, source: IpAddr, peer: Endpoint) -> Option<Endpoint> {
        let managed = self.sessions.get(&identity)?;
        let keys = managed.keys();
        let report = self.reporting.report_of(&keys.pair_id);
        let label = keys.keys.label();
        let named = report.and_then(|report| report.connections.iter().find(|ports| ports.label == label));
        let attempts = managed.machine.attempts();
        let port = named.map_or(0, |ports| ports.source_port_after);
        let (local, ours) = match u16::try_from(port).ok()? {
            // It is where it was, and what it sends to the peer has to come from there.
            0 => {
                let local = managed.machine.wire().local;
                let crossing = managed.crossing == Some(peer) && local.address == source;
                (local, crossing && !managed.machine.is_parked())
            }
            port => {
                let local = Endpoint::new(source, port);
                let offered = managed.offered == Some(local);
                (
                    local,
                    offered || attempts.iter().any(|attempt| attempt.from == local),
                )
            }
        };
        let used = |attempt: &Attempt| attempt.from == local && attempt.destinations().contains(&peer);
        (ours && !attempts.iter().any(used)).then_some(local)
    }

    /// The same; `from` is one of ours from which something else is tried already.
    fn try_from(
        &mut self,
        identity: Tuple,
        way: WayOut,
        from: Option<Endpoint>,
        candidates: Vec<Endpoint>,
        command: bool,
        now: Timestamp,
    ) {
        let Some(managed) = self
            .sessions
            .get_mut(&identity)
            .filter(|managed| !managed.released)
        else {
            return;
        };
        let ended = managed.machine.state() == migration::State::Closed;
        let tcp = match self.datapath.read_tcp(&identity) {
            Ok(Some(tcp)) => tcp,
            // No socket has numbers any more, and what is left to say needs none.
            Ok(None) if ended => SocketState::default(),
            Ok(None) | Err(_) => return,
        };
        if tcp.bound != 0 && tcp.bound != way.path.ifindex {
            return;
        }
        let fresh = from.is_none();
        let Some(local) = from.or_else(|| self.ports.take(way.source)) else {
            if !std::mem::replace(&mut self.ports_short, true) {
                tracing::error!("every wire port is in use; widen `wire_ports`");
            }
            self.timeline.count("wire_ports_exhausted");
            return;
        };
        managed.paths.insert(local, way.path);
        managed.usable_at.get_or_insert(now);
        let (tcp, random) = (snapshot(&tcp), rand::random());
        let event = match (command, candidates.first()) {
            (true, Some(&proxy)) if managed.leg_towards(proxy).is_some() => Event::RelayNamed {
                local,
                proxy,
                tcp,
                random,
            },
            (true, Some(&peer)) => Event::MigrateCommand {
                local,
                peer,
                crossing: managed.crossing == Some(peer),
                tcp,
                random,
            },
            _ => Event::AddressUsable {
                local,
                candidates,
                tcp,
                random,
            },
        };
        self.advance(identity, event, now);
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let used = managed
            .machine
            .attempts()
            .iter()
            .any(|attempt| attempt.from == local);
        if !used && !ended && fresh && managed.paths.remove(&local).is_some() {
            // It was refused.
            self.ports.give_back(local);
        }
    }
}
