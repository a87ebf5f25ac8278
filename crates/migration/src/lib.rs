//! The extended TCP state machine of one connection at one end (figure 14 of the source), as a pure function:
//! [`step`] takes a [`Machine`], an [`Event`] and the time, and gives the next machine and the [`Actions`].
//! No IO, no clock, no randomness: time, random bits, addresses and the kernel's state come in with the events.

mod action;
mod attempt;
mod display;
mod event;
mod policy;
mod state;
mod step;
mod time;

pub use action::{Action, Actions, AskReason, Refusal, Report, Why};
pub use attempt::{Answered, Attempt, Lingering};
pub use event::{Event, ResetAnswer, TcpSnapshot, TcpState};
pub use policy::Policy;
pub use state::{Adopted, Machine, State, WaitReason};
pub use step::step;
pub use time::Timestamp;
pub use wire::{Endpoint, ReqNo, Role, Tuple};
