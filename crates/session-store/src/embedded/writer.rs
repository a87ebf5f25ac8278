//! The one thread that changes the store: many changes, one flush, then the answers.
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::directory::{self, Lock, Opened};
use super::{codec, now};
use crate::entry::{Entry, Millis};
use crate::{Key, StoreError};

/// Changes that share a flush. More would make the first ones wait for no gain.
const BATCH: usize = 1024;
/// Records that each change looks at besides its own, whether their lease has ended.
const SWEPT: usize = 2;
/// Between two attempts to open a store that could not be opened.
const PAUSE: Duration = Duration::from_millis(200);
/// What a refusal for want of space says.
const NO_ROOM: &str = "the rest of the disk is kept free for what is stored already";

/// When a store that has grown is exchanged for a copy of what lives in it.
#[derive(Clone, Copy, Debug)]
pub struct Upkeep {
    /// How many flushes pass between two looks at the size of the store.
    pub flushes: u32,
    /// Below this size nothing is worth giving back, in bytes.
    pub small: u64,
    /// How many times as large as what lives in it the store may be.
    pub swollen: u64,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            flushes: 2048,
            small: 64 * 1024 * 1024,
            swollen: 6,
        }
    }
}

/// A change, and what tells its caller once it is known to be on disk or not.
pub(crate) struct Job {
    pub key: Key,
    pub work: Work,
}

pub(crate) type Work = Box<dyn FnOnce(&mut Entry, Millis, u64) -> Answer + Send>;
pub(crate) type Answer = Box<dyn FnOnce(Result<(), Trouble>) + Send>;

/// Why the store does not work at the moment.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    Full { reason: String },
    Directory { reason: String },
    Failed { reason: String },
    Stopped,
}

impl From<::sled::Error> for Trouble {
    fn from(error: ::sled::Error) -> Self {
        match &error {
            ::sled::Error::Io(io) => Trouble::from(directory::system(Path::new(""), io)),
            _ => Trouble::Failed {
                reason: error.to_string(),
            },
        }
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full { reason, .. } => Trouble::Full { reason },
            StoreError::Directory { reason, .. } => Trouble::Directory { reason },
            other => Trouble::Failed {
                reason: other.to_string(),
            },
        }
    }
}

/// What the writer shares with those who read.
pub(crate) struct Shared {
    path: PathBuf,
    upkeep: Upkeep,
    /// None: it failed, and the next change tries to open it.
    pub opened: RwLock<Option<Opened>>,
    trouble: Mutex<Trouble>,
    /// sled failed, which it does for good.
    broken: AtomicBool,
}

impl Shared {
    pub(crate) fn new(path: PathBuf, upkeep: Upkeep, opened: Opened) -> Self {
        Shared {
            path,
            upkeep,
            opened: RwLock::new(Some(opened)),
            trouble: Mutex::new(Trouble::Stopped),
            broken: AtomicBool::new(false),
        }
    }

    /// What was wrong last.
    pub(crate) fn trouble(&self) -> Trouble {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn note(&self, trouble: Trouble) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// As a caller sees it.
    pub(crate) fn error(&self, trouble: Trouble) -> StoreError {
        let path = self.path.clone();
        match trouble {
            Trouble::Full { reason } => StoreError::Full { path, reason },
            Trouble::Directory { reason } => StoreError::Directory { path, reason },
            Trouble::Failed { reason } => StoreError::Failed { reason },
            Trouble::Stopped => StoreError::Failed {
                reason: "it is closed".into(),
            },
        }
    }

    fn write_opened<T>(&self, change: impl FnOnce(&mut Option<Opened>) -> T) -> T {
        change(&mut self.opened.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Serves until nobody can queue anything any more; then the store is closed and the lock given back.
pub(crate) fn run(shared: &Shared, mut queue: mpsc::UnboundedReceiver<Job>, lock: Lock) {
    let mut writer = Writer {
        shared,
        last: 0,
        swept: Vec::new(),
        flushes: 0,
        opened_at: None,
    };
    let mut batch = Vec::new();
    while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
        writer.serve(std::mem::take(&mut batch));
    }
    shared.note(Trouble::Stopped);
    shared.write_opened(|opened| *opened = None);
    drop(lock);
}

struct Writer<'a> {
    shared: &'a Shared,
    /// The last revision that was given.
    last: u64,
    /// The sweep goes on behind this name.
    swept: Vec<u8>,
    flushes: u32,
    /// When it was last tried to open a store that had failed.
    opened_at: Option<Instant>,
}

impl Writer<'_> {
    fn serve(&mut self, batch: Vec<Job>) {
        // Jobs that are not done tell their callers when they are dropped, which is at the end, after the trouble is noted.
        let mut batch = batch.into_iter();
        if let Err(trouble) = self.reopen() {
            self.shared.note(trouble);
            return;
        }
        let mut answers = Vec::with_capacity(batch.len());
        let outcome = catch_unwind(AssertUnwindSafe(|| self.change_all(&mut batch, &mut answers)));
        let outcome = match outcome {
            Ok(Ok(damaged)) => self.begin_epoch_if(damaged),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Trouble::Failed {
                reason: "the database panicked; its message is on standard error".into(),
            }),
        };
        if let Err(trouble) = &outcome {
            tracing::error!(?trouble, "the session store failed; restart the server");
            self.shared.note(trouble.clone());
            self.shared.broken.store(true, Ordering::Release);
            // Closing a store that failed would wait for ever.
            self.shared.write_opened(|opened| std::mem::forget(opened.take()));
        }
        for answer in answers {
            answer(outcome.clone());
        }
        if outcome.is_ok() {
            self.give_space_back();
        }
    }

    /// A store that could not be opened after it was exchanged has to be opened before anything is done.
    fn reopen(&mut self) -> Result<(), Trouble> {
        let shared = self.shared;
        shared.write_opened(|slot| {
            if slot.is_some() {
                return Ok(());
            }
            if shared.broken.load(Ordering::Acquire) {
                return Err(shared.trouble());
            }
            if self.opened_at.is_some_and(|at| at.elapsed() < PAUSE) {
                return Err(shared.trouble());
            }
            self.opened_at = Some(Instant::now());
            *slot = Some(directory::open(&shared.path).map_err(Trouble::from)?);
            tracing::info!("the session store works again");
            Ok(())
        })
    }

    /// True: a damaged record was set aside.
    fn change_all(
        &mut self,
        batch: &mut std::vec::IntoIter<Job>,
        answers: &mut Vec<Answer>,
    ) -> ::sled::Result<bool> {
        let shared = self.shared;
        let opened = shared.opened.read().unwrap_or_else(PoisonError::into_inner);
        // Reopened a moment ago, by this very thread.
        let Some(opened) = opened.as_ref() else {
            return Err(::sled::Error::Unsupported("it is closed".into()));
        };
        self.last = self.last.max(opened.highest);
        let now = now();
        let mut room = directory::room(&shared.path)?;
        let (mut changed, mut damaged) = (false, false);
        while let Some(job) = batch.as_slice().first() {
            let name = codec::encode_key(&job.key);
            let (before, aside) = opened.get_or_set_aside(&name)?;
            damaged |= aside;
            let Some(Job { work, .. }) = batch.next() else {
                break;
            };
            let mut entry = before.clone().unwrap_or_default();
            let answer = work(&mut entry, now, self.fresh());
            if entry.is_empty() {
                if before.is_some() {
                    opened.records.remove(&name)?;
                    changed = true;
                }
            } else if before.as_ref() != Some(&entry) {
                let bytes = codec::encode(&name, &entry);
                let Some(left) = room.checked_sub((name.len() + bytes.len()) as u64) else {
                    let reason = NO_ROOM.to_owned();
                    answer(Err(Trouble::Full { reason }));
                    continue;
                };
                room = left;
                opened.records.insert(&name, bytes)?;
                changed = true;
            }
            answers.push(answer);
            changed |= self.sweep(opened, now)?;
        }
        if changed || damaged {
            opened.flush()?;
            self.flushes += 1;
        }
        Ok(damaged)
    }

    fn begin_epoch_if(&self, damaged: bool) -> Result<(), Trouble> {
        if !damaged {
            return Ok(());
        }
        self.shared.write_opened(|slot| match slot {
            Some(opened) => {
                opened.begin_epoch()?;
                Ok(opened.flush()?)
            }
            None => Err(self.shared.trouble()),
        })
    }

    /// Higher than every revision before, and than every one that this store gave before it was opened: those that
    /// are no longer in it included, unless the clock was set back.
    fn fresh(&mut self) -> u64 {
        let micros = SystemTime::UNIX_EPOCH
            .elapsed()
            .map(|elapsed| u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX - 1))
            .unwrap_or_default();
        self.last = micros.max(self.last + 1);
        self.last
    }

    /// Looks at the next records after those it looked at last.
    fn sweep(&mut self, opened: &Opened, now: Millis) -> ::sled::Result<bool> {
        let mut changed = false;
        for _ in 0..SWEPT {
            let from = (Bound::Excluded(std::mem::take(&mut self.swept)), Bound::Unbounded);
            let Some(item) = opened.records.range::<Vec<u8>, _>(from).next() else {
                break;
            };
            let (name, bytes) = item?;
            if let Ok(mut entry) = codec::decode(&name, &bytes) {
                entry.prune(now);
                if entry.is_empty() {
                    opened.records.remove(&name)?;
                    changed = true;
                }
            }
            self.swept = name.to_vec();
        }
        Ok(changed)
    }

    /// Exchanges a swollen store for a copy of what lives in it.
    fn give_space_back(&mut self) {
        let Upkeep {
            flushes,
            small,
            swollen,
        } = self.shared.upkeep;
        if self.flushes < flushes {
            return;
        }
        self.flushes = 0;
        let shared = self.shared;
        let done = shared.write_opened(|slot| -> Result<bool, Trouble> {
            let Some(opened) = slot.as_ref() else {
                return Ok(false);
            };
            let live = opened.live_bytes()?;
            if opened.size_on_disk()? < small.max(live.saturating_mul(swollen)) {
                return Ok(false);
            }
            let room =
                directory::room(&shared.path).map_err(|error| directory::system(&shared.path, &error))?;
            if room < live {
                return Err(Trouble::Full {
                    reason: NO_ROOM.to_owned(),
                });
            }
            if let Some(opened) = slot.take() {
                opened.copy_beside(&shared.path)?;
                directory::exchange(&shared.path).map_err(|error| directory::system(&shared.path, &error))?;
            }
            *slot = Some(directory::open(&shared.path)?);
            Ok(true)
        });
        match done {
            Ok(false) => {}
            Ok(true) => tracing::info!("the session store was copied into a smaller directory"),
            // The next change opens whatever is there: the original, or the whole copy.
            Err(trouble) => tracing::warn!(?trouble, "the session store could not be made smaller"),
        }
    }
}
