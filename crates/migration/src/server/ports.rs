//! Which connection of one report is which of the other (3.1.5 of the source).

use std::collections::{HashMap, HashSet};

use super::report::{ConnectionPorts, Report};

/// A connection that both ends have reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Matched {
    /// Its place in the first report.
    pub a: usize,
    /// Its place in the second report.
    pub b: usize,
}

/// The places in `own` of the connections that only this report names, though there is another: its end has noticed
/// nothing of these, for an end notices only where it sends. One without a label may be any of the others.
pub fn only_in(own: &Report, other: &Report) -> Vec<usize> {
    if other.connections.iter().any(|ports| ports.label == 0) {
        return Vec::new();
    }
    let named: HashSet<u64> = other.connections.iter().map(|ports| ports.label).collect();
    let places = own.connections.iter().enumerate();
    places
        .filter(|(_, ports)| ports.label != 0 && !named.contains(&ports.label))
        .map(|(place, _)| place)
        .collect()
}

/// Matches the connections of two reports.
///
/// - Both have labels: they are the same. Ports say too little after a phase from NAPT to NAPT, where neither end knows
///   the other's direct port.
/// - Both ends in the open, or either or both behind NAPTs: the ports are crossed, for Migrate-Permit has told each the
///   direct port of the other.
/// - Both sent to one address: a proxy, and then the proxy's port is the same for both. If no port is, it was their
///   common NAPT, and the ports are crossed.
pub fn matching(a: &Report, b: &Report) -> Vec<Matched> {
    let by_label = by_key(
        a,
        b,
        |ports| (ports.label != 0).then_some(ports.label),
        |ports| Some(ports.label),
    );
    let unlabelled = |ports: &ConnectionPorts| ports.label == 0;
    if !(a.connections.iter().any(unlabelled) || b.connections.iter().any(unlabelled)) {
        return by_label;
    }
    let crossed = || {
        by_key(
            a,
            b,
            |ports| Some((ports.source_before, ports.destination_before)),
            |ports| Some((ports.destination_before, ports.source_before)),
        )
    };
    let by_ports = if a.destination_before == b.destination_before {
        let by_proxy_port = by_key(
            a,
            b,
            |ports| Some(ports.destination_before),
            |ports| Some(ports.destination_before),
        );
        if by_proxy_port.is_empty() {
            crossed()
        } else {
            by_proxy_port
        }
    } else {
        crossed()
    };
    let mut matched = by_label;
    for new in by_ports {
        let labels = (a.connections[new.a].label, b.connections[new.b].label);
        let taken = matched.iter().any(|old| old.a == new.a || old.b == new.b);
        if (labels.0 == 0 || labels.1 == 0) && !taken {
            matched.push(new);
        }
    }
    matched
}

/// Whether the two spoke through a proxy: both sent to one port of one address.
pub fn through_proxy(a: &Report, b: &Report, matched: &[Matched]) -> bool {
    let one_port = |matched: &Matched| {
        a.connections[matched.a].destination_before == b.connections[matched.b].destination_before
    };
    a.destination_before == b.destination_before && matched.iter().any(one_port)
}

/// Matches one to one where the key of A's connection equals that of B's.
fn by_key<K: std::hash::Hash + Eq>(
    a: &Report,
    b: &Report,
    key_of_a: impl Fn(&ConnectionPorts) -> Option<K>,
    key_of_b: impl Fn(&ConnectionPorts) -> Option<K>,
) -> Vec<Matched> {
    let mut free: HashMap<K, usize> = HashMap::new();
    for (index, ports) in b.connections.iter().enumerate() {
        if let Some(key) = key_of_b(ports) {
            free.entry(key).or_insert(index);
        }
    }
    let places = a.connections.iter().enumerate();
    places
        .filter_map(|(index, ports)| {
            let b = free.remove(&key_of_a(ports)?)?;
            Some(Matched { a: index, b })
        })
        .collect()
}
