//! One event, one step.

use crate::action::{Action, Actions, Refusal};
use crate::event::Event;
use crate::state::Machine;
use crate::time::Timestamp;

/// Advances one connection by one event. No IO, no clock, no randomness.
///
/// # Units
/// `now`: monotonic time since the process started.
/// # Errors
/// None. An event that does not fit keeps the state and yields [`Action::Refuse`] with the reason.
pub fn step(machine: Machine, _event: Event, _now: Timestamp) -> (Machine, Actions) {
    (machine, vec![Action::Refuse(Refusal::NothingToDo)])
}
