//! The agent on every endpoint: it watches addresses and routes, offers migration on new connections, agrees
//! keys with peer agents, and resumes connections after a move.
//!
//! One loop ([`drive`]) owns everything. The world becomes events in [`watch`], [`pairs`] and [`control`]; the
//! [`agent`] changes its state by one event at a time, stepping each connection's machine; [`act`] is the only
//! place that touches the data path on a connection's behalf; [`status`] is what people see.
pub mod act;
pub mod agent;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod drive;
pub mod lines;
pub mod metrics;
pub mod multipath;
pub mod nat64;
pub mod network;
pub mod pairs;
pub mod ports;
pub mod quality;
pub mod server;
pub mod sessions;
pub mod status;
pub mod timeline;
pub mod watch;
