//! What an operator sees of a daemon, whichever it is.
//!
//! Its command line asks it over a Unix socket ([`control`]) and prints what it answers ([`table`]), or what its
//! `doctor` finds ([`finding`]); its [`log`] goes to
//! standard error; ranges of addresses in its configuration are [`prefix`]es.

pub mod control;
pub mod finding;
pub mod log;
pub mod prefix;
pub mod table;
