//! The data path of connection migration: what happens to a segment, and who may change that.
//!
//! The BPF programs (`src/bpf`, one object) offer migration on new connections, steal and check the segments
//! of a resumption, translate or park the segments of moved connections. This crate loads them, or adopts
//! what an earlier agent pinned ([`KernelDatapath::open`]), attaches them to devices, keeps the parking device
//! and the routing that leads there ([`parking`]), reads live sockets, and sends what the agent composes.
//!
//! [`relay`] is another data path, that of the symmetric proxy: an object, maps and devices of its own.
//!
//! [`Datapath`] is the interface the agent drives; [`fake::FakeDatapath`] has the same interface in memory,
//! for tests without privileges.
pub mod attach;
pub mod event;
pub mod fake;
pub mod interface;
pub mod kernel;
pub mod parking;
pub mod relay;
pub mod requirements;
pub mod send;
mod skeleton;
pub mod sockets;
pub mod types;
mod walker;

pub use event::Event;
pub use interface::{Datapath, DatapathError};
pub use kernel::{KernelDatapath, Options};
pub use types::{
    Arrival, ArrivalState, Connection, Frame, Heads, Leg, Path, Session, SessionFlags, Source, TcpState,
    WireState,
};
