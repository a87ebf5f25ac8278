//! The data path of the symmetric proxy: a range of ports that belongs to it whole, and the segments it passes on.
//!
//! [`RelayDatapath::open`] loads the programs of `relay.bpf.c`, or adopts the maps that an earlier daemon pinned, and
//! puts them on devices. [`Door`]s say which two agents may knock at a port; an authentic MSYN becomes a
//! [`RelayEvent`]; a [`Direction`] is one half of a spliced connection. What a daemon that comes back has to know
//! stands in [`LeaseNote`]s. A map entry of a relayed connection is never touched by the daemon's death.

mod adopt;
mod kernel;
mod note;

use std::net::IpAddr;
use std::path::PathBuf;

use wire::handshake::SynOptions;
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

use crate::types::Path;

pub use adopt::clean_up;
pub use kernel::RelayDatapath;
pub use note::{LeaseNote, LegNote, NoteState};

/// Names a lease.
pub type LeaseId = [u8; 16];

/// How the relay is set up.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// A directory on a BPF file system; made if missing.
    pub pin_dir: PathBuf,
    /// The relay's addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports that belong to it on each of them, first and last.
    pub ports: (u16, u16),
    /// Mark of what the daemon itself sends; 0: none.
    pub mark: u32,
}

/// Who may knock at one of the relay's ports.
#[derive(Clone, Debug)]
pub struct Door {
    /// Whose port it is.
    pub lease: LeaseId,
    /// The legs, each with the key of what its agent sends, and its address if only that may knock; none: not here.
    pub legs: [Option<(MacKey, Option<IpAddr>)>; 2],
}

/// One direction of a spliced connection, as it is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direction {
    /// Whose.
    pub lease: LeaseId,
    /// Which leg sends here: 0 or 1.
    pub leg: usize,
    /// Where segments go: the relay's end is `local`.
    pub to: Tuple,
    /// The way out.
    pub path: Path,
    /// The third segment is told.
    pub pending: bool,
}

/// What the data path has seen of one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// What was installed.
    pub direction: Direction,
    /// Segments that passed, those of a GSO frame counted one by one.
    pub packets: u64,
    /// Bytes that passed, headers included.
    pub bytes: u64,
    /// CLOCK_MONOTONIC of the last one, in nanoseconds; 0: none has passed.
    pub last_ns: u64,
    /// A FIN has passed.
    pub fin: bool,
    /// A reset has passed.
    pub reset: bool,
    /// An ordinary segment has passed: its sender has committed.
    pub ordinary: bool,
}

/// An authentic MSYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knocked {
    /// `local` is the relay's end.
    pub wire: Tuple,
    /// Token, as sent.
    pub token: Token,
    /// The attempt.
    pub req_no: ReqNo,
    /// Sequence number.
    pub seq: u32,
    /// What its sender expects next.
    pub rcv_nxt: u32,
    /// Unscaled.
    pub window: u16,
    /// Digest of the sender's own endpoint.
    pub digest: u16,
    /// Scale and segment size; none: the options cannot be read, or the scale is missing.
    pub syn: Option<SynOptions>,
}

/// What the relay's data path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEvent {
    /// An MSYN of one of the two agents of a port.
    Knocked {
        /// Whose port.
        lease: LeaseId,
        /// Which agent: 0 or 1.
        leg: usize,
        /// What it says.
        knocked: Knocked,
    },
    /// A third segment has passed on a pending direction.
    ThirdPassed {
        /// Whose.
        lease: LeaseId,
        /// Which leg sent it.
        leg: usize,
        /// From where.
        from: Endpoint,
        /// Of which attempt.
        req_no: ReqNo,
    },
    /// A segment was dropped because the way out takes no packets of its size.
    TooBig {
        /// `local` is the relay's end, `remote` the segment's sender.
        wire: Tuple,
        /// Its sequence number.
        seq: u32,
        /// What its sender's packets may have, in bytes.
        mtu: u32,
    },
}
