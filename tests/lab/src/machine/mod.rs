//! What a run takes from the machine, and how the machine gets it back.
//!
//! 1. [`claim`] registers the run under a name nobody else has; everything it creates carries that name.
//! 2. [`station`] gives every node of the scenario a network namespace and a cgroup of its own.
//! 3. [`spawn`] starts programs inside them, bound to the life of the runner.
//! 4. When the run ends, however it ends, [`sweep`] returns everything. A runner that is killed leaves its claim
//!    behind, and the next run, or `lab sweep`, returns what it held.
pub mod cgroup;
pub mod claim;
pub mod command;
pub mod error;
pub mod kernel;
pub mod netns;
pub mod spawn;
pub mod station;
pub mod sweep;

pub use claim::Claim;
pub use error::MachineError;
pub use kernel::has;
pub use station::Station;
