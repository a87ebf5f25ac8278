//! The MPTCP relay: terminals that speak Multipath TCP use all their networks towards servers that do not.
//!
//! It stands on the path between both. The life of a connection, in the order of the rooms:
//!
//! 1. `rules` has the kernel hold a terminal's SYN that carries MP_CAPABLE; every other SYN goes its way untouched.
//!    `queue` brings what is held, `syn` says what it is, `admission` whether it is relayed.
//! 2. `act` connects to the server under the terminal's own address and port. Only when the server has answered, the
//!    SYN is released to a listener of this host, which answers it under the server's address. A server that refuses
//!    or is silent gets the SYN itself, and its own answer, or silence, is what the terminal sees.
//! 3. `transfer` carries the bytes, half-closes and resets of both sides.
//! 4. `paths` says what each subflow is for: which one carries data, which are in reserve; `balance` which one that
//!    is when access points are loaded unequally.
//! 5. `deployment` makes the connections sessions of the deployment, if the relay is in one: `registry` knows what the
//!    servers have to hear, `server` says it to them, `joined` is the loop's side of it.
//! 6. `drive` is the only loop; `relay` has the state it works on, `steer` and `answer` what the path manager and
//!    operators say to it; `status` shows what there is, and `cleanup` takes away what a crash has left.

pub mod act;
pub mod admission;
mod answer;
pub mod answers;
pub mod balance;
mod balancing;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod control;
pub mod deployment;
pub mod doctor;
mod downlink;
pub mod drive;
mod early;
mod joined;
pub mod losses;
pub mod metrics;
pub mod neighbours;
pub mod paths;
mod pipe;
pub mod points;
pub mod queue;
pub mod registry;
mod relay;
pub mod reset;
pub mod rules;
pub mod server;
pub mod sessions;
pub mod status;
mod steer;
mod supervisor;
pub mod syn;
pub mod sysctl;
pub mod transfer;
