//! Through a symmetric proxy both ends are movers: each has sent its MSYN there, and the proxy answers each with what
//! the other has said.
//!
//! 1. The proxy's answer stands for an MSYN of the peer that was answered by our own: the data path may commit the
//!    peer's attempt, and nothing but the right Migrate-Ack of the peer does.
//! 2. Our Migrate-Ack goes out until the peer's has come. The proxy cannot write one: it is signed with the pair's key.
//! 3. Each end has committed the other's number. Tokens of both are known to both.
//! 4. The peer may have missed ours. It says its own again until it has it, and is answered each time.

use wire::{ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, Refusal, Report};
use crate::attempt::{Answered, Attempt, Relayed, Spliced};

/// So often the peer is answered when it says its Migrate-Ack again. Two ends that both have committed would take each
/// other's answers for such a wish for ever.
const ANSWERS: u32 = 8;

impl Turn {
    pub(super) fn relay_answered(&mut self, tuple: Tuple, peers: ReqNo, seq: u32, ack: u32) {
        if peers.role() != Some(self.m.role.peer()) {
            return self.refuse(Refusal::OwnNumber { req_no: peers });
        }
        let ours = |attempt: &Attempt| attempt.from == tuple.local && attempt.tried(tuple.remote);
        let Some(index) = self.m.attempts.iter().rposition(ours) else {
            return self.refuse(Refusal::NoSuchTuple);
        };
        if peers <= self.m.committed {
            return self.refuse(Refusal::NotGreater {
                req_no: peers,
                committed: self.m.committed,
            });
        }
        let attempt = &self.m.attempts[index];
        let (own, expected) = (attempt.req_no, attempt.seq.wrapping_add(1));
        if ack != expected {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        if let Some(known) = attempt.spliced
            && known.tuple == tuple
            && known.peers >= peers
        {
            // Both answers of the proxy to a repeated MSYN have come.
            return self.refuse(Refusal::NothingToDo);
        }
        let (rcv_nxt, seq_sent) = (attempt.rcv_nxt, attempt.seq);
        self.m.peer_seen = self.m.peer_seen.max(peers);
        if peers > self.m.seen {
            self.m.seen = peers;
            self.out.push(Action::StoreReqNo { req_no: peers });
        }
        // The peer says its next MSYN under the token of the number that it commits: ours.
        self.m.tokens.insert(own);
        self.m.tokens.insert(peers);
        self.forget_answers(|answered| answered.tuple == tuple);
        let lifetime = self.m.policy.answered_max;
        let answered = Answered {
            req_no: peers,
            tuple,
            seq: seq_sent,
            ack: seq.wrapping_add(1),
            rcv_nxt,
            lifetime,
            expires: self.now + lifetime,
        };
        self.m.answered.push(answered);
        self.out.push(Action::InstallAnswered {
            req_no: peers,
            tuple,
            seq: answered.seq,
            ack: answered.ack,
        });
        let attempt = &mut self.m.attempts[index];
        attempt.spliced = Some(Spliced {
            tuple,
            peers,
            ack: answered.ack,
        });
        attempt.tries = 0;
        attempt.exhausted = false;
        self.say_migrate_ack(index);
    }

    /// Says our Migrate-Ack, and sets when it is due again.
    fn say_migrate_ack(&mut self, index: usize) {
        let policy = self.m.policy;
        let attempt = &mut self.m.attempts[index];
        let Some(spliced) = attempt.spliced else { return };
        attempt.tries += 1;
        let pause = match attempt.exhausted {
            false => policy.msyn_backoff(attempt.tries, attempt.random),
            true => policy.slow_backoff(attempt.tries, attempt.random),
        };
        attempt.due = self.now + pause;
        let (req_no, seq) = (attempt.req_no, attempt.seq);
        for answered in &mut self.m.answered {
            if answered.tuple == spliced.tuple {
                answered.expires = self.now + answered.lifetime;
            }
        }
        self.out.push(Action::SendMigrateAck {
            from: spliced.tuple.local,
            to: spliced.tuple.remote,
            req_no,
            token_of: self.m.known,
            seq: seq.wrapping_add(1),
            ack: spliced.ack,
        });
    }

    /// The peer has not been heard through the proxy yet.
    pub(super) fn spliced_due(&mut self, index: usize) {
        let troubled = self.m.troubled();
        let policy = self.m.policy;
        let attempt = &mut self.m.attempts[index];
        let req_no = attempt.req_no;
        if !attempt.exhausted && attempt.tries >= policy.msyn_tries {
            self.out.push(Action::Report(Report::Unanswered { req_no }));
            if attempt.voluntary && !troubled {
                return self.withdraw(|attempt| attempt.req_no == req_no);
            }
            attempt.exhausted = true;
        }
        self.say_migrate_ack(index);
    }

    /// The peer's Migrate-Ack has come through a proxy: our attempt there has done its part.
    pub(super) fn end_splice(&mut self, peers: ReqNo, wire: Tuple) -> Option<Relayed> {
        let index = self.m.attempts.iter().position(|attempt| {
            attempt
                .spliced
                .is_some_and(|spliced| spliced.tuple == wire && spliced.peers == peers)
        })?;
        let attempt = self.m.attempts.remove(index);
        let req_no = attempt.req_no;
        let left = attempt.tried_tuples().filter(|&other| other != wire);
        self.out
            .extend(left.map(|tuple| Action::Forget { req_no, tuple }));
        Some(Relayed {
            req_no,
            seq: attempt.seq.wrapping_add(1),
            ack: attempt.spliced?.ack,
            left: ANSWERS,
        })
    }

    /// The peer has said its Migrate-Ack again: it waits for ours.
    pub(super) fn say_relayed_again(&mut self) {
        let Some(relayed) = self.m.relayed.as_mut().filter(|relayed| relayed.left > 0) else {
            return;
        };
        relayed.left -= 1;
        let relayed = *relayed;
        self.out.push(Action::SendMigrateAck {
            from: self.m.wire.local,
            to: self.m.wire.remote,
            req_no: relayed.req_no,
            token_of: self.m.known,
            seq: relayed.seq,
            ack: relayed.ack,
        });
    }
}
