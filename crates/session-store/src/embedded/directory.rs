//! The directory: its lock, opening what is in it or setting it aside, and exchanging it for a smaller copy.
//!
//! Beside the store's directory `D` lie `D.lock` (held while a process uses it), for a moment `D.compact` and `D.old`, and whatever was set
//! aside as `D.quarantined-<milliseconds since 1970>`.
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::sled::{Db, Tree};
use bytes::Bytes;

use super::codec::{self, Damage};
use super::now;
use crate::entry::{Entry, Millis};
use crate::{Cursor, Epoch, Key, Page, StoreError, Table};

/// Memory for pages of the store. sled's own default is 1 GiB.
const CACHE: u64 = 64 * 1024 * 1024;
/// Bytes of the disk that are left alone. sled never recovers from a write that fails for want of space: even closing it
/// then waits for ever. So nothing is begun that might not fit.
const RESERVE: u64 = 16 * 1024 * 1024;
/// Bytes that sled writes at worst for a byte of a record, since it rewrites neighbours too.
const AMPLIFICATION: u64 = 4;
/// How long sled's threads may take to end.
const UNLOCKED: Duration = Duration::from_secs(5);
/// Tree of the records, and of those that are not believed.
const RECORDS: &str = "records";
const SET_ASIDE: &str = "set-aside";
/// Where the epoch is, in sled's default tree.
const EPOCH: &str = "epoch";

/// An open store. sled's own threads end with it.
pub(crate) struct Opened {
    db: Db,
    pub records: Tree,
    pub epoch: Epoch,
    /// The highest revision in it.
    pub highest: u64,
    /// Set when what was there before could not be opened.
    pub quarantined: Option<PathBuf>,
}

/// Keeps other processes out of the directory as long as it lives.
pub(crate) struct Lock(#[allow(dead_code, reason = "held, not used")] File);

impl Lock {
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let failed = |reason: String| StoreError::Directory {
            path: path.into(),
            reason,
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(beside(path, "lock"))
            .map_err(|error| failed(error.to_string()))?;
        match file.try_lock() {
            Ok(()) => Ok(Lock(file)),
            Err(TryLockError::WouldBlock) => Err(failed("another process uses it".into())),
            Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
        }
    }
}

/// How many bytes of records may be written now.
///
/// # Errors
/// Those of the file system.
pub(crate) fn room(path: &Path) -> io::Result<u64> {
    let disk = nix::sys::statvfs::statvfs(path)?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    Ok(free.saturating_sub(RESERVE) / AMPLIFICATION)
}

/// `D` with something behind its name.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

/// Opens the store; what is there and cannot be opened is moved aside.
pub(crate) fn open(path: &Path) -> Result<Opened, StoreError> {
    finish_exchange(path).map_err(|error| system(path, &error))?;
    let reason = match attempt_until_unlocked(path) {
        Ok(opened) => return Ok(opened),
        Err(::sled::Error::Io(error)) if !shows_damage(&error) => return Err(system(path, &error)),
        Err(error) => error.to_string(),
    };
    let aside = beside(path, &format!("quarantined-{}", now()));
    fs::rename(path, &aside).map_err(|error| system(path, &error))?;
    tracing::error!(
        store = %path.display(),
        set_aside = %aside.display(),
        reason,
        "the session store is damaged; it was set aside, and an empty one begins: agents report again by themselves"
    );
    match attempt(path) {
        Ok(opened) => Ok(Opened {
            quarantined: Some(aside),
            ..opened
        }),
        Err(::sled::Error::Io(error)) => Err(system(path, &error)),
        Err(error) => Err(StoreError::Directory {
            path: path.into(),
            reason: error.to_string(),
        }),
    }
}

/// What the system says about files, as opposed to what sled says about their content.
pub(crate) fn system(path: &Path, error: &io::Error) -> StoreError {
    let (path, reason) = (path.to_path_buf(), error.to_string());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { path, reason },
        _ => StoreError::Directory { path, reason },
    }
}

/// sled wraps some of what it finds in the files as errors of IO.
fn shows_damage(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput
    )
}

/// sled has a lock of its own. Nobody else opens what our lock keeps, but sled's threads hold theirs for a moment after
/// it was closed.
fn attempt_until_unlocked(path: &Path) -> ::sled::Result<Opened> {
    let started = Instant::now();
    loop {
        match attempt(path) {
            Err(::sled::Error::Io(error))
                if error.to_string().contains("acquire lock") && started.elapsed() < UNLOCKED =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// sled panics at some kinds of damage.
fn attempt(path: &Path) -> ::sled::Result<Opened> {
    catch_unwind(AssertUnwindSafe(|| Opened::at(path))).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(::sled::Error::ReportableBug(
            said.unwrap_or("it panicked").to_owned(),
        ))
    })
}

impl Opened {
    fn at(path: &Path) -> ::sled::Result<Self> {
        let db = ::sled::Config::new()
            .path(path)
            .cache_capacity(CACHE)
            // The writer flushes before it acknowledges; nothing else needs to be flushed.
            .flush_every_ms(None)
            .open()?;
        let records = db.open_tree(RECORDS)?;
        let mut opened = Opened {
            db,
            records,
            epoch: Epoch([0; 16]),
            highest: 0,
            quarantined: None,
        };
        let damaged = opened.read_all()?;
        let stored = opened.db.get(EPOCH)?;
        match stored.and_then(|bytes| <[u8; 16]>::try_from(&*bytes).ok()) {
            Some(epoch) if !damaged => opened.epoch = Epoch(epoch),
            _ => opened.begin_epoch()?,
        }
        opened.db.flush()?;
        Ok(opened)
    }

    /// Looks at every record; sets aside what cannot be believed, and drops what has ended. True: something was
    /// set aside.
    fn read_all(&mut self) -> ::sled::Result<bool> {
        let now = now();
        let mut damaged = false;
        for item in self.records.iter() {
            let (name, bytes) = item?;
            let entry = codec::decode_key(&name).and_then(|_| codec::decode(&name, &bytes));
            match entry {
                Ok(mut entry) => {
                    self.highest = self.highest.max(entry.revision);
                    entry.prune(now);
                    if entry.is_empty() {
                        self.records.remove(&name)?;
                    }
                }
                Err(damage) => {
                    self.set_aside(&name, &bytes, &damage)?;
                    damaged = true;
                }
            }
        }
        Ok(damaged)
    }

    /// Moves a record out of the way, where a person may look at it.
    fn set_aside(&self, name: &[u8], bytes: &[u8], damage: &Damage) -> ::sled::Result<()> {
        tracing::error!(
            record = %String::from_utf8_lossy(name).escape_debug(),
            %damage,
            "a record of the session store is damaged; it was set aside, and a new epoch begins"
        );
        self.db.open_tree(SET_ASIDE)?.insert(name, bytes)?;
        self.records.remove(name)?;
        Ok(())
    }

    /// From now on whoever stored something stores it again.
    pub(crate) fn begin_epoch(&mut self) -> ::sled::Result<()> {
        self.epoch = Epoch::fresh();
        self.db.insert(EPOCH, &self.epoch.0[..])?;
        Ok(())
    }

    /// A record; one that is damaged counts as absent until the writer or the next start sets it aside.
    pub(crate) fn get(&self, key: &Key) -> ::sled::Result<Option<Entry>> {
        let name = codec::encode_key(key);
        let bytes = self.records.get(&name)?;
        Ok(bytes.and_then(|bytes| codec::decode(&name, &bytes).ok()))
    }

    /// A record that is about to be changed, and whether what was there had to be set aside.
    pub(crate) fn get_or_set_aside(&self, name: &[u8]) -> ::sled::Result<(Option<Entry>, bool)> {
        let Some(bytes) = self.records.get(name)? else {
            return Ok((None, false));
        };
        match codec::decode(name, &bytes) {
            Ok(entry) => Ok((Some(entry), false)),
            Err(damage) => {
                self.set_aside(name, &bytes, &damage)?;
                Ok((None, true))
            }
        }
    }

    pub(crate) fn list(
        &self,
        table: Table,
        after: Option<Cursor>,
        limit: usize,
        now: Millis,
    ) -> ::sled::Result<Page> {
        let first = match after {
            Some(Cursor(name)) => Bound::Excluded(codec::name_in(table, &name)),
            None => Bound::Included(codec::name_in(table, &[])),
        };
        let mut page = Page::default();
        let mut last: Option<Bytes> = None;
        for item in self.records.range::<Vec<u8>, _>((first, Bound::Unbounded)) {
            let (name, bytes) = item?;
            let Ok(key) = codec::decode_key(&name) else {
                continue;
            };
            if key.table() != table {
                break;
            }
            if page.records.len() == limit {
                page.next = last.map(Cursor);
                break;
            }
            let entry = codec::decode(&name, &bytes).ok();
            if let Some(record) = entry.and_then(|entry| entry.show(&key, now)) {
                last = Some(key.name().clone());
                page.records.push(record);
            }
        }
        Ok(page)
    }

    pub(crate) fn count(&self, table: Table, now: Millis) -> ::sled::Result<u64> {
        let mut count = 0;
        for item in self.records.scan_prefix(codec::name_in(table, &[])) {
            let (name, bytes) = item?;
            let entry = codec::decode(&name, &bytes);
            count += u64::from(entry.is_ok_and(|entry| entry.shows(now)));
        }
        Ok(count)
    }

    pub(crate) fn flush(&self) -> ::sled::Result<()> {
        self.db.flush().map(drop)
    }

    pub(crate) fn size_on_disk(&self) -> ::sled::Result<u64> {
        self.db.size_on_disk()
    }

    /// Bytes of names and records that live.
    pub(crate) fn live_bytes(&self) -> ::sled::Result<u64> {
        let mut sum = 0;
        for item in self.records.iter() {
            let (name, bytes) = item?;
            sum += (name.len() + bytes.len()) as u64;
        }
        Ok(sum)
    }

    /// Writes everything that lives into a new directory beside `path`, and closes both.
    pub(crate) fn copy_beside(self, path: &Path) -> ::sled::Result<()> {
        let target = beside(path, "compact");
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        let copy = ::sled::Config::new()
            .path(&target)
            .cache_capacity(CACHE)
            .flush_every_ms(None)
            .open()?;
        for tree in [RECORDS, SET_ASIDE] {
            let (from, to) = (self.db.open_tree(tree)?, copy.open_tree(tree)?);
            for item in from.iter() {
                let (name, bytes) = item?;
                to.insert(name, bytes)?;
            }
        }
        // Last: a copy without an epoch is not whole.
        copy.insert(EPOCH, &self.epoch.0[..])?;
        copy.flush()?;
        Ok(())
    }
}

/// Puts the copy in the place of the original.
pub(crate) fn exchange(path: &Path) -> io::Result<()> {
    fs::rename(path, beside(path, "old"))?;
    fs::rename(beside(path, "compact"), path)?;
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    fs::remove_dir_all(beside(path, "old"))
}

/// What an exchange that was interrupted left behind. Until the copy has taken its place, the original counts.
fn finish_exchange(path: &Path) -> io::Result<()> {
    let (old, compact) = (beside(path, "old"), beside(path, "compact"));
    if old.exists() && !path.exists() {
        fs::rename(&old, path)?;
    }
    for left in [old, compact] {
        if left.exists() {
            fs::remove_dir_all(left)?;
        }
    }
    Ok(())
}
