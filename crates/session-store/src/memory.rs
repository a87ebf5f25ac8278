//! The store that is gone with its process: for tests, and for a server that may forget.
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::entry::{Entry, Filing, Millis, millis};
use crate::error::{check_note, check_value};
use crate::key::check_name;
use crate::notes::Switchboard;
use crate::{
    Cursor, Epoch, Expected, Key, Lease, Note, Notes, Page, Record, Reported, Revision, Store, StoreError,
    Swap, Table,
};

/// Records that every change looks at besides its own, whether their lease has ended: what has ended goes at least as
/// fast as new comes.
const SWEPT: usize = 2;

/// Records in this process's memory. Time is tokio's, so a test may hold and turn it.
pub struct Memory {
    epoch: Epoch,
    started: Instant,
    book: Mutex<Book>,
    switchboard: Switchboard,
}

#[derive(Default)]
struct Book {
    entries: BTreeMap<Key, Entry>,
    revision: u64,
    /// The sweep goes on behind this key.
    swept: Option<Key>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Memory {
            epoch: Epoch::fresh(),
            started: Instant::now(),
            book: Mutex::default(),
            switchboard: Switchboard::default(),
        }
    }

    fn now(&self) -> Millis {
        millis(self.started.elapsed())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One change of one record.
    fn change<T>(&self, key: &Key, change: impl FnOnce(&mut Entry, Millis, u64) -> T) -> T {
        let mut book = self.book();
        let now = self.now();
        book.revision += 1;
        let fresh = book.revision;
        let outcome = match book.entries.entry(key.clone()) {
            btree_map::Entry::Occupied(mut slot) => {
                let outcome = change(slot.get_mut(), now, fresh);
                if slot.get().is_empty() {
                    slot.remove();
                }
                outcome
            }
            btree_map::Entry::Vacant(slot) => {
                let mut entry = Entry::default();
                let outcome = change(&mut entry, now, fresh);
                if !entry.is_empty() {
                    slot.insert(entry);
                }
                outcome
            }
        };
        book.sweep(now);
        outcome
    }
}

impl Book {
    fn sweep(&mut self, now: Millis) {
        for _ in 0..SWEPT {
            let from = self.swept.take().map_or(Bound::Unbounded, Bound::Excluded);
            let Some((key, entry)) = self.entries.range_mut((from, Bound::Unbounded)).next() else {
                return;
            };
            entry.prune(now);
            let key = key.clone();
            if entry.is_empty() {
                self.entries.remove(&key);
            }
            self.swept = Some(key);
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

#[async_trait]
impl Store for Memory {
    fn backend(&self) -> &'static str {
        "memory"
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        Ok(self.epoch)
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let book = self.book();
        Ok(book
            .entries
            .get(key)
            .and_then(|entry| entry.show(key, self.now())))
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
        lease: Lease,
    ) -> Result<Swap, StoreError> {
        check_value(&value)?;
        Ok(self.change(key, |entry, now, fresh| {
            entry.swap(key, expected, value, lease, now, fresh)
        }))
    }

    async fn renew(&self, key: &Key, revision: Revision, lease: Lease) -> Result<bool, StoreError> {
        Ok(self.change(key, |entry, now, _| entry.renew(revision, lease, now)))
    }

    async fn remove(&self, key: &Key, revision: Option<Revision>) -> Result<bool, StoreError> {
        Ok(self.change(key, |entry, now, _| entry.remove(revision, now)))
    }

    async fn report(
        &self,
        key: &Key,
        agent: &[u8],
        counter: u64,
        body: Bytes,
        lease: Lease,
    ) -> Result<Reported, StoreError> {
        check_name(agent)?;
        check_value(&body)?;
        let filing = Filing { agent, counter, body };
        Ok(self.change(key, |entry, now, fresh| {
            entry.report(key, filing, lease, now, fresh)
        }))
    }

    async fn withdraw(&self, key: &Key, agent: &[u8], counter: u64) -> Result<Option<Record>, StoreError> {
        Ok(self.change(key, |entry, now, fresh| {
            entry.withdraw(agent, counter, now, fresh);
            entry.show(key, now)
        }))
    }

    async fn list(&self, table: Table, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.max(1);
        let book = self.book();
        let now = self.now();
        let mut page = Page::default();
        let mut last = None;
        for (key, entry) in from(&book.entries, table, after)? {
            if page.records.len() == limit {
                page.next = last;
                break;
            }
            if let Some(record) = entry.show(key, now) {
                page.records.push(record);
                last = Some(Cursor(key.name().clone()));
            }
        }
        Ok(page)
    }

    async fn count(&self, table: Table) -> Result<u64, StoreError> {
        let (book, now) = (self.book(), self.now());
        let there = from(&book.entries, table, None)?.filter(|(_, entry)| entry.shows(now));
        Ok(there.count() as u64)
    }

    async fn subscribe(&self, topic: &[u8]) -> Result<Notes, StoreError> {
        check_name(topic)?;
        Ok(self.switchboard.subscribe(topic))
    }

    async fn notify(&self, topic: &[u8], note: Bytes) -> Result<(), StoreError> {
        check_name(topic)?;
        check_note(&note)?;
        self.switchboard.say(topic, Note::Said(note));
        Ok(())
    }
}

/// The records of a table behind a cursor.
fn from(
    entries: &BTreeMap<Key, Entry>,
    table: Table,
    after: Option<Cursor>,
) -> Result<impl Iterator<Item = (&Key, &Entry)>, StoreError> {
    let first = match after {
        Some(Cursor(name)) => Bound::Excluded(Key::new(table, name)?),
        None => Bound::Included(Key::first(table)),
    };
    Ok(entries
        .range((first, Bound::Unbounded))
        .take_while(move |(key, _)| key.table() == table))
}
