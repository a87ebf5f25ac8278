//! From the scenario to namespaces, devices, links, addresses and routes.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::multipath::{self, Endpoints};
use super::nat64::Nat64;
use super::{napt, plan};
use crate::emulator::capture::Capture;
use crate::emulator::interference::Recordings;
use crate::emulator::link::Teller;
use crate::emulator::plain::PlainLink;
use crate::emulator::tap::Tap;
use crate::emulator::watch::DeviceWatch;
use crate::emulator::{EmulatedLink, Order, Watch};
use crate::language::ast::*;
use crate::language::units::Prefix;
use crate::machine::{Claim, MachineError, Station, command, netns};

/// The network while it stands.
pub struct Network {
    pub scenario: Arc<Scenario>,
    pub stations: BTreeMap<String, Station>,
    pub links: BTreeMap<String, LiveLink>,
    pub recordings: Recordings,
    pub(super) endpoints: Endpoints,
    #[allow(dead_code, reason = "held for their end")]
    nat64s: Vec<Nat64>,
}

/// A link while it stands.
pub struct LiveLink {
    /// Position in the scenario.
    pub index: usize,
    pub cable: Cable,
    pub devices: [Arc<DeviceWatch>; 2],
    pub shape: Shape,
    pub plugged: bool,
    /// The addresses each end has now.
    pub addresses: [Vec<Prefix>; 2],
}

pub enum Cable {
    Emulated(EmulatedLink),
    Plain(#[allow(dead_code, reason = "held for its end")] PlainLink),
}

impl LiveLink {
    /// Gives the emulator an order.
    pub fn order(&self, name: &str, order: Order) -> Result<(), String> {
        match &self.cable {
            Cable::Emulated(link) => link.order(order).map_err(|error| format!("link {name}: {error}")),
            Cable::Plain(_) => Err(format!("link {name} has no emulator")),
        }
    }
}

impl Network {
    /// Builds everything; `teller` makes, for a link's name, the function that tells the timeline what its
    /// emulator did. Captures go to `captures`.
    ///
    /// # Errors
    /// The machine lacks something. What was built so far belongs to the claim and goes with it.
    pub fn build(
        scenario: Arc<Scenario>,
        claim: &Claim,
        captures: &Path,
        seed: u64,
        teller: impl Fn(&str) -> Teller,
    ) -> Result<Network, MachineError> {
        let mut network = Network {
            scenario: Arc::clone(&scenario),
            stations: BTreeMap::new(),
            links: BTreeMap::new(),
            recordings: Recordings::default(),
            endpoints: Endpoints::default(),
            nat64s: Vec::new(),
        };
        for node in &scenario.nodes {
            let station = Station::create(claim, &node.name.text)?;
            netns::sysctl(&station.netns, &basics(&node.kind), true)?;
            network.stations.insert(node.name.text.clone(), station);
        }
        for (index, link) in scenario.links.iter().enumerate() {
            let live = network.link(link, index, captures, seed, &teller)?;
            network.links.insert(link.name.text.clone(), live);
        }
        for node in &scenario.nodes {
            network.configure(node)?;
        }
        for node in &scenario.nodes {
            if let Kind::Napt(NaptRule {
                nat64: Some(prefix), ..
            }) = &node.kind
            {
                let started = Nat64::start(&network.stations[&node.name.text], *prefix)?;
                network.nat64s.push(started);
            }
        }
        let resolvers = plan::resolvers(&scenario);
        for station in network.stations.values() {
            std::fs::write(station.resolv_conf(), &resolvers)
                .map_err(MachineError::io("write who resolves names"))?;
        }
        Ok(network)
    }

    pub fn station(&self, name: &str) -> Result<&Station, String> {
        self.stations
            .get(name)
            .ok_or_else(|| format!("there is no node `{name}`"))
    }

    pub fn live(&self, link: &str) -> Result<&LiveLink, String> {
        self.links
            .get(link)
            .ok_or_else(|| format!("there is no link `{link}`"))
    }

    fn link(
        &self,
        link: &Link,
        index: usize,
        captures: &Path,
        seed: u64,
        teller: impl Fn(&str) -> Teller,
    ) -> Result<LiveLink, MachineError> {
        let name = &link.name.text;
        let stations = [0, 1].map(|end| &self.stations[&link.ends[end].node.text]);
        let devices = [0, 1].map(|end| {
            let is_host = self
                .scenario
                .node(&link.ends[end].node.text)
                .is_some_and(|n| n.kind == Kind::Host);
            Arc::new(DeviceWatch::new(is_host))
        });
        let labels = link
            .ends
            .iter()
            .map(|end| format!("{}:{name}", end.node))
            .collect();
        let watch = Watch::new(devices.clone(), Capture::create(&captures.join(name), labels)?);
        let cable = if plan::is_emulated(&self.scenario, link) {
            let taps = [Tap::create(stations[0], name)?, Tap::create(stations[1], name)?];
            let recordings = self.recordings.clone();
            let seed = seed ^ fingerprint(name);
            let told = teller(name);
            Cable::Emulated(EmulatedLink::start(
                name, taps, link.shape, watch, recordings, seed, told,
            )?)
        } else {
            let near = [
                "link",
                "add",
                "name",
                name,
                "netns",
                &stations[0].netns,
                "type",
                "veth",
            ];
            let far = ["peer", "name", name, "netns", &stations[1].netns];
            command::run(Command::new("ip").args(near).args(far), "")?;
            Cable::Plain(PlainLink::start(name, stations[0], name, watch)?)
        };
        let live = LiveLink {
            index,
            cable,
            devices,
            shape: link.shape,
            plugged: !link.down,
            addresses: [Vec::new(), Vec::new()],
        };
        if link.down {
            let order = Order::Carrier {
                plugged: false,
                ends: self.carrier_ends(link),
            };
            live.order(name, order).map_err(|said| MachineError::Command {
                line: format!("unplug {name}"),
                said,
            })?;
        }
        Ok(live)
    }

    /// Pulling a cable shows at the hosts; a router's port (an access point, a base station) stays up, unless
    /// there is no host at the link.
    pub fn carrier_ends(&self, link: &Link) -> [bool; 2] {
        let hosts = [0, 1].map(|end| {
            self.scenario
                .node(&link.ends[end].node.text)
                .is_some_and(|node| node.kind == Kind::Host)
        });
        if hosts == [false; 2] { [true; 2] } else { hosts }
    }

    /// Devices up, addresses, routes and rules of one node, in one batch.
    fn configure(&mut self, node: &Node) -> Result<(), MachineError> {
        let scenario = Arc::clone(&self.scenario);
        let name = node.name.text.as_str();
        let station = self.stations[name].clone();
        let mut batch = String::from("link set dev lo up\n");
        for (link, end) in scenario.links_of(name) {
            let live = &self.links[&link.name.text];
            let [a, b, c, d, e, f] = plan::hardware_address(live.index, end);
            let mtu = link.shape.mtu.unwrap_or(1500);
            // Writing to a string cannot fail.
            let _ = writeln!(
                batch,
                "link set dev {} address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} mtu {mtu} txqueuelen 10000 up",
                link.name
            );
        }
        netns::ip(&station.netns, &batch)?;
        if let (Kind::Napt(rule), Some(outside)) = (&node.kind, scenario.outside_of(node)) {
            napt::install(&station, rule, &outside.name.text)?;
        }
        let settings = scenario
            .sysctls
            .iter()
            .filter(|sysctl| sysctl.node.as_ref().is_none_or(|n| *n == node.name));
        let settings: Vec<_> = settings
            .map(|sysctl| (sysctl.key.clone(), sysctl.value.clone()))
            .collect();
        netns::sysctl(&station.netns, &settings, false)?;
        if scenario.is_multipath(name) {
            netns::ip(&station.netns, multipath::LIMITS)?;
        }
        for (link, end) in scenario.links_of(name) {
            // A host takes its address when the cable is plugged in; everybody else always has it.
            if node.kind != Kind::Host || !link.down {
                self.join(&node.name.text, &link.name.text, &link.ends[end].addresses)?;
            }
        }
        Ok(())
    }

    /// Packets with foreign sources so far, and some of them.
    pub fn leaks(&self) -> (u64, Vec<String>) {
        let mut count = 0;
        let mut examples = Vec::new();
        for (name, live) in &self.links {
            for device in &live.devices {
                count += device.leaks.load(Ordering::Relaxed);
                let held = device.examples.lock().unwrap_or_else(|held| held.into_inner());
                examples.extend(held.iter().map(|example| format!("{name}: {example}")));
            }
        }
        (count, examples)
    }

    /// Reset segments that reached a node's devices so far.
    pub fn resets(&self, node: &str) -> u64 {
        let ends = self.scenario.links_of(node);
        ends.map(|(link, end)| {
            self.links[&link.name.text].devices[end]
                .resets
                .load(Ordering::Relaxed)
        })
        .sum()
    }

    /// An address of a node as it is now: of its first link that has one.
    pub fn address_now(&self, node: &str, ipv6: bool) -> Option<IpAddr> {
        let ends = self.scenario.links_of(node);
        ends.flat_map(|(link, end)| &self.links[&link.name.text].addresses[end])
            .find(|prefix| prefix.is_ipv6() == ipv6)
            .map(|prefix| prefix.address)
    }
}

/// Parameters every node starts with, whatever the machine's own are: runs on two machines begin alike.
fn basics(kind: &Kind) -> Vec<(String, String)> {
    let forwarding = if *kind == Kind::Host { "0" } else { "1" };
    [
        ("net.ipv4.ip_forward", forwarding),
        ("net.ipv6.conf.all.forwarding", forwarding),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv6.conf.all.accept_dad", "0"),
        ("net.ipv6.conf.default.accept_dad", "0"),
        ("net.ipv6.conf.all.accept_ra", "0"),
        ("net.ipv6.conf.default.accept_ra", "0"),
        ("net.ipv6.conf.all.router_solicitations", "0"),
        ("net.ipv6.conf.default.router_solicitations", "0"),
        ("net.ipv4.tcp_congestion_control", "cubic"),
        ("net.netfilter.nf_conntrack_tcp_be_liberal", "0"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// FNV-1a: gives every link its own chance from one seed.
fn fingerprint(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
