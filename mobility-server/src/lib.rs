//! The mobility server: matches the two ends of a pair after they moved, and tells who sends to whom.
//!
//! The life of a request, in the order of the rooms: `watch` accepts a connection and says who it is; `service` looks
//! at what is asked, and at the limits; `pairs` puts it to the rules over what is stored; `act` and `registry` do what
//! they answer. `drive` starts and stops it all, `status` shows it.

pub mod act;
pub mod cli;
pub mod config;
pub mod control;
pub mod convert;
pub mod counters;
pub mod doctor;
pub mod drive;
pub mod init;
pub mod leases;
pub mod limits;
pub mod log;
pub mod members;
pub mod metrics;
pub mod pairs;
pub mod registry;
pub mod service;
pub mod status;
pub mod watch;
