//! The network of a scenario.
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::Step;
use crate::language::diagnostic::Place;
use crate::language::units::Prefix;

/// A name and where it stands. Two names are equal when their texts are.
#[derive(Clone, Debug, Default)]
pub struct Name {
    pub text: String,
    pub place: Place,
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.text == other.text
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Scenario {
    pub file: String,
    pub title: Option<String>,
    pub nodes: Vec<Node>,
    pub links: Vec<Link>,
    pub routes: Vec<Route>,
    pub sysctls: Vec<Sysctl>,
    pub agents: Vec<AgentStart>,
    pub servers: Vec<ServerStart>,
    pub redis: Vec<RedisStart>,
    pub relays: Vec<RelayStart>,
    /// Hosts that use all their links at once by MPTCP.
    pub multipath: Vec<Name>,
    /// The captures are wanted although the run succeeds.
    pub capture: bool,
    /// What the kernel must have; without it the story is skipped.
    pub needs: Vec<Feature>,
    /// The run is given up after this time.
    pub limit: Option<Duration>,
    pub steps: Vec<Step>,
}

impl Scenario {
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name.text == name)
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name.text == name)
    }

    /// The links of a node in the order of the file, with the index of its end.
    pub fn links_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Link, usize)> + 'a {
        self.links
            .iter()
            .filter_map(move |link| link.end_at(node).map(|end| (link, end)))
    }

    /// Whether a host uses all its links at once.
    pub fn is_multipath(&self, node: &str) -> bool {
        self.multipath.iter().any(|name| name.text == node)
    }

    /// The first address of a node, in the order of the file.
    pub fn address_of(&self, node: &str, ipv6: bool) -> Option<IpAddr> {
        self.links_of(node)
            .flat_map(|(link, end)| &link.ends[end].addresses)
            .find(|prefix| prefix.is_ipv6() == ipv6)
            .map(|prefix| prefix.address)
    }

    /// The link on which a NAPT hides its inside: the one named, else its only link to a router.
    pub fn outside_of<'a>(&'a self, node: &'a Node) -> Option<&'a Link> {
        let Kind::Napt(rule) = &node.kind else { return None };
        if let Some(outside) = &rule.outside {
            return self.link(&outside.text);
        }
        let mut routers = self.links_of(&node.name.text).filter(|(link, end)| {
            self.node(&link.ends[1 - end].node.text)
                .is_some_and(|far| far.kind == Kind::Router)
        });
        match (routers.next(), routers.next()) {
            (Some((link, _)), None) => Some(link),
            _ => None,
        }
    }
}

/// What not every kernel is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    KernelTls,
}

impl Feature {
    /// As `needs` names it.
    pub fn named(name: &str) -> Option<Feature> {
        match name {
            "kernel-tls" => Some(Feature::KernelTls),
            _ => None,
        }
    }

    /// The option with which a kernel is built to have it.
    pub fn option(self) -> &'static str {
        match self {
            Feature::KernelTls => "CONFIG_TLS",
        }
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub name: Name,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Host,
    Router,
    Napt(NaptRule),
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct NaptRule {
    pub ports: Ports,
    pub outside: Option<Name>,
    /// Strangers from outside are dropped silently; otherwise the NAPT answers as a plain kernel does (RST).
    pub silent: bool,
    /// Hosts inside that have nothing but IPv6 reach IPv4 under this prefix.
    pub nat64: Option<Prefix>,
}

/// Which port a NAPT gives to a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ports {
    /// The inside port, when it is free.
    #[default]
    Kept,
    Random,
    FullyRandom,
    /// The inside port, towards everybody, and who sends there from outside gets in (RFC 4787's full cone).
    EndpointIndependent,
}

#[derive(Clone, Debug)]
pub struct Link {
    pub name: Name,
    pub ends: [End; 2],
    pub shape: Shape,
    /// The cable is pulled at first.
    pub down: bool,
    /// Asked to be a bare pair of devices that no event can touch.
    pub plain: bool,
}

impl Link {
    pub fn end_at(&self, node: &str) -> Option<usize> {
        self.ends.iter().position(|end| end.node.text == node)
    }
}

#[derive(Clone, Debug)]
pub struct End {
    pub node: Name,
    pub addresses: Vec<Prefix>,
}

/// What a link does to every frame; equal in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shape {
    /// Bits per second on the wire.
    pub rate: Option<u64>,
    /// One way.
    pub delay: Duration,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Bytes of an IP packet.
    pub mtu: Option<u32>,
    /// Bytes that may wait for their turn on a link with a rate.
    pub queue: Option<u64>,
}

/// The part of a [`Shape`] that one line sets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ShapeChange {
    pub rate: Option<u64>,
    pub delay: Option<Duration>,
    pub loss: Option<f64>,
    pub mtu: Option<u32>,
    pub queue: Option<u64>,
}

impl Shape {
    pub fn changed(mut self, change: &ShapeChange) -> Shape {
        self.rate = change.rate.or(self.rate);
        self.delay = change.delay.unwrap_or(self.delay);
        self.loss = change.loss.unwrap_or(self.loss);
        self.mtu = change.mtu.or(self.mtu);
        self.queue = change.queue.or(self.queue);
        self
    }
}

#[derive(Clone, Debug)]
pub struct Route {
    pub node: Name,
    /// `None` is the default route.
    pub to: Option<Prefix>,
    pub via: IpAddr,
}

#[derive(Clone, Debug)]
pub struct Sysctl {
    /// `None`: on every node.
    pub node: Option<Name>,
    pub key: String,
    pub value: String,
}

/// A mobility server that runs on a host before the story begins.
#[derive(Clone, Debug)]
pub struct ServerStart {
    pub name: Name,
    pub host: Name,
    /// Keys for its configuration file, as for agents.
    pub settings: BTreeMap<String, String>,
    /// It is known to the agents, and not started.
    pub dead: bool,
    /// Another program takes its place, and sends the agents to this address.
    pub lies: Option<IpAddr>,
}

/// A Redis cluster on one host.
#[derive(Clone, Debug)]
pub struct RedisStart {
    pub name: Name,
    pub host: Name,
}

/// What relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayKind {
    /// `mptcp-relay`, on a router.
    Mptcp,
    /// `symmetric-proxy`, on a host.
    Symmetric,
}

/// An MPTCP relay or a symmetric proxy that runs on a node of the same name before the story begins.
#[derive(Clone, Debug)]
pub struct RelayStart {
    pub node: Name,
    pub kind: RelayKind,
    /// Keys for its configuration file, as for agents.
    pub settings: BTreeMap<String, String>,
}

/// An agent that runs on a host before the story begins.
#[derive(Clone, Debug)]
pub struct AgentStart {
    pub host: Name,
    /// Keys for its configuration file, as written: value read as TOML if it can be, else as a string.
    pub settings: BTreeMap<String, String>,
}
