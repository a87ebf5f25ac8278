//! Prometheus metrics.

use std::net::SocketAddr;

use anyhow::Context;
use datapath::Datapath;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::agent::Agent;

/// Serves them at `/metrics`, if an address is configured.
pub fn serve(address: Option<SocketAddr>) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    PrometheusBuilder::new()
        .with_http_listener(address)
        .install()
        .with_context(|| format!("cannot serve metrics at {address}: choose another `metrics` address"))
}

/// Brings them up to date.
pub fn update<D: Datapath>(agent: &Agent<D>) {
    let live = || agent.sessions.values().filter(|managed| managed.is_live());
    metrics::gauge!("mobility_connections").set(live().count() as f64);
    metrics::gauge!("mobility_connections_moved").set(
        live()
            .filter(|managed| managed.machine.committed().0 != 0)
            .count() as f64,
    );
    metrics::gauge!("mobility_connections_parked")
        .set(live().filter(|managed| managed.machine.is_parked()).count() as f64);
    metrics::gauge!("mobility_pairs").set(agent.pairs.all().count() as f64);
    metrics::gauge!("mobility_retired_addresses").set(agent.retired.len() as f64);
    for (name, count) in agent.timeline.counts() {
        metrics::counter!("mobility_events_total", "what" => name.clone()).absolute(*count);
    }
    for (name, count) in agent.datapath.counters() {
        metrics::counter!("mobility_datapath_total", "what" => name).absolute(count);
    }
}
