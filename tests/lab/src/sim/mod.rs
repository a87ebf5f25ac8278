//! The `sim` world: the same scenarios for the protocol core, under a virtual clock. One seed decides everything.
//!
//! 1. [`network`] carries segments over the scenario's links, through its NAPTs, with delay, loss and jitter.
//! 2. [`roaming`] has both ends of every connection: the real [`migration::step`] over the model kernel and datapath that
//!    the machine's own tests use too ([`host`], [`kernel`], [`datapath`]), and programs as byte streams.
//! 3. [`agents`] do what agents do beside the machines: they report, obey destinations, withdraw; the mobility server is
//!    the real [`migration::server::step`].
//! 4. [`tell`] walks through the steps and judges. What it cannot model (real programs, agents that are killed) is
//!    refused by line: [`NotForSim`].
//! 5. [`wander`] makes stories up from a seed; [`shrink`] makes one that fails short.
//!
//! There are no bytes here, so `sha256=same` means that every segment has arrived in order, and what needs a real
//! kernel (leaks, what connection tracking calls invalid) holds by construction and is proved in namespaces only.

mod agents;
#[path = "../../../../crates/migration/tests/world/datapath.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the machine, which look at more of it"
)]
mod datapath;
#[path = "../../../../crates/migration/tests/world/host.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the machine, which look at more of it"
)]
mod host;
#[path = "../../../../crates/migration/tests/world/kernel.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of the machine, which look at more of it"
)]
mod kernel;
mod network;
mod random;
mod roaming;
#[path = "../../../../crates/migration/tests/world/segment.rs"]
#[allow(
    dead_code,
    reason = "nobody but the tests of the machine answers as a stranger"
)]
mod segment;
mod shrink;
mod tell;
pub mod wander;

pub use shrink::shrink;
pub use tell::{NotForSim, Told, run, run_without_server};
