//! Records as this instance wrote them last, so that the next event need not read and decode them again.
//!
//! Nothing rests on it: a write counts only over the very revision that it was made from, and whoever has an outdated
//! record here loses to the store and goes on with what the store says. Where other instances write too nothing is
//! kept, because an event that changes nothing would be judged by an outdated record.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use migration::server::{PairKey, PairRecord};
use session_store::Revision;

/// Records of one generation; there are two.
const MOST: usize = 2048;
/// Connections of a record that is kept: larger ones are rare, and their bytes many.
const LARGEST: usize = 64;

/// The records.
#[derive(Default)]
pub(super) struct Known {
    generations: Mutex<[HashMap<PairKey, (Revision, PairRecord)>; 2]>,
}

impl Known {
    /// What was written last under this key; it is not known any more.
    pub(super) fn take(&self, key: &PairKey) -> Option<(Revision, PairRecord)> {
        let mut generations = self.generations();
        let [young, old] = &mut *generations;
        young.remove(key).or_else(|| old.remove(key))
    }

    /// This was written, or read and found as it should be.
    pub(super) fn put(&self, revision: Revision, record: PairRecord) {
        let held = record.ends.iter().filter_map(|end| end.held.as_ref());
        let connections: usize = held.map(|held| held.report.connections.len()).sum();
        if connections > LARGEST {
            return;
        }
        let mut generations = self.generations();
        let [young, old] = &mut *generations;
        if young.len() >= MOST {
            *old = std::mem::take(young);
        }
        young.insert(record.key.clone(), (revision, record));
    }

    fn generations(&self) -> MutexGuard<'_, [HashMap<PairKey, (Revision, PairRecord)>; 2]> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
