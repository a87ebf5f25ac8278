//! What a store gives and takes.
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::Key;

/// Longest value and longest body of a report, in bytes.
pub const MAX_VALUE: usize = 4 * 1024 * 1024;

/// Most agents whose reports one record holds, withdrawn ones included. Two are a pair; the rest is room for strangers
/// that the server has yet to tell apart.
pub const MAX_REPORTERS: usize = 8;

/// Numbers the changes of a record. Grows with each; is not used again after the record was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Which filling of a store this is.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch(pub [u8; 16]);

impl Epoch {
    /// A new one that nobody has seen.
    pub(crate) fn fresh() -> Self {
        Epoch(uuid::Uuid::new_v4().into_bytes())
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", uuid::Uuid::from_bytes(self.0))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// How long something stays without being renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// From now on so long, in milliseconds, rounded up.
    For(Duration),
    /// Until it is removed.
    Forever,
    /// As long as what it replaces; [`Lease::Forever`] if it replaces nothing.
    Keep,
}

/// What the writer believes to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// A record of this revision.
    At(Revision),
}

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its name.
    pub key: Key,
    /// Of its last change.
    pub revision: Revision,
    /// What [`crate::Store::swap`] wrote last; none in a record that holds only reports.
    pub value: Option<Bytes>,
    /// How long the value still stays; none: no value, or until it is removed.
    pub remaining: Option<Duration>,
    /// Reports in the order in which they were filed, one for each agent; withdrawn ones are not shown.
    pub reports: Vec<Report>,
}

/// A report as it was filed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who filed it.
    pub agent: Bytes,
    /// The agent's move counter.
    pub counter: u64,
    /// Place in the order of filing: of two reports in a record, the later one has the higher number.
    pub filed: Revision,
    /// What it says.
    pub body: Bytes,
}

/// The outcome of a compare-and-swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Written; the record has this revision now.
    Done(Revision),
    /// Not written: this is stored instead of what was expected.
    Lost(Option<Record>),
}

/// The outcome of filing a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reported {
    /// Filed; the record with this report and those of the others.
    Filed(Record),
    /// A later report of this agent is there, or one that was withdrawn.
    Stale {
        /// Its counter.
        stored: u64,
    },
    /// [`MAX_REPORTERS`] others have filed into this record.
    Crowded,
}

/// Some records of a table.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page starts; none: this was the last one.
    pub next: Option<Cursor>,
}

/// Where a page starts. Opaque, and of use only with the store that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub(crate) Bytes);
