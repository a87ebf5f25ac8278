//! The mover's second half: an MSYN is answered, the Migrate-Ack goes out until the peer is heard.

use wire::{ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, AskReason, Refusal};
use crate::attempt::{Attempt, Mover, Words};

impl Turn {
    pub(super) fn msyn_ack_heard(&mut self, tuple: Tuple, req_no: ReqNo, seq: u32, ack: u32) {
        let answers = |attempt: &Attempt| {
            attempt.req_no == req_no && attempt.from == tuple.local && attempt.tried(tuple.remote)
        };
        if let Some(index) = self.m.attempts.iter().position(answers) {
            return self.commit(index, tuple, seq, ack);
        }
        let repeated = req_no == self.m.committed && tuple == self.m.wire && !self.m.parked;
        let Some(mover) = self.m.mover.filter(|_| repeated) else {
            return self.refuse(Refusal::NoSuchAttempt { req_no });
        };
        let Some(words) = mover.words else {
            return self.refuse(Refusal::NoSuchAttempt { req_no });
        };
        let expected = words.seq.wrapping_add(1);
        if ack != expected {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        // A peer that had forgotten its answer gives a new one with its SND.NXT of now.
        let words = Words {
            ack: seq.wrapping_add(1),
            ..words
        };
        self.m.mover = Some(Mover {
            words: Some(words),
            ..mover
        });
        self.send_migrate_ack(words);
    }

    /// The MSYN-ACK has come: the mover's half of the commit.
    fn commit(&mut self, index: usize, tuple: Tuple, seq: u32, ack: u32) {
        let (req_no, expected) = (
            self.m.attempts[index].req_no,
            self.m.attempts[index].seq.wrapping_add(1),
        );
        if ack != expected {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        if req_no < self.m.committed {
            return self.refuse(Refusal::NotGreater {
                req_no,
                committed: self.m.committed,
            });
        }
        let attempt = self.m.attempts.remove(index);
        let words = Words {
            seq: attempt.seq,
            rcv_nxt: attempt.rcv_nxt,
            ack: seq.wrapping_add(1),
        };
        let ambiguous = self.m.wire == tuple
            || self.m.answered_at.contains(&tuple.local)
            || self.m.lingering.iter().any(|lingering| lingering.tuple == tuple);
        self.out.push(Action::Commit { req_no, wire: tuple });
        // Said on the new tuple, which is not the machine's wire tuple yet.
        self.out.push(Action::SendMigrateAck {
            from: tuple.local,
            to: tuple.remote,
            req_no,
            token_of: self.m.known,
            seq: words.seq.wrapping_add(1),
            ack: words.ack,
        });
        self.out.push(Action::Kick { req_no });
        self.m.mover = Some(Mover {
            words: Some(words),
            tries: 1,
            due: Some(self.now + self.m.policy.migrate_ack_backoff(1)),
            heard: false,
            confirmed: false,
            ambiguous,
        });
        self.m.parked = false;
        self.m.suspect = false;
        self.replace_wire(req_no, tuple);
        let left = attempt.tried_tuples().filter(|&other| other != tuple);
        self.out
            .extend(left.map(|tuple| Action::Forget { req_no, tuple }));
        self.withdraw(|other| !other.voluntary || other.req_no < req_no);
        self.peer_is_alive();
    }

    fn send_migrate_ack(&mut self, words: Words) {
        self.out.push(Action::SendMigrateAck {
            from: self.m.wire.local,
            to: self.m.wire.remote,
            req_no: self.m.committed,
            token_of: self.m.known,
            seq: words.seq.wrapping_add(1),
            ack: words.ack,
        });
    }

    /// Until the peer is heard, the Migrate-Ack is said again; then the MSYN too, for the peer may have forgotten
    /// its answer; then another attempt is begun, for the peer may have forgotten the tuple.
    pub(super) fn migrate_ack_due(&mut self) {
        let Some(mover) = self.m.mover else { return };
        if mover.due.is_none_or(|due| due > self.now) {
            return;
        }
        let policy = self.m.policy;
        let tries = mover.tries.saturating_add(1);
        let overdue = tries > policy.migrate_ack_tries;
        if overdue && mover.heard && mover.words.is_some() {
            // One of so many has come through, on a path that carries the peer's segments.
            self.confirm(mover);
            return self.restore_timeouts();
        }
        let pause = if overdue {
            policy.slow_retry
        } else {
            policy.migrate_ack_backoff(tries)
        };
        self.m.mover = Some(Mover {
            tries,
            due: Some(self.now + pause),
            ..mover
        });
        if let Some(words) = mover.words {
            if tries > policy.migrate_acks_alone {
                self.out.push(Action::SendMsyn {
                    from: self.m.wire.local,
                    to: self.m.wire.remote,
                    req_no: self.m.committed,
                    token_of: self.m.known,
                    seq: words.seq,
                    rcv_nxt: words.rcv_nxt,
                    tries,
                });
            }
            self.send_migrate_ack(words);
        }
        self.out.push(Action::Kick {
            req_no: self.m.committed,
        });
        if overdue {
            self.raise_timeouts();
            if self.m.attempts.is_empty() && self.m.keys {
                self.out.push(Action::AskForEndpoint {
                    address: self.m.wire.local.address,
                    candidates: vec![self.m.wire.remote],
                    why: AskReason::Unconfirmed,
                });
            }
        }
    }

    pub(super) fn peer_segment_on(&mut self, req_no: ReqNo) {
        if req_no != self.m.committed {
            return self.refuse(Refusal::NothingToDo);
        }
        let before = self.out.len();
        match self.m.mover {
            Some(mover) if !mover.confirmed && mover.ambiguous => {
                self.m.mover = Some(Mover { heard: true, ..mover });
            }
            Some(mover) if !mover.confirmed => {
                self.confirm(mover);
                self.both_know(req_no);
                self.peer_knows(req_no);
            }
            _ => {}
        }
        if !self.m.parked {
            self.m.suspect = false;
            self.restore_timeouts();
        }
        if self.out.len() == before {
            self.refuse(Refusal::NothingToDo);
        }
    }

    /// The peer's MSYN carries the token of a number that both have committed, as the peer knows and we may not.
    pub(super) fn hear_token_of(&mut self, req_no: ReqNo) {
        self.both_know(req_no);
        self.peer_knows(req_no);
        if let Some(mover) = self
            .m
            .mover
            .filter(|mover| !mover.confirmed && req_no == self.m.committed)
        {
            self.confirm(mover);
        }
    }

    /// Our attempt is committed at the peer too.
    fn confirm(&mut self, mover: Mover) {
        let req_no = self.m.committed;
        self.m.mover = Some(Mover {
            confirmed: true,
            due: None,
            ..mover
        });
        self.m.proven = self.m.wire.remote;
        self.out.push(Action::Confirmed { req_no });
        if !self.m.parked {
            self.out.push(Action::Kick { req_no });
            self.withdraw(|attempt| !attempt.voluntary);
        }
    }
}
