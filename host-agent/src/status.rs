//! What the agent shows: plain values for `--json`, tables for people.

use comfy_table::{Table, presets};
use datapath::Datapath;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::agent::{Agent, ServerState};
use crate::sessions::Managed;
use crate::timeline::Entry;

/// How the agent is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Version of the program.
    pub version: String,
    /// Seconds since it started.
    pub uptime: f64,
    /// Who it is.
    pub agent_id: String,
    /// Its agent port.
    pub agent_port: u16,
    /// Addresses that can be used now.
    pub addresses: Vec<String>,
    /// Addresses that are kept for connections though the host has lost them.
    pub retired_addresses: Vec<String>,
    /// The prefixes under which IPv4 is looked for in a network that has nothing but IPv6.
    #[serde(default)]
    pub nat64_prefixes: Vec<String>,
    /// Connections that can migrate.
    pub connections: usize,
    /// Those on another tuple than their sockets know.
    pub moved: usize,
    /// Those that wait for a path.
    pub parked: usize,
    /// Connections whose peer offers migration but with which no keys were agreed.
    pub unpaired: usize,
    /// Pairs.
    pub pairs: usize,
    /// The mobility servers.
    #[serde(default)]
    pub servers: Vec<ServerRow>,
    /// Peers that are waited for longer, because they or this host said goodnight.
    #[serde(default)]
    pub sleeping: usize,
    /// Wire ports in use.
    pub wire_ports: usize,
    /// Number of the layout of the pinned maps.
    pub layout: u32,
    /// How many connections they hold.
    pub max_connections: u32,
    /// How often things happened.
    pub counters: BTreeMap<String, u64>,
    /// What the data path counts.
    pub datapath: BTreeMap<String, u64>,
}

/// One mobility server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerRow {
    /// Its URL.
    pub server: String,
    /// Whether there is a stream; there is one while it is needed.
    pub open: bool,
    /// Our end of the last stream.
    pub local: Option<String>,
    /// The same as the server saw it.
    pub observed: Option<String>,
    /// How the NAPT between them maps, if there is one: `none`, `port_preserving`, `endpoint_independent`, `random`, or
    /// `unknown`.
    pub napt: String,
    /// Changes when the server has lost what it had stored.
    pub epoch: String,
    /// Its clock less ours, in seconds.
    pub clock_skew_s: Option<f64>,
    /// Why there is no stream; empty: it is not needed.
    pub why: String,
}

/// One connection that can migrate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Our endpoint, as the socket knows it.
    pub local: String,
    /// The peer's endpoint, as the socket knows it.
    pub remote: String,
    /// Our endpoint on the wire.
    pub wire_local: String,
    /// The peer's endpoint on the wire.
    pub wire_remote: String,
    /// State of the extended machine.
    pub state: String,
    /// `initiator` or `acceptor`.
    pub role: String,
    /// Whether its segments are parked.
    pub parked: bool,
    /// The attempt that is on the wire; 0: never moved.
    pub req_no: u32,
    /// How often it resumed.
    pub moves: u32,
    /// From a usable address to the commit, last time, in milliseconds.
    pub last_resumption_ms: Option<f64>,
    /// How long it was detached, last time, in seconds.
    pub last_outage_s: Option<f64>,
    /// `direct`, or `relayed`: through a symmetric proxy.
    #[serde(default)]
    pub route: String,
    /// The pair.
    pub pair_id: String,
}

/// One pair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PairRow {
    /// The other agent.
    pub peer: String,
    /// What its certificate calls it.
    pub name: String,
    /// Names the pair towards mobility servers.
    pub pair_id: String,
    /// Number of the newest exchange.
    pub epoch: u32,
    /// Where this side saw it.
    pub observed: String,
    /// Its own addresses.
    pub direct: Vec<String>,
    /// Its agent port.
    pub agent_port: u16,
    /// It is behind a NAPT.
    pub peer_behind_napt: bool,
    /// This host is behind a NAPT, seen from there.
    pub self_behind_napt: bool,
    /// Mobility servers that both may use.
    pub servers: Vec<String>,
    /// Whether the line to its agent is open.
    pub channel: bool,
}

/// What only the loop knows.
#[derive(Clone, Debug)]
pub struct About {
    /// Who the agent is.
    pub agent_id: String,
    /// Its agent port.
    pub agent_port: u16,
    /// Since it started.
    pub uptime: std::time::Duration,
    /// Number of the layout of its maps.
    pub layout: u32,
    /// How many connections they hold.
    pub max_connections: u32,
}

impl<D: Datapath> Agent<D> {
    /// How it is.
    pub fn status(&self, about: &About) -> Status {
        let live = || self.sessions.values().filter(|managed| managed.is_live());
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime: about.uptime.as_secs_f64(),
            agent_id: about.agent_id.clone(),
            agent_port: about.agent_port,
            addresses: self
                .network
                .usable()
                .map(|(address, _)| address.to_string())
                .collect(),
            retired_addresses: self.retired.iter().map(ToString::to_string).collect(),
            nat64_prefixes: self.nat64.iter().map(ToString::to_string).collect(),
            connections: live().count(),
            moved: live()
                .filter(|managed| managed.machine.committed().0 != 0)
                .count(),
            parked: live().filter(|managed| managed.machine.is_parked()).count(),
            unpaired: self.unpaired.len(),
            pairs: self.pairs.all().count(),
            servers: self.server_rows(),
            sleeping: self.sleeping.pairs(),
            wire_ports: self.ports.in_use(),
            layout: about.layout,
            max_connections: about.max_connections,
            counters: self.timeline.counts().clone(),
            datapath: self
                .datapath
                .counters()
                .into_iter()
                .map(|(name, count)| (name.to_string(), count))
                .collect(),
        }
    }

    fn server_rows(&self) -> Vec<ServerRow> {
        let row = |(url, state): (&String, &ServerState)| ServerRow {
            server: url.clone(),
            open: state.open,
            local: state.local.map(|local| local.to_string()),
            observed: state.observed.map(|observed| observed.to_string()),
            napt: state
                .local
                .zip(state.observed)
                .map_or("unknown", |(local, observed)| {
                    self.reporting.napt_of(local.address, observed.address)
                })
                .into(),
            epoch: state.epoch.iter().map(|byte| format!("{byte:02x}")).collect(),
            clock_skew_s: state.skew.map(|skew| skew as f64 / 1e3),
            why: state.why.clone(),
        };
        self.reporting.servers().map(row).collect()
    }

    /// The connections, in the order of their tuples.
    pub fn connection_rows(&self) -> Vec<ConnectionRow> {
        let mut live: Vec<&Managed> = self
            .sessions
            .values()
            .filter(|managed| managed.is_live())
            .collect();
        live.sort_by_key(|managed| managed.identity);
        live.into_iter().map(row).collect()
    }

    /// The pairs.
    pub fn pair_rows(&self) -> Vec<PairRow> {
        let mut rows: Vec<PairRow> = self
            .pairs
            .all()
            .map(|pair| PairRow {
                peer: pair.peer.to_string(),
                name: pair.peer_name.clone(),
                pair_id: pair.pair_id.to_string(),
                epoch: pair.epoch,
                observed: pair.peer_observed.address.to_string(),
                direct: pair
                    .peer_direct_addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                agent_port: pair.peer_agent_port,
                peer_behind_napt: pair.peer_behind_napt,
                self_behind_napt: pair.self_behind_napt,
                servers: pair.common_servers.clone(),
                channel: self.lines.is_open(&pair.pair_id),
            })
            .collect();
        rows.sort_by(|a, b| a.peer.cmp(&b.peer));
        rows
    }
}

fn row(managed: &Managed) -> ConnectionRow {
    let wire = managed.machine.wire();
    ConnectionRow {
        local: managed.identity.local.to_string(),
        remote: managed.identity.remote.to_string(),
        wire_local: wire.local.to_string(),
        wire_remote: wire.remote.to_string(),
        state: managed.machine.state().to_string(),
        role: format!("{:?}", managed.role).to_lowercase(),
        parked: managed.machine.is_parked(),
        req_no: managed.machine.committed().0,
        moves: managed.moves,
        last_resumption_ms: managed.last_resumption.map(|took| took.as_secs_f64() * 1e3),
        last_outage_s: managed.last_outage.map(|outage| outage.as_secs_f64()),
        route: if managed.is_relayed() { "relayed" } else { "direct" }.into(),
        pair_id: managed.keys().pair_id.to_string(),
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    table
}

/// For people.
pub fn print_status(status: &Status) -> String {
    let mut table = table(&["host-agent", &status.version]);
    let mut line = |name: &str, value: String| {
        table.add_row([name.to_string(), value]);
    };
    line("identity", status.agent_id.clone());
    line("up for", format!("{:.0} s", status.uptime));
    line("agent port", status.agent_port.to_string());
    line("addresses", status.addresses.join(", "));
    line(
        "retired addresses",
        none_if_empty(status.retired_addresses.join(", ")),
    );
    line(
        "connections",
        format!(
            "{} can migrate ({} moved, {} parked), {} wait for a pair",
            status.connections, status.moved, status.parked, status.unpaired
        ),
    );
    let pairs = match status.sleeping {
        0 => status.pairs.to_string(),
        sleeping => format!("{} ({sleeping} asleep)", status.pairs),
    };
    line("pairs", pairs);
    for server in &status.servers {
        line("server", print_server(server));
    }
    for (name, count) in status
        .counters
        .iter()
        .chain(&status.datapath)
        .filter(|(_, count)| **count > 0)
    {
        line(&format!("  {name}"), count.to_string());
    }
    table.to_string()
}

fn print_server(row: &ServerRow) -> String {
    let mut text = match (row.open, row.why.is_empty()) {
        (true, _) => format!("{} attended", row.server),
        (false, true) => format!("{} not needed now", row.server),
        (false, false) => format!("{} not there: {}", row.server, row.why),
    };
    if let Some(observed) = &row.observed {
        text += &format!(", sees this host at {observed}");
    }
    match row.napt.as_str() {
        "none" | "unknown" => {}
        napt => text += &format!(" (NAPT: {})", napt.replace('_', " ")),
    }
    if let Some(skew) = row.clock_skew_s.filter(|skew| skew.abs() > 5.0) {
        text += &format!(", clocks differ by {skew:.0} s");
    }
    text
}

fn none_if_empty(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

/// For people.
pub fn print_connections(rows: &[ConnectionRow]) -> String {
    if rows.is_empty() {
        return "no connection can migrate; both hosts need an agent and a pair (see \"host-agent pairs\")"
            .into();
    }
    let mut table = table(&[
        "LOCAL",
        "REMOTE",
        "ON THE WIRE",
        "STATE",
        "ROLE",
        "MOVES",
        "RESUMED IN",
        "OUTAGE",
    ]);
    for row in rows {
        let moved = row.wire_local != row.local || row.wire_remote != row.remote;
        table.add_row([
            row.local.clone(),
            row.remote.clone(),
            if moved {
                let route = if row.route == "relayed" { ", relayed" } else { "" };
                format!("{} <-> {}{route}", row.wire_local, row.wire_remote)
            } else {
                "the same".into()
            },
            format!("{}{}", row.state, if row.parked { ", parked" } else { "" }),
            row.role.clone(),
            row.moves.to_string(),
            row.last_resumption_ms
                .map_or("-".into(), |took| format!("{took:.1} ms")),
            row.last_outage_s
                .map_or("-".into(), |outage| format!("{outage:.2} s")),
        ]);
    }
    table.to_string()
}

/// For people.
pub fn print_pairs(rows: &[PairRow]) -> String {
    if rows.is_empty() {
        return "no pair yet; one is agreed when the first connection with another agent comes up".into();
    }
    let mut table = table(&["PEER", "SEEN AT", "ITS ADDRESSES", "NAPT", "EPOCH", "SERVERS"]);
    for row in rows {
        let napt = match (row.self_behind_napt, row.peer_behind_napt) {
            (false, false) => "none",
            (true, false) => "here",
            (false, true) => "there",
            (true, true) => "both",
        };
        table.add_row([
            row.name.clone(),
            format!("{} port {}", row.observed, row.agent_port),
            row.direct.join(", "),
            napt.to_string(),
            row.epoch.to_string(),
            none_if_empty(row.servers.join(", ")),
        ]);
    }
    table.to_string()
}

/// For people: one line.
pub fn print_entry(entry: &Entry) -> String {
    let connection = if entry.connection.is_empty() {
        "-"
    } else {
        &entry.connection
    };
    format!(
        "{:.3}  {:<16} {:<46} {}",
        entry.time, entry.what, connection, entry.detail
    )
}
