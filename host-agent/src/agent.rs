//! The agent's state, and how one event changes it.
//!
//! Nothing here waits: what needs the kernel's answer over netlink or the network leaves as an [`Effect`], which
//! the loop in `drive` carries out. The data path is behind its trait, so that all of this runs against the fake
//! one without privileges.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use datapath::{ArrivalState, Datapath, Path, Source, TcpState as SocketState};
use migration::{Event, Policy, TcpSnapshot, TcpState, Timestamp, step};
use wire::keys::{ConnectionKeys, Role};
use wire::reqno::ReqNo;
use wire::request::RequestType;
use wire::tuple::{Endpoint, Tuple};

use crate::network::{Network, NetworkEvent};
use crate::pairs::{PairEvent, Pairs};
use crate::ports::WirePorts;
use crate::sessions::{HeldReset, KeySet, Managed};
use crate::timeline::Timeline;

/// What has to be done beside the data path. Imperatives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Attach the programs to a device.
    Attach {
        ifindex: u32,
        name: String,
        ethernet: bool,
    },
    /// Keep an address on the parking device.
    Retire(IpAddr),
    /// Let go of it.
    Release(IpAddr),
    /// Look for a way out for every connection that has none.
    FindWaysOut,
    /// Give one connection a fresh endpoint.
    FindWayOut(Tuple),
    /// Run a pair exchange with an agent.
    Dial(SocketAddr),
    /// Dial unless the peer has dialled first.
    DialLater(SocketAddr),
    /// Tell the addresses in later exchanges.
    UpdateFacts,
}

/// What is asked of a way out that was found.
#[derive(Clone, Copy, Debug)]
pub struct WayOut {
    /// Our address there.
    pub source: IpAddr,
    /// Device and next hop.
    pub path: Path,
}

/// The agent.
pub struct Agent<D> {
    /// What moves segments.
    pub datapath: D,
    /// How patient it is.
    pub policy: Policy,
    /// Links and addresses.
    pub network: Network,
    /// Agents that keys were agreed with.
    pub pairs: Pairs,
    /// Wire ports.
    pub ports: WirePorts,
    /// The connections that can migrate.
    pub sessions: HashMap<Tuple, Managed>,
    /// Connections whose peer offers migration, but with whom there is no pair yet.
    pub unpaired: HashSet<Tuple>,
    /// Addresses that are kept for connections.
    pub retired: BTreeSet<IpAddr>,
    /// What happened.
    pub timeline: Timeline,
    /// To be carried out.
    pub effects: Vec<Effect>,
    alarms: BTreeSet<(Timestamp, Tuple)>,
    /// Connections the data path has to do more for than know their keys.
    active: HashSet<Tuple>,
    /// How many connections know each of our addresses as theirs.
    holders: HashMap<IpAddr, usize>,
    load: (u32, u32),
    walk: bool,
}

impl<D: Datapath> Agent<D> {
    /// An agent that knows nothing yet but its pairs.
    pub fn new(datapath: D, policy: Policy, parking: u32, pairs: Pairs, ports: WirePorts) -> Self {
        Self {
            datapath,
            policy,
            network: Network::new(parking),
            pairs,
            ports,
            sessions: HashMap::new(),
            unpaired: HashSet::new(),
            retired: BTreeSet::new(),
            timeline: Timeline::default(),
            effects: Vec::new(),
            alarms: BTreeSet::new(),
            active: HashSet::new(),
            holders: HashMap::new(),
            load: (0, 0),
            walk: false,
        }
    }

    /// When [`Agent::timers`] is due next.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.alarms.first().map(|(at, _)| *at)
    }

    /// Takes up what an earlier agent left in the data path.
    pub fn adopt(&mut self, retired: impl IntoIterator<Item = IpAddr>, now: Timestamp) {
        self.retired.extend(retired);
        let arrivals = self.datapath.arrivals();
        let mut dead = Vec::new();
        for (identity, session) in self.datapath.sessions() {
            let wire = self.datapath.wire(&identity);
            let tcp = self.datapath.read_tcp(&identity).ok().flatten();
            let committed = wire.as_ref().map_or(wire::ReqNo::UNMOVED, |wire| wire.req_no);
            let on_wire = wire.as_ref().map_or(identity, |wire| wire.wire);
            let arrival = self.datapath.arrival(&on_wire);
            let adopted = migration::Adopted {
                committed,
                highest_seen: session.req_stored,
                wire: on_wire,
                confirmed: arrival.is_none_or(|arrival| !arrival.confirm),
                known: session.req_committed,
                parked: wire.as_ref().is_some_and(|wire| wire.path.ifindex == 0),
                lingering: arrivals
                    .iter()
                    .filter(|(tuple, arrival)| {
                        arrival.identity == identity
                            && *tuple != on_wire
                            && matches!(arrival.state, ArrivalState::Committed | ArrivalState::Linger)
                    })
                    .map(|(tuple, arrival)| (arrival.req_no, *tuple))
                    .collect(),
                tcp_state: tcp.map_or(TcpState::Closed, |tcp| machine_state(tcp.tcp_state)),
            };
            if tcp.is_none() {
                dead.push(identity);
            }
            let mut managed = Managed::adopt(identity, &session, adopted, self.policy, now);
            // A peer that knows less than we do still uses an older token.
            let numbers = session.req_stored.0.saturating_sub(64)..=session.req_stored.0;
            let keys = managed.keys().keys.clone();
            managed.tokens = numbers
                .map(ReqNo)
                .filter(|number| self.datapath.knows_token(keys.token(*number), &identity))
                .collect();
            managed.machine = managed.machine.with_tokens(managed.tokens.iter().copied());
            managed
                .paths
                .extend(wire.map(|wire| (wire.wire.local, wire.path)));
            managed.tuples.extend(
                arrivals
                    .iter()
                    .filter(|(_, arrival)| arrival.identity == identity)
                    .map(|(t, a)| (*t, a.req_no)),
            );
            managed
                .tuples
                .keys()
                .for_each(|tuple| self.ports.note(tuple.local));
            self.hold(managed);
        }
        let adopted: Vec<Tuple> = self.sessions.keys().copied().collect();
        adopted.iter().for_each(|identity| self.settle(*identity));
        // What ended while nobody looked is released as if it had just ended.
        let ended = Event::LocalClose {
            tcp_state: TcpState::Closed,
            reset: false,
        };
        dead.into_iter()
            .for_each(|identity| self.advance(identity, ended.clone(), now));
        let known: HashSet<Tuple> = self.sessions.keys().copied().collect();
        let fresh: Vec<Tuple> = self
            .datapath
            .connections()
            .into_iter()
            .map(|(t, _)| t)
            .filter(|t| !known.contains(t))
            .collect();
        fresh.into_iter().for_each(|identity| self.opened(identity));
        let unneeded: Vec<IpAddr> = self
            .retired
            .iter()
            .copied()
            .filter(|address| !self.holders.contains_key(address))
            .collect();
        unneeded.into_iter().for_each(|address| self.let_go(address));
        if !self.sessions.is_empty() {
            let count = self.sessions.len();
            self.timeline
                .note("", "adopted", format!("{count} connections of an earlier agent"));
        }
        self.walk_if_due();
    }

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
            NetworkEvent::RoutesChanged => self.effects.push(Effect::FindWaysOut),
        }
        self.walk_if_due();
    }

    fn address_lost(&mut self, address: IpAddr, now: Timestamp) {
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
        if self.holders.contains_key(&address) {
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
        } else {
            self.datapath.remove_source(address);
        }
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

    fn address_gained(&mut self, address: IpAddr, ifindex: u32, now: Timestamp) {
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
        for managed in self
            .sessions
            .values_mut()
            .filter(|managed| managed.machine.is_parked())
        {
            managed.usable_at.get_or_insert(now);
        }
        self.pairs.forgive();
        self.effects.push(Effect::UpdateFacts);
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
                        _ => managed
                            .machine
                            .attempts()
                            .iter()
                            .any(|attempt| usable(attempt.from.address)),
                    }
            })
            .map(|managed| managed.identity)
            .collect()
    }

    /// Starts an attempt from a way out that was found, at `peer` or where the peer was last.
    pub fn try_way_out(&mut self, identity: Tuple, way: WayOut, peer: Option<Endpoint>, now: Timestamp) {
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
        let Some(local) = self.ports.take(way.source) else {
            tracing::error!("every wire port is in use; widen `wire_ports`");
            self.timeline.count("wire_ports_exhausted");
            return;
        };
        managed.paths.insert(local, way.path);
        managed.usable_at.get_or_insert(now);
        let (tcp, random) = (snapshot(&tcp), rand::random());
        let event = match peer {
            Some(peer) => Event::MigrateCommand {
                local,
                peer,
                tcp,
                random,
            },
            None => {
                let candidates = vec![managed.machine.wire().remote];
                Event::AddressUsable {
                    local,
                    candidates,
                    tcp,
                    random,
                }
            }
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
        if !used && !ended && managed.paths.remove(&local).is_some() {
            // It was refused.
            self.ports.give_back(local);
        }
    }

    /// What the data path saw.
    pub fn datapath_event(&mut self, event: datapath::Event, now: Timestamp) {
        use datapath::Event as Seen;
        match event {
            Seen::Segment(kind, heard) => self.segment_heard(kind, heard, now),
            Seen::Committed { heard, again: _ } => {
                self.advance(
                    heard.identity,
                    Event::Committed {
                        req_no: heard.req_no,
                        wire: heard.wire,
                    },
                    now,
                );
            }
            Seen::Confirmed { identity, req_no, .. } => {
                self.advance(identity, Event::PeerSegmentOn { req_no }, now);
            }
            Seen::ResetHeld {
                identity,
                seq,
                ack,
                flags,
                ..
            } => self.reset_held(identity, seq, ack, flags, now),
            Seen::Stranger {
                identity,
                wire,
                ack,
                flags,
                ..
            } => {
                if flags & 0x02 != 0 {
                    let event = Event::StrangeSynAck {
                        from: wire.remote,
                        to: wire.local,
                        ack,
                    };
                    self.advance(identity, event, now);
                }
                self.timeline.count("strange_answer");
            }
            Seen::Peer {
                identity,
                agent_port,
                initiated_here,
            } => {
                self.opened(identity);
                self.meet(identity.remote.address, agent_port, initiated_here);
            }
            Seen::TcpState {
                identity, old, new, ..
            } => self.socket_changed(identity, old, new, now),
            Seen::Suspect { identity } => {
                if let (Some(managed), Ok(tcp)) = (
                    self.sessions.get_mut(&identity),
                    self.datapath.read_tcp(&identity),
                ) {
                    managed.suspected_at = tcp;
                }
                self.advance(identity, Event::RetransmissionTimeout, now);
            }
            Seen::UnknownToken { .. } => {
                // The connection may be so young that it has no keys yet.
                self.take_opened();
                self.timeline.count("unknown_token");
            }
        }
    }

    /// After every batch of events.
    pub fn settled(&mut self) {
        self.walk_if_due();
    }

    fn segment_heard(&mut self, kind: RequestType, heard: datapath::event::Heard, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&heard.identity) else {
            return;
        };
        managed.chosen = (heard.candidate as usize).min(managed.candidates.len() - 1);
        let (from, to) = (heard.wire.remote, heard.wire.local);
        let event = match kind {
            RequestType::Msyn => {
                let token_of = managed
                    .tokens
                    .iter()
                    .find(|number| managed.keys().keys.token(**number) == heard.token)
                    .copied()
                    .unwrap_or(managed.machine.known());
                let tcp = self.datapath.read_tcp(&heard.identity).ok().flatten();
                // Back the way it came; the kernel's routing knows the next hop.
                managed.paths.insert(
                    to,
                    Path {
                        ifindex: heard.ifindex,
                        next_hop: None,
                    },
                );
                let tcp = snapshot(&tcp.unwrap_or_default());
                Event::MsynHeard {
                    from,
                    to,
                    req_no: heard.req_no,
                    token_of,
                    seq: heard.seq,
                    rcv_nxt: heard.rcv_nxt,
                    tcp,
                }
            }
            RequestType::MsynAck => Event::MsynAckHeard {
                from,
                to,
                req_no: heard.req_no,
                seq: heard.seq,
                ack: heard.ack,
                rcv_nxt: heard.rcv_nxt,
            },
            RequestType::MigrateReset => Event::MigrateResetHeard,
            RequestType::Query => {
                self.answer_query(heard);
                return;
            }
            RequestType::Answer => Event::ResetAnswer(migration::ResetAnswer::NotMine),
            RequestType::MigrateAck => return,
        };
        self.advance(heard.identity, event, now);
    }

    fn reset_held(&mut self, identity: Tuple, seq: u32, ack: u32, flags: u8, now: Timestamp) {
        let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        managed.held_reset = Some(HeldReset { seq, ack, flags });
        self.advance(
            identity,
            Event::ResetHeard {
                exact: seq == tcp.rcv_nxt,
            },
            now,
        );
    }

    fn socket_changed(&mut self, identity: Tuple, old: u32, new: u32, now: Timestamp) {
        const CLOSE: u32 = 7;
        let (tcp_state, reset) = match (old, new) {
            // FIN-WAIT-2 and CLOSING end in TIME-WAIT, which is no socket any more.
            (5 | 11, CLOSE) => (TcpState::TimeWait, false),
            (9, CLOSE) => (TcpState::Closed, false),
            (_, CLOSE) => (TcpState::Closed, true),
            (_, new) => (machine_state(new), false),
        };
        self.advance(identity, Event::LocalClose { tcp_state, reset }, now);
        let done = self
            .sessions
            .get(&identity)
            .is_some_and(|managed| !managed.is_active());
        if tcp_state == TcpState::Closed && !reset && done {
            // It never moved and both ends know that it is over.
            self.bury(identity);
        }
    }

    /// What became of a pair exchange.
    pub fn pair_event(&mut self, event: PairEvent) {
        match event {
            PairEvent::Agreed(pair) => {
                let detail = format!(
                    "{} ({}), epoch {}{}{}",
                    pair.peer_name,
                    pair.peer_observed.address,
                    pair.epoch,
                    if pair.self_behind_napt {
                        ", this host is behind a NAPT"
                    } else {
                        ""
                    },
                    if pair.peer_behind_napt {
                        ", the peer is behind a NAPT"
                    } else {
                        ""
                    },
                );
                tracing::info!(peer = %pair.peer, "pair agreed: {detail}");
                self.timeline.note("", "pair", detail);
                if let Err(error) = self.pairs.agreed(*pair) {
                    tracing::error!(%error, "cannot store the pair; it will be agreed anew after a restart");
                }
                self.effects.push(Effect::UpdateFacts);
                let waiting: Vec<Tuple> = self.unpaired.drain().collect();
                waiting.into_iter().for_each(|identity| self.opened(identity));
            }
            PairEvent::Failed {
                peer,
                dialled,
                reason,
                detail,
            } => {
                self.timeline.note("", "pair_failed", format!("{peer}: {detail}"));
                self.timeline.count(&format!("pair_failed_{reason}"));
                tracing::warn!(%peer, dialled, reason, "no pair: {detail}; connections with this host stay plain TCP");
            }
        }
    }

    /// Gives keys to the connections that were set up since the last call.
    pub fn take_opened(&mut self) {
        for identity in self.datapath.opened() {
            self.opened(identity);
        }
    }

    fn opened(&mut self, identity: Tuple) {
        if self.sessions.contains_key(&identity) {
            return;
        }
        let Some(connection) = self.datapath.connection(&identity) else {
            return;
        };
        let isns = match connection.role {
            Role::Initiator => (connection.isn_local, connection.isn_remote),
            Role::Acceptor => (connection.isn_remote, connection.isn_local),
        };
        let candidates: Vec<KeySet> = self
            .pairs
            .of(identity.remote.address, connection.peer_agent_port)
            .into_iter()
            .take(4)
            .map(|pair| KeySet {
                keys: ConnectionKeys::derive(&pair.key, pair.epoch, isns.0, isns.1),
                pair_id: pair.pair_id,
                epoch: pair.epoch,
            })
            .collect();
        if candidates.is_empty() {
            if self.unpaired.insert(identity) {
                let initiated = connection.role == Role::Initiator;
                self.meet(identity.remote.address, connection.peer_agent_port, initiated);
            }
            return;
        }
        let managed = Managed::new(identity, connection.role, isns, candidates, self.policy);
        self.hold(managed);
        self.timeline.count("enrolled");
        self.settle(identity);
        if self.datapath.connection(&identity).is_none() {
            // It closed meanwhile, and nobody would tell.
            self.bury(identity);
        }
    }

    /// The side that opened a connection dials at once; the other one only when nothing comes.
    fn meet(&mut self, peer: IpAddr, agent_port: u16, initiated_here: bool) {
        if agent_port == 0 || !self.pairs.of(peer, agent_port).is_empty() {
            return;
        }
        let peer = SocketAddr::new(peer, agent_port);
        self.effects.push(if initiated_here {
            Effect::Dial(peer)
        } else {
            Effect::DialLater(peer)
        });
    }

    /// Whatever is due now.
    pub fn timers(&mut self, now: Timestamp) {
        while let Some((at, identity)) = self.alarms.first().copied() {
            if at > now {
                break;
            }
            self.alarms.pop_first();
            if let Some(managed) = self.sessions.get_mut(&identity) {
                managed.alarm = None;
            }
            self.advance(identity, Event::TimerFired, now);
        }
        self.walk_if_due();
    }

    /// Ten times a second: new connections, suspects that have recovered, timeouts to restore.
    pub fn tick(&mut self, now: Timestamp) {
        self.take_opened();
        let watched: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.suspected_at.is_some() || managed.restoring.is_some())
            .map(|managed| managed.identity)
            .collect();
        for identity in watched {
            self.look_at(identity, now);
        }
        self.unpaired
            .retain(|identity| self.datapath.connection(identity).is_some());
        // An exchange that failed is tried again, ever less often, while there is a connection that needs it.
        let waiting: BTreeSet<(IpAddr, u16, bool)> = self
            .unpaired
            .iter()
            .filter_map(|identity| Some((identity, self.datapath.connection(identity)?)))
            .map(|(identity, connection)| {
                (
                    identity.remote.address,
                    connection.peer_agent_port,
                    connection.role == Role::Initiator,
                )
            })
            .collect();
        for (peer, agent_port, initiated_here) in waiting {
            if initiated_here && self.pairs.was_dialled(peer, agent_port) {
                self.meet(peer, agent_port, true);
            }
        }
        self.walk_if_due();
    }

    fn look_at(&mut self, identity: Tuple, now: Timestamp) {
        let Ok(tcp) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let Some(tcp) = tcp else {
            managed.suspected_at = None;
            managed.restoring = None;
            return;
        };
        if let Some(restoring) = managed.restoring {
            let acknowledged = if restoring.outstanding {
                tcp.snd_una != restoring.snd_una
            } else {
                tcp.probes_out == 0
            };
            if acknowledged {
                managed.restoring = None;
                managed.flags.raise = false;
                self.walk = true;
                self.settle(identity);
            }
            return;
        }
        if let Some(before) = managed.suspected_at {
            let idle = tcp.packets_out == 0 && tcp.probes_out == 0;
            if idle || tcp.snd_una != before.snd_una || tcp.rcv_nxt != before.rcv_nxt {
                managed.suspected_at = None;
                self.advance(identity, Event::Progress, now);
            }
        }
    }

    /// One event for one connection: a step of its machine, and what that asks for.
    pub(crate) fn advance(&mut self, identity: Tuple, event: Event, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        tracing::trace!(connection = %identity, ?event, "event");
        let (next, actions) = step(managed.machine.clone(), event, now);
        managed.machine = next;
        for action in actions {
            tracing::trace!(connection = %identity, ?action, "action");
            self.perform(identity, action, now);
        }
        self.settle(identity);
    }

    /// Brings the data path to what a connection's machine now holds.
    pub(crate) fn settle(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let suspect = managed.machine.state() == migration::State::Suspect;
        let mark = !managed.released && (managed.is_active() || suspect);
        if managed.flags.mark != mark {
            managed.flags.mark = mark;
            self.walk = true;
        }
        let wanted = managed.wanted_tuples();
        let gone: Vec<Tuple> = managed
            .tuples
            .keys()
            .filter(|tuple| !wanted.contains_key(*tuple))
            .copied()
            .collect();
        for tuple in gone {
            managed.tuples.remove(&tuple);
            self.datapath.remove_arrival(&tuple);
            let free = !wanted.keys().any(|kept| kept.local == tuple.local)
                && !managed
                    .machine
                    .attempts()
                    .iter()
                    .any(|attempt| attempt.from == tuple.local);
            if free {
                managed.paths.remove(&tuple.local);
                if tuple.local != identity.local {
                    self.ports.give_back(tuple.local);
                }
            }
        }
        let numbers: BTreeSet<ReqNo> = managed.machine.tokens().collect();
        let keys: Vec<_> = managed.candidates.iter().map(|set| set.keys.clone()).collect();
        for number in managed.tokens.difference(&numbers).copied().collect::<Vec<_>>() {
            for set in &keys {
                self.datapath.remove_token(set.token(number), &identity);
            }
            managed.tokens.remove(&number);
        }
        for number in numbers {
            if !managed.tokens.insert(number) {
                continue;
            }
            for (index, set) in keys.iter().enumerate() {
                let stored = self.datapath.put_token(
                    set.token(number),
                    &identity,
                    set.incoming(managed.role),
                    index as u32,
                );
                if let Err(error) = stored {
                    self.timeline.count("datapath_error");
                    tracing::error!(%error, "a connection's token cannot be stored; it may not resume");
                }
            }
        }
        if let Err(error) = self.datapath.put_session(&identity, &managed.session()) {
            self.timeline.count("datapath_error");
            tracing::error!(%error, "a connection cannot be stored; it would not survive a move");
        }
        let next = managed.machine.next_alarm().map(|(at, _)| at);
        let before = std::mem::replace(&mut managed.alarm, next);
        let active = managed.is_active();
        if before != next {
            before.map(|at| self.alarms.remove(&(at, identity)));
            self.alarms.extend(next.map(|at| (at, identity)));
        }
        if active {
            self.active.insert(identity)
        } else {
            self.active.remove(&identity)
        };
        self.update_load();
    }

    /// Takes a connection up.
    fn hold(&mut self, managed: Managed) {
        *self.holders.entry(managed.identity.local.address).or_default() += 1;
        if managed.is_active() {
            self.active.insert(managed.identity);
        }
        self.sessions.insert(managed.identity, managed);
    }

    fn update_load(&mut self) {
        let load = (self.sessions.len() as u32, self.active.len() as u32);
        if load != self.load {
            self.load = load;
            self.write(|datapath| datapath.set_load(load.0, load.1));
        }
    }

    /// Sockets are walked at most once a batch.
    pub(crate) fn ask_for_walk(&mut self) {
        self.walk = true;
    }

    fn walk_if_due(&mut self) {
        if std::mem::take(&mut self.walk) {
            self.datapath.reconcile();
        }
    }

    /// Performs a write; a failure is logged and does not stop anything.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut D) -> Result<(), datapath::DatapathError>) {
        if let Err(error) = write(&mut self.datapath) {
            self.timeline.count("datapath_error");
            tracing::error!(%error, "the data path refused");
        }
    }

    /// Forgets a connection altogether.
    pub(crate) fn bury(&mut self, identity: Tuple) {
        self.release(identity);
        let Some(managed) = self.sessions.remove(&identity) else {
            return;
        };
        for number in &managed.tokens {
            for set in &managed.candidates {
                self.datapath.remove_token(set.keys.token(*number), &identity);
            }
        }
        self.datapath.remove_session(&identity);
        managed.alarm.map(|at| self.alarms.remove(&(at, identity)));
        self.active.remove(&identity);
        self.update_load();
    }

    /// Frees what a connection held but its keys.
    pub(crate) fn release(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        if std::mem::replace(&mut managed.released, true) {
            return;
        }
        for tuple in std::mem::take(&mut managed.tuples).into_keys() {
            self.datapath.remove_arrival(&tuple);
            managed.paths.entry(tuple.local).or_default();
        }
        for local in std::mem::take(&mut managed.paths)
            .into_keys()
            .filter(|local| *local != identity.local)
        {
            self.ports.give_back(local);
        }
        self.datapath.remove_wire(&identity);
        self.datapath.remove_heads(&identity);
        let address = identity.local.address;
        let left = self
            .holders
            .get(&address)
            .map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            self.holders.insert(address, left);
            return;
        }
        self.holders.remove(&address);
        self.let_go(address);
    }

    /// No connection needs a kept address any more.
    fn let_go(&mut self, address: IpAddr) {
        if self.retired.remove(&address) {
            if self.network.device_of(address).is_none() {
                self.datapath.remove_source(address);
            }
            self.effects.push(Effect::Release(address));
        }
    }
}

/// The kernel's number of a TCP state, in the machine's terms.
fn machine_state(number: u32) -> TcpState {
    match number {
        4 => TcpState::FinWait1,
        5 => TcpState::FinWait2,
        6 => TcpState::TimeWait,
        7 => TcpState::Closed,
        8 => TcpState::CloseWait,
        9 => TcpState::LastAck,
        11 => TcpState::Closing,
        _ => TcpState::Established,
    }
}

fn snapshot(tcp: &SocketState) -> TcpSnapshot {
    TcpSnapshot {
        snd_una: tcp.snd_una,
        snd_nxt: tcp.snd_nxt,
        rcv_nxt: tcp.rcv_nxt,
        rto: std::time::Duration::ZERO,
    }
}
