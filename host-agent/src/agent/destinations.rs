//! What the servers answer becomes attempts of the connections' machines.
//!
//! Nothing that a server says is believed further than it can do harm: the pair must be ours and the server one of
//! the pair's, the address one that a host can have and none of our own, and tries are counted. What is sent there
//! is an MSYN that only the peer can answer; a server that lies can at most make us wait.

mod meant;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use datapath::Datapath;
use identity::sealed;
use identity::ticket::LegKey;
use migration::Timestamp;
use prost::Message;
use proto::mobility::v1 as said;
use uuid::Uuid;
use wire::tuple::{Endpoint, Tuple};

use self::meant::Meant;
use super::*;
use crate::server::{Failed, ServerEvent, address_of};
use crate::sessions::RelayLeg;

/// A destination that has led to nothing after this time has failed.
const TRY_FOR: Duration = Duration::from_secs(3);
/// Two MSYNs that cross between NAPTs do so at once or not at all, and a proxy has been asked by then.
const CROSS_FOR: Duration = Duration::from_secs(1);
/// Who only waits for the peer is more patient.
const AWAIT_FOR: Duration = Duration::from_secs(6);
/// A proxy answers when both ends have come, and the other one may have to be woken first.
const RELAY_FOR: Duration = Duration::from_secs(12);
/// Addresses that a pair's connections are sent to on the word of servers, within [`WINDOW`].
const MAX_ADDRESSES: usize = 6;
/// How long an address counts.
const WINDOW: Duration = Duration::from_secs(60);
/// Candidates of the peer behind a common NAPT, at most.
const MAX_PRIVATE: usize = 3;

/// A destination that was followed.
#[derive(Debug)]
struct Followed {
    server: String,
    decision: u64,
    counter: u64,
    until: Timestamp,
    connections: Vec<(Tuple, u32)>,
}

/// What was tried on the word of servers.
#[derive(Debug, Default)]
pub struct Tries {
    followed: BTreeMap<Uuid, Vec<Followed>>,
    addresses: BTreeMap<Uuid, BTreeMap<IpAddr, Timestamp>>,
    heard: BTreeMap<Uuid, BTreeMap<String, u64>>,
    /// The highest move counter that a peer's sealed text has named.
    peers: BTreeMap<Uuid, u64>,
    /// To be told.
    pub failed: Vec<Failed>,
}

impl Tries {
    /// The last decision of each server for the report in force.
    pub(super) fn heard(&self, pair: Uuid) -> BTreeMap<String, u64> {
        self.heard.get(&pair).cloned().unwrap_or_default()
    }

    /// Another report: what was said about the last one matters no more.
    pub(super) fn forget(&mut self, pair: Uuid) {
        self.followed.remove(&pair);
        self.heard.remove(&pair);
    }

    /// Whether one more address may be tried for a pair; if so it is counted.
    fn allow(&mut self, pair: Uuid, address: IpAddr, now: Timestamp) -> bool {
        let tried = self.addresses.entry(pair).or_default();
        tried.retain(|_, at| now.since(*at) < WINDOW);
        if tried.len() >= MAX_ADDRESSES && !tried.contains_key(&address) {
            return false;
        }
        tried.insert(address, now);
        true
    }
}

impl<D: Datapath> Agent<D> {
    /// What a server has said, or what became of its stream.
    pub fn server_event(&mut self, event: ServerEvent, now: Timestamp) {
        match event {
            ServerEvent::Opened {
                server,
                local,
                observed,
                epoch,
                skew,
            } => {
                self.timeline
                    .note("", "server_open", format!("{server} sees {observed}"));
                self.reporting.seen_at(local, observed);
                if let Some(state) = self.reporting.servers.get_mut(&server) {
                    state.open = true;
                    state.local = Some(local);
                    state.observed = Some(observed);
                    state.epoch = epoch;
                    state.skew = skew;
                    state.why.clear();
                }
            }
            ServerEvent::Mapped { inside, mapping } => self.mapped(inside, mapping),
            ServerEvent::Closed { server, why } => {
                let Some(state) = self.reporting.servers.get_mut(&server) else {
                    return;
                };
                if state.open || state.why != why {
                    self.timeline.note("", "server_closed", format!("{server} {why}"));
                }
                state.open = false;
                state.why = why;
            }
            ServerEvent::Said { server, body } => self.server_said(server, body, now),
        }
    }

    fn server_said(&mut self, server: String, body: said::server_message::Body, now: Timestamp) {
        use said::server_message::Body;
        match body {
            Body::Destination(destination) => self.destination(server, destination, now),
            Body::Waiting(waiting) => {
                let there = if waiting.peer_present {
                    "there"
                } else {
                    "not there"
                };
                self.timeline.note(
                    "",
                    "server_waits",
                    format!("{server}: report {}, the peer is {there}", waiting.move_counter),
                );
            }
            Body::Cancelled(cancelled) => {
                let id = self
                    .pairs
                    .name(Uuid::from_slice(&cancelled.pair_id).unwrap_or_default());
                if let Some(followed) = self.reporting.tries.followed.get_mut(&id) {
                    followed.retain(|known| known.server != server || known.decision > cancelled.decision);
                }
                self.timeline.count("destination_cancelled");
                if cancelled.forgotten && self.may_speak_of(&server, id) {
                    self.report_forgotten(id, now);
                }
            }
            Body::Tunnel(invitation) => {
                // Only for a connection of ours that asked for it.
                if let Some(wish) = self.reporting.tunnel_for(invitation.connection) {
                    self.effects.push(Effect::Tunnel {
                        server,
                        tunnel: invitation.tunnel,
                        dial: invitation.dial,
                        peer: wish.remote.address,
                    });
                }
            }
            Body::Refused(refused) => {
                self.timeline.note(
                    "",
                    "server_refuses",
                    format!("{server}: {:?} {}", refused.reason(), shown(&refused.text)),
                );
                let id = self
                    .pairs
                    .name(Uuid::from_slice(&refused.pair_id).unwrap_or_default());
                if refused.reason() == said::refused::Reason::Stale && self.may_speak_of(&server, id) {
                    self.report_stale(id, refused.newest, now);
                }
            }
            Body::Revoked(revoked) => self.revoked(&server, &revoked.agent, now),
            Body::Hello(_) | Body::Ping(_) | Body::GoAway(_) => {}
        }
    }

    /// Whether the pair is ours, and the server one of its servers.
    fn may_speak_of(&self, server: &String, pair: Uuid) -> bool {
        self.pairs
            .by_id(&pair)
            .is_some_and(|pair| self.servers_of(pair).contains(server))
    }

    fn destination(&mut self, server: String, destination: said::Destination, now: Timestamp) {
        let refuse = |agent: &mut Self, why: &str| {
            agent
                .timeline
                .note("", "destination_refused", format!("{server}: {why}"));
        };
        let Ok(id) = Uuid::from_slice(&destination.pair_id) else {
            return refuse(self, "no pair");
        };
        let Some(pair) = self.pairs.by_id(&id).cloned() else {
            return refuse(self, "not a pair of this host");
        };
        if !self.servers_of(&pair).contains(&server) {
            return refuse(self, "not a server of this pair");
        }
        let id = pair.pair_id;
        let current = self.reporting.report_of(&id).map(|report| report.move_counter);
        if destination.move_counter != 0 && current != Some(destination.move_counter) {
            // It crossed our withdrawal, or is for an older report.
            if current.is_none() {
                let heard = BTreeMap::from([(server, destination.decision)]);
                let counter = destination.move_counter;
                self.say_withdrawn(id, counter, said::withdraw::Reason::Resumed, heard);
            }
            return;
        }
        let heard = self.reporting.tries.heard.entry(id).or_default();
        heard.insert(server.clone(), destination.decision);
        let mut connections = self.meant(id, &destination);
        connections.retain(|meant| !self.is_resumed_since(meant, &destination));
        let action = destination.action();
        self.timeline.note(
            "",
            "destination",
            format!(
                "{server}: decision {}, {} {} for {} connections",
                destination.decision,
                action.as_str_name(),
                address_of(&destination.peer_address).map_or("?".into(), |address| address.to_string()),
                connections.len(),
            ),
        );
        let mut followed = Followed {
            server: server.clone(),
            decision: destination.decision,
            counter: destination.move_counter,
            until: now + TRY_FOR,
            connections: connections
                .iter()
                .filter_map(|Meant { identity, .. }| {
                    let managed = self.sessions.get(identity)?;
                    Some((*identity, managed.machine.committed().0))
                })
                .collect(),
        };
        use said::destination::Action;
        match action {
            Action::AwaitMsyn => followed.until = now + AWAIT_FOR,
            Action::SendMsyn | Action::Simultaneous | Action::Open | Action::SameNapt => {
                let mut addresses = Vec::new();
                if action == Action::Simultaneous {
                    followed.until = now + CROSS_FOR;
                }
                if action == Action::SameNapt {
                    addresses.extend(self.private_candidates(&pair, &destination));
                }
                addresses.extend(address_of(&destination.peer_address));
                addresses.retain(|address| self.may_be_peer(*address));
                addresses.retain(|address| self.reporting.tries.allow(id, *address, now));
                let good = addresses;
                if good.is_empty() {
                    refuse(self, "no address that this host sends to");
                    return self.fail(id, followed, said::try_failed::Cause::RefusedAddress);
                }
                for address in good {
                    for Meant { identity, port, .. } in &connections {
                        let to = Endpoint { address, port: *port };
                        if let Some(managed) = self.sessions.get_mut(identity) {
                            managed.crossing =
                                Some(to).filter(|_| matches!(action, Action::Simultaneous | Action::Open));
                            managed.opening = Some(to).filter(|_| action == Action::Open);
                        }
                        self.follow(*identity, to);
                    }
                }
            }
            Action::Proxy => {
                followed.until = now + RELAY_FOR;
                if !self.follow_to_proxy(id, &destination, &connections, now) {
                    refuse(self, "no proxy that this host sends to");
                    return self.fail(id, followed, said::try_failed::Cause::RefusedAddress);
                }
            }
            Action::Unspecified => {
                return self.fail(id, followed, said::try_failed::Cause::NoAnswer);
            }
        }
        self.reporting
            .tries
            .followed
            .entry(id)
            .or_default()
            .push(followed);
    }

    /// One attempt towards where a server says that the peer is, unless one goes there already.
    fn follow(&mut self, identity: Tuple, to: Endpoint) {
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let usable = |address: IpAddr| self.network.device_of(address).is_some();
        let under_way = managed
            .machine
            .attempts()
            .iter()
            .any(|attempt| usable(attempt.from.address) && attempt.destinations() == [to]);
        if !under_way {
            self.effects.push(Effect::FindWayTo(identity, to));
        }
    }

    /// Sends each connection for which a proxy has a port there. Whether there was one.
    fn follow_to_proxy(
        &mut self,
        pair: Uuid,
        destination: &said::Destination,
        connections: &[Meant],
        now: Timestamp,
    ) -> bool {
        let Some(address) =
            address_of(&destination.peer_address).filter(|address| self.may_be_peer(*address))
        else {
            return false;
        };
        if !self.reporting.tries.allow(pair, address, now) {
            return false;
        }
        let mut any = false;
        for Meant { identity, port, .. } in connections {
            let label = self
                .sessions
                .get(identity)
                .map(|managed| managed.keys().keys.label());
            let key = label.and_then(|label| destination.leg_keys.get(&label));
            let Some(key) = key.and_then(|bytes| LegKey::from_bytes(bytes)) else {
                self.timeline.count("proxy_without_key");
                continue;
            };
            let proxy = Endpoint { address, port: *port };
            let leg = RelayLeg { proxy, key };
            if self.is_well_at(identity, &leg) {
                any = true;
                continue;
            }
            if let Err(error) = self.name_proxy(*identity, leg) {
                tracing::error!(%error, "a proxy cannot be heard");
                self.timeline.count("datapath_error");
                continue;
            }
            self.follow(*identity, proxy);
            any = true;
        }
        any
    }

    /// Whether a connection goes through this very port of a proxy, and nothing is wrong with it: to knock there again would
    /// be a move without need.
    fn is_well_at(&self, identity: &Tuple, leg: &RelayLeg) -> bool {
        self.sessions.get(identity).is_some_and(|managed| {
            managed.is_relayed() && !managed.machine.troubled() && managed.leg_in_use() == Some(leg)
        })
    }

    /// The peer's own addresses, which it sealed for us: only behind a common NAPT, and only on a network of ours.
    fn private_candidates(&mut self, pair: &identity::Pair, destination: &said::Destination) -> Vec<IpAddr> {
        let opened = sealed::open(pair, &destination.sealed)
            .ok()
            .and_then(|text| said::SealedCandidates::decode(&text[..]).ok());
        let Some(candidates) = opened else {
            self.timeline.count("sealed_unreadable");
            return Vec::new();
        };
        let newest = self.reporting.tries.peers.entry(pair.pair_id).or_default();
        if candidates.move_counter < *newest {
            self.timeline.count("sealed_stale");
            return Vec::new();
        }
        *newest = candidates.move_counter;
        let ours: BTreeSet<IpAddr> = self.network.usable().map(|(address, _)| address).collect();
        candidates
            .addresses
            .iter()
            .filter_map(|bytes| address_of(bytes))
            .filter(|address| ours.iter().any(|own| is_near(*own, *address)))
            .take(MAX_PRIVATE)
            .collect()
    }

    /// Whether a peer can be there.
    fn may_be_peer(&self, address: IpAddr) -> bool {
        let never = match address {
            IpAddr::V4(v4) => {
                v4.is_link_local() || v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240
            }
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !never
            && !address.is_loopback()
            && !address.is_multicast()
            && !address.is_unspecified()
            && self.network.device_of(address).is_none()
    }

    fn fail(&mut self, pair: Uuid, followed: Followed, cause: said::try_failed::Cause) {
        let labels = followed
            .connections
            .iter()
            .filter_map(|(identity, _)| self.sessions.get(identity))
            .map(|managed| managed.keys().keys.label())
            .collect();
        self.timeline.note(
            "",
            "try_failed",
            format!("{}: decision {} {cause:?}", followed.server, followed.decision),
        );
        self.reporting.tries.failed.push(Failed {
            server: followed.server,
            what: said::TryFailed {
                pair_id: pair.as_bytes().to_vec(),
                move_counter: followed.counter,
                decision: followed.decision,
                cause: cause.into(),
                labels,
            },
        });
    }

    /// Tells of destinations that have led to nothing.
    pub(super) fn failed_tries(&mut self, now: Timestamp) {
        let mut due = Vec::new();
        for (id, followed) in &mut self.reporting.tries.followed {
            let (late, kept): (Vec<_>, Vec<_>) = std::mem::take(followed)
                .into_iter()
                .partition(|one| one.until <= now);
            *followed = kept;
            due.extend(late.into_iter().map(|one| (*id, one)));
        }
        self.reporting
            .tries
            .followed
            .retain(|_, followed| !followed.is_empty());
        for (id, mut followed) in due {
            followed.connections.retain(|(identity, before)| {
                self.sessions.get(identity).is_some_and(|managed| {
                    managed.is_live()
                        && managed.machine.troubled()
                        && managed.machine.committed().0 == *before
                })
            });
            if !followed.connections.is_empty() {
                self.fail(id, followed, said::try_failed::Cause::NoAnswer);
            }
        }
    }
}

/// Whether two addresses may be on one network without a router: a guess that costs a few segments.
fn is_near(own: IpAddr, other: IpAddr) -> bool {
    match (own, other) {
        (IpAddr::V4(own), IpAddr::V4(other)) => own.octets()[..3] == other.octets()[..3],
        (IpAddr::V6(own), IpAddr::V6(other)) => own.octets()[..8] == other.octets()[..8],
        _ => false,
    }
}

/// A server's words for a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(200)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
