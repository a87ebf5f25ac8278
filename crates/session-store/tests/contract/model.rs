//! Any history of calls has the outcomes that a few lines of model say, revisions apart: of these only the order counts.
use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use session_store::{Expected, Key, Record, Reported, Revision, SharedStore, Swap, Table};

use crate::claims::{LONG, name};

const HISTORIES: usize = 24;
const KEYS: usize = 2;
const AGENTS: [&str; 3] = ["a", "b", "c"];

/// One call. `seen` says how old the revision is that a caller names: 0 the last one it saw.
#[derive(Clone, Debug)]
enum Call {
    Create { key: usize, value: u8 },
    Swap { key: usize, seen: usize, value: u8 },
    Remove { key: usize, seen: Option<usize> },
    Report { key: usize, agent: usize, counter: u64 },
    Withdraw { key: usize, agent: usize, counter: u64 },
    Get { key: usize },
}

fn call() -> impl Strategy<Value = Call> {
    let (key, agent, counter) = (0..KEYS, 0..AGENTS.len(), 0..5_u64);
    prop_oneof![
        2 => (key.clone(), any::<u8>()).prop_map(|(key, value)| Call::Create { key, value }),
        4 => (key.clone(), 0..2_usize, any::<u8>()).prop_map(|(key, seen, value)| Call::Swap { key, seen, value }),
        1 => (key.clone(), proptest::option::of(0..2_usize)).prop_map(|(key, seen)| Call::Remove { key, seen }),
        5 => (key.clone(), agent.clone(), counter.clone())
            .prop_map(|(key, agent, counter)| Call::Report { key, agent, counter }),
        3 => (key.clone(), agent, counter).prop_map(|(key, agent, counter)| Call::Withdraw { key, agent, counter }),
        1 => key.prop_map(|key| Call::Get { key }),
    ]
}

/// What a record shows, with revisions replaced by the number of the call that made them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shown {
    changed: usize,
    value: Option<u8>,
    /// Agent, counter, in the order of filing.
    reports: Vec<(usize, u64)>,
}

#[derive(Default)]
struct Model {
    shown: Shown,
    /// Highest counter of each agent that was withdrawn.
    marks: BTreeMap<usize, u64>,
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Nothing,
    Stale(u64),
    Shows(Option<Shown>),
}

impl Model {
    fn show(&self) -> Option<Shown> {
        let something = self.shown.value.is_some() || !self.shown.reports.is_empty();
        something.then(|| self.shown.clone())
    }

    fn apply(&mut self, now: usize, call: &Call, history: &[usize]) -> Outcome {
        let named = |seen: usize| history.iter().rev().nth(seen).copied();
        match *call {
            Call::Get { .. } => Outcome::Shows(self.show()),
            Call::Create { value, .. } if self.show().is_none() => self.write(now, value),
            Call::Swap { seen, value, .. }
                if self
                    .show()
                    .is_some_and(|shown| named(seen) == Some(shown.changed)) =>
            {
                self.write(now, value)
            }
            Call::Create { .. } | Call::Swap { .. } => Outcome::Shows(self.show()),
            Call::Remove { seen, .. } => {
                let there =
                    self.shown.value.is_some() || !self.shown.reports.is_empty() || !self.marks.is_empty();
                if there && seen.is_none_or(|seen| named(seen) == Some(self.shown.changed)) {
                    *self = Model::default();
                    return Outcome::Done;
                }
                Outcome::Nothing
            }
            Call::Report { agent, counter, .. } => {
                if let Some(mark) = self.marks.get(&agent).filter(|mark| **mark >= counter) {
                    return Outcome::Stale(*mark);
                }
                match self.shown.reports.iter().position(|report| report.0 == agent) {
                    Some(at) if self.shown.reports[at].1 > counter => {
                        return Outcome::Stale(self.shown.reports[at].1);
                    }
                    Some(at) if self.shown.reports[at].1 == counter => {}
                    at => {
                        at.map(|at| self.shown.reports.remove(at));
                        self.marks.remove(&agent);
                        self.shown.reports.push((agent, counter));
                    }
                }
                self.shown.changed = now;
                Outcome::Shows(self.show())
            }
            Call::Withdraw { agent, counter, .. } => {
                let at = self
                    .shown
                    .reports
                    .iter()
                    .position(|report| report.0 == agent && report.1 <= counter);
                if let Some(at) = at {
                    self.shown.reports.remove(at);
                    self.marks.insert(agent, counter);
                    self.shown.changed = now;
                }
                Outcome::Shows(self.show())
            }
        }
    }

    fn write(&mut self, now: usize, value: u8) -> Outcome {
        self.shown.value = Some(value);
        self.shown.changed = now;
        Outcome::Done
    }
}

/// One key of the real store, and what its revisions mean.
struct Real {
    key: Key,
    /// The revisions seen, and the number of the call that made each.
    revisions: Vec<(Revision, usize)>,
}

impl Real {
    fn new() -> Self {
        let key = Key::new(Table::Pairs, name("history")).expect("the name is short");
        Real {
            key,
            revisions: Vec::new(),
        }
    }

    fn named(&self, seen: usize) -> Revision {
        self.revisions
            .iter()
            .rev()
            .nth(seen)
            .map_or(Revision(0), |(revision, _)| *revision)
    }

    /// A revision that was not seen before is that of this call.
    fn learn(&mut self, revision: Revision, now: usize) -> usize {
        match self.revisions.last() {
            Some((last, made)) if *last == revision => *made,
            Some((last, _)) if *last > revision => panic!("revision {revision:?} came after {last:?}"),
            _ => {
                self.revisions.push((revision, now));
                now
            }
        }
    }

    fn show(&mut self, record: Option<Record>, now: usize) -> Outcome {
        Outcome::Shows(record.map(|record| {
            Shown {
                changed: self.learn(record.revision, now),
                value: record.value.map(|value| value[0]),
                reports: record
                    .reports
                    .iter()
                    .map(|report| {
                        let agent = AGENTS.iter().position(|agent| report.agent == *agent);
                        assert_eq!(report.body, report.counter.to_string());
                        (agent.expect("only these file"), report.counter)
                    })
                    .collect(),
            }
        }))
    }

    async fn apply(&mut self, store: &SharedStore, now: usize, call: &Call) -> Outcome {
        match *call {
            Call::Get { .. } => {
                let record = store.get(&self.key).await.unwrap();
                self.show(record, now)
            }
            Call::Create { value, .. } => self.swap(store, now, Expected::Absent, value).await,
            Call::Swap { seen, value, .. } => {
                self.swap(store, now, Expected::At(self.named(seen)), value).await
            }
            Call::Remove { seen, .. } => {
                let revision = seen.map(|seen| self.named(seen));
                match store.remove(&self.key, revision).await.unwrap() {
                    true => Outcome::Done,
                    false => Outcome::Nothing,
                }
            }
            Call::Report { agent, counter, .. } => {
                let body = Bytes::from(counter.to_string());
                let agent = AGENTS[agent].as_bytes();
                match store.report(&self.key, agent, counter, body, LONG).await.unwrap() {
                    Reported::Filed(record) => self.show(Some(record), now),
                    Reported::Stale { stored } => Outcome::Stale(stored),
                    Reported::Crowded => panic!("three agents are no crowd"),
                }
            }
            Call::Withdraw { agent, counter, .. } => {
                let record = store
                    .withdraw(&self.key, AGENTS[agent].as_bytes(), counter)
                    .await
                    .unwrap();
                self.show(record, now)
            }
        }
    }

    async fn swap(&mut self, store: &SharedStore, now: usize, expected: Expected, value: u8) -> Outcome {
        let value = Bytes::copy_from_slice(&[value]);
        match store.swap(&self.key, expected, value, LONG).await.unwrap() {
            Swap::Done(revision) => {
                self.learn(revision, now);
                Outcome::Done
            }
            Swap::Lost(record) => self.show(record, now),
        }
    }
}

fn key_of(call: &Call) -> usize {
    match *call {
        Call::Create { key, .. }
        | Call::Swap { key, .. }
        | Call::Remove { key, .. }
        | Call::Report { key, .. }
        | Call::Withdraw { key, .. }
        | Call::Get { key } => key,
    }
}

/// The first call whose outcome is not the model's.
async fn first_difference(store: &SharedStore, calls: &[Call]) -> Option<String> {
    let mut reals = [Real::new(), Real::new()];
    let mut models = [Model::default(), Model::default()];
    for (at, call) in calls.iter().enumerate() {
        let now = at + 1;
        let key = key_of(call);
        let history: Vec<usize> = reals[key].revisions.iter().map(|(_, made)| *made).collect();
        let expected = models[key].apply(now, call, &history);
        let got = reals[key].apply(store, now, call).await;
        if got != expected {
            return Some(format!(
                "call {now}, {call:?}: the model says {expected:?}, the store {got:?}"
            ));
        }
        // Changes without an answer that shows the record are learnt at once, so that both know all revisions.
        let shown = store.get(&reals[key].key).await.unwrap();
        if reals[key].show(shown, now) != Outcome::Shows(models[key].show()) {
            return Some(format!(
                "after call {now}, {call:?}: the record is not the model's"
            ));
        }
    }
    None
}

/// The same 24 histories every time; one that fails is shrunk.
pub async fn any_history_is_that_of_the_model(store: SharedStore) {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    for _ in 0..HISTORIES {
        let mut tree = proptest::collection::vec(call(), 1..40)
            .new_tree(&mut runner)
            .expect("nothing is filtered");
        let Some(mut difference) = first_difference(&store, &tree.current()).await else {
            continue;
        };
        let mut smallest = tree.current();
        while tree.simplify() {
            loop {
                match first_difference(&store, &tree.current()).await {
                    Some(found) => {
                        (difference, smallest) = (found, tree.current());
                        break;
                    }
                    None if tree.complicate() => {}
                    None => break,
                }
            }
        }
        panic!("{difference}\nin {smallest:#?}");
    }
}
