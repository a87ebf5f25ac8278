//! What is counted, for `status` and for Prometheus.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;

/// Counters by name.
#[derive(Debug, Default)]
pub struct Counters {
    counts: BTreeMap<&'static str, u64>,
    refusals: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Something has happened.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        metrics::counter!("symmetric_proxy_events_total", "what" => what).increment(1);
    }

    /// Something was not done.
    pub fn refuse(&mut self, why: &'static str) {
        *self.refusals.entry(why).or_default() += 1;
        metrics::counter!("symmetric_proxy_refusals_total", "why" => why).increment(1);
    }

    /// What has happened, by name.
    pub fn all(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
    }

    /// What was refused, by reason.
    pub fn refusals(&self) -> &BTreeMap<&'static str, u64> {
        &self.refusals
    }
}

/// Serves them at `/metrics`, if an address is configured.
///
/// # Errors
/// The address cannot be used.
pub fn serve(address: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .with_context(|| format!("cannot serve metrics at {address}: choose another `metrics` address"))
}

/// What is measured, not counted.
pub struct Gauges {
    /// Connections that are relayed or waited for.
    pub leases: usize,
    /// How many there can be.
    pub capacity: usize,
    /// Ports, of all addresses.
    pub ports_taken: usize,
    /// Servers that are attended.
    pub servers: usize,
    /// Nothing new is taken.
    pub draining: bool,
    /// Relayed so far.
    pub bytes: u64,
    /// The data path's own counters.
    pub datapath: Vec<(&'static str, u64)>,
}

/// Brings the gauges up to date; counters count themselves, and those of the data path are absolute.
pub fn update(now: &Gauges) {
    metrics::gauge!("symmetric_proxy_relays").set(now.leases as f64);
    metrics::gauge!("symmetric_proxy_capacity").set(now.capacity as f64);
    metrics::gauge!("symmetric_proxy_ports_taken").set(now.ports_taken as f64);
    metrics::gauge!("symmetric_proxy_servers").set(now.servers as f64);
    metrics::gauge!("symmetric_proxy_draining").set(f64::from(u8::from(now.draining)));
    metrics::counter!("symmetric_proxy_bytes_total").absolute(now.bytes);
    for (what, count) in &now.datapath {
        metrics::counter!("symmetric_proxy_segments_total", "what" => *what).absolute(*count);
    }
}
