//! Telling a story: from a scenario to a verdict.
//!
//! 1. [`run`] takes a claim, builds the network, starts agents, and walks through the steps in order.
//! 2. [`act`] performs what a step does; [`programs`] starts what a step starts.
//! 3. [`board`] is what is known of all programs; whoever learns something notes it there and wakes who waits.
//! 4. [`judge`] decides whether a condition holds, does not hold yet, or never will.
//! 5. [`timeline`] prints and keeps what happened; [`artifacts`] keeps everything else when the story ends badly.
pub mod act;
pub mod artifacts;
pub mod board;
pub mod facts;
pub mod judge;
pub mod programs;
pub mod run;
pub mod start;
pub mod timeline;

pub use run::{Options, Verdict, run};
