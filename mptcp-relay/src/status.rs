//! What the relay shows: JSON for programs, tables for people.

use std::sync::atomic::Ordering;

use comfy_table::{Table, presets};
use mptcp_pm::Subflow;
use serde_json::{Value, json};

use crate::act::canonical;
use crate::paths::Policy;
use crate::sessions::{Session, Sessions};

/// One connection.
pub fn session(session: &Session, policy: &Policy, subflows: &[Subflow]) -> Value {
    let own = subflows.iter().filter(|flow| Some(flow.token) == session.token);
    json!({
        "token": session.token.map(|token| token.to_string()),
        "terminal": session.ends.terminal,
        "server": session.ends.server,
        "kind": if session.token.is_some() { "multipath" } else { "plain" },
        "subflows": own.count(),
        "primary": session.token.and_then(|token| policy.primary(token)),
        "up": session.carried.up.load(Ordering::Relaxed),
        "down": session.carried.down.load(Ordering::Relaxed),
        "seconds": session.since.elapsed().as_secs(),
    })
}

/// One subflow of a connection that is relayed; None: of another.
pub fn subflow(flow: &Subflow, sessions: &Sessions) -> Option<Value> {
    let session = sessions
        .iter()
        .find(|session| session.token == Some(flow.token))?;
    Some(json!({
        "token": flow.token.to_string(),
        "terminal": session.ends.terminal,
        "local": canonical(flow.local),
        "remote": canonical(flow.remote),
        "backup": flow.is_backup(),
        "rtt_ms": flow.rtt.as_secs_f64() * 1e3,
        "window": flow.congestion_window,
        "retransmitted": flow.retransmitted,
        "sent": flow.bytes_acknowledged,
        "received": flow.bytes_received,
        "rate": flow.delivery_rate,
    }))
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
    let lines = lines.map(|(key, value)| format!("{:<12} {}", key.replace('_', " "), cell(value)));
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
        Value::Number(number) if number.is_f64() => {
            format!("{:.1}", number.as_f64().unwrap_or_default())
        }
        other => other.to_string(),
    }
}
