//! The extended TCP state machine of one connection at one end (figure 14 of the source), as a pure function:
//! [`step`] takes a [`Machine`], an [`Event`] and the time, and gives the next machine and the [`Actions`].
//! No IO, no clock, no randomness: time, random bits, addresses and the kernel's state come in with the events.
//! `docs/state-machine.md` shows the diagram and the table; both are made from this code.
//!
//! # One move
//! 1. The address of the wire tuple goes: [`Event::AddressLost`]. The machine parks what the kernel sends and
//!    waits in [`State::MigWait`], for no longer than [`Policy::mig_wait`].
//! 2. An address can be used: [`Event::AddressUsable`] brings an endpoint, and with it an [`Attempt`] begins: a
//!    [`ReqNo`] of our side above every number seen, written down before the MSYN leaves. Repetitions say the
//!    same again. A destination from the mobility server ([`Event::MigrateCommand`]) is one more attempt beside it.
//! 3. The peer hears the MSYN ([`Event::MsynHeard`]), installs an answer in its datapath, says MSYN-ACK, and goes on
//!    as before: nothing has moved there, and an answer that leads to nothing is forgotten.
//! 4. The mover hears the MSYN-ACK, makes the new tuple its wire tuple, says Migrate-Ack and sends its head of line.
//! 5. The peer's datapath commits by that Migrate-Ack alone, before user space knows ([`Event::Committed`]).
//! 6. The peer's first ordinary segment on the new tuple ([`Event::PeerSegmentOn`]) confirms the move. Until then the
//!    mover says the Migrate-Ack again, then the MSYN too, then asks for a fresh endpoint and begins anew.
//!
//! # Why both ends come to one wire tuple
//! Let `a` and `b` be the highest numbers that the ends A and B have committed. Both only ever grow, because each
//! side refuses what is not greater, and two attempts never share a number, because of their parity. Suppose `a > b`.
//!
//! - **A was the mover of `a`.** Otherwise B was, and an end commits an attempt of the peer only by a Migrate-Ack,
//!   which B sends only after it has committed `a` itself; then `b >= a`.
//! - **A knows that it is not done.** It counts as done when B was heard on the tuple of `a`, and B sends there
//!   only after its commit. So exactly one end, the mover of the higher number, is unconfirmed, and it is its
//!   task to bring the other to `a` or both to something higher. It does not matter what the other believes.
//! - **What it does helps.** B accepts `a`, because `a > b`: either the repeated Migrate-Ack meets the answer, or
//!   the repeated MSYN brings a new answer. When this very tuple cannot work any more (the NAPT has given A another
//!   port, B has moved on), the renewed attempt has a number above every number A has seen, and B accepts that.
//!
//! The cases that look dangerous are instances of this:
//! - *A believes in `r` because it has sent a Migrate-Ack that was lost; a crossed attempt commits.* If it is higher
//!   than `r`, A takes it by its Migrate-Ack. If it is lower, B believes in it for the moment, and the datapath at A lets
//!   its tuple linger, so that B is heard; A's repetitions bring B to `r`.
//! - *The mover moves again while it is unconfirmed.* Its next number is higher than `r` at A, and at B too, whether
//!   B has committed `r` or not. A Migrate-Ack for `r` that arrives late finds a higher number or is overtaken by one.
//! - *The peer has answered a number above that of our attempt.* It may commit that and refuse ours for ever, so the
//!   attempt is renewed ([`AskReason::Overtaken`]); the number of an attempt is never changed on the same tuple.
//! - *Nobody answers.* The tuple may be another connection's at the peer, so the attempt is renewed
//!   now and then ([`AskReason::Unanswered`]).
//! - *Both send on one and the same tuple (simultaneous open).* Hearing the peer there does not prove which number it
//!   means. The mover then goes on saying Migrate-Ack for all its tries before it believes it, and does not count the
//!   number among those that both know.
//!
//! # Which token
//! A segment carries the token of the highest number that **both** ends are known to have committed
//! ([`Machine::known`]): a token of an unconfirmed number could be unknown to the peer, and then nothing would ever be
//! heard again. Each end hears the tokens of all numbers from the highest that the peer has shown to know
//! ([`Machine::tokens`]); the token in the peer's MSYN teaches us what it knows, and confirms our own attempt.
//!
//! # What the driver promises
//! - Every MAC is checked before a segment becomes an event.
//! - Wire ports are fresh: an endpoint of [`Event::AddressUsable`] was never used with those candidates before.
//! - Its datapath keeps the highest committed number whoever asks, and ignores [`Action::Park`], [`Action::Kick`]
//!   and [`Action::Forget`] when it has committed a higher one meanwhile: its events may still be on their way.
//! - After a step it sets its alarm by [`Action::WakeAt`]; when none came, the alarm set before holds.
//! - It adopts with everything that [`Adopted`] asks for, and tells again what it can see of the kernel: a
//!   retransmission timer that has backed off is an [`Event::RetransmissionTimeout`].

mod action;
mod attempt;
mod display;
mod event;
mod machine;
mod policy;
pub mod proxy;
pub mod server;
mod state;
mod step;
mod time;

pub use action::{Action, Actions, AskReason, Refusal, Report, Why};
pub use attempt::{Answered, Attempt, Lingering};
pub use event::{Event, ResetAnswer, TcpSnapshot, TcpState};
pub use machine::{Adopted, Machine};
pub use policy::Policy;
pub use state::{State, WaitReason};
pub use step::step;
pub use time::Timestamp;
pub use wire::{Endpoint, ReqNo, Role, Tuple};
