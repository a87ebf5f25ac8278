//! Enrolment tokens: a number of uses that several server instances draw from, and never one too many.
use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::{Expected, Key, Lease, Store, StoreError, Swap, Table};

/// What became of an attempt to use a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spent {
    /// One use was taken.
    Granted {
        /// Uses that are left.
        left: u32,
        /// What was stored with the token.
        note: Bytes,
    },
    /// There is no such token, its lease has ended, or its uses are up.
    Refused,
}

/// Stores a token that can be spent `uses` times while its lease lasts. `name` is what a token is looked up by: a hash
/// of it, so that who reads the store cannot enrol.
///
/// False: a token of that name is there already, and stays as it is.
///
/// # Errors
/// Those of the store.
pub async fn create(
    store: &dyn Store,
    name: impl Into<Bytes>,
    uses: u32,
    note: &[u8],
    lease: Lease,
) -> Result<bool, StoreError> {
    let key = Key::new(Table::Tokens, name)?;
    let swap = store
        .swap(&key, Expected::Absent, encode(uses, note), lease)
        .await?;
    Ok(matches!(swap, Swap::Done(_)))
}

/// Takes one use of a token.
///
/// # Errors
/// Those of the store. A use may then have been taken.
pub async fn spend(store: &dyn Store, name: impl Into<Bytes>) -> Result<Spent, StoreError> {
    let key = Key::new(Table::Tokens, name)?;
    let mut stored = store.get(&key).await?;
    loop {
        let Some(record) = stored else {
            return Ok(Spent::Refused);
        };
        let Some((uses, note)) = record.value.and_then(decode) else {
            return Ok(Spent::Refused);
        };
        let Some(left) = uses.checked_sub(1) else {
            return Ok(Spent::Refused);
        };
        let expected = Expected::At(record.revision);
        match store
            .swap(&key, expected, encode(left, &note), Lease::Keep)
            .await?
        {
            Swap::Done(_) => return Ok(Spent::Granted { left, note }),
            // Somebody else took one meanwhile; each turn of the loop is somebody's success.
            Swap::Lost(now) => stored = now,
        }
    }
}

fn encode(uses: u32, note: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(4 + note.len());
    bytes.put_u32(uses);
    bytes.put_slice(note);
    bytes.freeze()
}

fn decode(mut bytes: Bytes) -> Option<(u32, Bytes)> {
    let uses = bytes.try_get_u32().ok()?;
    Some((uses, bytes))
}
