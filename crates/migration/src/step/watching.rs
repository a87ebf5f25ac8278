//! Silence and patience: the end that did not move learns that something is wrong, and how long to wait.

use super::Turn;
use crate::action::{Action, Refusal, Report};
use crate::state::{State, WaitReason};

impl Turn {
    pub(super) fn peer_silent(&mut self) {
        if self.m.parked || self.m.suspect {
            return self.refuse(Refusal::NothingToDo);
        }
        if !self.m.keys {
            return self.refuse(Refusal::KeysGone);
        }
        self.become_suspect();
    }

    pub(super) fn become_suspect(&mut self) {
        if !self.m.suspect {
            self.m.suspect = true;
            self.out.push(Action::MarkSuspect);
            self.raise_timeouts();
        }
    }

    pub(super) fn progress(&mut self) {
        if self.m.parked || !(self.m.suspect || self.m.raised) {
            return self.refuse(Refusal::NothingToDo);
        }
        self.m.suspect = false;
        self.restore_timeouts();
    }

    pub(super) fn keys_gone(&mut self) {
        if !self.m.keys {
            return self.refuse(Refusal::NothingToDo);
        }
        self.m.keys = false;
        self.withdraw(|_| true);
        self.forget_answers(|_| true);
        if let Some(mover) = &mut self.m.mover {
            mover.due = None;
        }
        if self.m.held_reset.take().is_some() {
            self.out.push(Action::DeliverReset);
            self.end_in_disorder();
        }
    }

    /// Sets or clears the deadline of a connection that waits, and lets go of attempts nobody needs any more.
    pub(super) fn review(&mut self) {
        if !self.m.troubled() {
            self.withdraw(|attempt| attempt.exhausted);
        }
        let waits = self.m.parked || self.m.suspect || matches!(self.m.state(), State::MigWait(_));
        let deadline = self.m.give_up.unwrap_or(self.now + self.m.policy.mig_wait);
        self.m.give_up = waits.then_some(deadline);
    }

    pub(super) fn patience_due(&mut self) {
        if self.m.ending.is_some() || self.m.give_up.is_none_or(|at| at > self.now) {
            return;
        }
        let reason = match self.m.state() {
            State::MigWait(reason) => reason,
            _ if self.m.parked && self.m.attempts.is_empty() => WaitReason::NoAddress,
            _ => WaitReason::NoAnswer,
        };
        self.out.push(Action::Report(Report::TimedOut { reason }));
        self.out.push(Action::DeliverReset);
        self.end_with_migrate_reset();
    }
}
