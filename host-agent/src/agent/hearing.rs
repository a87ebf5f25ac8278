//! What the data path saw becomes an event of a connection.

use datapath::{ArrivalState, Datapath, Path};
use migration::{Event, TcpState, Timestamp};
use wire::request::RequestType;
use wire::tuple::Tuple;

use super::*;

impl<D: Datapath> Agent<D> {
    /// What the data path saw.
    pub fn datapath_event(&mut self, event: datapath::Event, now: Timestamp) {
        use datapath::Event as Seen;
        match event {
            Seen::Segment(kind, heard) => self.segment_heard(kind, heard, now),
            Seen::Committed { heard, again: _ } => {
                self.prove(&heard, true);
                let numbers = (heard.ack, heard.seq);
                self.bridge(heard.identity, heard.wire, heard.req_no, numbers, true);
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
                    managed.suspected_at = managed.suspected_at.or(tcp);
                }
                self.advance(identity, Event::RetransmissionTimeout, now);
            }
            Seen::UnknownToken { wire, token } => {
                // The connection may be so young that it has no keys yet.
                self.take_opened();
                self.unknown_token(token, wire.remote.address, now);
            }
        }
    }

    /// After every batch of events.
    pub fn settled(&mut self) {
        self.walk_if_due();
    }

    pub(super) fn segment_heard(&mut self, kind: RequestType, heard: datapath::event::Heard, now: Timestamp) {
        if heard.candidate == super::relaying::PROXY {
            return self.proxy_heard(kind, &heard, now);
        }
        // One that comes late, for what has been committed, decides nothing.
        let awaited = |managed: &Managed| heard.req_no > managed.machine.committed();
        let decides = kind == RequestType::MsynAck && self.sessions.get(&heard.identity).is_some_and(awaited);
        if !self.prove(&heard, decides) {
            return;
        }
        if kind == RequestType::Msyn && self.is_anothers(&heard.wire, &heard.identity) {
            self.timeline.count("tuple_contested");
            return;
        }
        let Some(managed) = self.sessions.get_mut(&heard.identity) else {
            return;
        };
        let (from, to) = (heard.wire.remote, heard.wire.local);
        let event = match kind {
            RequestType::Msyn => {
                let token_of = managed
                    .tokens
                    .iter()
                    .find(|number| managed.answer_keys().keys.token(**number) == heard.token)
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
            RequestType::Answer => {
                self.reset_answered(heard.identity, migration::ResetAnswer::NotMine, now);
                return;
            }
            RequestType::MigrateAck => return self.relayed_ack(&heard, now),
        };
        self.advance(heard.identity, event, now);
    }

    /// Whether a tuple is in use by another connection, with an agent or without. Anybody can write its addresses on an
    /// MSYN, and whose segments are let in on a tuple is settled by its answer. Who sleeps has no use for it.
    fn is_anothers(&mut self, tuple: &Tuple, identity: &Tuple) -> bool {
        let lives = |other: &Tuple| {
            let managed = self.sessions.get(other);
            managed.is_some_and(|managed| {
                !managed.machine.is_parked() && !self.sleeping.waits_for(&managed.keys().pair_id)
            })
        };
        match self.datapath.arrival(tuple) {
            Some(arrival) if arrival.identity == *identity => false,
            Some(arrival) => arrival.state != ArrivalState::Linger && lives(&arrival.identity),
            None if tuple == identity || self.datapath.wire(tuple).is_some() => false,
            None if self.sessions.contains_key(tuple) => lives(tuple),
            None => matches!(self.datapath.read_tcp(tuple), Ok(Some(_))),
        }
    }

    pub(super) fn reset_held(&mut self, identity: Tuple, seq: u32, ack: u32, flags: u8, now: Timestamp) {
        let quiet = self
            .sessions
            .get(&identity)
            .and_then(|managed| managed.quiet_until);
        if quiet.is_some_and(|until| now < until) {
            self.timeline.count("reset_ignored");
            return;
        }
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

    pub(super) fn socket_changed(&mut self, identity: Tuple, old: u32, new: u32, now: Timestamp) {
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
}
