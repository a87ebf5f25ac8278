//! A host that goes to sleep says so: both ends wait longer than usual for its connections, and equally long.
//!
//! What is said over the line between the agents is authenticated like everything there. It holds until the pair is
//! heard of again: a line that opens, or a word on the one that has outlived a short nap. The clock of the waiting
//! counts suspended time.

use std::collections::BTreeMap;
use std::time::Duration;

use datapath::Datapath;
use identity::Message;
use migration::Timestamp;
use uuid::Uuid;
use wire::tuple::Tuple;

use super::*;

/// Words that come so soon after the goodnight are no awakening: suspending takes a while.
const DROWSY: Duration = Duration::from_secs(30);

/// How long sleepers are waited for, and for how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bedtime {
    /// No longer than this, whatever they ask.
    pub longest: Duration,
    /// Connections with one peer; the others wait as usual.
    pub of_a_peer: usize,
    /// Connections in all.
    pub in_all: usize,
}

impl Default for Bedtime {
    fn default() -> Self {
        Self {
            longest: Duration::from_secs(24 * 60 * 60),
            of_a_peer: 1024,
            in_all: 16_384,
        }
    }
}

/// Who sleeps, or whom this host has told that it will.
#[derive(Debug, Default)]
pub struct Sleeping {
    /// How long they may sleep.
    pub bedtime: Bedtime,
    pairs: BTreeMap<Uuid, Sleep>,
}

#[derive(Debug)]
struct Sleep {
    since: Timestamp,
    connections: Vec<Tuple>,
}

impl Sleeping {
    /// How many pairs are waited for longer than usual.
    pub fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Whether this pair is waited for longer than usual.
    pub fn waits_for(&self, pair_id: &Uuid) -> bool {
        self.pairs.contains_key(pair_id)
    }
}

impl<D: Datapath> Agent<D> {
    /// This host goes to sleep: every peer that can be told is told. Gives how many those are, and how many pairs with
    /// connections there are.
    pub fn going_to_sleep(&mut self, longest: Duration, now: Timestamp) -> (usize, usize) {
        let longest = longest.min(self.sleeping.bedtime.longest);
        let live = self.sessions.values().filter(|managed| managed.is_live());
        let pairs: BTreeSet<Uuid> = live.map(|managed| managed.keys().pair_id).collect();
        let mut told = 0;
        for pair_id in &pairs {
            if self.lines.say(pair_id, Message::GoingToSleep { longest }) {
                told += 1;
                self.wait_longer(*pair_id, longest, now);
            }
        }
        let detail = format!(
            "{told} of {} peers wait up to {} s",
            pairs.len(),
            longest.as_secs()
        );
        self.timeline.note("", "going_to_sleep", detail);
        (told, pairs.len())
    }

    /// A peer has said that its host goes to sleep.
    pub(super) fn peer_sleeps(&mut self, pair_id: Uuid, asked: Duration, now: Timestamp) {
        let longest = asked.min(self.sleeping.bedtime.longest);
        let count = self.wait_longer(pair_id, longest, now);
        let name = self.pairs.by_id(&pair_id).map(|pair| pair.peer_name.clone());
        let detail = format!(
            "{}: {count} connections wait up to {} s",
            name.unwrap_or_default(),
            longest.as_secs()
        );
        self.timeline.note("", "peer_sleeps", detail);
    }

    /// The pair was heard of: whoever slept is awake.
    pub(super) fn awake(&mut self, pair_id: Uuid, line_opened: bool, now: Timestamp) {
        let Some(sleep) = self.sleeping.pairs.get(&pair_id) else {
            return;
        };
        if !line_opened && now.since(sleep.since) < DROWSY {
            return;
        }
        let connections = self
            .sleeping
            .pairs
            .remove(&pair_id)
            .map(|sleep| sleep.connections);
        self.be_patient(&connections.unwrap_or_default(), self.policy.mig_wait, now);
        self.timeline.count("peer_awake");
    }

    fn wait_longer(&mut self, pair_id: Uuid, longest: Duration, now: Timestamp) -> usize {
        // Who asks for less than everybody gets, gets that.
        let longest = longest.max(self.policy.mig_wait);
        let bedtime = self.sleeping.bedtime;
        self.sleeping.pairs.remove(&pair_id);
        let taken: usize = self
            .sleeping
            .pairs
            .values()
            .map(|sleep| sleep.connections.len())
            .sum();
        let room = bedtime.of_a_peer.min(bedtime.in_all.saturating_sub(taken));
        let of_pair = self
            .sessions
            .values()
            .filter(|managed| managed.is_live() && managed.keys().pair_id == pair_id);
        let mut connections: Vec<Tuple> = of_pair.map(|managed| managed.identity).collect();
        // Both ends choose the same ones.
        connections.sort_by_key(|identity| {
            self.sessions
                .get(identity)
                .map(|managed| (managed.isns.0, managed.isns.1))
        });
        connections.truncate(room);
        self.be_patient(&connections, longest, now);
        let count = connections.len();
        let sleep = Sleep {
            since: now,
            connections,
        };
        self.sleeping.pairs.insert(pair_id, sleep);
        count
    }

    fn be_patient(&mut self, connections: &[Tuple], patience: Duration, now: Timestamp) {
        for identity in connections {
            if let Some(managed) = self.sessions.get_mut(identity) {
                managed.machine.wait_for(patience, now);
                self.settle(*identity);
            }
        }
    }
}
