//! A look at all leases now and then: what has ended, and what there is to show.

use std::time::{Duration, Instant, SystemTime};

use datapath::relay::{LeaseId, Traffic};
use migration::proxy::{Activity, End, Fate, Leg, fate};
use proto::mobility::v1 as said;
use serde_json::{Value, json};

use super::Proxy;
use crate::leases::Lease;
use crate::metrics;

/// Leases that are looked at in one go. With a look at each every [`super::TICK`], half a million take 25 seconds.
const AT_ONCE: usize = 4096;
/// Servers are told no more often than this how much is relayed.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// A look at all leases, some at a time: an end that knocks meanwhile must not wait for it.
#[derive(Default)]
pub(super) struct Sweep {
    left: Vec<LeaseId>,
    /// Bytes of the leases that were looked at in this round.
    seen: u64,
    /// Bytes of connections that have ended.
    ended: u64,
    /// Bytes of all connections at the end of the last round, and when that was.
    total: Option<(u64, Instant)>,
    per_second: u64,
    told: Option<Instant>,
    /// Leases whose ways out may have changed.
    ways: usize,
    /// One has ended whose address or port no new one gets.
    narrow: bool,
}

impl Sweep {
    /// Routes have changed: the ways of so many leases are looked at, from the next one on.
    pub(super) fn look_at_ways(&mut self, leases: usize) {
        // Those that were looked at in this round come again in the next one.
        self.ways = leases + self.left.len();
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        self.per_second
    }

    fn bytes(&self) -> u64 {
        self.total.map_or(0, |(total, _)| total)
    }

    fn round_is_over(&mut self) {
        let now = Instant::now();
        let total = self.ended + std::mem::take(&mut self.seen);
        if let Some((before, since)) = self.total {
            let elapsed = (now - since).as_secs_f64().max(0.001);
            self.per_second = (total.saturating_sub(before) as f64 / elapsed) as u64;
        }
        self.total = Some((total, now));
    }
}

impl Proxy {
    /// Looks at some leases, and ends those that are over.
    pub(super) async fn review(&mut self) {
        if self.sweep.left.is_empty() {
            self.sweep.left = self.leases.ids();
        }
        let now = datapath::kernel::monotonic_ns();
        let patience = self.patience();
        let rest = self.sweep.left.len().saturating_sub(AT_ONCE);
        for id in self.sweep.left.split_off(rest) {
            let Some(lease) = self.leases.get(&id) else {
                continue;
            };
            let traffic = self.traffic(lease);
            self.sweep.seen += traffic.iter().map(|(_, seen)| seen.bytes).sum::<u64>();
            if self.sweep.ways > 0 {
                self.sweep.ways -= 1;
                self.act.follow_routes(lease).await;
            }
            let activity = self.activity(lease, &traffic, now);
            if let Fate::Free(end) = fate(activity, patience) {
                self.end(id, end);
            }
        }
        if self.sweep.left.is_empty() {
            self.sweep.round_is_over();
            if std::mem::take(&mut self.sweep.narrow) {
                self.narrow();
            }
        }
        if self.sweep.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.sweep.told = Some(Instant::now());
            for id in self.leases.forget_expired(SystemTime::now()) {
                self.act.datapath.forget(&id);
            }
            self.update_metrics();
            self.tell_load();
        }
    }

    fn update_metrics(&self) {
        metrics::update(&metrics::Gauges {
            leases: self.leases.len(),
            capacity: self.leases.capacity(),
            ports_taken: self.leases.ports.taken(),
            servers: self.attended(),
            draining: self.leases.draining,
            bytes: self.sweep.bytes(),
            datapath: self.act.datapath.counters(),
        });
    }

    fn attended(&self) -> usize {
        self.servers.iter().filter(|(_, words)| words.is_some()).count()
    }

    /// What has passed in each direction of a lease.
    fn traffic(&self, lease: &Lease) -> Vec<(Leg, Traffic)> {
        let installed = lease.installed.iter();
        installed
            .filter_map(|(from, leg)| Some((*leg, self.act.datapath.traffic(from)?)))
            .collect()
    }

    fn activity(&self, lease: &Lease, traffic: &[(Leg, Traffic)], now: u64) -> Activity {
        let fin = |leg: Leg| traffic.iter().any(|(sender, seen)| *sender == leg && seen.fin);
        let reset = traffic.iter().any(|(_, seen)| seen.reset);
        let last = traffic.iter().map(|(_, seen)| seen.last_ns).max();
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
        let bytes: u64 = self.traffic(&lease).iter().map(|(_, seen)| seen.bytes).sum();
        self.sweep.ended += bytes;
        // It was counted in this round already.
        self.sweep.seen = self.sweep.seen.saturating_sub(bytes);
        self.act.close(&lease);
        self.sweep.narrow |= self.leases.ports.has_left(&lease.ends, self.config.ports);
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
        let traffic = self.traffic(lease);
        let now = datapath::kernel::monotonic_ns();
        let sent = |leg: Leg| -> u64 {
            let own = traffic.iter().filter(|(sender, _)| *sender == leg);
            own.map(|(_, seen)| seen.bytes).sum()
        };
        let activity = self.activity(lease, &traffic, now);
        let from = |leg| lease.splice.here(leg).map(|knock| knock.wire.remote.to_string());
        json!({
            "lease": hex::encode(lease.id),
            "pair": hex::encode(lease.pair),
            "state": match (activity.spliced, activity.ended || activity.released.is_some()) {
                (false, _) => "waiting",
                (true, false) => "relayed",
                (true, true) => "ending",
            },
            "at": lease.ends[0].to_string(),
            "at_second": lease.ends[1].to_string(),
            "first": from(Leg::First),
            "second": from(Leg::Second),
            "bytes_from_first": sent(Leg::First),
            "bytes_from_second": sent(Leg::Second),
            "idle_seconds": activity.spliced.then_some(activity.quiet.as_secs()),
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
            "ports_taken": self.leases.ports.taken(),
            "bytes": self.sweep.bytes(),
            "bytes_per_second": self.sweep.bytes_per_second(),
            "uptime_seconds": self.began.elapsed().as_secs(),
            "events": self.counters.all(),
            "refusals": self.counters.refusals(),
            "segments": segments,
        })
    }
}
