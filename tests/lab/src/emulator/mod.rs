//! The link emulator: two hosts' devices joined by a thread of the runner.
//!
//! 1. [`tap`] gives each end a TAP device in its namespace; frames come with their offload header, so that a
//!    64 KiB segment passes whole and unshaped links carry gigabits.
//! 2. A frame that a host sends is looked at by [`segment`], noted by the [`watch`] of its end (capture, foreign
//!    sources, resets), treated as the story asked ([`interference`]), and put on its [`lane`], which knows the
//!    link's rate, delay, loss and queue and when the frame arrives.
//! 3. The thread in [`link`] moves frames when they are due and takes orders from the story.
//!
//! A link nobody shapes or disturbs is a bare pair of devices instead; [`plain`] watches it from outside.
pub mod capture;
pub mod interference;
pub mod lane;
pub mod link;
pub mod plain;
pub mod segment;
pub mod tap;
pub mod watch;

pub use link::{EmulatedLink, Order};
pub use watch::Watch;
