//! What the relay shows: JSON for programs; `operator` makes tables of it.

use std::sync::atomic::Ordering;

use mptcp_pm::Subflow;
use serde_json::{Value, json};

use crate::act::canonical;
use crate::admission::Way;
use crate::paths::Policy;
use crate::sessions::{Session, Sessions};

/// One connection.
pub fn session(session: &Session, policy: &Policy, subflows: &[Subflow]) -> Value {
    let own = subflows.iter().filter(|flow| Some(flow.token) == session.token);
    json!({
        "token": session.token.map(|token| token.to_string()),
        "terminal": session.ends.terminal,
        "server": session.ends.server,
        "opened_by": match session.way {
            Way::Up => "terminal",
            Way::Down => "server",
        },
        "kind": match session.token {
            Some(_) => "multipath",
            None if session.anchored => "anchored",
            None => "plain",
        },
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
