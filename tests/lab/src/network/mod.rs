//! The network of a scenario on this machine.
//!
//! 1. [`plan`] works out, from the text alone, which links need the emulator and which routes everybody has.
//! 2. [`Network::build`] makes stations, devices, links, NAPTs, addresses and routes.
//! 3. While the story runs, [`change`] pulls cables, moves hosts and changes addresses as a host's connection
//!    manager would, `multipath` tells the kernel of hosts that use all links; [`napt`] flushes, reboots and counts; a
//!    [`nat64`] answers and translates.
pub mod build;
pub mod change;
mod multipath;
pub mod napt;
pub mod nat64;
pub mod plan;

pub use build::{LiveLink, Network};
