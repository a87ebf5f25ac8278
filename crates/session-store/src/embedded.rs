//! The store of one server process, on its own disk, in sled.
//!
//! 1. [`Sled::open`] takes the directory's lock, opens what is there and reads all of it. What cannot be opened is set
//!    aside whole, a record that cannot be believed is set aside alone; either way a new epoch begins, and agents
//!    report again ([`directory`]).
//! 2. All changes go through one thread ([`writer`]): it takes what has queued up, changes records, flushes once, and
//!    only then tells the callers. A thousand callers at once share one flush. Reads look into the tree directly; they may
//!    see a change a moment before it is on disk, but whatever is written because of it reaches the disk after it.
//! 3. When the disk is nearly full, what is to be written is refused, and removals go on. sled must not
//!    meet the end of the disk: after its first failed write it works no more, and then the server has to be
//!    restarted.
//! 4. sled does not give space back, so the thread copies what lives into a new directory now and then and exchanges
//!    the two.
//!
//! Leases are kept in the system's wall clock, because they outlive the process.

mod codec;
mod directory;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::directory::{Lock, Opened};
pub use self::writer::Upkeep;
use self::writer::{Job, Shared, Trouble};
use crate::entry::{Entry, Filing, Millis, millis};
use crate::error::{check_note, check_value};
use crate::key::check_name;
use crate::notes::Switchboard;
use crate::{
    Cursor, Epoch, Expected, Key, Lease, Note, Notes, Page, Record, Reported, Revision, Store, StoreError,
    Swap, Table,
};

/// Records in a directory of this host.
pub struct Sled {
    shared: Arc<Shared>,
    jobs: Option<mpsc::UnboundedSender<Job>>,
    writer: Option<JoinHandle<()>>,
    switchboard: Switchboard,
    quarantined: Option<PathBuf>,
}

impl Sled {
    /// Opens the store in a directory of its own, which is made if it is not there; its parent has to be. Reads
    /// everything, so it takes a second for some hundred thousand records: not to be called on a runtime that has other
    /// work.
    ///
    /// # Errors
    /// [`StoreError::Directory`] when another process uses it or the system does not let us, [`StoreError::Full`] when the disk is full.
    /// What is damaged is no error; see [`Sled::quarantined`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with(path, Upkeep::default())
    }

    /// As [`Sled::open`], with other measures for giving space back.
    ///
    /// # Errors
    /// As [`Sled::open`].
    pub fn open_with(path: impl AsRef<Path>, upkeep: Upkeep) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        let lock = Lock::take(&path)?;
        let opened = directory::open(&path)?;
        let quarantined = opened.quarantined.clone();
        let shared = Arc::new(Shared::new(path, upkeep, opened));
        let (jobs, queue) = mpsc::unbounded_channel();
        let thread = {
            let shared = Arc::clone(&shared);
            move || writer::run(&shared, queue, lock)
        };
        let writer = std::thread::Builder::new()
            .name("session-store".into())
            .spawn(thread)
            .map_err(|error| StoreError::Failed {
                reason: format!("no thread for it: {error}"),
            })?;
        Ok(Sled {
            shared,
            jobs: Some(jobs),
            writer: Some(writer),
            switchboard: Switchboard::default(),
            quarantined,
        })
    }

    /// Where the directory was moved to that could not be opened, if that happened.
    pub fn quarantined(&self) -> Option<&Path> {
        self.quarantined.as_deref()
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// Those of the file system.
    pub async fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.read(|opened| opened.size_on_disk()).await
    }

    /// One change of one record; done when it is on disk.
    async fn change<T: Send + 'static>(
        &self,
        key: &Key,
        change: impl FnOnce(&mut Entry, Millis, u64) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let (tell, told) = oneshot::channel();
        let job = Job {
            key: key.clone(),
            work: Box::new(move |entry, now, fresh| {
                let outcome = change(entry, now, fresh);
                // Who does not wait any more need not be told.
                Box::new(move |fate| drop(tell.send(fate.map(|()| outcome))))
            }),
        };
        let queued = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        let fate = match queued {
            true => told.await.unwrap_or_else(|_| Err(self.shared.trouble())),
            false => Err(Trouble::Stopped),
        };
        fate.map_err(|trouble| self.shared.error(trouble))
    }

    /// A look into the store, on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Opened) -> Result<T, ::sled::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let looked = tokio::task::spawn_blocking(move || {
            let opened = shared.opened.read().unwrap_or_else(PoisonError::into_inner);
            match &*opened {
                Some(opened) => look(opened).map_err(Trouble::from),
                None => Err(shared.trouble()),
            }
        });
        let looked = looked.await.unwrap_or_else(|panic| {
            Err(Trouble::Failed {
                reason: panic.to_string(),
            })
        });
        looked.map_err(|trouble| self.shared.error(trouble))
    }
}

impl Drop for Sled {
    /// Waits for the writer, so that the directory can be opened again at once.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// Milliseconds since 1970.
fn now() -> Millis {
    SystemTime::UNIX_EPOCH.elapsed().map(millis).unwrap_or_default()
}

#[async_trait]
impl Store for Sled {
    fn backend(&self) -> &'static str {
        "sled"
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        self.read(|opened| Ok(opened.epoch)).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let key = key.clone();
        self.read(move |opened| {
            let entry = opened.get(&key)?;
            Ok(entry.and_then(|entry| entry.show(&key, now())))
        })
        .await
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
        lease: Lease,
    ) -> Result<Swap, StoreError> {
        check_value(&value)?;
        let named = key.clone();
        self.change(key, move |entry, now, fresh| {
            entry.swap(&named, expected, value, lease, now, fresh)
        })
        .await
    }

    async fn renew(&self, key: &Key, revision: Revision, lease: Lease) -> Result<bool, StoreError> {
        self.change(key, move |entry, now, _| entry.renew(revision, lease, now))
            .await
    }

    async fn remove(&self, key: &Key, revision: Option<Revision>) -> Result<bool, StoreError> {
        self.change(key, move |entry, now, _| entry.remove(revision, now))
            .await
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
        let (named, agent) = (key.clone(), Bytes::copy_from_slice(agent));
        self.change(key, move |entry, now, fresh| {
            let filing = Filing {
                agent: &agent,
                counter,
                body,
            };
            entry.report(&named, filing, lease, now, fresh)
        })
        .await
    }

    async fn withdraw(&self, key: &Key, agent: &[u8], counter: u64) -> Result<Option<Record>, StoreError> {
        let (named, agent) = (key.clone(), agent.to_vec());
        self.change(key, move |entry, now, fresh| {
            entry.withdraw(&agent, counter, now, fresh);
            entry.show(&named, now)
        })
        .await
    }

    async fn list(&self, table: Table, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        self.read(move |opened| opened.list(table, after, limit.max(1), now()))
            .await
    }

    async fn count(&self, table: Table) -> Result<u64, StoreError> {
        self.read(move |opened| opened.count(table, now())).await
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
