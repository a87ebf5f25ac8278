//! What a story does to a network that stands.
//!
//! The lab is every host's connection manager: a cable that is pulled takes address and routes with it, one that
//! is plugged in brings them, as a DHCP client would do.
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Instant;

use super::{Network, plan};
use crate::emulator::Order;
use crate::language::ast::*;
use crate::language::units::Prefix;
use crate::machine::{MachineError, netns};

impl Network {
    /// Gives a node these addresses on a link, and the routes over it.
    pub fn join(&mut self, node: &str, link: &str, addresses: &[Prefix]) -> Result<(), MachineError> {
        let (end, mut batch) = (self.end(node, link), String::new());
        let (multipath, mut endpoints) = (self.scenario.is_multipath(node), String::new());
        let live = self.links.get_mut(link).expect("checked with the scenario");
        for prefix in addresses
            .iter()
            .filter(|prefix| !live.addresses[end].contains(prefix))
        {
            let nodad = if prefix.is_ipv6() { " nodad" } else { "" };
            let _ = writeln!(batch, "addr add {prefix} dev {link}{nodad}");
            live.devices[end].allow(prefix.address);
            if multipath {
                endpoints += &self.endpoints.add(node, link, prefix.address);
            }
        }
        for prefix in addresses {
            if !live.addresses[end].contains(prefix) {
                live.addresses[end].push(*prefix);
            }
        }
        for route in self.routes(node, link) {
            let _ = writeln!(batch, "route replace {}", show_route(&route, link));
        }
        // A subflow needs its route at once.
        batch += &endpoints;
        netns::ip(&self.stations[node].netns, &batch)
    }

    /// Takes from a node these addresses on a link, and the routes that need them.
    pub fn leave(&mut self, node: &str, link: &str, addresses: &[Prefix]) -> Result<(), MachineError> {
        let end = self.end(node, link);
        let before = self.routes(node, link);
        let live = self.links.get_mut(link).expect("checked with the scenario");
        let (mut batch, mut lenient) = (String::new(), String::new());
        for prefix in addresses
            .iter()
            .filter(|prefix| live.addresses[end].contains(prefix))
        {
            // While the address is there, the kernel can still say that it goes.
            batch += &self.endpoints.remove(node, prefix.address);
            let _ = writeln!(batch, "addr del {prefix} dev {link}");
        }
        live.addresses[end].retain(|prefix| !addresses.contains(prefix));
        let after = self.routes(node, link);
        for route in before.iter().filter(|route| !after.contains(route)) {
            // The kernel removes IPv4 routes with the last address itself.
            let _ = writeln!(lenient, "route del {}", show_route(route, link));
        }
        let station = &self.stations[node];
        netns::ip(&station.netns, &batch)?;
        netns::ip_lenient(&station.netns, &lenient)?;
        let now = Instant::now();
        for prefix in addresses {
            self.links[link].devices[end].refuse(prefix.address, now);
        }
        Ok(())
    }

    /// Plugs a link in or pulls it out.
    pub fn plug(&mut self, link: &str, plugged: bool, keep: bool) -> Result<(), String> {
        let scenario = std::sync::Arc::clone(&self.scenario);
        let Some(described) = scenario.link(link) else {
            return Err(format!("there is no link `{link}`"));
        };
        let ends = self.carrier_ends(described);
        let live = self.links.get_mut(link).ok_or("the link does not stand")?;
        live.order(link, Order::Carrier { plugged, ends })?;
        live.plugged = plugged;
        if keep {
            return Ok(());
        }
        for (end, _) in ends.iter().enumerate().filter(|(_, shows)| **shows) {
            let node = described.ends[end].node.text.as_str();
            if scenario.node(node).is_none_or(|node| node.kind != Kind::Host) {
                continue;
            }
            let outcome = if plugged {
                self.join(node, link, &described.ends[end].addresses)
            } else {
                let current = self.links[link].addresses[end].clone();
                self.leave(node, link, &current)
            };
            outcome.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// First half of a move: the host leaves a link, its cable stays.
    pub fn depart(&mut self, host: &str, link: &str) -> Result<(), String> {
        let current = self.links[link].addresses[self.end(host, link)].clone();
        self.leave(host, link, &current)
            .map_err(|error| error.to_string())
    }

    /// Second half of a move: the host joins a link, with the address the scenario gives it there.
    pub fn arrive(&mut self, host: &str, link: &str) -> Result<(), String> {
        if !self.live(link)?.plugged {
            return self.plug(link, true, false);
        }
        let scenario = std::sync::Arc::clone(&self.scenario);
        let Some(described) = scenario.link(link) else {
            return Err(format!("there is no link `{link}`"));
        };
        let addresses = &described.ends[self.end(host, link)].addresses;
        self.join(host, link, addresses)
            .map_err(|error| error.to_string())
    }

    /// Sets or removes one route.
    pub fn route(&self, node: &str, to: Option<Prefix>, via: Option<IpAddr>) -> Result<(), MachineError> {
        let ipv6 = via.map_or_else(|| to.is_some_and(|to| to.is_ipv6()), |via| via.is_ipv6());
        let to = to.map_or_else(|| default(ipv6).to_owned(), |to| to.to_string());
        let batch = match via {
            Some(via) => format!("route replace {to} via {via} metric 50\n"),
            None => format!("route del {to}\n"),
        };
        netns::ip(&self.stations[node].netns, &batch)
    }

    /// Changes rate, delay, loss, queue and MTU of a link from now on.
    pub fn reshape(&mut self, link: &str, change: &ShapeChange) -> Result<(), String> {
        let live = self.links.get_mut(link).ok_or("the link does not stand")?;
        live.shape = live.shape.changed(change);
        live.order(link, Order::Shape(live.shape))?;
        if let Some(mtu) = change.mtu {
            let nodes = self
                .scenario
                .link(link)
                .map(|link| [0, 1].map(|end| link.ends[end].node.text.clone()));
            for node in nodes.iter().flatten() {
                let batch = format!("link set dev {link} mtu {mtu}\n");
                netns::ip(&self.stations[node].netns, &batch).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn end(&self, node: &str, link: &str) -> usize {
        self.scenario
            .link(link)
            .and_then(|link| link.end_at(node))
            .unwrap_or_default()
    }

    fn routes(&self, node: &str, link: &str) -> Vec<plan::PlannedRoute> {
        let (Some(described), Some(node)) = (self.scenario.link(link), self.scenario.node(node)) else {
            return Vec::new();
        };
        let end = self.end(&node.name.text, link);
        let far = &self.links[link].addresses[1 - end];
        // While the network is built the far end may not have its addresses yet.
        let far = if far.is_empty() {
            &described.ends[1 - end].addresses
        } else {
            far
        };
        plan::routes(
            &self.scenario,
            node,
            described,
            &self.links[link].addresses[end],
            far,
        )
    }
}

fn show_route(route: &plan::PlannedRoute, link: &str) -> String {
    let to = route
        .to
        .map_or_else(|| default(route.via.is_ipv6()).to_owned(), |to| to.to_string());
    format!("{to} via {} dev {link} metric {}", route.via, route.metric)
}

fn default(ipv6: bool) -> &'static str {
    if ipv6 { "::/0" } else { "0.0.0.0/0" }
}
