//! What is counted, for `status` and for Prometheus.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;

/// Counters by name.
#[derive(Debug, Default)]
pub struct Counters {
    counts: BTreeMap<&'static str, u64>,
}

impl Counters {
    /// Something has happened.
    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
        metrics::counter!("mptcp_relay_events_total", "what" => what).increment(1);
    }

    /// All of them.
    pub fn all(&self) -> &BTreeMap<&'static str, u64> {
        &self.counts
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

/// Brings the gauges up to date; counters count themselves. The kernel's are absolute.
pub fn update(sessions: usize, half_open: usize) {
    metrics::gauge!("mptcp_relay_sessions").set(sessions as f64);
    metrics::gauge!("mptcp_relay_half_open").set(half_open as f64);
    for (name, value) in kernel() {
        metrics::counter!("mptcp_relay_kernel_total", "what" => name).absolute(value);
    }
}

/// What this network namespace's kernel has counted about MPTCP, as far as it is not 0: joins with wrong tokens or
/// MACs are among it.
pub fn kernel() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("MPTcpExt:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .filter(|(_, value)| *value > 0)
        .collect()
}
