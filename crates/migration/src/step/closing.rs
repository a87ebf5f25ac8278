//! The end, and what is left of a connection after it.
//!
//! The FIN states move like Established. After the last ACK the tuples are heard for a while, so that a repeated
//! FIN meets a kernel that can answer it; then everything is released but the keys, which answer MSYNs for the
//! dead connection until the peer cannot be waiting any more.

use wire::{ReqNo, Tuple};

use super::Turn;
use crate::action::{Action, Refusal};
use crate::event::{Event, TcpState};
use crate::machine::Ending;

impl Turn {
    pub(super) fn local_close(&mut self, tcp_state: TcpState, reset: bool) {
        let orderly = matches!(
            self.m.tcp,
            TcpState::LastAck | TcpState::TimeWait | TcpState::Closing
        );
        self.m.tcp = tcp_state;
        match (reset, tcp_state) {
            (true, _) => self.end_with_migrate_reset(),
            (false, TcpState::Closed) if orderly => self.end_in_order(),
            (false, TcpState::Closed) => self.end_in_disorder(),
            (false, TcpState::TimeWait) => self.m.time_wait_ends = Some(self.now + self.m.policy.linger),
            (false, _) => {}
        }
    }

    pub(super) fn time_wait_due(&mut self) {
        if self.m.ending.is_none() && self.m.time_wait_ends.is_some_and(|at| at <= self.now) {
            self.m.tcp = TcpState::Closed;
            self.end_in_order();
        }
    }

    /// Both ends have closed. After LastAck the peer knows; after TimeWait it may have moved before our last ACK came,
    /// and then it waits: it is answered as long as a connection that ever tried to move can wait.
    fn end_in_order(&mut self) {
        let policy = self.m.policy;
        let (release, bury) = match self.m.time_wait_ends {
            Some(at) if self.m.seen == ReqNo::UNMOVED => (at, at),
            Some(at) => (at, at + policy.tombstone()),
            None => (self.now + policy.linger, self.now + policy.linger),
        };
        self.end(release, bury);
        self.end_timers();
    }

    /// The peer may wait for us as long as a connection can wait.
    pub(super) fn end_in_disorder(&mut self) {
        self.end(
            self.now + self.m.policy.linger,
            self.now + self.m.policy.tombstone(),
        );
    }

    /// As [`Self::end_in_disorder`], and the peer is told; later, when nothing can be sent now.
    pub(super) fn end_with_migrate_reset(&mut self) {
        // While parked, the way of the last MSYN is the only one there is.
        let underway = self
            .m
            .attempts
            .last()
            .map(|attempt| Tuple::new(attempt.from, attempt.to()));
        let way = if self.m.parked {
            underway
        } else {
            Some(self.m.wire)
        };
        self.end_in_disorder();
        if let Some(ending) = &mut self.m.ending
            && self.m.keys
            && self.m.policy.migrate_reset_tries > 0
        {
            ending.peer_unaware = true;
            ending.resets = self.m.policy.migrate_reset_tries;
            ending.reset_due = way.map(|_| self.now);
            ending.reset_tuple = way.unwrap_or(ending.reset_tuple);
        }
        self.end_timers();
    }

    fn end(&mut self, release: crate::Timestamp, bury: crate::Timestamp) {
        self.withdraw(|_| true);
        self.forget_answers(|_| true);
        self.m.tcp = TcpState::Closed;
        self.m.mover = None;
        self.m.suspect = false;
        self.m.give_up = None;
        self.m.time_wait_ends = None;
        self.m.held_reset = None;
        let (req_no, tuple) = (self.m.committed, self.m.wire);
        if release > self.now {
            self.out.push(Action::Linger {
                req_no,
                tuple,
                until: release,
            });
        }
        self.out.push(Action::Tombstone { until: bury });
        self.m.ending = Some(Ending {
            release: Some(release),
            bury: Some(bury),
            peer_unaware: false,
            resets: 0,
            reset_due: None,
            reset_tuple: tuple,
        });
    }

    pub(super) fn after_the_end(&mut self, event: Event) {
        match event {
            Event::MsynHeard {
                from,
                to,
                req_no,
                token_of,
                ..
            } => {
                self.answer_from_the_tombstone(Tuple::new(to, from), req_no, token_of);
            }
            Event::AddressUsable {
                local, candidates, ..
            } => match candidates.first() {
                Some(&peer) => self.send_late_reset(Tuple::new(local, peer)),
                None => self.refuse(Refusal::NoCandidate),
            },
            Event::MigrateCommand { local, peer, .. } => self.send_late_reset(Tuple::new(local, peer)),
            Event::AddressLost { local } => match &mut self.m.ending {
                Some(ending) if ending.reset_tuple.local.address == local && ending.reset_due.is_some() => {
                    ending.reset_due = None;
                }
                _ => self.refuse(Refusal::Closed),
            },
            Event::Committed { req_no, .. } => {
                // It came too late to move anything, but a Migrate-Reset must carry a token that the peer hears.
                let before = self.m.known;
                self.both_know(req_no);
                if self.m.known == before {
                    self.refuse(Refusal::Closed);
                }
            }
            Event::KeysGone => {
                self.m.keys = false;
                if let Some(ending) = &mut self.m.ending {
                    (ending.resets, ending.reset_due) = (0, None);
                }
            }
            Event::TimerFired => {
                self.lingers_due();
                self.end_timers();
            }
            _ => self.refuse(Refusal::Closed),
        }
    }

    fn answer_from_the_tombstone(&mut self, tuple: Tuple, req_no: ReqNo, token_of: ReqNo) {
        let buried = self.m.ending.is_none_or(|ending| ending.bury.is_none());
        if buried || !self.m.keys {
            return self.refuse(Refusal::Closed);
        }
        if req_no.role() != Some(self.m.role.peer()) {
            return self.refuse(Refusal::OwnNumber { req_no });
        }
        self.both_know(token_of);
        self.out.push(Action::SendMigrateReset {
            from: tuple.local,
            to: tuple.remote,
            token_of,
        });
    }

    /// A reset that could not be sent while parked, or that may have gone to where the peer was, is sent from each
    /// address and to each destination that comes.
    fn send_late_reset(&mut self, tuple: Tuple) {
        let tries = self.m.policy.migrate_reset_tries;
        match &mut self.m.ending {
            Some(ending) if ending.peer_unaware && ending.bury.is_some() && self.m.keys && tries > 0 => {
                ending.reset_tuple = tuple;
                ending.resets = tries;
                ending.reset_due = Some(self.now);
                self.end_timers();
            }
            _ => self.refuse(Refusal::Closed),
        }
    }

    fn end_timers(&mut self) {
        let Some(mut ending) = self.m.ending else { return };
        let due = |at: Option<crate::Timestamp>| at.is_some_and(|at| at <= self.now);
        if due(ending.reset_due) {
            let Tuple { local, remote } = ending.reset_tuple;
            self.out.push(Action::SendMigrateReset {
                from: local,
                to: remote,
                token_of: self.m.known,
            });
            ending.resets = ending.resets.saturating_sub(1);
            let sent = self.m.policy.migrate_reset_tries.saturating_sub(ending.resets);
            ending.reset_due =
                (ending.resets > 0).then(|| self.now + self.m.policy.migrate_ack_backoff(sent));
        }
        if due(ending.release) {
            self.out.push(Action::Release);
            self.m.lingering.clear();
            ending.release = None;
        }
        if due(ending.bury) {
            self.out.push(Action::Bury);
            (ending.bury, ending.reset_due) = (None, None);
        }
        self.m.ending = Some(ending);
    }
}
