//! The peer's attempts: its MSYN is answered, its Migrate-Ack commits.

use wire::{ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, Refusal};
use crate::attempt::{Answered, Lingering};
use crate::event::TcpSnapshot;

/// Local endpoints remembered for having answered on them.
const ANSWERED_AT_MOST: usize = 16;

impl Turn {
    pub(super) fn msyn_heard(
        &mut self,
        tuple: Tuple,
        req_no: ReqNo,
        token_of: ReqNo,
        seq: u32,
        tcp: TcpSnapshot,
    ) {
        if !self.m.keys {
            return self.refuse(Refusal::KeysGone);
        }
        if req_no.role() != Some(self.m.role.peer()) {
            return self.refuse(Refusal::OwnNumber { req_no });
        }
        self.hear_token_of(token_of);
        if req_no <= self.m.committed {
            return self.refuse(Refusal::NotGreater {
                req_no,
                committed: self.m.committed,
            });
        }
        if self.is_lost(tuple) {
            return self.refuse(Refusal::AddressGone {
                local: tuple.local.address,
            });
        }
        let ack = seq.wrapping_add(1);
        match self
            .m
            .answered
            .iter()
            .position(|answered| answered.tuple == tuple)
        {
            Some(index) => {
                let answered = self.m.answered[index];
                if answered.req_no > req_no {
                    return self.refuse(Refusal::Superseded {
                        req_no,
                        answered: answered.req_no,
                    });
                }
                if answered.req_no == req_no {
                    if answered.ack != ack {
                        return self.refuse(Refusal::AckMismatch {
                            expected: answered.ack,
                            got: ack,
                        });
                    }
                    self.m.answered[index].expires = self.now + answered.lifetime;
                    return self.send_msyn_ack(answered, token_of);
                }
                self.m.answered.remove(index);
            }
            None if self.m.answered.len() >= self.m.policy.max_answered => {
                let oldest = self.m.answered[0];
                self.forget_answers(|answered| *answered == oldest);
            }
            None => {}
        }
        self.note_shared(tuple);
        self.m.peer_seen = self.m.peer_seen.max(req_no);
        if req_no > self.m.seen {
            self.m.seen = req_no;
            self.out.push(Action::StoreReqNo { req_no });
        }
        let lifetime = self.m.policy.answered_lifetime(tcp.rto);
        // Our NAPT has seen what we have sent here, and a SYN-ACK beyond it passes for invalid.
        let mut crossed = self.m.attempts.iter();
        let crossed = crossed.rfind(|own| own.from == tuple.local && own.tried(tuple.remote));
        let answered = Answered {
            req_no,
            tuple,
            seq: crossed.map_or(tcp.snd_nxt.wrapping_sub(1), |own| own.seq),
            ack,
            rcv_nxt: tcp.rcv_nxt,
            lifetime,
            expires: self.now + lifetime,
        };
        self.m.answered.push(answered);
        self.out.push(Action::InstallAnswered {
            req_no,
            tuple,
            seq: answered.seq,
            ack,
        });
        self.send_msyn_ack(answered, token_of);
    }

    /// From now on the peer may use this tuple under its own number, whatever becomes of the answer.
    fn note_shared(&mut self, tuple: Tuple) {
        if let Some(mover) = self.m.mover.as_mut().filter(|_| tuple == self.m.wire) {
            mover.ambiguous = true;
        }
        self.m.answered_at.retain(|&known| known != tuple.local);
        if self.m.answered_at.len() >= ANSWERED_AT_MOST {
            self.m.answered_at.remove(0);
        }
        self.m.answered_at.push(tuple.local);
    }

    fn send_msyn_ack(&mut self, answered: Answered, token_of: ReqNo) {
        self.out.push(Action::SendMsynAck {
            from: answered.tuple.local,
            to: answered.tuple.remote,
            req_no: answered.req_no,
            token_of,
            seq: answered.seq,
            ack: answered.ack,
            rcv_nxt: answered.rcv_nxt,
        });
    }

    /// The datapath has committed an attempt of the peer; here it is only written into the books.
    pub(super) fn committed(&mut self, req_no: ReqNo, wire: Tuple) {
        if req_no == self.m.committed {
            // The peer has not heard us there yet, or it would not say it again.
            if self.m.parked {
                return self.refuse(Refusal::NothingToDo);
            }
            self.say_relayed_again();
            return self.out.push(Action::Kick { req_no });
        }
        self.m
            .answered
            .retain(|answered| answered.req_no != req_no || answered.tuple != wire);
        self.both_know(req_no);
        self.m.proven = wire.remote;
        if req_no < self.m.committed {
            if req_no >= self.m.known_to_peer {
                self.m.tokens.insert(req_no);
            }
            // Crossed attempts: the peer has moved to its own before it learns of ours. It is heard until then.
            let heard =
                wire == self.m.wire || self.m.lingering.iter().any(|lingering| lingering.tuple == wire);
            return match heard {
                false => self.linger(req_no, wire),
                true => self.refuse(Refusal::NothingToDo),
            };
        }
        self.forget_answers(|answered| answered.req_no == req_no);
        self.m.peer_seen = self.m.peer_seen.max(req_no);
        self.m.seen = self.m.seen.max(req_no);
        self.m.mover = None;
        self.m.suspect = false;
        let relayed = self.end_splice(req_no, wire);
        self.replace_wire(req_no, wire);
        self.m.relayed = relayed;
        self.peer_is_alive();
        if self.is_lost(wire) {
            // The Migrate-Ack came just before the address went.
            self.park();
            return self.renew_doomed();
        }
        self.m.parked = false;
        self.out.push(Action::Kick { req_no });
        // What crossed it has done its part.
        self.withdraw(|attempt| !attempt.voluntary || attempt.crossing);
        self.renew_doomed();
    }

    pub(super) fn answers_due(&mut self) {
        let now = self.now;
        self.forget_answers(|answered| answered.expires <= now);
    }

    pub(super) fn lingers_due(&mut self) {
        let now = self.now;
        self.forget_lingering(|lingering| lingering.until <= now);
    }

    pub(super) fn forget_answers(&mut self, which: impl Fn(&Answered) -> bool) {
        let gone = self.m.answered.extract_if(.., |answered| which(answered));
        self.out.extend(gone.map(|gone| Action::Forget {
            req_no: gone.req_no,
            tuple: gone.tuple,
        }));
    }

    pub(super) fn forget_lingering(&mut self, which: impl Fn(&Lingering) -> bool) {
        let gone = self.m.lingering.extract_if(.., |lingering| which(lingering));
        self.out.extend(gone.map(|gone| Action::Forget {
            req_no: gone.req_no,
            tuple: gone.tuple,
        }));
    }
}
