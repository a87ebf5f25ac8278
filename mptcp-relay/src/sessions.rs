//! The connections that are relayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use mptcp_pm::Token;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::admission::Way;
use crate::syn::Ends;
use crate::transfer::Carried;

/// One of them.
#[derive(Debug)]
pub struct Session {
    /// Who has opened it.
    pub way: Way,
    /// Its ends.
    pub ends: Ends,
    /// What the kernel calls it; None: the terminal has fallen back to plain TCP.
    pub token: Option<Token>,
    /// When it was established.
    pub since: Instant,
    /// What it has carried.
    pub carried: Arc<Carried>,
    /// Whether its terminal has an agent, and no MPTCP.
    pub anchored: bool,
    /// Ends it by resets.
    pub stop: CancellationToken,
    /// Ends the listener that it alone needs.
    pub _joins: Option<DropGuard>,
}

/// All of them. A number names one for life, even if its ends are used again at once.
#[derive(Debug, Default)]
pub struct Sessions {
    next: u64,
    all: HashMap<u64, Session>,
}

impl Sessions {
    /// One more.
    pub fn add(&mut self, session: Session) -> u64 {
        self.next += 1;
        self.all.insert(self.next, session);
        self.next
    }

    /// It has ended.
    pub fn remove(&mut self, number: u64) -> Option<Session> {
        self.all.remove(&number)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_by_key(|(number, _)| **number);
        all.into_iter().map(|(_, session)| session)
    }

    /// The one with this token, or of the terminal with this address and port.
    pub fn find(&self, word: &str) -> Option<&Session> {
        let token = u32::from_str_radix(word, 16).ok().map(Token);
        self.iter().find(|session| {
            (token.is_some() && session.token == token) || session.ends.terminal.to_string() == word
        })
    }

    /// Bytes that those which exist have carried, up and down.
    pub fn carried(&self) -> (u64, u64) {
        self.all.values().fold((0, 0), |(up, down), session| {
            let carried = &session.carried;
            (
                up + carried.up.load(Ordering::Relaxed),
                down + carried.down.load(Ordering::Relaxed),
            )
        })
    }
}
