//! What can go wrong with a store, and what to do about it.
use std::path::PathBuf;
use std::time::Duration;

use crate::{MAX_KEY, MAX_NOTE, MAX_VALUE};

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A record, agent or topic is named by 1 to [`MAX_KEY`] bytes.
    #[error(
        "a name in the session store has 1 to {MAX_KEY} bytes, not {length}; this is a fault of the caller"
    )]
    Key {
        /// Bytes that it had.
        length: usize,
    },
    /// A value or a report's body is longer than [`MAX_VALUE`], or a note longer than [`MAX_NOTE`].
    #[error(
        "{length} bytes are more than the session store takes at once ({limit}); report fewer connections at a time"
    )]
    TooLong {
        /// Bytes that it had.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The directory of an embedded store cannot be used.
    #[error("the session store in {} cannot be used: {reason}; check that the directory exists, belongs to the server and is used by no other process", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system or the database says.
        reason: String,
    },
    /// The disk is full. What was acknowledged before is kept.
    #[error("no space is left for the session store in {}; free some, nothing that was acknowledged is lost: {reason}", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The database failed in operation.
    #[error(
        "the session store failed: {reason}; see the log of the backend, and restart the server if it goes on"
    )]
    Failed {
        /// What the database says.
        reason: String,
    },
    /// A backend on the network did not answer in time, retries included.
    #[error(
        "the {backend} store did not answer within {waited:?}: {reason}; check that every master of the cluster is up and reachable"
    )]
    Unavailable {
        /// Which one.
        backend: &'static str,
        /// How long it was tried.
        waited: Duration,
        /// The last thing that was heard.
        reason: String,
    },
    /// The configuration names a backend that cannot be.
    #[error("the configured store cannot be opened: {reason}")]
    Configuration {
        /// Why not.
        reason: String,
    },
}

/// Bodies and values have a limit, so that one agent cannot fill the store.
pub(crate) fn check_value(bytes: &[u8]) -> Result<(), StoreError> {
    check_length(bytes, MAX_VALUE)
}

/// Notes have a lower one.
pub(crate) fn check_note(bytes: &[u8]) -> Result<(), StoreError> {
    check_length(bytes, MAX_NOTE)
}

fn check_length(bytes: &[u8], limit: usize) -> Result<(), StoreError> {
    if bytes.len() > limit {
        return Err(StoreError::TooLong {
            length: bytes.len(),
            limit,
        });
    }
    Ok(())
}
