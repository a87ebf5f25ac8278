//! One event, one step.
//!
//! The rooms follow a connection's life: [`moving`] (our attempts), [`answering`] (the peer's), [`confirming`] (one
//! of ours is answered), [`relayed`] (both are, by a proxy), [`watching`] (silence and patience), [`reset`] (whose RST is it), [`closing`] (the end and
//! what is left of it).

mod answering;
mod closing;
mod confirming;
mod moving;
mod relayed;
mod reset;
mod watching;

use wire::{ReqNo, Tuple};

use crate::action::{Action, Actions, Refusal, Report, Why};
use crate::attempt::Lingering;
use crate::event::Event;
use crate::machine::Machine;
use crate::state::State;
use crate::time::Timestamp;

/// Advances one connection by one event. No IO, no clock, no randomness.
///
/// # Units
/// `now`: monotonic time since the process started.
/// # Errors
/// None. An event that does not fit keeps the state and yields [`Action::Refuse`] with the reason.
/// # Source
/// docs/state-machine.md; Shimizu 2002, 3.2.6, figure 14.
pub fn step(machine: Machine, event: Event, now: Timestamp) -> (Machine, Actions) {
    let was = Was {
        state: machine.state(),
        alarm: machine.next_alarm(),
        rang: event == Event::TimerFired,
    };
    let mut turn = Turn {
        m: machine,
        now,
        out: Actions::new(),
    };
    match turn.m.ending {
        None => turn.live(event),
        Some(_) => turn.after_the_end(event),
    }
    turn.finish(was)
}

/// What the step started from.
struct Was {
    state: State,
    alarm: Option<(Timestamp, Why)>,
    /// Whether the alarm has rung: then it has to be set again even when it is the same.
    rang: bool,
}

/// One step while it is taken.
struct Turn {
    m: Machine,
    now: Timestamp,
    out: Actions,
}

impl Turn {
    fn live(&mut self, event: Event) {
        match event {
            Event::AddressLost { local } => self.address_lost(local),
            Event::AddressReturned { local } => self.address_returned(local),
            Event::AddressUsable {
                local,
                mut candidates,
                tcp,
                random,
            } => {
                self.add_other_places(&mut candidates);
                self.begin(local, candidates, tcp, random);
            }
            Event::MigrateCommand {
                local,
                peer,
                crossing,
                tcp,
                random,
            } => {
                self.m.hint = Some(peer).filter(|_| !crossing);
                self.begin_crossing(local, vec![peer], tcp, random, crossing);
            }
            Event::MsynHeard {
                from,
                to,
                req_no,
                token_of,
                seq,
                rcv_nxt: _,
                tcp,
            } => {
                self.msyn_heard(Tuple::new(to, from), req_no, token_of, seq, tcp);
            }
            Event::MsynAckHeard {
                from,
                to,
                req_no,
                seq,
                ack,
                rcv_nxt: _,
            } => {
                self.msyn_ack_heard(Tuple::new(to, from), req_no, seq, ack);
            }
            Event::RelayNamed {
                local,
                proxy,
                tcp,
                random,
            } => self.begin(local, vec![proxy], tcp, random),
            Event::RelayAnswered {
                from,
                to,
                req_no,
                seq,
                ack,
            } => self.relay_answered(Tuple::new(to, from), req_no, seq, ack),
            Event::RelayedAckHeard {
                from,
                to,
                req_no,
                seq,
                ack,
                tcp,
            } => self.relayed_ack_heard(Tuple::new(to, from), req_no, (seq, ack), tcp),
            Event::Committed { req_no, wire } => self.committed(req_no, wire),
            Event::PeerSegmentOn { req_no } => self.peer_segment_on(req_no),
            Event::StrangeSynAck { from, to, ack } => self.strange_syn_ack(Tuple::new(to, from), ack),
            Event::RetransmissionTimeout | Event::ProbeUnanswered => self.peer_silent(),
            Event::Progress => self.progress(),
            Event::ResetHeard { exact } => self.reset_heard(exact),
            Event::ResetAnswer(answer) => self.reset_answer(answer),
            Event::MigrateResetHeard => self.migrate_reset_heard(),
            Event::LocalClose { tcp_state, reset } => self.local_close(tcp_state, reset),
            Event::KeysGone => self.keys_gone(),
            Event::TimerFired => self.live_timers(),
        }
    }

    fn live_timers(&mut self) {
        self.answers_due();
        self.lingers_due();
        self.msyns_due();
        self.migrate_ack_due();
        self.reset_due();
        self.time_wait_due();
        self.patience_due();
    }

    /// Draws what follows from the new state: no deadline without a reason, no reason without a deadline.
    fn finish(mut self, was: Was) -> (Machine, Actions) {
        if self.m.ending.is_none() {
            self.review();
        }
        let state = self.m.state();
        if state != was.state {
            self.out.push(Action::Report(Report::Changed {
                from: was.state,
                to: state,
            }));
        }
        let alarm = self.m.next_alarm();
        if let Some((at, why)) = alarm
            && (was.rang || alarm != was.alarm)
        {
            self.out.push(Action::WakeAt(at, why));
        }
        (self.m, self.out)
    }

    /// What several rooms need.
    fn refuse(&mut self, refusal: Refusal) {
        self.out.push(Action::Refuse(refusal));
    }

    fn raise_timeouts(&mut self) {
        if !self.m.raised {
            self.m.raised = true;
            self.out.push(Action::RaiseTimeouts);
        }
    }

    /// Gives the kernel its timeouts back once the peer is known to answer on the wire tuple.
    fn restore_timeouts(&mut self) {
        if self.m.raised && !self.m.parked && !self.m.suspect && self.m.is_confirmed() {
            self.m.raised = false;
            self.out.push(Action::RestoreTimeouts);
        }
    }

    fn is_lost(&self, tuple: Tuple) -> bool {
        self.m.lost.contains(&tuple.local.address)
    }

    /// Makes `tuple` the wire tuple in the books; the old one lingers.
    fn replace_wire(&mut self, req_no: ReqNo, tuple: Tuple) {
        let (old_no, old) = (self.m.committed, self.m.wire);
        self.m.committed = req_no;
        self.m.wire = tuple;
        self.m.hint = None;
        self.m.relayed = None;
        self.m.tokens.insert(req_no);
        self.m.lingering.retain(|lingering| lingering.tuple != tuple);
        if old != tuple {
            self.linger(old_no, old);
        }
        if !self.is_lost(tuple) {
            // What was lost before matters no more.
            self.m.lost.clear();
        }
    }

    /// Keeps hearing a tuple for a while; at once forgotten when its address is gone.
    fn linger(&mut self, req_no: ReqNo, tuple: Tuple) {
        if self.is_lost(tuple) {
            return self.out.push(Action::Forget { req_no, tuple });
        }
        if self.m.lingering.len() >= self.m.policy.max_lingering {
            let oldest = self.m.lingering.remove(0);
            self.out.push(Action::Forget {
                req_no: oldest.req_no,
                tuple: oldest.tuple,
            });
        }
        let until = self.now + self.m.policy.linger;
        self.m.lingering.push(Lingering { req_no, tuple, until });
        self.out.push(Action::Linger { req_no, tuple, until });
    }

    /// Notes that both ends have committed `req_no`.
    fn both_know(&mut self, req_no: ReqNo) {
        if req_no > self.m.known {
            self.m.known = req_no;
            self.out.push(Action::StoreKnown { req_no });
        }
    }

    /// Notes that the peer knows this of `req_no`.
    fn peer_knows(&mut self, req_no: ReqNo) {
        if req_no > self.m.known_to_peer {
            self.m.known_to_peer = req_no;
            self.m.tokens.retain(|&number| number >= req_no);
            self.out.push(Action::RetireTokens { below: req_no });
        }
    }
}
