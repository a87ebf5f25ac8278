//! Leases: which proxy relays which connection.
//!
//! 1. A symmetric proxy attends ([`Leases::enter`]), with its addresses, its capacity and the leases that outlived a
//!    restart of its daemon.
//! 2. The rules ask for a proxy ([`Leases::ask`]): of those that serve, are not drained and have an address in either
//!    end's family, the one with the least load gets one ticket for each connection. It answers with an endpoint for each
//!    end, or refuses. One that grants nothing, or does not answer in time, is passed over for a while, and the next one
//!    is asked. The rules name those at which nothing came about for this pair.
//! 3. Each end is told the endpoint and its own leg key ([`Leases::leg_key`]), never the other's.
//! 4. Agents say through which endpoints their connections go, and when none goes through a proxy any more: the other
//!    leases are released ([`Leases::release_before`], [`Leases::release_all`]). The proxy goes on for a while, for what is
//!    on its way.
//! 5. The proxy says when a relay has ended ([`Leases::ended`]). A lease lives at the proxy, not here: a server that
//!    starts anew learns of it when the proxy attends again.
//!
//! A proxy serves the instances that it attends. With several instances on one store it must attend all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use identity::Authority;
use identity::ticket::{LegKey, Ticket, TicketLeg};
use migration::server::{PairKey, ProxyGrant};
use proto::mobility::v1 as pb;
use proto::mobility::v1::relay_order::Body as Hears;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use wire::Endpoint;

use crate::convert;
use crate::counters::Counters;

/// Names a lease.
pub type LeaseId = [u8; 16];

/// How long a proxy may take to answer for all connections of a decision.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long both ends have to come to the proxy.
const TICKET_FOR: Duration = Duration::from_secs(120);
/// Who has granted nothing is passed over for so long, unless there is nobody else.
const PASSED_OVER: Duration = Duration::from_secs(10);
/// Connections that are relayed by one decision, at most.
const AT_ONCE: usize = 1024;
/// Orders that wait for a proxy that does not read; one connection is one order.
pub const BACKLOG: usize = 2 * AT_ONCE;

type Orders = mpsc::Sender<Result<pb::RelayOrder, Status>>;

struct Serving {
    row: pb::RelayRow,
    since: Instant,
    out: Orders,
    passed_over_until: Option<Instant>,
}

struct Lease {
    relay: u64,
    pair: Vec<u8>,
    label: u64,
    /// Where its ends send to, once that is known; as the proxy says it at the start, the first end's alone.
    at: Vec<Endpoint>,
    since: Instant,
    answer: Option<oneshot::Sender<pb::LeaseAnswer>>,
}

#[derive(Default)]
struct Books {
    serving: HashMap<u64, Serving>,
    leases: HashMap<LeaseId, Lease>,
}

/// Proxies and relays that attend this instance, and what they have granted.
pub struct Leases {
    authority: Arc<Authority>,
    counters: Arc<Counters>,
    books: Mutex<Books>,
}

impl Leases {
    /// Nobody serves yet.
    pub fn new(authority: Arc<Authority>, counters: Arc<Counters>) -> Self {
        Self {
            authority,
            counters,
            books: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A proxy or relay attends.
    ///
    /// # Errors
    /// Its hello cannot be true; the text goes to it.
    pub fn enter(&self, id: u64, uri: &str, hello: pb::RelayHello, out: Orders) -> Result<(), &'static str> {
        let addresses = &hello.addresses;
        if addresses.len() > 64 || addresses.iter().any(|bytes| convert::address(bytes).is_err()) {
            return Err("1 to 64 addresses of 4 or 16 bytes");
        }
        let row = pb::RelayRow {
            relay: uri.to_owned(),
            kind: hello.kind,
            addresses: hello.addresses,
            capacity: hello.capacity,
            draining: hello.draining,
            ..pb::RelayRow::default()
        };
        let mut books = self.lock();
        for kept in hello.leases {
            let Ok(lease) = LeaseId::try_from(kept.lease_id) else {
                continue;
            };
            let at = convert::endpoint(kept.proxy.as_ref()).into_iter().collect();
            let kept = Lease {
                relay: id,
                pair: kept.pair_id,
                label: kept.label,
                at,
                since: Instant::now(),
                answer: None,
            };
            books.leases.insert(lease, kept);
        }
        let serving = Serving {
            row,
            since: Instant::now(),
            out,
            passed_over_until: None,
        };
        books.serving.insert(id, serving);
        Ok(())
    }

    /// It is gone; what it relays goes on there.
    pub fn leave(&self, id: u64) {
        let mut books = self.lock();
        books.serving.remove(&id);
        books.leases.retain(|_, lease| lease.relay != id);
    }

    /// What it carries now.
    pub fn load(&self, id: u64, load: &pb::RelayLoad) {
        if let Some(serving) = self.lock().serving.get_mut(&id) {
            serving.row.connections = load.connections;
            serving.row.bytes_per_second = load.bytes_per_second;
            serving.row.draining = load.draining;
        }
    }

    /// It answers for a lease; one that was not asked of it counts for nothing. One that nobody waits for any more, because
    /// the answer has taken too long, is given back: its ends were never told.
    pub fn answered(&self, id: u64, answer: pb::LeaseAnswer) {
        let Ok(lease) = LeaseId::try_from(answer.lease_id.as_slice()) else {
            return self.counters.refuse("lease_unasked");
        };
        let mut books = self.lock();
        let known = books.leases.get_mut(&lease);
        let late = known.is_none() && answer.refusal.is_empty();
        let waiting = known
            .filter(|lease| lease.relay == id)
            .and_then(|lease| lease.answer.take());
        match waiting {
            Some(waiting) => {
                let _ = waiting.send(answer);
            }
            None => self.counters.refuse("lease_unasked"),
        }
        if let Some(serving) = books.serving.get(&id).filter(|_| late)
            && serving.out.try_send(Ok(release(&lease))).is_ok()
        {
            self.counters.count("leases_released");
        }
    }

    /// A relay has ended.
    pub fn ended(&self, id: u64, ended: &pb::RelayEnded) {
        let Ok(lease) = LeaseId::try_from(ended.lease_id.as_slice()) else {
            return;
        };
        let mut books = self.lock();
        if books.leases.get(&lease).is_some_and(|lease| lease.relay == id) {
            books.leases.remove(&lease);
            self.counters.count("leases_ended");
        }
    }

    /// Every MPTCP relay hears what an agent says of paths: only one of them has the connection, and its token tells it
    /// which. One that does not read hears nothing.
    pub fn tell_of_lost_paths(&self, lost: &pb::LostPathsOf) {
        let order = pb::RelayOrder {
            body: Some(Hears::PathsLost(lost.clone())),
        };
        for serving in self.lock().serving.values() {
            if serving.row.kind == i32::from(pb::relay_hello::Kind::MptcpRelay) {
                let _ = serving.out.try_send(Ok(order.clone()));
            }
        }
    }

    /// Whether a proxy that attends relays at this address, and goes on doing so.
    pub fn serves(&self, address: IpAddr) -> bool {
        let at = |row: &pb::RelayRow| {
            let mut addresses = row.addresses.iter();
            !row.draining && addresses.any(|bytes| convert::address(bytes) == Ok(address))
        };
        self.lock().serving.values().any(|serving| at(&serving.row))
    }

    /// The addresses of the proxies that are drained while they still relay.
    pub fn drained(&self) -> Vec<IpAddr> {
        let books = self.lock();
        let drained = books.serving.iter().filter(|(id, serving)| {
            serving.row.draining && books.leases.values().any(|lease| lease.relay == **id)
        });
        let addresses = drained.flat_map(|(_, serving)| serving.row.addresses.iter());
        addresses
            .filter_map(|bytes| convert::address(bytes).ok())
            .collect()
    }

    /// None of a pair's connections goes through a proxy any more.
    pub fn release_all(&self, pair: &[u8]) {
        self.release(|lease| lease.pair == pair && !lease.at.is_empty());
    }

    /// A connection goes through the proxy's endpoint `at`: what it had before is not needed any more. A newer lease may
    /// be on its way to take that place.
    pub fn release_before(&self, pair: &[u8], label: u64, at: Endpoint) {
        let of = |lease: &Lease| lease.pair == pair && lease.label == label;
        let in_use = |lease: &&Lease| of(lease) && lease.at.contains(&at);
        let since = self.lock().leases.values().find(in_use).map(|lease| lease.since);
        if let Some(since) = since {
            self.release(|lease| of(lease) && lease.since < since);
        }
    }

    fn release(&self, which: impl Fn(&Lease) -> bool) {
        let books = self.lock();
        for (id, lease) in books.leases.iter().filter(|(_, lease)| which(lease)) {
            if let Some(serving) = books.serving.get(&lease.relay)
                && serving.out.try_send(Ok(release(id))).is_ok()
            {
                self.counters.count("leases_released");
            }
        }
    }

    /// Addresses of a relay that attends; empty: it does not.
    pub fn addresses_of(&self, uri: &str) -> Vec<Vec<u8>> {
        let books = self.lock();
        let found = books.serving.values().find(|serving| serving.row.relay == uri);
        found
            .map(|serving| serving.row.addresses.clone())
            .unwrap_or_default()
    }

    /// Who serves, with what.
    pub fn all(&self) -> Vec<pb::RelayRow> {
        let books = self.lock();
        let rows = books.serving.iter().map(|(id, serving)| pb::RelayRow {
            leases: books.leases.values().filter(|lease| lease.relay == *id).count() as u64,
            attached_seconds: serving.since.elapsed().as_secs(),
            ..serving.row.clone()
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|one, other| one.relay.cmp(&other.relay));
        rows
    }

    /// Whether nobody could be asked but who has one of the addresses in `avoid`.
    pub fn is_nobody(&self, connections: usize, from: [IpAddr; 2], avoid: &[IpAddr]) -> bool {
        self.candidates(connections, from, avoid).is_empty()
    }

    /// The key between an agent and the proxy under a lease.
    pub fn leg_key(&self, lease: &LeaseId, agent: &str) -> LegKey {
        self.authority.leg_key(lease, agent)
    }

    /// Asks one proxy after another for ports, but none with an address in `avoid`; none: nobody has any.
    pub async fn ask(
        &self,
        key: &PairKey,
        labels: &[u64],
        from: [IpAddr; 2],
        avoid: &[IpAddr],
    ) -> Vec<ProxyGrant> {
        let labels: Vec<u64> = labels
            .iter()
            .copied()
            .filter(|label| *label != 0)
            .take(AT_ONCE)
            .collect();
        for (id, uri, out) in self.candidates(labels.len(), from, avoid) {
            let grants = self.ask_one(id, &uri, &out, key, &labels, from).await;
            if !grants.is_empty() {
                tracing::info!(pair = %key.pair, proxy = uri, connections = grants.len(), "a proxy relays");
                return grants;
            }
            if let Some(serving) = self.lock().serving.get_mut(&id) {
                serving.passed_over_until = Some(Instant::now() + PASSED_OVER);
            }
        }
        self.counters.count("proxy_unavailable");
        Vec::new()
    }

    /// Who could relay so many connections more, the best first.
    fn candidates(
        &self,
        connections: usize,
        from: [IpAddr; 2],
        avoid: &[IpAddr],
    ) -> Vec<(u64, String, Orders)> {
        let now = Instant::now();
        let books = self.lock();
        let mut fit: Vec<_> = books
            .serving
            .iter()
            .filter_map(|(id, serving)| {
                let row = &serving.row;
                let leased = books.leases.values().filter(|lease| lease.relay == *id).count() as u64;
                let load = leased.max(row.connections) + connections as u64;
                let reaches = |end: IpAddr| {
                    let length = if end.is_ipv4() { 4 } else { 16 };
                    row.addresses.iter().any(|address| address.len() == length)
                };
                let avoided = |address: &Vec<u8>| {
                    convert::address(address).is_ok_and(|address| avoid.contains(&address))
                };
                let fits = row.kind == i32::from(pb::relay_hello::Kind::SymmetricProxy)
                    && !row.draining
                    && connections > 0
                    && load <= row.capacity
                    && from.iter().all(|end| reaches(*end))
                    && !row.addresses.iter().any(avoided);
                let passed_over = serving.passed_over_until.is_some_and(|until| now < until);
                // In thousandths of what it can hold.
                let share = load.saturating_mul(1000) / row.capacity.max(1);
                fits.then(|| {
                    (
                        (passed_over, share, row.relay.clone()),
                        (*id, serving.out.clone()),
                    )
                })
            })
            .collect();
        fit.sort_by(|(one, _), (other, _)| one.cmp(other));
        fit.into_iter()
            .map(|((_, _, uri), (id, out))| (id, uri, out))
            .collect()
    }

    async fn ask_one(
        &self,
        id: u64,
        uri: &str,
        out: &Orders,
        key: &PairKey,
        labels: &[u64],
        from: [IpAddr; 2],
    ) -> Vec<ProxyGrant> {
        let mut asked = Vec::with_capacity(labels.len());
        for &label in labels {
            let lease: LeaseId = rand::random();
            let Some(order) = self.order(lease, uri, key, label, from) else {
                continue;
            };
            let (answer, answered) = oneshot::channel();
            let entry = Lease {
                relay: id,
                pair: key.pair.0.to_vec(),
                label,
                at: Vec::new(),
                since: Instant::now(),
                answer: Some(answer),
            };
            self.lock().leases.insert(lease, entry);
            // A proxy that does not read is as good as none.
            if out.try_send(Ok(order)).is_err() {
                self.lock().leases.remove(&lease);
                break;
            }
            asked.push((label, lease, answered));
        }
        let until = tokio::time::Instant::now() + ANSWER_WITHIN;
        let mut grants = Vec::with_capacity(asked.len());
        for (label, lease, answered) in asked {
            let answer = tokio::time::timeout_at(until, answered).await;
            let answer = answer.ok().and_then(Result::ok);
            let legs = answer.as_ref().and_then(|answer| self.legs(id, answer));
            match legs {
                Some(legs) => {
                    if let Some(known) = self.lock().leases.get_mut(&lease) {
                        known.at = legs.to_vec();
                    }
                    grants.push(ProxyGrant { label, legs, lease });
                }
                None => {
                    let why = answer.map_or("no answer".to_owned(), |answer| answer.refusal);
                    tracing::warn!(proxy = uri, pair = %key.pair, why, "a proxy has not granted a lease");
                    self.counters.refuse("lease");
                    self.lock().leases.remove(&lease);
                }
            }
        }
        grants.iter().for_each(|_| self.counters.count("leases"));
        grants
    }

    fn order(
        &self,
        lease: LeaseId,
        proxy: &str,
        key: &PairKey,
        label: u64,
        from: [IpAddr; 2],
    ) -> Option<pb::RelayOrder> {
        let leg = |side: usize| TicketLeg {
            agent: key.names[side].0.clone(),
            expected: Some(from[side]),
            key: self.authority.leg_key(&lease, &key.names[side].0),
        };
        let now = SystemTime::now();
        let ticket = Ticket {
            lease,
            pair: key.pair.0,
            label,
            not_before: now,
            expires: now + TICKET_FOR,
            legs: [leg(0), leg(1)],
            proxy: proxy.to_owned(),
        };
        let signed = self.authority.sign_ticket(&ticket);
        let signed = signed
            .inspect_err(|error| tracing::error!(%error, "a ticket cannot be signed"))
            .ok()?;
        let request = pb::LeaseRequest {
            lease_id: lease.to_vec(),
            ticket: signed.ticket,
            signature: signed.signature,
        };
        Some(pb::RelayOrder {
            body: Some(Hears::Lease(request)),
        })
    }

    /// Where both ends send to, if that is at the proxy that says so.
    fn legs(&self, id: u64, answer: &pb::LeaseAnswer) -> Option<[Endpoint; 2]> {
        let books = self.lock();
        let addresses = &books.serving.get(&id)?.row.addresses;
        let leg = |endpoint: Option<&pb::Endpoint>| {
            let endpoint = convert::endpoint(endpoint).ok()?;
            let its_own = addresses
                .iter()
                .any(|bytes| convert::address(bytes) == Ok(endpoint.address));
            (its_own && endpoint.port != 0).then_some(endpoint)
        };
        Some([leg(answer.first.as_ref())?, leg(answer.second.as_ref())?])
    }
}

/// Its port is not needed any more.
fn release(lease: &LeaseId) -> pb::RelayOrder {
    let release = pb::LeaseRelease {
        lease_id: lease.to_vec(),
    };
    pb::RelayOrder {
        body: Some(Hears::Release(release)),
    }
}
