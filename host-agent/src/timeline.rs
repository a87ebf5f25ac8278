//! What happened, in order: for `host-agent events`, the log and the metrics.

use std::collections::{BTreeMap, VecDeque};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

/// How many entries `events` can look back.
const KEPT: usize = 2048;

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// Seconds since 1970, by the host's clock.
    pub time: f64,
    /// The connection, as its socket knows it; empty for what concerns the host or a peer.
    pub connection: String,
    /// Short name: `state`, `resumed`, `refused`, `address_lost`, `pair` and so on.
    pub what: String,
    /// For people.
    pub detail: String,
}

/// Keeps the last entries, counts all, and tells who follows.
pub struct Timeline {
    kept: VecDeque<Entry>,
    counts: BTreeMap<String, u64>,
    followers: broadcast::Sender<Entry>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            kept: VecDeque::new(),
            counts: BTreeMap::new(),
            followers: broadcast::Sender::new(1024),
        }
    }
}

impl Timeline {
    /// Notes an entry.
    pub fn note(&mut self, connection: impl ToString, what: &str, detail: impl Into<String>) {
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |time| time.as_secs_f64());
        let entry = Entry {
            time,
            connection: connection.to_string(),
            what: what.to_string(),
            detail: detail.into(),
        };
        self.count(what);
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(entry.clone());
        let _ = self.followers.send(entry);
    }

    /// Counts without an entry.
    pub fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(what.to_string(), 1);
            }
        }
    }

    /// How often each thing happened.
    pub fn counts(&self) -> &BTreeMap<String, u64> {
        &self.counts
    }

    /// The last entries, oldest first.
    pub fn recent(&self) -> Vec<Entry> {
        self.kept.iter().cloned().collect()
    }

    /// Everything from now on.
    pub fn follow(&self) -> broadcast::Receiver<Entry> {
        self.followers.subscribe()
    }
}
