//! All exchanges of one pair that are still of use.
//!
//! A new exchange becomes current for new connections; a connection that began under an older one remembers that
//! epoch's number and finds its key here. Two exchanges that crossed share a number: the one that counts comes
//! first, the other stays behind it for connections that began in between.

use std::cmp::Reverse;

use wire::keys::PairKey;

use crate::pair::{Pair, rank};

/// How many exchanges are kept for one pair; the lowest epochs go first.
pub const MAX_EPOCHS: usize = 16;

/// What became of an exchange that was added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inserted {
    /// It counts now; otherwise a greater one was there.
    pub current: bool,
    /// The epoch that had to go because there were too many.
    pub dropped: Option<u32>,
}

/// The confirmed exchanges of one pair; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epochs {
    current: Pair,
    /// Descending, all behind `current`.
    older: Vec<Pair>,
}

impl Epochs {
    /// The first exchange.
    pub fn new(pair: Pair) -> Self {
        Self {
            current: pair,
            older: Vec::new(),
        }
    }

    /// Adds a confirmed exchange with the same peer; adding one twice changes nothing.
    pub fn insert(&mut self, pair: Pair) -> Inserted {
        let added = pair.exchange_id;
        let mut all: Vec<_> = self.older.drain(..).chain([self.current.clone(), pair]).collect();
        all.sort_by_key(|pair| Reverse(rank(pair)));
        all.dedup_by(|a, b| a.exchange_id == b.exchange_id);
        let dropped = all
            .drain(MAX_EPOCHS.min(all.len())..)
            .next()
            .map(|pair| pair.epoch);
        let mut all = all.into_iter();
        if let Some(greatest) = all.next() {
            self.current = greatest;
        }
        self.older = all.collect();
        Inserted {
            current: self.current.exchange_id == added,
            dropped,
        }
    }

    /// The exchange that counts: its key is for new connections, its facts are the latest.
    pub fn current(&self) -> &Pair {
        &self.current
    }

    /// The key of an epoch.
    pub fn key(&self, epoch: u32) -> Option<&PairKey> {
        self.keys(epoch).next()
    }

    /// The keys of an epoch, the one that counts first; more than one only after exchanges that crossed.
    pub fn keys(&self, epoch: u32) -> impl Iterator<Item = &PairKey> {
        self.pairs()
            .filter(move |pair| pair.epoch == epoch)
            .map(|pair| &pair.key)
    }

    /// All exchanges, the one that counts first.
    pub fn pairs(&self) -> impl Iterator<Item = &Pair> {
        std::iter::once(&self.current).chain(&self.older)
    }

    /// Forgets older epochs that no connection remembers.
    pub fn retain(&mut self, in_use: impl Fn(u32) -> bool) {
        self.older.retain(|pair| in_use(pair.epoch));
    }
}
