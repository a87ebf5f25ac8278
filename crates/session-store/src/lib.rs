//! Where the mobility server keeps what must outlive a request: reports and decisions of pairs, sessions, enrolment
//! tokens, revocations. It knows keys and bytes and nothing of the protocol's rules.
//!
//! The life of a pair's record, in order:
//! 1. An agent moves. The server it told files the report ([`Store::report`]). Filing and looking are one atomic step:
//!    of two reports that arrive at two server instances at once, exactly one sees only itself, the other sees both.
//!    A report whose move counter is lower than the stored one is refused as stale.
//! 2. Whoever sees both decides, and writes the decision with [`Store::swap`], naming the [`Revision`] it decided on.
//!    Every accepted change gives the record a new revision, so a decision about reports that are no longer the latest
//!    loses, and two instances never decide differently.
//! 3. The other end's agent may attend at another instance: [`Store::notify`] wakes it there.
//! 4. [`Store::withdraw`] takes a report back and leaves a mark, so that a straggling copy of it stays out. Leases end
//!    by the backend's clock whatever nobody takes back.
//!
//! Three backends keep one contract (`tests/contract.rs`): [`Memory`] (gone with the process), [`Sled`] (one process,
//! survives it), [`Redis`] (several server instances on one Redis or Valkey cluster). The store is never the argument
//! for safety: a record that is rolled back or lost costs a retry, because ReqNo and the ends' MACs decide what
//! is believed.

mod cluster;
mod embedded;
mod entry;
mod error;
mod key;
mod memory;
mod notes;
mod record;
pub mod tokens;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use cluster::{Redis, RedisSettings};
pub use embedded::{Sled, Upkeep};
pub use error::StoreError;
pub use key::{Key, MAX_KEY, Table};
pub use memory::Memory;
pub use notes::{MAX_NOTE, Note, Notes};
pub use record::{
    Cursor, Epoch, Expected, Lease, MAX_REPORTERS, MAX_VALUE, Page, Record, Report, Reported, Revision, Swap,
};

/// A store that several tasks share.
pub type SharedStore = Arc<dyn Store>;

/// What every backend can do. Every method is atomic by itself, and done (in [`Sled`]: on disk) when it returns.
///
/// # Errors
/// [`StoreError`] of every method means: whether it was done is not known. All of them may be repeated: a swap that
/// was done the first time then loses to itself and shows its own value.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// `memory`, `sled` or `redis`.
    fn backend(&self) -> &'static str;

    /// Which filling of the store this is: random, made when the store starts empty, stable until it loses what it
    /// held. Who stored something under another epoch has to store it again.
    async fn epoch(&self) -> Result<Epoch, StoreError>;

    /// What is stored under a key now.
    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError>;

    /// Replaces the value of a record if its revision is the expected one. Reports in the record stay.
    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
        lease: Lease,
    ) -> Result<Swap, StoreError>;

    /// Prolongs the lease of a record's value without a new revision. False: there is no value, or its record is of
    /// another revision.
    async fn renew(&self, key: &Key, revision: Revision, lease: Lease) -> Result<bool, StoreError>;

    /// Removes a record with everything in it, marks of withdrawn reports included. With a revision: only that one.
    /// True: there was something, and it is gone.
    async fn remove(&self, key: &Key, revision: Option<Revision>) -> Result<bool, StoreError>;

    /// Files the report of `agent` in a record and returns the whole record as it is then.
    ///
    /// An equal counter is a repetition: body and lease are replaced, the place in the order of filing is kept. A
    /// higher one comes last in that order.
    async fn report(
        &self,
        key: &Key,
        agent: &[u8],
        counter: u64,
        body: Bytes,
        lease: Lease,
    ) -> Result<Reported, StoreError>;

    /// Takes back the reports of `agent` up to `counter`. Until the lease of the withdrawn report ends, reports up to
    /// its counter are stale. Returns what remains visible of the record, and nothing is changed where there is
    /// nothing to withdraw.
    async fn withdraw(&self, key: &Key, agent: &[u8], counter: u64) -> Result<Option<Record>, StoreError>;

    /// One page of a table: at least every record that is there from the first page to the last. The order is the
    /// backend's; a record may come twice when others come and go meanwhile. `limit` is a wish.
    async fn list(&self, table: Table, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError>;

    /// How many records a listing of a table would have; one of which nothing but withdrawn reports is left may count
    /// too. None of them leaves the store.
    async fn count(&self, table: Table) -> Result<u64, StoreError>;

    /// The notes that any instance on this store sends to `topic` from now on, and perhaps some that were sent just
    /// before. Dropping the stream ends it.
    async fn subscribe(&self, topic: &[u8]) -> Result<Notes, StoreError>;

    /// Sends a note to every subscriber of `topic`, at whatever instance. Notes are hints: none is stored, one may be
    /// lost with a connection between store and server (then the subscriber gets [`Note::Gap`]).
    async fn notify(&self, topic: &[u8], note: Bytes) -> Result<(), StoreError>;
}
