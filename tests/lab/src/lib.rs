//! The laboratory: roaming stories as scripts, told in network namespaces with real programs.
//!
//! 1. [`language`] reads a scenario: the network first, then the story.
//! 2. [`explain`] draws and lists it without running it.
//! 3. [`story`] runs it: it takes what it needs from the [`machine`], builds the [`network`] with links by the
//!    [`emulator`], starts [`servers`], [`agents`] and programs ([`apps`] among them), walks through the steps and judges.
//! 4. [`report`] is the demonstration: two stories, a verdict and a page with pictures.
//! 5. [`generated`] puts stories together that nobody wrote: the matrix of moves, and chaos.
//! 6. [`sim`] tells the same scenarios for the protocol core under a virtual clock, many seeds a second.
//! 7. [`bench`] measures moves and translation, in worlds of its own.
pub mod agents;
pub mod apps;
pub mod bench;
pub mod emulator;
pub mod explain;
pub mod generated;
pub mod language;
pub mod machine;
pub mod network;
pub mod redis;
pub mod relays;
pub mod report;
pub mod servers;
pub mod sim;
pub mod story;
