//! The pairs of an agent, in memory and in its state directory.
//!
//! [`PairStore::open`] reads the file `pairs`, or begins without; exchanges are added; [`PairStore::save`] replaces the
//! file in one step. A damaged file is set aside and reported, never an end: lost pairs cost one exchange each.
//! Keys are wiped from memory when dropped and appear in no log; the file is for its owner alone.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::agent_id::AgentId;
use crate::epochs::{Epochs, Inserted};
use crate::files;
use crate::pair::{Known, Pair, Remembered};
use crate::store_codec;

/// How many pairs are kept; the one whose last exchange is the oldest goes first.
pub const MAX_PAIRS: usize = 16_384;

const FILE: &str = "pairs";
/// Beyond this a file is no store of [`MAX_PAIRS`] pairs.
const MAX_FILE: u64 = 1 << 30;

/// Why the store cannot be opened or saved.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum StoreError {
    #[error("cannot read {path}: {error}; check the owner and mode of the state directory")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} can be read by others than its owner and holds keys: run chmod 600 {path}")]
    Exposed { path: PathBuf },
    #[error("cannot write {path}: {error}; check the owner, mode and free space of the state directory")]
    Write { path: PathBuf, error: io::Error },
}

/// A damaged file that was set aside when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong with it.
    pub detail: String,
}

impl fmt::Display for Quarantined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the stored pairs were damaged ({}) and set aside as {}: pairs are agreed anew; delete the file when \
             nobody needs it",
            self.detail,
            self.path.display()
        )
    }
}

/// All pairs of this agent.
#[derive(Debug)]
pub struct PairStore {
    path: PathBuf,
    pairs: HashMap<AgentId, Epochs>,
}

impl PairStore {
    /// Opens the store in a state directory (created with mode 0700 if missing).
    ///
    /// # Errors
    /// The directory or file cannot be read or made, or the file is readable by others. Damage is no error: see
    /// [`Quarantined`].
    pub fn open(dir: &Path) -> Result<(Self, Option<Quarantined>), StoreError> {
        let path = dir.join(FILE);
        files::make_dir(dir, 0o700).map_err(|error| StoreError::Write {
            path: dir.to_owned(),
            error,
        })?;
        let content = match read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok((
                    Self {
                        path,
                        pairs: HashMap::new(),
                    },
                    None,
                ));
            }
            Err(error) => return Err(StoreError::Read { path, error }),
        };
        match files::is_exposed(&path) {
            Ok(false) => {}
            Ok(true) => return Err(StoreError::Exposed { path }),
            Err(error) => return Err(StoreError::Read { path, error }),
        }
        match store_codec::decode(&content) {
            Ok(pairs) => {
                let mut store = Self {
                    path,
                    pairs: HashMap::new(),
                };
                for pair in pairs {
                    store.insert(pair);
                }
                Ok((store, None))
            }
            Err(detail) => {
                let aside = set_aside(&path).map_err(|error| StoreError::Write {
                    path: path.clone(),
                    error,
                })?;
                let quarantined = Quarantined {
                    path: aside,
                    detail: detail.to_string(),
                };
                Ok((
                    Self {
                        path,
                        pairs: HashMap::new(),
                    },
                    Some(quarantined),
                ))
            }
        }
    }

    /// Adds a confirmed exchange. In memory only until [`PairStore::save`].
    pub fn insert(&mut self, pair: Pair) -> Inserted {
        let inserted = match self.pairs.get_mut(&pair.peer) {
            Some(epochs) => return epochs.insert(pair),
            None => Inserted {
                current: true,
                dropped: None,
            },
        };
        if self.pairs.len() >= MAX_PAIRS {
            let oldest = self
                .pairs
                .iter()
                .min_by_key(|(_, epochs)| epochs.current().established_at)
                .map(|(id, _)| id.clone());
            oldest.and_then(|oldest| self.pairs.remove(&oldest));
        }
        self.pairs.insert(pair.peer.clone(), Epochs::new(pair));
        inserted
    }

    /// All exchanges with a peer.
    pub fn get(&self, peer: &AgentId) -> Option<&Epochs> {
        self.pairs.get(peer)
    }

    /// As [`PairStore::get`], for forgetting epochs.
    pub fn get_mut(&mut self, peer: &AgentId) -> Option<&mut Epochs> {
        self.pairs.get_mut(peer)
    }

    /// The pair that a server calls so.
    pub fn by_pair_id(&self, pair_id: &Uuid) -> Option<&Epochs> {
        self.pairs
            .values()
            .find(|epochs| epochs.pairs().any(|pair| pair.pair_id == *pair_id))
    }

    /// Every pair, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Epochs> {
        self.pairs.values()
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Forgets a peer, keys and all; whether there was one.
    pub fn forget(&mut self, peer: &AgentId) -> bool {
        self.pairs.remove(peer).is_some()
    }

    /// What the next exchange has to know; goes into [`crate::Local::known`].
    pub fn known(&self) -> Known {
        self.pairs
            .iter()
            .map(|(peer, epochs)| (peer.clone(), remembered(epochs)))
            .collect()
    }

    /// Writes the store: a new file, made durable, takes the place of the old one.
    ///
    /// # Errors
    /// The state directory cannot be written; the old file is still there then.
    pub fn save(&self) -> Result<(), StoreError> {
        let content = store_codec::encode(self.pairs.values().flat_map(Epochs::pairs));
        files::replace(&self.path, files::PRIVATE, &content).map_err(|error| StoreError::Write {
            path: self.path.clone(),
            error,
        })
    }
}

fn remembered(epochs: &Epochs) -> Remembered {
    let current = epochs.current();
    Remembered {
        highest_epoch: current.epoch,
        pair_id: current.pair_id,
    }
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // Reserved once, so that growing leaves no copies of keys behind.
    let capacity = length.min(MAX_FILE).saturating_add(1);
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(capacity).unwrap_or(0)));
    Read::by_ref(&mut file).take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// Renames a damaged file to a name that is free.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let free = (0..)
        .map(|n| path.with_file_name(format!("{FILE}.damaged-{now}-{n}")))
        .find(|path| !path.exists());
    let aside = free.ok_or(io::ErrorKind::AlreadyExists)?;
    fs::rename(path, &aside)?;
    Ok(aside)
}
