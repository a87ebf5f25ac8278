//! What the server shows: JSON for programs, tables for people.

use comfy_table::{Table, presets};
use proto::mobility::v1 as pb;
use serde_json::{Value, json};

use crate::convert;

fn endpoint(endpoint: Option<&pb::Endpoint>) -> String {
    convert::endpoint(endpoint)
        .map(|endpoint| endpoint.to_string())
        .unwrap_or_default()
}

fn address(bytes: &[u8]) -> String {
    convert::address(bytes)
        .map(|address| address.to_string())
        .unwrap_or_default()
}

/// How the server is.
pub fn status(status: &pb::StatusResponse) -> Value {
    json!({
        "version": status.version,
        "uptime_seconds": status.uptime_seconds,
        "backend": status.backend,
        "epoch": hex::encode(&status.epoch),
        "listening": status.listening,
        "agents": status.agents,
        "waiting_reports": status.waiting_reports,
        "matches": status.matches,
        "destinations": status.destinations,
        "sessions": status.sessions,
        "relays": status.relays,
        "refusals": status.refusals.iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

/// One member.
pub fn agent(row: &pb::AgentRow) -> Value {
    json!({
        "name": row.name,
        "agent": row.agent,
        "state": row.state,
        "observed": endpoint(row.observed.as_ref()),
        "local": endpoint(row.local.as_ref()),
        "finding": row.observed.as_ref().map(|_| finding(row.finding())),
        "attached_seconds": row.attached_seconds,
        "pairs": row.pairs,
        "certificate_expires_unix_seconds": row.certificate_expires_unix_seconds,
    })
}

fn finding(finding: pb::Finding) -> &'static str {
    match finding {
        pb::Finding::Unknown => "unknown",
        pb::Finding::Outside => "outside",
        pb::Finding::BehindNapt => "behind NAPT",
        pb::Finding::Unreachable => "unreachable",
        pb::Finding::Proxied => "proxied",
    }
}

/// One pair.
pub fn pair(row: &pb::PairRow) -> Value {
    json!({
        "pair_id": hex::encode(&row.pair_id),
        "first": row.first,
        "second": row.second,
        "first_state": row.first_state,
        "second_state": row.second_state,
        "last_decision": row.last_decision,
        "connections": row.connections,
        "updated_unix_milliseconds": row.updated_unix_milliseconds,
    })
}

/// One session.
pub fn session(session: &pb::Session) -> Value {
    json!({
        "session_id": hex::encode(&session.session_id),
        "kind": session.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
        "owner": session.owner,
        "client": endpoint(session.client.as_ref()),
        "server": endpoint(session.server.as_ref()),
        "paths": session.paths.iter().map(path).collect::<Vec<_>>(),
        "token": (session.mptcp_token != 0).then(|| format!("{:08x}", session.mptcp_token)),
        "ends": session.ends,
        "pair_id": hex::encode(&session.pair_id),
        "lease_seconds": session.lease_seconds,
        "revision": session.revision,
    })
}

/// `LOCAL>REMOTE`, with its role where that is another than `established`.
fn path(path: &pb::Path) -> String {
    let role = match path.role.as_str() {
        "" | "established" | "primary" => String::new(),
        role => format!(" ({role})"),
    };
    let end = |end: &Option<pb::Endpoint>| endpoint(end.as_ref());
    format!("{}>{}{role}", end(&path.local), end(&path.remote))
}

/// One proxy or relay.
pub fn relay(row: &pb::RelayRow) -> Value {
    json!({
        "relay": row.relay,
        "kind": row.kind().as_str_name().trim_start_matches("KIND_").to_lowercase(),
        "addresses": row.addresses.iter().map(|bytes| address(bytes)).collect::<Vec<_>>(),
        "connections": row.connections,
        "capacity": row.capacity,
        "draining": row.draining,
    })
}

/// Rows for people; the columns are the keys.
pub fn table(rows: &[Value], none: &str) -> String {
    let Some(first) = rows.first().and_then(Value::as_object) else {
        return none.to_owned();
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(first.keys().map(|key| key.replace('_', " ")));
    for row in rows.iter().filter_map(Value::as_object) {
        table.add_row(row.values().map(cell));
    }
    table.to_string()
}

/// One thing for people: a line for each key.
pub fn list(value: &Value) -> String {
    let lines = value.as_object().into_iter().flatten();
    let lines = lines.map(|(key, value)| format!("{:<18} {}", key.replace('_', " "), cell(value)));
    lines.collect::<Vec<_>>().join("\n")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}={}", cell(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}
