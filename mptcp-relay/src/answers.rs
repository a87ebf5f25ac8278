//! What terminals have answered when they were asked for MPTCP, for as long as it is believed.
//!
//! It is a listener that speaks MPTCP or not, not a host: answers are kept by address and port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

/// More are not remembered.
const MOST: usize = 65_536;

/// How a terminal has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Said {
    /// It agreed.
    Multipath,
    /// It answered as plain TCP does.
    Plain,
    /// It said nothing in time: something on the way may not let such a SYN pass.
    Nothing,
}

/// The answers. `now` is monotonic time since the process started.
#[derive(Debug, Default)]
pub struct Answers {
    known: HashMap<SocketAddr, (Said, Duration)>,
}

impl Answers {
    /// A terminal has answered; that is believed until then.
    pub fn learn(&mut self, terminal: SocketAddr, said: Said, until: Duration) {
        if self.known.len() < MOST || self.known.contains_key(&terminal) {
            self.known.insert(terminal, (said, until));
        }
    }

    /// What is believed.
    pub fn get(&self, terminal: SocketAddr, now: Duration) -> Option<Said> {
        let (said, until) = self.known.get(&terminal)?;
        (now < *until).then_some(*said)
    }

    /// Forgets what is too old.
    pub fn forget(&mut self, now: Duration) {
        self.known.retain(|_, (_, until)| now < *until);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}
