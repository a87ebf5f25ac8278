//! What follows from a scenario's text: emulated links, hardware addresses, routes. Pure.
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;

use crate::language::ast::*;
use crate::language::units::Prefix;

/// Metric of the routes over a node's first link; each further link costs 10 more.
const FIRST_METRIC: u32 = 100;

/// A route that exists while its link is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRoute {
    pub to: Option<Prefix>,
    pub via: IpAddr,
    pub metric: u32,
}

/// Whether a link needs the emulator: it is shaped, down at first, or an event touches it.
pub fn is_emulated(scenario: &Scenario, link: &Link) -> bool {
    let Shape {
        rate, delay, loss, ..
    } = link.shape;
    if link.plain {
        return false;
    }
    if rate.is_some() || !delay.is_zero() || loss > 0.0 || link.down {
        return true;
    }
    scenario.steps.iter().any(|step| match &step.what {
        What::Do(Action::Link { link: touched, .. }) => *touched == link.name,
        What::Do(Action::Host {
            change: HostChange::Move { from, to, .. },
            ..
        }) => *from == link.name || *to == link.name,
        What::Do(Action::Napt {
            napt,
            change: NaptChange::Reboot { .. },
        }) => link.end_at(&napt.text).is_some(),
        _ => false,
    })
}

/// A `resolv.conf` that names every resolver there is: those beside NAT64s.
pub fn resolvers(scenario: &Scenario) -> String {
    let nat64s = scenario
        .nodes
        .iter()
        .filter(|node| matches!(&node.kind, Kind::Napt(rule) if rule.nat64.is_some()));
    let addresses = nat64s.filter_map(|node| scenario.address_of(&node.name.text, true));
    addresses
        .map(|address| format!("nameserver {address}\n"))
        .collect()
}

/// A locally administered hardware address, the same in every run.
pub fn hardware_address(link: usize, end: usize) -> [u8; 6] {
    [0x02, 0x4c, 0x41, (link >> 8) as u8, link as u8, end as u8 + 1]
}

/// The routes of `node` over its `end` of `link`, given the addresses both ends have now.
pub fn routes(
    scenario: &Scenario,
    node: &Node,
    link: &Link,
    own: &[Prefix],
    far: &[Prefix],
) -> Vec<PlannedRoute> {
    let name = node.name.text.as_str();
    let Some(position) = scenario
        .links_of(name)
        .position(|(candidate, _)| candidate.name == link.name)
    else {
        return Vec::new();
    };
    let metric = FIRST_METRIC + 10 * position as u32;
    let mut routes = Vec::new();
    for ipv6 in [false, true] {
        let explicit: Vec<&Route> = scenario
            .routes
            .iter()
            .filter(|route| route.node == node.name && route.via.is_ipv6() == ipv6)
            .collect();
        if !explicit.is_empty() {
            let here = explicit
                .into_iter()
                .filter(|route| own.iter().any(|prefix| prefix.contains(route.via)));
            routes.extend(here.map(|route| PlannedRoute {
                to: route.to,
                via: route.via,
                metric,
            }));
            continue;
        }
        let Some(via) = gateway(own, far, ipv6) else {
            continue;
        };
        let is_default = match &node.kind {
            Kind::Host => scenario
                .nodes
                .iter()
                .any(|far| link.end_at(&far.name.text).is_some() && far.kind != Kind::Host),
            Kind::Napt(_) => scenario
                .outside_of(node)
                .is_some_and(|outside| outside.name == link.name),
            Kind::Router => false,
        };
        if is_default {
            routes.push(PlannedRoute {
                to: None,
                via,
                metric,
            });
        }
        if node.kind != Kind::Host && !is_default {
            let reached = reachable_through(scenario, name, link, ipv6);
            routes.extend(reached.into_iter().map(|to| PlannedRoute {
                to: Some(to),
                via,
                metric,
            }));
        }
    }
    routes
}

/// The far end's first address that is a neighbour of one of ours.
fn gateway(own: &[Prefix], far: &[Prefix], ipv6: bool) -> Option<IpAddr> {
    far.iter()
        .filter(|prefix| prefix.is_ipv6() == ipv6)
        .find(|there| own.iter().any(|here| here.contains(there.address)))
        .map(|prefix| prefix.address)
}

/// Networks for which the shortest way from `node` begins with `first`. What lies inside a NAPT is reached by
/// nobody outside.
fn reachable_through(scenario: &Scenario, node: &str, first: &Link, ipv6: bool) -> Vec<Prefix> {
    let mut direct = HashSet::new();
    for (link, end) in scenario.links_of(node) {
        direct.extend(networks(&link.ends[end], ipv6));
    }
    // Breadth first: every node remembers the link by which the way to it left `node`.
    let mut first_link: HashMap<&str, &str> = HashMap::from([(node, "")]);
    let mut found: Vec<(Prefix, &str)> = Vec::new();
    let mut queue = VecDeque::from([node]);
    while let Some(here) = queue.pop_front() {
        for (link, end) in scenario.links_of(here) {
            let there = &link.ends[1 - end];
            let way = if here == node {
                link.name.text.as_str()
            } else {
                first_link[here]
            };
            for network in networks(&link.ends[end], ipv6).chain(networks(there, ipv6)) {
                if !direct.contains(&network) && !found.iter().any(|(known, _)| *known == network) {
                    found.push((network, way));
                }
            }
            if !first_link.contains_key(there.node.text.as_str())
                && lets_through(scenario, &there.node.text, link)
            {
                first_link.insert(&there.node.text, way);
                queue.push_back(&there.node.text);
            }
        }
    }
    found
        .into_iter()
        .filter(|(_, way)| *way == first.name.text)
        .map(|(network, _)| network)
        .collect()
}

fn networks(end: &End, ipv6: bool) -> impl Iterator<Item = Prefix> + '_ {
    end.addresses
        .iter()
        .filter(move |prefix| prefix.is_ipv6() == ipv6)
        .map(Prefix::network)
}

/// Whether packets that enter a node by `link` are forwarded to its other links.
fn lets_through(scenario: &Scenario, node: &str, link: &Link) -> bool {
    scenario.node(node).is_some_and(|node| match node.kind {
        Kind::Host => false,
        Kind::Router => true,
        Kind::Napt(_) => scenario
            .outside_of(node)
            .is_none_or(|outside| outside.name != link.name),
    })
}
