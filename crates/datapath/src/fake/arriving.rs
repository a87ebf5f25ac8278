//! The ingress of a physical device, as `take_request` and `from_physical` have it.

use wire::flags::Flags;
use wire::reqno::ReqNo;
use wire::request::{Request, RequestType};
use wire::segment::Segment;
use wire::tuple::Tuple;

use super::{FakeDatapath, TokenEntry, Verdict};
use crate::event::{Event, Heard};
use crate::types::ArrivalState;

impl FakeDatapath {
    /// Lets a segment arrive on a device, and says what becomes of it.
    pub fn arrive(&mut self, segment: &Segment, ifindex: u32) -> Verdict {
        // Seen from here the destination is ours.
        let wire = segment.tuple().reversed();
        if let Some(request) = segment.migrate {
            self.count("stolen");
            self.take_request(segment, request, wire, ifindex);
            return Verdict::Stolen;
        }
        if self.load.0 == 0 {
            return Verdict::Passed;
        }
        let moved = self.load.1 > 0;
        let state = self
            .arrivals
            .get(&wire)
            .filter(|_| moved)
            .map(|arrival| arrival.state);
        let left = state == Some(ArrivalState::Linger);
        if state.is_some() && !left {
            return self.arrive_on_known(segment, wire);
        }
        if self.shadows.contains(&wire) {
            return Verdict::Passed;
        }
        if left && segment.flags != Flags::SYN {
            return self.arrive_on_known(segment, wire);
        }
        if left || moved && self.wires.contains_key(&wire) {
            // The connection is elsewhere: who talks on its old tuple is a stranger, and may begin something new.
            if segment.flags == Flags::SYN {
                self.shadows.insert(wire);
                self.count("stranger_shadowed");
                return Verdict::Passed;
            }
            self.count("stranger_dropped");
            return Verdict::Dropped;
        }
        if segment.flags.contains(Flags::RST) && self.hold_reset(segment, wire, wire) {
            return Verdict::Held;
        }
        Verdict::Passed
    }

    fn take_request(&mut self, segment: &Segment, request: Request, wire: Tuple, ifindex: u32) {
        let Some(list) = self.tokens.get(&request.token).cloned() else {
            self.count("unknown_token");
            if request.r#type == RequestType::Msyn {
                self.tell(Event::UnknownToken {
                    wire,
                    token: request.token,
                });
            }
            return;
        };
        let genuine = |entry: &&TokenEntry| segment.verify(&entry.key_in, ReqNo::UNMOVED).is_ok();
        let Some(entry) = list.iter().find(genuine) else {
            self.count("bad_mac");
            return;
        };
        let heard = Heard {
            identity: entry.identity,
            wire,
            candidate: entry.candidate,
            token: request.token,
            req_no: request.req_no,
            seq: segment.seq,
            ack: segment.ack,
            rcv_nxt: request.rcv_nxt,
            digest: request.digest.0,
            ifindex,
            time_ns: self.now.as_nanos() as u64,
        };
        if request.r#type == RequestType::MigrateAck {
            self.acknowledge(heard);
        } else {
            self.tell(Event::Segment(request.r#type, heard));
        }
    }

    /// A Migrate-Ack whose MAC is right.
    fn acknowledge(&mut self, heard: Heard) {
        let known = self.arrivals.get(&heard.wire).copied();
        let Some(arrival) = known.filter(|arrival| arrival.identity == heard.identity) else {
            self.count("stale_ack");
            return;
        };
        let fits = arrival.req_no == heard.req_no
            && arrival.expect_seq == heard.seq
            && arrival.expect_ack == heard.ack;
        if !fits {
            let session = self.sessions.get(&heard.identity);
            let relayed = session.is_some_and(|session| session.flags.relayed);
            if relayed || arrival.state == ArrivalState::Attempted {
                self.tell(Event::Segment(RequestType::MigrateAck, heard));
            } else {
                self.count("stale_ack");
            }
            return;
        }
        match arrival.state {
            ArrivalState::Committed => {
                self.tell(Event::Committed { heard, again: true });
            }
            ArrivalState::Answered => {
                if !self.commit_wire(&arrival.identity, &heard.wire, &arrival.path, arrival.req_no) {
                    return;
                }
                if let Some(arrival) = self.arrivals.get_mut(&heard.wire) {
                    arrival.state = ArrivalState::Committed;
                }
                self.count("committed");
                self.tell(Event::Committed { heard, again: false });
            }
            ArrivalState::Attempted | ArrivalState::Linger => {}
        }
    }

    fn arrive_on_known(&mut self, segment: &Segment, wire: Tuple) -> Verdict {
        let arrival = self.arrivals[&wire];
        let identity = arrival.identity;
        let strange = segment.flags.contains(Flags::SYN) || segment.flags.contains(Flags::RST);
        if arrival.state == ArrivalState::Attempted && strange {
            self.tell(Event::Stranger {
                identity,
                wire,
                req_no: arrival.req_no,
                seq: segment.seq,
                ack: segment.ack,
                flags: segment.flags.0,
            });
        }
        let unproven = matches!(arrival.state, ArrivalState::Attempted | ArrivalState::Answered);
        if unproven || segment.flags.contains(Flags::SYN) {
            self.count("unproven_dropped");
            return Verdict::Dropped;
        }
        if segment.flags.contains(Flags::RST) && self.hold_reset(segment, wire, identity) {
            return Verdict::Held;
        }
        if arrival.confirm {
            if let Some(arrival) = self.arrivals.get_mut(&wire) {
                arrival.confirm = false;
            }
            self.tell(Event::Confirmed {
                identity,
                req_no: arrival.req_no,
                ack: segment.ack,
            });
        }
        self.count("translated_in");
        let translated = Segment {
            source: identity.remote,
            destination: identity.local,
            ..segment.clone()
        };
        Verdict::HandedIn(translated)
    }

    /// A reset that the kernel would believe. Held while the agent lives to ask the peer's; else it passes.
    fn hold_reset(&mut self, segment: &Segment, wire: Tuple, identity: Tuple) -> bool {
        if !self
            .sessions
            .get(&identity)
            .is_some_and(|session| session.flags.hold_reset)
        {
            return false;
        }
        let event = Event::ResetHeld {
            identity,
            wire,
            seq: segment.seq,
            ack: segment.ack,
            flags: segment.flags.0,
        };
        let agent_lives = self.now.saturating_sub(self.heartbeat) <= self.heartbeat_limit;
        let held = agent_lives && self.tell(event);
        self.count(if held { "reset_held" } else { "reset_passed" });
        held
    }
}
