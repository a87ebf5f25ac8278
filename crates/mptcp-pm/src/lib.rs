//! Client of the Linux kernel's MPTCP path manager.
//!
//! A Multipath TCP connection (RFC 8684) is one stream over several subflows. Which subflows there are is the business of a
//! path manager, and the kernel lets a program be it, over the generic netlink family `mptcp_pm`. In the order in
//! which such a program needs them:
//!
//! 1. [`Client::connect`] finds the family. [`Client::limits`], [`Client::endpoints`] and their setters configure the
//!    kernel's own path manager (`net.mptcp.path_manager=kernel`), for the whole network namespace.
//! 2. [`Events::subscribe`] tells of every connection, subflow and announced address as an [`Event`]. Under the
//!    `userspace` path manager the kernel refuses every join while nobody is subscribed; a [`stand_in`] outlives a crash.
//! 3. The [`Token`] of [`Event::Created`] names a connection in [`Client::announce`], [`Client::remove`],
//!    [`Client::create_subflow`], [`Client::destroy_subflow`] and [`Client::set_backup`].
//! 4. [`subflows`] and [`connections`] read by `inet_diag` what exists now: for a program that starts late, or that
//!    was told that it has missed something ([`Event::Missed`]).
//!
//! Everything acts on the network namespace of the thread that called `connect`, `subscribe` or the dump, needs a
//! tokio runtime, and all but the dumps need `CAP_NET_ADMIN`. What the kernel sends is taken as it comes: attributes that are
//! not known are passed over, so that newer kernels do no harm, and nothing panics on malformed bytes.
//!
//! ```no_run
//! # async fn example() -> Result<(), mptcp_pm::Error> {
//! use mptcp_pm::{Client, Event, Events};
//!
//! let client = Client::connect().await?;
//! let mut events = Events::subscribe().await?;
//! while let Some(event) = events.next().await {
//!     if let Event::SubflowEstablished(subflow) = event {
//!         // Only as long as nothing better works.
//!         client.set_backup(subflow.token, subflow.local, subflow.remote, true).await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod attribute;
mod client;
mod command;
mod connection;
mod diag;
mod endpoint;
mod error;
mod event;
mod family;
mod stand_in;
mod subscription;

pub use client::Client;
pub use diag::{Connection, ConnectionFlags, Subflow, SubflowFlags, connections, subflows};
pub use endpoint::{Endpoint, EndpointFlags, Limits};
pub use error::Error;
pub use event::{Announced, Created, Event, SubflowEvent};
pub use stand_in::stand_in;
pub use subscription::Events;

/// Names a connection at this host: the 32-bit token that joins carry (RFC 8684, 3.2). Local to a network namespace, and
/// free for another connection once this one is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u32);

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({self})")
    }
}
