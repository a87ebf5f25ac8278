//! A look at all leases now and then: what has ended, and what there is to show.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use datapath::relay::{LeaseId, Traffic};
use migration::proxy::{Activity, End, Fate, Leg, fate};
use proto::mobility::v1 as said;
use serde_json::{Value, json};
use wire::tuple::Tuple;

use super::Proxy;
use crate::leases::Lease;
use crate::metrics;

impl Proxy {
    /// Ends what is over; says how long the look took.
    pub(super) fn review(&mut self) -> Duration {
        let began = Instant::now();
        let traffic: HashMap<Tuple, Traffic> = match self.act.datapath.all_traffic() {
            Ok(all) => all.into_iter().collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot look at what is relayed");
                return began.elapsed();
            }
        };
        let now = datapath::kernel::monotonic_ns();
        let patience = self.patience();
        let over: Vec<(LeaseId, End)> = self
            .leases
            .iter()
            .filter_map(|lease| {
                let activity = self.activity(lease, &traffic, now);
                match fate(activity, patience) {
                    Fate::Keep => None,
                    Fate::Free(end) => Some((lease.id, end)),
                }
            })
            .collect();
        for (id, end) in over {
            self.end(id, end);
        }
        for id in self.leases.forget_expired(SystemTime::now()) {
            self.act.datapath.forget(&id);
        }
        let total: u64 = traffic.values().map(|seen| seen.bytes).sum();
        self.bytes = (total, total.saturating_sub(self.bytes.0));
        let attended = self.servers.iter().filter(|(_, words)| words.is_some()).count();
        metrics::update(self.leases.len(), attended, &self.act.datapath.counters());
        self.tell_load();
        began.elapsed()
    }

    fn activity(&self, lease: &Lease, traffic: &HashMap<Tuple, Traffic>, now: u64) -> Activity {
        let seen = |leg: Leg| {
            let own = lease.installed.iter().filter(move |(_, sender)| *sender == leg);
            own.filter_map(|(from, _)| traffic.get(from))
        };
        let fin = |leg| seen(leg).any(|seen| seen.fin);
        let reset = Leg::BOTH.into_iter().any(|leg| seen(leg).any(|seen| seen.reset));
        let last = Leg::BOTH
            .into_iter()
            .flat_map(seen)
            .map(|seen| seen.last_ns)
            .max();
        let since = |then: u64| Duration::from_nanos(now.saturating_sub(then));
        Activity {
            spliced: lease.splice.is_spliced(),
            ended: reset || (fin(Leg::First) && fin(Leg::Second)),
            quiet: since(last.unwrap_or(0).max(lease.since_ns)),
            released: lease.released_ns.map(since),
            expired: self.is_over(lease.expires),
        }
    }

    fn end(&mut self, id: LeaseId, end: End) {
        let Some(lease) = self.leases.end(&id) else { return };
        self.act.close(&lease);
        // Its ticket must not count again, even after a restart.
        let _ = self.act.datapath.note(&id, &lease.note(true));
        tracing::info!(lease = %hex::encode(id), why = %end, "a port is free again");
        self.counters.count(match end {
            End::Unused => "ended_unused",
            End::Finished => "ended_finished",
            End::Idle => "ended_idle",
            End::Released => "ended_released",
        });
        let ended = said::RelayEnded {
            lease_id: id.to_vec(),
            reason: end.to_string(),
        };
        self.tell_all(said::relay_message::Body::Ended(ended));
    }

    /// One lease, for people and programs.
    pub(super) fn row(&self, lease: &Lease) -> Value {
        let sent = |leg: Leg| -> u64 {
            let own = lease.installed.iter().filter(|(_, sender)| *sender == leg);
            own.filter_map(|(from, _)| self.act.datapath.traffic(from))
                .map(|seen| seen.bytes)
                .sum()
        };
        let from = |leg| lease.splice.here(leg).map(|knock| knock.wire.remote.to_string());
        json!({
            "lease": hex::encode(lease.id),
            "state": if lease.splice.is_spliced() { "relayed" } else { "waiting" },
            "at": lease.ends[0].to_string(),
            "first": from(Leg::First),
            "second": from(Leg::Second),
            "bytes_from_first": sent(Leg::First),
            "bytes_from_second": sent(Leg::Second),
        })
    }

    /// How the proxy is.
    pub(super) fn status(&self) -> Value {
        let attended = self.servers.iter().filter(|(_, words)| words.is_some());
        let servers: Vec<&String> = attended.map(|(url, _)| url).collect();
        let spliced = self
            .leases
            .iter()
            .filter(|lease| lease.splice.is_spliced())
            .count();
        let counters = self.act.datapath.counters();
        let segments: serde_json::Map<String, Value> = counters
            .iter()
            .map(|(what, count)| ((*what).to_owned(), json!(count)))
            .collect();
        json!({
            "proxy": self.me,
            "addresses": self.leases.addresses(),
            "ports": self.config.ports,
            "servers": servers,
            "capacity": self.leases.capacity(),
            "leases": self.leases.len(),
            "relayed": spliced,
            "draining": self.leases.draining,
            "bytes": self.bytes.0,
            "uptime_seconds": self.began.elapsed().as_secs(),
            "events": self.counters.all(),
            "refusals": self.counters.refusals(),
            "segments": segments,
        })
    }
}
