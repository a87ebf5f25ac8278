//! Whose RST is it? A stranger at the peer's old address and a NAPT that lost its table send RSTs that look
//! genuine to the last bit, so the peer's agent is asked; when nobody can say, the reset is delivered.

use super::Turn;
use crate::action::{Action, AskReason, Refusal, Report};
use crate::event::ResetAnswer;
use crate::machine::HeldReset;

impl Turn {
    pub(super) fn reset_heard(&mut self, exact: bool) {
        if !self.m.keys && exact {
            self.out.push(Action::DeliverReset);
            return self.end_in_disorder();
        }
        if !exact || self.m.parked {
            return self.out.push(Action::DropReset);
        }
        if self.m.held_reset.is_some() {
            return self.refuse(Refusal::QuestionOutstanding);
        }
        self.m.held_reset = Some(HeldReset {
            probe: Some(self.now + self.m.policy.reset_probe),
            deadline: self.now + self.m.policy.reset_deadline,
        });
        self.out.push(Action::AskPeerAboutReset);
    }

    pub(super) fn reset_answer(&mut self, answer: ResetAnswer) {
        let Some(held) = self.m.held_reset else {
            return self.refuse(Refusal::NoQuestion);
        };
        match answer {
            ResetAnswer::Genuine => {
                self.out.push(Action::DeliverReset);
                self.end_in_disorder();
            }
            ResetAnswer::NotMine => {
                self.m.held_reset = None;
                self.out.push(Action::DropReset);
                // Somebody else answers where the peer was: the source goes to MIG_WAIT here.
                self.become_suspect();
            }
            ResetAnswer::Unknown => match held.probe {
                Some(_) => self.probe(held),
                None => self.refuse(Refusal::NothingToDo),
            },
        }
    }

    /// The connection itself is asked, by an MSYN on another tuple. Nothing is parked.
    fn probe(&mut self, held: HeldReset) {
        self.m.held_reset = Some(HeldReset { probe: None, ..held });
        self.out.push(Action::AskForEndpoint {
            address: self.m.wire.local.address,
            candidates: vec![self.m.wire.remote],
            why: AskReason::ResetInDoubt,
        });
    }

    pub(super) fn reset_due(&mut self) {
        let Some(held) = self.m.held_reset else { return };
        if held.deadline <= self.now {
            self.out.push(Action::Report(Report::ResetUndecided));
            self.out.push(Action::DeliverReset);
            // The peer may live: it learns that this end does not.
            return self.end_with_migrate_reset();
        }
        if held.probe.is_some_and(|at| at <= self.now) {
            self.probe(held);
        }
    }

    /// The peer has proved that its end of the connection lives.
    pub(super) fn peer_is_alive(&mut self) {
        if self.m.held_reset.take().is_some() {
            self.out.push(Action::DropReset);
        }
    }

    pub(super) fn migrate_reset_heard(&mut self) {
        self.out.push(Action::Report(Report::PeerReset));
        self.out.push(Action::DeliverReset);
        self.end_in_disorder();
    }
}
