//! What is counted, for `status` and for Prometheus.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use migration::server::PairRecord;
use proto::mobility::v1::refused::Reason;

/// Counters by name.
#[derive(Default)]
pub struct Counters {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
}

fn add(counts: &Mutex<BTreeMap<&'static str, u64>>, what: &'static str) {
    *counts
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(what)
        .or_default() += 1;
}

impl Counters {
    /// Something happened.
    pub fn count(&self, what: &'static str) {
        add(&self.counts, what);
        metrics::counter!("mobility_server_events_total", "what" => what).increment(1);
    }

    /// Something was not done.
    pub fn refuse(&self, why: &'static str) {
        add(&self.refusals, why);
        metrics::counter!("mobility_server_refusals_total", "why" => why).increment(1);
    }

    /// An agent was told that something is not done.
    pub fn refused(&self, reason: Reason) {
        self.refuse(match reason {
            Reason::Unspecified => "unspecified",
            Reason::Malformed => "malformed",
            Reason::Limit => "limit",
            Reason::Stale => "stale",
            Reason::Address => "address",
            Reason::Version => "version",
            Reason::Unavailable => "unavailable",
        });
    }

    /// A pair's record has changed.
    pub fn decided(&self, before: &PairRecord, after: &PairRecord) {
        if after.decisions > before.decisions {
            self.count("decisions");
            if before.decision.is_none() {
                self.count("matches");
            }
        }
    }

    /// How often something has happened.
    pub fn of(&self, what: &str) -> u64 {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(what).copied().unwrap_or_default()
    }

    /// What was refused, by reason.
    pub fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
