//! The machine: everything one end knows of one connection.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use wire::{Endpoint, ReqNo, Role, Tuple};

use crate::action::Why;
use crate::attempt::{Answered, Attempt, Lingering, Mover, Relayed};
use crate::event::TcpState;
use crate::policy::Policy;
use crate::state::{State, WaitReason};
use crate::time::Timestamp;

/// A plain RST that the datapath holds until somebody has said whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HeldReset {
    pub(crate) probe: Option<Timestamp>,
    pub(crate) deadline: Timestamp,
}

/// What is left of a connection after its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ending {
    /// When map entries, addresses and ports are released; none once they are.
    pub(crate) release: Option<Timestamp>,
    /// When the keys are dropped; none once they are.
    pub(crate) bury: Option<Timestamp>,
    /// Whether the connection ended here and the peer may not know.
    pub(crate) peer_unaware: bool,
    /// Migrate-Resets still to be sent.
    pub(crate) resets: u32,
    /// When the next is due; none while there is no address to send it from.
    pub(crate) reset_due: Option<Timestamp>,
    /// From where to where.
    pub(crate) reset_tuple: Tuple,
}

/// What an agent that takes over a live connection knows of it, from the pinned maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adopted {
    /// The number of the wire tuple.
    pub committed: ReqNo,
    /// The highest number stored by [`Action::StoreReqNo`](crate::Action::StoreReqNo).
    pub highest_seen: ReqNo,
    /// The wire tuple.
    pub wire: Tuple,
    /// Whether [`Action::Confirmed`](crate::Action::Confirmed) was asked for on it; always true when the peer was
    /// the mover. That a segment was heard there is as good unless both ends made attempts on this one tuple.
    pub confirmed: bool,
    /// The highest number stored by [`Action::StoreKnown`](crate::Action::StoreKnown).
    pub known: ReqNo,
    /// Whether the datapath parks what is sent.
    pub parked: bool,
    /// The other tuples on which the datapath hears ordinary segments, with their numbers.
    pub lingering: Vec<(ReqNo, Tuple)>,
    /// The kernel's socket.
    pub tcp_state: TcpState,
}

/// The extended TCP state machine of one connection at one end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Machine {
    pub(crate) role: Role,
    pub(crate) policy: Policy,
    pub(crate) tcp: TcpState,
    /// The number of the wire tuple: the highest committed.
    pub(crate) committed: ReqNo,
    pub(crate) wire: Tuple,
    /// The proof of the wire tuple when we were the mover.
    pub(crate) mover: Option<Mover>,
    /// What is said again when the peer, beyond a proxy, says its part again; of the wire tuple alone.
    pub(crate) relayed: Option<Relayed>,
    /// The highest number used or seen, by either end.
    pub(crate) seen: ReqNo,
    /// The highest number used by the peer.
    pub(crate) peer_seen: ReqNo,
    /// The highest number of which we know that both ends have committed it.
    pub(crate) known: ReqNo,
    /// The highest number of which the peer has shown that it knows this.
    pub(crate) known_to_peer: ReqNo,
    /// The numbers whose tokens the peer may use.
    pub(crate) tokens: BTreeSet<ReqNo>,
    pub(crate) parked: bool,
    pub(crate) suspect: bool,
    pub(crate) raised: bool,
    pub(crate) keys: bool,
    /// Addresses that were lost and have not come back.
    pub(crate) lost: Vec<IpAddr>,
    /// Where the peer was for certain: the other end of the last tuple that both had committed.
    pub(crate) proven: Endpoint,
    /// Where a command has last said that the peer is; nothing once a commit shows it.
    pub(crate) hint: Option<Endpoint>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) answered: Vec<Answered>,
    pub(crate) lingering: Vec<Lingering>,
    /// Local endpoints on which MSYNs were answered, the latest last.
    pub(crate) answered_at: Vec<Endpoint>,
    pub(crate) give_up: Option<Timestamp>,
    /// When a socket in TimeWait counts as gone.
    pub(crate) time_wait_ends: Option<Timestamp>,
    pub(crate) held_reset: Option<HeldReset>,
    pub(crate) ending: Option<Ending>,
}

impl Machine {
    /// The machine of a connection that has never moved.
    pub fn new(role: Role, identity: Tuple, policy: Policy) -> Self {
        let adopted = Adopted {
            committed: ReqNo::UNMOVED,
            highest_seen: ReqNo::UNMOVED,
            wire: identity,
            confirmed: true,
            known: ReqNo::UNMOVED,
            parked: false,
            lingering: Vec::new(),
            tcp_state: TcpState::Established,
        };
        Self::adopt(role, adopted, policy, Timestamp::START)
    }

    /// The machine of a connection that another agent process has left behind.
    ///
    /// An attempt that was not confirmed is renewed after a while, unless the peer is heard on it. The attempts
    /// under way and the answers of the other process are not taken over: its peers repeat what they want.
    pub fn adopt(role: Role, adopted: Adopted, policy: Policy, now: Timestamp) -> Self {
        let mover = (!adopted.confirmed).then(|| Mover {
            words: None,
            tries: policy.migrate_ack_tries,
            due: (!adopted.parked).then(|| now + policy.msyn_rto_max),
            heard: false,
            confirmed: false,
            // Whether the peer was answered on this tuple is not written down anywhere.
            ambiguous: true,
        });
        // What the peer has committed through the datapath, it knows, also when nobody was there to write it down.
        let numbers = adopted
            .lingering
            .iter()
            .map(|&(req_no, _)| req_no)
            .chain([adopted.committed]);
        let peers = numbers.filter(|number| number.role() == Some(role.peer())).max();
        let known = adopted.known.max(peers.unwrap_or(ReqNo::UNMOVED));
        let lingers = adopted.lingering.iter().map(|&(req_no, _)| req_no);
        let tokens = lingers.chain([adopted.committed, known]).collect();
        let until = now + policy.linger;
        let lingering = adopted.lingering.into_iter();
        Self {
            role,
            policy,
            tcp: adopted.tcp_state,
            committed: adopted.committed,
            wire: adopted.wire,
            mover,
            relayed: None,
            seen: adopted.highest_seen.max(adopted.committed),
            peer_seen: adopted.highest_seen,
            known,
            known_to_peer: ReqNo::UNMOVED,
            tokens,
            parked: adopted.parked,
            suspect: false,
            raised: adopted.parked,
            keys: true,
            lost: if adopted.parked {
                vec![adopted.wire.local.address]
            } else {
                Vec::new()
            },
            proven: adopted.wire.remote,
            hint: None,
            attempts: Vec::new(),
            answered: Vec::new(),
            answered_at: Vec::new(),
            lingering: lingering
                .map(|(req_no, tuple)| Lingering { req_no, tuple, until })
                .collect(),
            give_up: adopted.parked.then(|| now + policy.mig_wait),
            time_wait_ends: (adopted.tcp_state == TcpState::TimeWait).then(|| now + policy.linger),
            held_reset: None,
            ending: None,
        }
    }

    /// Says of which numbers the datapath still knows the tokens: a peer that was not confirmed for long may use
    /// an old one. Without it only those that linger and the two that matter here are known.
    pub fn with_tokens(mut self, numbers: impl IntoIterator<Item = ReqNo>) -> Self {
        self.tokens = numbers.into_iter().chain([self.known, self.committed]).collect();
        self
    }

    /// Whether a local address counts as lost.
    pub fn has_lost(&self, local: IpAddr) -> bool {
        self.lost.contains(&local)
    }

    /// What the connection is in the middle of.
    pub fn state(&self) -> State {
        if let Some(ending) = &self.ending {
            return if ending.bury.is_some() {
                State::Closed
            } else {
                State::Buried
            };
        }
        if self.attempts.iter().any(|attempt| !attempt.exhausted) {
            return State::MigSent;
        }
        if self
            .answered
            .iter()
            .any(|answered| answered.req_no > self.committed)
        {
            return State::SynRecv;
        }
        if let Some(reason) = self.wait_reason() {
            return State::MigWait(reason);
        }
        if self.suspect {
            return State::Suspect;
        }
        match self.tcp {
            TcpState::Established => State::Established,
            TcpState::FinWait1 => State::FinWait1,
            TcpState::FinWait2 => State::FinWait2,
            TcpState::CloseWait => State::CloseWait,
            TcpState::Closing => State::Closing,
            TcpState::LastAck => State::LastAck,
            TcpState::TimeWait => State::TimeWait,
            TcpState::Closed => State::Closed,
        }
    }

    /// What the connection waits for, when it does.
    fn wait_reason(&self) -> Option<WaitReason> {
        if !self.attempts.is_empty() {
            return Some(WaitReason::NoAnswer);
        }
        if self.parked {
            return Some(if self.keys {
                WaitReason::NoAddress
            } else {
                WaitReason::KeysGone
            });
        }
        let overdue = |mover: &Mover| !mover.confirmed && mover.tries > self.policy.migrate_ack_tries;
        self.mover
            .is_some_and(|mover| overdue(&mover))
            .then_some(WaitReason::Unconfirmed)
    }

    /// Whether something is wrong with the wire tuple, as far as this end can tell.
    pub fn troubled(&self) -> bool {
        self.parked || self.suspect || self.held_reset.is_some() || !self.is_confirmed()
    }

    /// Which end of the connection this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The number of the wire tuple.
    pub fn committed(&self) -> ReqNo {
        self.committed
    }

    /// What is on the wire now.
    pub fn wire(&self) -> Tuple {
        self.wire
    }

    /// The highest number used or seen by either end.
    pub fn highest_seen(&self) -> ReqNo {
        self.seen
    }

    /// The number whose token a segment of ours carries: both ends have committed it.
    pub fn known(&self) -> ReqNo {
        self.known
    }

    /// The numbers whose tokens the peer may use: from the highest that it has shown to know up to the committed
    /// one. A token outside this set need not be heard; one inside it must be.
    pub fn tokens(&self) -> impl Iterator<Item = ReqNo> + '_ {
        self.tokens.iter().copied()
    }

    /// The kernel's socket.
    pub fn tcp_state(&self) -> TcpState {
        self.tcp
    }

    /// Whether nothing is sent on the wire tuple.
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// Whether the peer is known to use the wire tuple too.
    pub fn is_confirmed(&self) -> bool {
        self.mover.is_none_or(|mover| mover.confirmed)
    }

    /// Our attempts under way.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// The peer's attempts that are answered and not committed.
    pub fn answered(&self) -> &[Answered] {
        &self.answered
    }

    /// The tuples that are heard though they are not the wire tuple any more.
    pub fn lingering(&self) -> &[Lingering] {
        &self.lingering
    }

    /// The connection waits so long from now on when it has to wait: a host has said that it goes to sleep, or is awake
    /// again. What waits already waits so long from `now`.
    pub fn wait_for(&mut self, patience: Duration, now: Timestamp) {
        self.policy.mig_wait = patience;
        if let Some(deadline) = &mut self.give_up {
            *deadline = now + patience;
        }
    }

    /// When [`Event::TimerFired`](crate::Event::TimerFired) is due next, and what for.
    pub fn next_alarm(&self) -> Option<(Timestamp, Why)> {
        let attempts = self.attempts.iter().map(|attempt| (attempt.due, Why::RepeatMsyn));
        let answers = self
            .answered
            .iter()
            .map(|answered| (answered.expires, Why::AnswerExpires));
        let lingers = self
            .lingering
            .iter()
            .map(|lingering| (lingering.until, Why::LingerEnds));
        let migrate_ack = self
            .mover
            .and_then(|mover| mover.due)
            .map(|due| (due, Why::RepeatMigrateAck));
        let wait = self.give_up.map(|at| (at, Why::WaitEnds));
        let probe = self
            .held_reset
            .and_then(|held| held.probe)
            .map(|at| (at, Why::ProbeReset));
        let undecided = self.held_reset.map(|held| (held.deadline, Why::ResetUndecided));
        let ending = self.ending.as_ref();
        let reset = ending
            .and_then(|ending| ending.reset_due)
            .map(|at| (at, Why::RepeatMigrateReset));
        let release = ending
            .and_then(|ending| ending.release)
            .or(self.time_wait_ends)
            .map(|at| (at, Why::ReleaseDue));
        let bury = ending
            .and_then(|ending| ending.bury)
            .map(|at| (at, Why::TombstoneEnds));
        let single = [migrate_ack, wait, probe, undecided, reset, release, bury];
        attempts
            .chain(answers)
            .chain(lingers)
            .chain(single.into_iter().flatten())
            .min_by_key(|&(at, _)| at)
    }
}
