//! Prometheus metrics.

use std::net::SocketAddr;

use anyhow::Context;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::service::Shared;

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

/// Brings the gauges up to date; counters count themselves.
pub fn update(shared: &Shared) {
    metrics::gauge!("mobility_server_agents").set(shared.registry.agents() as f64);
    metrics::gauge!("mobility_server_streams").set(shared.registry.all().len() as f64);
    metrics::gauge!("mobility_server_relays").set(shared.relays.all().len() as f64);
    metrics::gauge!("mobility_server_uptime_seconds").set(shared.started.elapsed().as_secs_f64());
}
