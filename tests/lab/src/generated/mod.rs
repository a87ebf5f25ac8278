//! Stories that nobody wrote: each is put together, kept beside its artifacts, and told like any other.
//!
//! 1. [`matrix`] tells one short story for every combination of places, movers, families and programs.
//! 2. [`both`] tells one for every combination of NAPTs behind which both ends are after a move.
//! 3. [`chaos`] tells one long story that a seed draws: moves, reboots, kills and losses under five real programs.
//! 4. [`same`] tells one story with agents that have nothing to do and without agents, and compares the segments.
//! 5. [`told`] runs the stories of combinations side by side, each as a process of its own, so that a failure leaves the
//!    command that repeats it.
pub mod both;
pub mod chaos;
pub mod matrix;
pub mod same;
mod table;
mod told;
