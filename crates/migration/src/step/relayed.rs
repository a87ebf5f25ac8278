//! Through a symmetric proxy both ends are movers: each has sent its MSYN there, and the proxy answers each with what
//! the other has said.
//!
//! 1. The proxy's answer stands for an MSYN of the peer that was answered by our own: the data path may commit the
//!    peer's attempt, and nothing but the right Migrate-Ack of the peer does.
//! 2. Our Migrate-Ack goes out until the peer's has come. The proxy cannot write one: it is signed with the pair's key.
//! 3. Each end has committed the other's number. Tokens of both are known to both.
//! 4. The peer may have missed ours. It says its own again until it has it, and is answered each time.
//! 5. The peer's may be here before the data path was told to commit by it: it counts as if it had come just after.
//!
//! An end that moves while it is relayed knocks at the same port of the proxy again:
//! 1. The proxy answers with what it knows of the other end: a number that is committed here already. The mover says its
//!    Migrate-Ack, under its new number.
//! 2. The other end hears it on its wire tuple, which stays what it is: it commits the number, and says a Migrate-Ack under
//!    that same number, which nobody else could say.
//! 3. The mover hears its own number, and commits. If both have moved, each hears the other's number as well, commits it,
//!    and answers it; the highest counts, as ever.

use wire::{ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, Refusal, Report};
use crate::attempt::{Answered, Attempt, Relayed, Spliced};
use crate::event::TcpSnapshot;

/// So often the peer is answered when it says its Migrate-Ack again. Two ends that both have committed would take each
/// other's answers for such a wish for ever.
const ANSWERS: u32 = 8;
/// How far a Migrate-Ack's sequence number may be from what is expected next: more than any window.
const WINDOW: u32 = 1 << 30;

impl Turn {
    pub(super) fn relay_answered(&mut self, tuple: Tuple, peers: ReqNo, seq: u32, ack: u32) {
        if peers.role() != Some(self.m.role.peer()) {
            return self.refuse(Refusal::OwnNumber { req_no: peers });
        }
        let ours = |attempt: &Attempt| attempt.from == tuple.local && attempt.tried(tuple.remote);
        let Some(index) = self.m.attempts.iter().rposition(ours) else {
            return self.refuse(Refusal::NoSuchTuple);
        };
        let attempt = &self.m.attempts[index];
        let (own, expected) = (attempt.req_no, attempt.seq.wrapping_add(1));
        if ack != expected {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        if own <= self.m.committed {
            return self.refuse(Refusal::NotGreater {
                req_no: own,
                committed: self.m.committed,
            });
        }
        if let Some(known) = attempt.spliced
            && known.tuple == tuple
            && known.peers >= peers
        {
            // Both answers of the proxy to a repeated MSYN have come.
            return self.refuse(Refusal::NothingToDo);
        }
        if peers <= self.m.committed {
            // The peer is where it was: all that it has to do is to answer us.
            return self.say_moved(index, tuple, seq);
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

    /// The proxy knows us at our new place, and the peer where it was.
    fn say_moved(&mut self, index: usize, tuple: Tuple, seq: u32) {
        let attempt = &mut self.m.attempts[index];
        let own = attempt.req_no;
        if attempt.spliced.is_some_and(|known| known.tuple == tuple) {
            return self.refuse(Refusal::NothingToDo);
        }
        attempt.spliced = Some(Spliced {
            tuple,
            peers: own,
            ack: seq.wrapping_add(1),
        });
        attempt.tries = 0;
        attempt.exhausted = false;
        self.m.tokens.insert(own);
        self.say_migrate_ack(index);
    }

    pub(super) fn relayed_ack_heard(
        &mut self,
        tuple: Tuple,
        req_no: ReqNo,
        numbers: (u32, u32),
        tcp: TcpSnapshot,
    ) {
        if !self.m.keys {
            return self.refuse(Refusal::KeysGone);
        }
        if self.is_lost(tuple) {
            return self.refuse(Refusal::AddressGone {
                local: tuple.local.address,
            });
        }
        match req_no.role() == Some(self.m.role) {
            true => self.move_answered(tuple, req_no, numbers),
            false => self.peer_moved(tuple, req_no, numbers, tcp),
        }
    }

    /// The peer has our Migrate-Ack, which said where we are: it has repeated its numbers, crossed.
    fn move_answered(&mut self, tuple: Tuple, req_no: ReqNo, (seq, ack): (u32, u32)) {
        let ours = |attempt: &Attempt| {
            attempt.req_no == req_no && attempt.spliced.is_some_and(|known| known.tuple == tuple)
        };
        let Some(index) = self.m.attempts.iter().position(ours) else {
            return self.refuse(Refusal::NoSuchAttempt { req_no });
        };
        let attempt = &self.m.attempts[index];
        let expected = attempt.seq.wrapping_add(1);
        if ack != expected || attempt.spliced.is_none_or(|known| known.ack != seq) {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        if req_no <= self.m.committed {
            return self.refuse(Refusal::NotGreater {
                req_no,
                committed: self.m.committed,
            });
        }
        self.peer_knows(req_no);
        self.commit_relayed(req_no, tuple);
    }

    /// The peer is elsewhere, behind the same proxy: what goes to the proxy reaches it there.
    fn peer_moved(&mut self, tuple: Tuple, req_no: ReqNo, (seq, ack): (u32, u32), tcp: TcpSnapshot) {
        let early = |answered: &Answered| {
            (answered.req_no, answered.tuple) == (req_no, tuple)
                && (answered.ack, answered.seq.wrapping_add(1)) == (seq, ack)
        };
        if req_no > self.m.committed && self.m.answered.iter().any(early) {
            self.out.push(Action::Commit { req_no, wire: tuple });
            return self.committed(req_no, tuple);
        }
        let through = |attempt: &Attempt| attempt.spliced.is_some_and(|known| known.tuple == tuple);
        let here = tuple == self.m.wire && !self.m.parked;
        if !here && !self.m.attempts.iter().any(through) {
            return self.refuse(Refusal::NoSuchTuple);
        }
        if seq.wrapping_sub(tcp.rcv_nxt).wrapping_add(WINDOW) > 2 * WINDOW
            || tcp.snd_nxt.wrapping_sub(ack) > WINDOW
        {
            let (expected, got) = (tcp.snd_nxt, ack);
            return self.refuse(Refusal::AckMismatch { expected, got });
        }
        if req_no < self.m.committed || (req_no == self.m.committed && !here) {
            return self.refuse(Refusal::NotGreater {
                req_no,
                committed: self.m.committed,
            });
        }
        let token_of = self.m.known;
        let again = req_no == self.m.committed;
        if !again {
            self.m.peer_seen = self.m.peer_seen.max(req_no);
            if req_no > self.m.seen {
                self.m.seen = req_no;
                self.out.push(Action::StoreReqNo { req_no });
            }
            self.forget_answers(|answered| answered.tuple == tuple);
            self.commit_relayed(req_no, tuple);
        }
        self.out.push(Action::SendMigrateAck {
            from: tuple.local,
            to: tuple.remote,
            req_no,
            token_of,
            seq: ack,
            ack: seq,
        });
        if again {
            self.out.push(Action::Kick { req_no });
        }
    }

    /// Both ends know this number, and that the proxy reaches the other.
    fn commit_relayed(&mut self, req_no: ReqNo, tuple: Tuple) {
        self.out.push(Action::Commit { req_no, wire: tuple });
        self.both_know(req_no);
        self.m.mover = None;
        self.m.suspect = false;
        self.m.parked = false;
        self.m.proven = tuple.remote;
        let through = |attempt: &Attempt| attempt.spliced.is_some_and(|known| known.tuple == tuple);
        if let Some(index) = self.m.attempts.iter().position(through) {
            self.m.attempts.remove(index);
        }
        // What stood for an MSYN of the peer there has done its part; its Migrate-Ack is heard all the same.
        self.m.answered.retain(|answered| answered.tuple != tuple);
        self.replace_wire(req_no, tuple);
        self.peer_is_alive();
        self.out.push(Action::Kick { req_no });
        self.withdraw(|other| !other.voluntary);
        self.renew_doomed();
        self.restore_timeouts();
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
        let attempt = &self.m.attempts[index];
        if attempt.tries > policy.migrate_acks_alone
            && let Some(spliced) = attempt.spliced
        {
            // The proxy may have been restarted on the way: what it has answered it answers again.
            self.out.push(Action::SendMsyn {
                from: attempt.from,
                to: spliced.tuple.remote,
                req_no,
                token_of: self.m.known,
                seq: attempt.seq,
                rcv_nxt: attempt.rcv_nxt,
                tries: attempt.tries,
            });
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
