//! What happens to pairs: an event is put to the rules over what is stored, and what they answer is done.
//!
//! [`Pairs::apply`] is the only way a pair's record changes: read it, ask [`migration::server::step`], write it if
//! nobody else has meanwhile, begin again if somebody has; then the actions, in order. So that several instances on
//! one store never decide differently. An instance at which the agent in question attends is woken by a note.

mod alarm;
mod known;
mod stored;
mod waiting;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use migration::Timestamp;
use migration::server::{
    AgentName, PairKey, PairRecord, Relayed, Rules, ServerAction, ServerEvent, ServerRefusal, step,
};
use prost::Message;
use proto::mobility::v1 as pb;
use proto::stored::v1::{Note, PairTouched, note};
use session_store::{Cursor, Expected, Key, Lease, Record, Revision, SharedStore, StoreError, Swap, Table};

pub use self::alarm::Alarm;
use self::known::Known;
use self::waiting::Waiting;
use crate::act::Prober;
use crate::convert;
use crate::counters::Counters;
use crate::leases::Leases;
use crate::registry::Registry;

/// How long a record outlives the last thing in it that can expire.
const MARGIN: Duration = Duration::from_secs(120);
/// Records that are read at once when all are listed.
const PAGE: usize = 256;

/// Time as the rules count it: one clock for all servers of a store.
pub fn now() -> Timestamp {
    Timestamp(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// A pair as it is stored, for people.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The record.
    pub record: PairRecord,
    /// When it was last written.
    pub updated: Timestamp,
}

/// The pairs of a deployment.
pub struct Pairs {
    store: SharedStore,
    registry: Arc<Registry>,
    prober: Arc<Prober>,
    leases: Arc<Leases>,
    counters: Arc<Counters>,
    alarm: Alarm,
    known: Known,
    waiting: Waiting,
    rules: Rules,
    instance: [u8; 16],
}

/// Why an event is applied: a note about an agent is not answered by another note about the same agent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin<'a> {
    Here,
    Note(&'a AgentName),
}

impl Pairs {
    /// None are known yet; [`Pairs::recover`] looks.
    pub fn new(
        store: SharedStore,
        registry: Arc<Registry>,
        prober: Arc<Prober>,
        leases: Arc<Leases>,
        counters: Arc<Counters>,
        rules: Rules,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            registry,
            prober,
            leases,
            counters,
            alarm: Alarm::default(),
            known: Known::default(),
            waiting: Waiting::default(),
            rules,
            instance: *uuid::Uuid::new_v4().as_bytes(),
        })
    }

    /// Which instance this is, among those on one store.
    pub fn instance(&self) -> [u8; 16] {
        self.instance
    }

    /// Sets the alarms of what an earlier run or another instance has stored. Returns how many pairs there are.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn recover(&self) -> Result<usize, StoreError> {
        let mut count = 0;
        let mut after = None;
        loop {
            let (listed, next) = self.page(after).await?;
            for pair in listed {
                count += 1;
                self.waiting.count(None, Some(&pair.record));
                if let Some(due) = pair.record.next_timeout(&self.rules) {
                    self.alarm.set(&pair.record.key, due);
                }
            }
            match next {
                Some(cursor) => after = Some(cursor),
                None => return Ok(count),
            }
        }
    }

    /// Lets what is overdue happen, for ever.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let key = self.alarm.rings(now).await;
            if let Err(error) = self.apply(&key, ServerEvent::TimerFired, false).await {
                tracing::warn!(%error, pair = %key.pair, "a pair's timeout could not be handled");
                self.alarm.set(&key, now() + Duration::from_secs(5));
            }
        }
    }

    /// Puts an event to the rules. With `only_stored`, nothing happens to a pair of which nothing is stored.
    ///
    /// # Errors
    /// Those of the store; whether the event counted is then not known, and the agent says it again.
    pub async fn apply(
        self: &Arc<Self>,
        key: &PairKey,
        event: ServerEvent,
        only_stored: bool,
    ) -> Result<(), StoreError> {
        self.apply_from(key, event, only_stored, Origin::Here).await?;
        Ok(())
    }

    /// The same from an action of the rules, which is itself part of an event.
    fn apply_later(
        self: Arc<Self>,
        key: PairKey,
        event: ServerEvent,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> {
        Box::pin(async move { self.apply(&key, event, true).await })
    }

    /// An agent has reported: the event, and its peer is there perhaps, here or at another instance.
    ///
    /// # Errors
    /// As [`Pairs::apply`].
    pub async fn report(
        self: &Arc<Self>,
        key: &PairKey,
        event: ServerEvent,
        peer: &AgentName,
    ) -> Result<(), StoreError> {
        let after = self.apply_from(key, event, false, Origin::Here).await?;
        if let Some(stream) = self.registry.present(peer, key) {
            let noted = after.and_then(|record| record.end(record.side_of(peer)?).present);
            // Who is known to be there has been told whatever there is to tell.
            if noted.is_none_or(|noted| noted.observed != stream.observed) {
                self.apply(key, stream.presence(), true).await?;
            }
        }
        if self.is_shared() {
            self.note(peer, touched(key)).await?;
        }
        Ok(())
    }

    /// Another instance says that a pair of an agent that attends here was touched.
    ///
    /// # Errors
    /// As [`Pairs::apply`].
    pub async fn touched(self: &Arc<Self>, agent: &AgentName, key: &PairKey) -> Result<(), StoreError> {
        match self.registry.present(agent, key) {
            Some(stream) => {
                self.apply_from(key, stream.presence(), true, Origin::Note(agent))
                    .await?;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Sends a note to the instances at which an agent attends.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn note(&self, agent: &AgentName, body: note::Body) -> Result<(), StoreError> {
        let note = Note {
            body: Some(body),
            instance: self.instance.to_vec(),
        };
        self.store
            .notify(agent.0.as_bytes(), note.encode_to_vec().into())
            .await
    }

    /// Whether other instances may be on the same store.
    pub fn is_shared(&self) -> bool {
        self.store.backend() == "redis"
    }

    /// Tells the rules of every pair whose connections may go through a proxy at one of these addresses that it has to
    /// be left.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn leave(self: &Arc<Self>, addresses: &[IpAddr]) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let (listed, next) = self.page(after).await?;
            for pair in listed {
                let reports = pair.record.ends.iter().filter_map(|end| end.held.as_ref());
                let mut relayed = reports.filter(|held| held.report.relayed == Relayed::Works);
                let there = relayed.any(|held| addresses.contains(&held.report.destination_before));
                if there && pair.record.leaving.is_empty() {
                    let event = ServerEvent::RelayLeaving {
                        addresses: addresses.to_vec(),
                    };
                    self.apply(&pair.record.key, event, true).await?;
                }
            }
            match next {
                Some(cursor) => after = Some(cursor),
                None => return Ok(()),
            }
        }
    }

    /// Some of the stored pairs, and where the next ones begin.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page(&self, after: Option<Cursor>) -> Result<(Vec<Listed>, Option<Cursor>), StoreError> {
        let page = self.store.list(Table::Pairs, after, PAGE).await?;
        let decoded = page
            .records
            .iter()
            .filter_map(|record| stored::decode(record.value.as_ref()?));
        let listed = decoded
            .map(|(record, updated)| Listed { record, updated })
            .collect();
        Ok((listed, page.next))
    }

    async fn apply_from(
        self: &Arc<Self>,
        key: &PairKey,
        event: ServerEvent,
        only_stored: bool,
        origin: Origin<'_>,
    ) -> Result<Option<PairRecord>, StoreError> {
        let mut events = vec![event];
        let mut last = None;
        while let Some(event) = events.pop() {
            let (after, actions) = self.turn(key, event, only_stored).await?;
            last = after;
            for action in actions {
                self.perform(key, action, origin, &mut events).await?;
            }
        }
        Ok(last)
    }

    /// One event over the stored record, written unless somebody else was quicker.
    async fn turn(
        &self,
        key: &PairKey,
        event: ServerEvent,
        only_stored: bool,
    ) -> Result<(Option<PairRecord>, Vec<ServerAction>), StoreError> {
        let name = Key::new(Table::Pairs, stored::name(key))?;
        let read = |found: Option<Record>| {
            let expected = found
                .as_ref()
                .map_or(Expected::Absent, |record| Expected::At(record.revision));
            let record = found
                .and_then(|record| record.value)
                .and_then(|value| stored::decode(&value))
                .map(|(record, _)| record)
                .filter(|record| record.key == *key);
            (expected, record)
        };
        let (mut expected, mut before) = match self.known.take(key) {
            Some((revision, record)) => (Expected::At(revision), Some(record)),
            None => read(self.store.get(&name).await?),
        };
        loop {
            if before.is_none() && only_stored {
                return Ok((None, Vec::new()));
            }
            let now = now();
            let was_new = before.is_none();
            let was = before.take().unwrap_or_else(|| PairRecord::new(key.clone()));
            let (after, actions) = step(was.clone(), event.clone(), &self.rules, now);
            if actions.contains(&ServerAction::Forget) {
                if let Expected::At(revision) = expected
                    && self.store.remove(&name, Some(revision)).await?
                {
                    self.waiting.count(Some(&was), None);
                }
                return Ok((None, actions));
            }
            if after == was {
                if !was_new {
                    self.set_alarm(&after);
                    if let Expected::At(revision) = expected {
                        self.know(revision, &after);
                    }
                }
                return Ok((Some(after), actions));
            }
            let value = stored::encode(&after, now);
            match self
                .store
                .swap(&name, expected, value, Lease::For(self.worth(&after, now)))
                .await?
            {
                Swap::Done(revision) => {
                    self.set_alarm(&after);
                    self.counters.decided(&was, &after);
                    self.waiting.count(Some(&was), Some(&after));
                    self.know(revision, &after);
                    return Ok((Some(after), actions));
                }
                Swap::Lost(other) => (expected, before) = read(other),
            }
        }
    }

    fn know(&self, revision: Revision, record: &PairRecord) {
        if !self.is_shared() {
            self.known.put(revision, record.clone());
        }
    }

    fn set_alarm(&self, record: &PairRecord) {
        if let Some(due) = record.next_timeout(&self.rules) {
            self.alarm.set(&record.key, due);
        }
    }

    /// How long a record is worth keeping.
    fn worth(&self, record: &PairRecord, now: Timestamp) -> Duration {
        let expiries = record
            .ends
            .iter()
            .filter_map(|end| end.held.as_ref().map(|held| held.expires));
        let last = expiries.max().map_or(Duration::ZERO, |last| last.since(now));
        last + self.rules.linger + MARGIN
    }

    async fn perform(
        self: &Arc<Self>,
        key: &PairKey,
        action: ServerAction,
        origin: Origin<'_>,
        events: &mut Vec<ServerEvent>,
    ) -> Result<(), StoreError> {
        match action {
            ServerAction::Tell { agent, destination } => {
                tracing::info!(
                    pair = %key.pair, %agent, decision = destination.decision, action = ?destination.action,
                    peer = %destination.peer_address, "destination"
                );
                self.counters.count("destinations");
                let leased = destination.connections.iter();
                let leg_keys = leased.filter_map(|connection| {
                    let key = self.leases.leg_key(&connection.lease?, &agent.0);
                    Some((connection.label, key.as_bytes().to_vec()))
                });
                let leg_keys = leg_keys.collect();
                self.registry
                    .tell(&agent, &convert::destination_message(*destination, leg_keys));
                if self.is_shared() && origin != Origin::Note(&agent) {
                    self.note(&agent, touched(key)).await?;
                }
            }
            ServerAction::TellWaiting { agent, waiting } => {
                self.tell_everywhere(&agent, convert::waiting_message(waiting))
                    .await?;
            }
            ServerAction::Cancel {
                agent,
                decision,
                forgotten,
            } => {
                let cancelled = pb::server_message::Body::Cancelled(pb::Cancelled {
                    pair_id: key.pair.0.to_vec(),
                    decision,
                    forgotten,
                });
                self.tell_everywhere(&agent, convert::server_message(cancelled))
                    .await?;
            }
            ServerAction::ProbeReachability { agent, address } => {
                let ports = self.registry.agent_port(&agent, address);
                let (pairs, key) = (self.clone(), key.clone());
                // The peer need not wait for it; what comes out is an event of its own.
                tokio::spawn(async move {
                    let Some(reachable) = pairs.prober.probe(address, ports).await else {
                        return;
                    };
                    let event = ServerEvent::Reachability {
                        agent,
                        address,
                        reachable,
                    };
                    if let Err(error) = pairs.apply_later(key.clone(), event).await {
                        tracing::warn!(%error, pair = %key.pair, "the outcome of a probe is lost");
                    }
                });
            }
            ServerAction::AskProxy {
                decision,
                from,
                ref avoid,
                ..
            } if self.leases.is_nobody(1, from, avoid) => {
                self.counters.count("proxy_unavailable");
                let grants = Vec::new();
                events.push(ServerEvent::ProxyAnswered { decision, grants });
            }
            ServerAction::AskProxy {
                decision,
                labels,
                from,
                avoid,
            } => {
                let (pairs, key) = (self.clone(), key.clone());
                // What both ends were told meanwhile goes on.
                tokio::spawn(async move {
                    let grants = pairs.leases.ask(&key, &labels, from, &avoid).await;
                    let event = ServerEvent::ProxyAnswered { decision, grants };
                    if let Err(error) = pairs.apply_later(key.clone(), event).await {
                        tracing::warn!(%error, pair = %key.pair, "what a proxy has granted is lost");
                    }
                });
            }
            ServerAction::NoWay => {
                tracing::info!(pair = %key.pair, "no way is left to try; both ends wait");
                self.counters.count("no_way");
            }
            ServerAction::Forget => {}
            ServerAction::Refuse { agent, reason } => {
                let kind = convert::refusal(&reason);
                self.counters.refused(kind);
                let newest = match reason {
                    ServerRefusal::Stale { newest, .. } => newest,
                    _ => 0,
                };
                let message = convert::refused_message(kind, Some(key.pair), reason.to_string(), newest);
                self.registry.tell(&agent, &message);
            }
        }
        Ok(())
    }

    async fn tell_everywhere(&self, agent: &AgentName, message: pb::ServerMessage) -> Result<(), StoreError> {
        self.registry.tell(agent, &message);
        match self.is_shared() {
            true => {
                self.note(agent, note::Body::Message(message.encode_to_vec()))
                    .await
            }
            false => Ok(()),
        }
    }
}

fn touched(key: &PairKey) -> note::Body {
    let [first, second] = &key.names;
    note::Body::Touched(PairTouched {
        pair_id: key.pair.0.to_vec(),
        first: first.0.clone(),
        second: second.0.clone(),
    })
}
