//! Our attempts: an address goes, another comes, MSYNs go out.

use std::net::IpAddr;

use wire::{Endpoint, ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, AskReason, Refusal, Report};
use crate::attempt::{Attempt, Candidate};
use crate::event::TcpSnapshot;

impl Turn {
    pub(super) fn address_lost(&mut self, local: IpAddr) {
        let here = |tuple: &Tuple| tuple.local.address == local;
        let wire_lost = here(&self.m.wire) && !self.m.parked;
        let concerned = wire_lost
            || self
                .m
                .attempts
                .iter()
                .any(|attempt| attempt.from.address == local)
            || self.m.answered.iter().any(|answered| here(&answered.tuple))
            || self.m.lingering.iter().any(|lingering| here(&lingering.tuple));
        if !concerned {
            return self.refuse(Refusal::NothingToDo);
        }
        if !self.m.lost.contains(&local) {
            self.m.lost.push(local);
        }
        if wire_lost {
            self.park();
        }
        self.withdraw(|attempt| attempt.from.address == local);
        self.forget_answers(|answered| here(&answered.tuple));
        self.forget_lingering(|lingering| here(&lingering.tuple));
    }

    pub(super) fn address_returned(&mut self, local: IpAddr) {
        if !self.m.lost.contains(&local) {
            return self.refuse(Refusal::NothingToDo);
        }
        self.m.lost.retain(|&lost| lost != local);
    }

    pub(super) fn park(&mut self) {
        self.m.parked = true;
        self.out.push(Action::Park {
            req_no: self.m.committed,
            wire: self.m.wire,
        });
        self.raise_timeouts();
        if let Some(mover) = &mut self.m.mover {
            mover.due = None;
        }
        // The reset came on a path that is no more; a genuine one is said again by the peer's tombstone.
        if self.m.held_reset.take().is_some() {
            self.out.push(Action::DropReset);
        }
    }

    /// Adds where else the peer may be: where a command has said it is, and, while it was not heard on the wire
    /// tuple, where it was before.
    pub(super) fn add_other_places(&self, candidates: &mut Vec<Endpoint>) {
        if candidates.is_empty() {
            return;
        }
        candidates.extend(self.m.hint);
        if !self.m.is_confirmed() {
            candidates.push(self.m.proven);
            candidates.extend(
                self.m
                    .lingering
                    .iter()
                    .rev()
                    .map(|lingering| lingering.tuple.remote),
            );
        }
    }

    /// Begins an attempt.
    pub(super) fn begin(&mut self, local: Endpoint, to: Vec<Endpoint>, tcp: TcpSnapshot, random: u64) {
        self.begin_crossing(local, to, tcp, random, false);
    }

    /// The same; `crossing`: the peer begins one at the same moment.
    pub(super) fn begin_crossing(
        &mut self,
        local: Endpoint,
        to: Vec<Endpoint>,
        tcp: TcpSnapshot,
        random: u64,
        crossing: bool,
    ) {
        if !self.m.keys {
            return self.refuse(Refusal::KeysGone);
        }
        let mut candidates: Vec<Candidate> = Vec::with_capacity(to.len());
        for to in to {
            // A segment has one family.
            let fits = to.address.is_ipv4() == local.address.is_ipv4()
                && candidates.len() < self.m.policy.max_candidates;
            if fits && candidates.iter().all(|known| known.to != to) {
                candidates.push(Candidate::new(to));
            }
        }
        if candidates.is_empty() {
            return self.refuse(Refusal::NoCandidate);
        }
        let Ok(req_no) = ReqNo::next_for(self.m.role, self.m.seen) else {
            return self.refuse(Refusal::NumbersExhausted);
        };
        self.m.lost.retain(|&lost| lost != local.address);
        let destinations: Vec<Endpoint> = candidates.iter().map(|candidate| candidate.to).collect();
        let committed = self.m.committed;
        let same_way =
            |old: &Attempt| old.from.address == local.address && old.destinations() == destinations;
        let renewed = self.m.attempts.iter().any(|old| old.asks && same_way(old));
        self.withdraw(|old| same_way(old) || old.from.address == local.address && old.req_no < committed);
        if self.m.attempts.len() >= self.m.policy.max_attempts {
            let gives_way = self.gives_way(&destinations);
            self.withdraw(|attempt| Some(attempt.req_no) == gives_way);
        }
        self.m.seen = req_no;
        self.out.push(Action::StoreReqNo { req_no });
        let voluntary = self.is_wish(local);
        self.m.attempts.push(Attempt {
            req_no,
            from: local,
            candidates,
            current: 0,
            seq: tcp.snd_nxt.wrapping_sub(1),
            rcv_nxt: tcp.rcv_nxt,
            tries: 0,
            exhausted: renewed,
            due: self.now,
            random,
            spliced: None,
            crossing,
            asks: false,
            voluntary,
        });
        self.send_msyn(self.m.attempts.len() - 1);
    }

    /// The attempt that gives way to one towards `destinations`: the oldest, but for the newest of those that go to where
    /// the peer was last. What others say of the peer's place, however often, leaves the one place that is known by
    /// the peer's own word.
    fn gives_way(&self, destinations: &[Endpoint]) -> Option<ReqNo> {
        let last = self.m.wire.remote;
        let own_word = |attempt: &&Attempt| attempt.destinations().contains(&last);
        let reserved = match destinations.contains(&last) {
            true => None,
            false => self.m.attempts.iter().rev().find(own_word),
        };
        let reserved = reserved.map(|attempt| attempt.req_no);
        let mut others = self.m.attempts.iter().map(|attempt| attempt.req_no);
        others.find(|req_no| Some(*req_no) != reserved).or(reserved)
    }

    /// Whether an attempt from here is more than a repair of the wire tuple. While the peer has not confirmed that
    /// one, only another address is a wish of its own.
    fn is_wish(&self, local: Endpoint) -> bool {
        let repaired = self.m.parked || self.m.suspect || self.m.held_reset.is_some();
        !repaired && (self.m.is_confirmed() || local.address != self.m.wire.local.address)
    }

    fn send_msyn(&mut self, index: usize) {
        let token_of = self.m.known;
        let attempt = &mut self.m.attempts[index];
        attempt.tries += 1;
        attempt.candidates[attempt.current].tried = true;
        let backoff = match attempt.exhausted {
            false if attempt.crossing && attempt.tries == 1 => self.m.policy.crossing_pause(attempt.random),
            false => self.m.policy.msyn_backoff(attempt.tries, attempt.random),
            true => self.m.policy.slow_backoff(attempt.tries, attempt.random),
        };
        attempt.due = self.now + backoff;
        self.out.push(Action::SendMsyn {
            from: attempt.from,
            to: attempt.to(),
            req_no: attempt.req_no,
            token_of,
            seq: attempt.seq,
            rcv_nxt: attempt.rcv_nxt,
            tries: attempt.tries,
        });
    }

    pub(super) fn msyns_due(&mut self) {
        let due: Vec<ReqNo> = self
            .m
            .attempts
            .iter()
            .filter(|attempt| attempt.due <= self.now)
            .map(|attempt| attempt.req_no)
            .collect();
        for req_no in due {
            self.msyn_due(req_no);
        }
    }

    fn msyn_due(&mut self, req_no: ReqNo) {
        let Some(index) = self
            .m
            .attempts
            .iter()
            .position(|attempt| attempt.req_no == req_no)
        else {
            return;
        };
        if self.m.attempts[index].spliced.is_some() {
            return self.spliced_due(index);
        }
        let troubled = self.m.troubled();
        let (policy, last) = (self.m.policy, self.m.wire.remote);
        let attempt = &mut self.m.attempts[index];
        let renewable = !attempt.crossing && attempt.destinations().contains(&last);
        if !attempt.exhausted && attempt.tries >= policy.msyn_tries {
            self.out.push(Action::Report(Report::Unanswered { req_no }));
            if attempt.voluntary && !troubled {
                return self.withdraw(|attempt| attempt.req_no == req_no);
            }
            attempt.exhausted = true;
            attempt.asks = renewable;
        } else {
            let often = attempt.tries.is_multiple_of(policy.unanswered_tries.max(1));
            attempt.asks = attempt.exhausted && often && renewable;
        }
        if attempt.exhausted {
            attempt.forgive();
        }
        if attempt.exhausted || attempt.tries.is_multiple_of(policy.tries_per_candidate.max(1)) {
            attempt.next_candidate();
        }
        let (doomed, asks) = (req_no < self.m.committed, attempt.asks);
        if asks {
            self.ask_to_renew(index, AskReason::Unanswered);
        }
        let attempt = &self.m.attempts[index];
        if doomed || (req_no < self.m.peer_seen && attempt.tries >= policy.overtaken_tries) {
            self.ask_to_renew(index, AskReason::Overtaken);
        }
        match doomed {
            false => self.send_msyn(index),
            true => {
                let attempt = &mut self.m.attempts[index];
                attempt.tries += 1;
                attempt.due = self.now + policy.slow_backoff(attempt.tries, attempt.random);
            }
        }
    }

    /// Asks for a new endpoint: under a number that the peer may refuse this attempt leads nowhere, and a new
    /// number on the same tuple could be taken for the old one. So does one on a tuple that the peer knows as another's.
    fn ask_to_renew(&mut self, index: usize, why: AskReason) {
        let attempt = &self.m.attempts[index];
        self.out.push(Action::AskForEndpoint {
            address: attempt.from.address,
            candidates: attempt.destinations(),
            why,
        });
    }

    /// Asks to renew every attempt that the peer will refuse, because it has committed a higher number.
    pub(super) fn renew_doomed(&mut self) {
        for index in 0..self.m.attempts.len() {
            if self.m.attempts[index].req_no < self.m.committed {
                self.ask_to_renew(index, AskReason::Overtaken);
            }
        }
    }

    pub(super) fn strange_syn_ack(&mut self, tuple: Tuple, ack: u32) {
        let on = |attempt: &Attempt| attempt.from == tuple.local && attempt.tried(tuple.remote);
        let Some(index) = self.m.attempts.iter().position(on) else {
            return self.refuse(Refusal::NoSuchTuple);
        };
        let troubled = self.m.troubled();
        let policy = self.m.policy;
        let attempt = &mut self.m.attempts[index];
        let expected = attempt.seq.wrapping_add(1);
        if ack != expected {
            return self.refuse(Refusal::AckMismatch { expected, got: ack });
        }
        self.out.push(Action::SendReset {
            from: tuple.local,
            to: tuple.remote,
            seq: ack,
        });
        let was_current = attempt.to() == tuple.remote;
        for candidate in attempt
            .candidates
            .iter_mut()
            .filter(|candidate| candidate.to == tuple.remote)
        {
            candidate.strange = true;
        }
        if !was_current {
            return;
        }
        if attempt.next_candidate() {
            return self.send_msyn(index);
        }
        let req_no = attempt.req_no;
        self.out.push(Action::Report(Report::Unanswered { req_no }));
        if attempt.voluntary && !troubled {
            return self.withdraw(|attempt| attempt.req_no == req_no);
        }
        attempt.exhausted = true;
        attempt.due = self.now + policy.slow_backoff(attempt.tries, attempt.random);
    }

    /// Gives attempts up and stops hearing their tuples.
    pub(super) fn withdraw(&mut self, which: impl Fn(&Attempt) -> bool) {
        let wire = self.m.wire;
        let (gone, kept) = std::mem::take(&mut self.m.attempts)
            .into_iter()
            .partition(|a| which(a));
        self.m.attempts = kept;
        let gone: Vec<Attempt> = gone;
        for attempt in gone {
            let req_no = attempt.req_no;
            let heard = attempt.tried_tuples().filter(|&tuple| tuple != wire);
            self.out
                .extend(heard.map(|tuple| Action::Forget { req_no, tuple }));
            self.out.push(Action::Report(Report::Withdrawn { req_no }));
        }
    }
}
