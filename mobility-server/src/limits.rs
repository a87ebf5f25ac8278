//! How much anybody may ask, by identity and by prefix. Exhausted limits answer the same whatever was asked.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use governor::clock::DefaultClock;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use migration::server::{AgentName, PairKey};

use crate::config::Limits;

/// Of an address: what one customer of a network usually has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix(u128);

impl Prefix {
    /// /24 of IPv4, /48 of IPv6.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => u128::from(v4.to_bits() >> 8),
            IpAddr::V6(v6) => v6.to_bits() >> 80 << 80,
        })
    }
}

struct Keyed<K: Hash + Eq + Clone>(RateLimiter<K, DashMapStateStore<K>, DefaultClock>);

impl<K: Hash + Eq + Clone> Keyed<K> {
    /// So many a minute, and as many as a quarter of a minute gives at once.
    fn a_minute(count: u32) -> Self {
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(count.get() / 4).unwrap_or(NonZeroU32::MIN);
        Self(RateLimiter::keyed(Quota::per_minute(count).allow_burst(burst)))
    }

    fn allows(&self, key: &K) -> bool {
        self.0.check_key(key).is_ok()
    }
}

struct Rates {
    reports: Keyed<String>,
    reports_from: Keyed<Prefix>,
    requests: Keyed<String>,
    handshakes: Keyed<Prefix>,
    enrolments: Keyed<Prefix>,
    probes: Keyed<IpAddr>,
    probes_into: Keyed<Prefix>,
    limits: Limits,
}

/// The limits in force.
pub struct Limiter {
    rates: RwLock<Arc<Rates>>,
    pairs: Mutex<HashMap<AgentName, HashMap<PairKey, Instant>>>,
}

impl Limiter {
    /// With these limits.
    pub fn new(limits: &Limits) -> Self {
        Self {
            rates: RwLock::new(Arc::new(rates(limits))),
            pairs: Mutex::default(),
        }
    }

    /// Other limits from now on; what was used up is forgotten.
    pub fn reload(&self, limits: &Limits) {
        *self.rates.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rates(limits));
    }

    fn now(&self) -> Arc<Rates> {
        self.rates.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The numbers.
    pub fn limits(&self) -> Limits {
        self.now().limits.clone()
    }

    /// A TLS handshake.
    pub fn allows_handshake(&self, from: IpAddr) -> bool {
        self.now().handshakes.allows(&Prefix::of(from))
    }

    /// An enrolment, with whatever token.
    pub fn allows_enrolment(&self, from: IpAddr) -> bool {
        self.now().enrolments.allows(&Prefix::of(from))
    }

    /// A report.
    pub fn allows_report(&self, agent: &str, from: IpAddr) -> bool {
        let rates = self.now();
        rates.reports.allows(&agent.to_owned()) && rates.reports_from.allows(&Prefix::of(from))
    }

    /// Anything else that a member asks.
    pub fn allows_request(&self, member: &str) -> bool {
        self.now().requests.allows(&member.to_owned())
    }

    /// A probe towards an address.
    pub fn allows_probe(&self, address: IpAddr) -> bool {
        let rates = self.now();
        rates.probes.allows(&address) && rates.probes_into.allows(&Prefix::of(address))
    }

    /// A report for this pair, which occupies the store for so long.
    pub fn allows_pair(&self, agent: &AgentName, key: &PairKey, keep: Duration) -> bool {
        let most = self.now().limits.pairs;
        let now = Instant::now();
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let own = pairs.entry(agent.clone()).or_default();
        if !own.contains_key(key) && own.len() >= most {
            own.retain(|_, until| *until > now);
            if own.len() >= most {
                return false;
            }
        }
        own.insert(key.clone(), now + keep);
        true
    }

    /// A pair has been withdrawn.
    pub fn frees_pair(&self, agent: &AgentName, key: &PairKey) {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = pairs.get_mut(agent) {
            own.remove(key);
            if own.is_empty() {
                pairs.remove(agent);
            }
        }
    }

    /// Forgets those that ask no more, so that memory does not grow with everybody who ever asked.
    pub fn tidy(&self) {
        let rates = self.now();
        rates.reports.0.retain_recent();
        rates.reports_from.0.retain_recent();
        rates.requests.0.retain_recent();
        rates.handshakes.0.retain_recent();
        rates.enrolments.0.retain_recent();
        rates.probes.0.retain_recent();
        rates.probes_into.0.retain_recent();
        let now = Instant::now();
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        pairs.retain(|_, own| {
            own.retain(|_, until| *until > now);
            !own.is_empty()
        });
    }
}

fn rates(limits: &Limits) -> Rates {
    Rates {
        reports: Keyed::a_minute(limits.reports),
        reports_from: Keyed::a_minute(limits.reports_from_prefix),
        requests: Keyed::a_minute(limits.requests),
        handshakes: Keyed::a_minute(limits.handshakes_from_prefix),
        enrolments: Keyed::a_minute(limits.enrolments_from_prefix),
        probes: Keyed::a_minute(limits.probes),
        probes_into: Keyed::a_minute(limits.probes.saturating_mul(10)),
        limits: limits.clone(),
    }
}
