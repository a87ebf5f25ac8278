//! One record as the backends of one process keep it, and every change to it as a function of it, the time and a fresh
//! revision. No clock, no disk. The Lua script of the Redis backend says the same once more.
use std::time::Duration;

use bytes::Bytes;

use crate::{Expected, Key, Lease, MAX_REPORTERS, Record, Report, Reported, Revision, Swap};

/// Milliseconds of the backend's clock.
pub(crate) type Millis = u64;

/// The end of what does not end.
pub(crate) const FOREVER: Millis = Millis::MAX;

/// Everything under one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    pub revision: u64,
    pub value: Option<Value>,
    pub filed: Vec<Filed>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub bytes: Bytes,
    pub until: Millis,
}

/// A report, or what keeps a withdrawn one out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filed {
    pub agent: Bytes,
    pub counter: u64,
    pub order: u64,
    pub until: Millis,
    /// None: withdrawn.
    pub body: Option<Bytes>,
}

impl Entry {
    /// Forgets what has ended.
    pub(crate) fn prune(&mut self, now: Millis) {
        self.value.take_if(|value| value.until <= now);
        self.filed.retain(|filed| filed.until > now);
    }

    /// Nothing is left, not even a mark.
    pub(crate) fn is_empty(&self) -> bool {
        self.value.is_none() && self.filed.is_empty()
    }

    /// Whether anything can be seen of it from outside.
    pub(crate) fn shows(&self, now: Millis) -> bool {
        self.value.as_ref().is_some_and(|value| value.until > now)
            || self
                .filed
                .iter()
                .any(|filed| filed.until > now && filed.body.is_some())
    }

    /// What can be seen of it from outside.
    pub(crate) fn show(&self, key: &Key, now: Millis) -> Option<Record> {
        let mut live: Vec<&Filed> = self
            .filed
            .iter()
            .filter(|filed| filed.until > now && filed.body.is_some())
            .collect();
        live.sort_by_key(|filed| filed.order);
        let value = self.value.as_ref().filter(|value| value.until > now);
        if value.is_none() && live.is_empty() {
            return None;
        }
        Some(Record {
            key: key.clone(),
            revision: Revision(self.revision),
            value: value.map(|value| value.bytes.clone()),
            remaining: value
                .filter(|value| value.until != FOREVER)
                .map(|value| Duration::from_millis(value.until - now)),
            reports: live
                .into_iter()
                .map(|filed| Report {
                    agent: filed.agent.clone(),
                    counter: filed.counter,
                    filed: Revision(filed.order),
                    body: filed.body.clone().unwrap_or_default(),
                })
                .collect(),
        })
    }

    /// See [`crate::Store::swap`].
    pub(crate) fn swap(
        &mut self,
        key: &Key,
        expected: Expected,
        bytes: Bytes,
        lease: Lease,
        now: Millis,
        fresh: u64,
    ) -> Swap {
        self.prune(now);
        let shown = self.show(key, now);
        let holds = match (expected, &shown) {
            (Expected::Absent, None) => true,
            (Expected::At(revision), Some(record)) => record.revision == revision,
            _ => false,
        };
        if !holds {
            return Swap::Lost(shown);
        }
        let before = self.value.as_ref().map(|value| value.until);
        self.value = Some(Value {
            bytes,
            until: end_of(lease, now, before),
        });
        self.revision = fresh;
        Swap::Done(Revision(fresh))
    }

    /// See [`crate::Store::renew`].
    pub(crate) fn renew(&mut self, revision: Revision, lease: Lease, now: Millis) -> bool {
        self.prune(now);
        let held = self.revision == revision.0;
        match &mut self.value {
            Some(value) if held => {
                value.until = end_of(lease, now, Some(value.until));
                true
            }
            _ => false,
        }
    }

    /// See [`crate::Store::remove`].
    pub(crate) fn remove(&mut self, revision: Option<Revision>, now: Millis) -> bool {
        self.prune(now);
        let held = revision.is_none_or(|revision| revision.0 == self.revision);
        let something = held && !self.is_empty();
        if something {
            *self = Entry::default();
        }
        something
    }

    /// See [`crate::Store::report`].
    pub(crate) fn report(
        &mut self,
        key: &Key,
        filing: Filing<'_>,
        lease: Lease,
        now: Millis,
        fresh: u64,
    ) -> Reported {
        self.prune(now);
        let Filing { agent, counter, body } = filing;
        let crowded = self.filed.len() >= MAX_REPORTERS;
        match self.filed.iter_mut().find(|filed| filed.agent == agent) {
            Some(filed) if filed.counter > counter || (filed.counter == counter && filed.body.is_none()) => {
                return Reported::Stale {
                    stored: filed.counter,
                };
            }
            Some(filed) => {
                if filed.counter < counter {
                    filed.order = fresh;
                }
                filed.counter = counter;
                filed.until = end_of(lease, now, Some(filed.until));
                filed.body = Some(body);
            }
            None if crowded => return Reported::Crowded,
            None => self.filed.push(Filed {
                agent: Bytes::copy_from_slice(agent),
                counter,
                order: fresh,
                until: end_of(lease, now, None),
                body: Some(body),
            }),
        }
        self.revision = fresh;
        match self.show(key, now) {
            Some(record) => Reported::Filed(record),
            // A lease of no time at all: the report has come and gone.
            None => Reported::Stale { stored: counter },
        }
    }

    /// See [`crate::Store::withdraw`]. True: something was withdrawn.
    pub(crate) fn withdraw(&mut self, agent: &[u8], counter: u64, now: Millis, fresh: u64) -> bool {
        self.prune(now);
        let filed = self
            .filed
            .iter_mut()
            .find(|filed| filed.agent == agent && filed.counter <= counter && filed.body.is_some());
        let Some(filed) = filed else { return false };
        filed.body = None;
        filed.counter = counter;
        self.revision = fresh;
        true
    }
}

/// What an agent files.
pub(crate) struct Filing<'a> {
    pub agent: &'a [u8],
    pub counter: u64,
    pub body: Bytes,
}

fn end_of(lease: Lease, now: Millis, before: Option<Millis>) -> Millis {
    match lease {
        Lease::For(duration) => now.saturating_add(millis(duration)).min(FOREVER - 1),
        Lease::Forever => FOREVER,
        Lease::Keep => before.unwrap_or(FOREVER),
    }
}

/// Whole milliseconds, rounded up: a lease is never shorter than asked.
pub(crate) fn millis(duration: Duration) -> Millis {
    Millis::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(FOREVER)
}
