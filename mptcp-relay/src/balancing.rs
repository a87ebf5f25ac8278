//! The part of the configuration that is about access points.

use std::net::SocketAddr;

use operator::prefix::Prefix;
use serde::{Deserialize, Serialize};

/// Access points, and how connections are spread over them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Balance {
    /// Whether connections are moved; else loads are only shown.
    pub enabled: bool,
    /// Seconds from one look at the loads to the next; in each, one connection is moved at most.
    pub interval: f64,
    /// By how much the greatest load must fall for a move to be worth it, as a part of the capacity.
    pub hysteresis: f64,
    /// Seconds that a connection stays where it is at least.
    pub stay: f64,
    /// From how many bytes a second a connection is a bulk transfer; below it is interactive.
    pub bulk: f64,
    /// Which connections may be moved.
    pub policy: Mobility,
    /// Metrics of other relays whose terminals use the same access points.
    pub relays: Vec<SocketAddr>,
    /// The access points.
    pub points: Vec<AccessPoint>,
    /// Terminals with a policy of their own.
    pub terminals: Vec<TerminalPolicy>,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            enabled: false,
            interval: 1.0,
            hysteresis: 0.1,
            stay: 5.0,
            bulk: 50_000.0,
            policy: Mobility::Bulk,
            relays: Vec::new(),
            points: Vec::new(),
            terminals: Vec::new(),
        }
    }
}

/// Which connections of a terminal may be moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mobility {
    /// None.
    Stay,
    /// Bulk transfers.
    Bulk,
    /// All.
    Any,
}

/// An access point.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPoint {
    /// What it is called, by all relays alike.
    pub name: String,
    /// Terminals' addresses there, as this relay sees them.
    pub addresses: Vec<Prefix>,
    /// Bytes a second that it can carry.
    pub capacity: f64,
}

/// A terminal's own policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminalPolicy {
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Which of its connections may be moved.
    pub policy: Mobility,
}

impl Balance {
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, number, least, most) in [
            ("balance.interval", self.interval, 0.1, 3600.0),
            ("balance.hysteresis", self.hysteresis, 0.0, 10.0),
            ("balance.stay", self.stay, 0.0, 86_400.0),
            ("balance.bulk", self.bulk, 1.0, 1e12),
        ] {
            if !(least..=most).contains(&number) {
                return Err((key, format!("{number} is not between {least} and {most}")));
            }
        }
        for point in &self.points {
            let name = &point.name;
            let word = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if name.is_empty() || !name.chars().all(word) {
                return Err((
                    "balance.points",
                    format!("`{name}` is no name: take letters, digits, `_`, `-` and `.`"),
                ));
            }
            if self.points.iter().filter(|other| other.name == *name).count() > 1 {
                return Err(("balance.points", format!("there are two of the name `{name}`")));
            }
            if !(1.0..=1e12).contains(&point.capacity) {
                let capacity = point.capacity;
                return Err((
                    "balance.points",
                    format!("`{name}` carries {capacity} bytes a second: it must be 1 at least"),
                ));
            }
            if point.addresses.is_empty() {
                return Err((
                    "balance.points",
                    format!("`{name}` has no `addresses`: nobody could be found there"),
                ));
            }
        }
        if self.enabled && self.points.len() < 2 {
            return Err((
                "balance.enabled",
                "there are no two `balance.points` to balance".into(),
            ));
        }
        Ok(())
    }
}
