//! The addresses of this host as endpoints of the kernel's own path manager, each with a routing table of its own: what a
//! connection sends from an address leaves by the device that has it, whatever the default route says.
//!
//! What was added is noted in the state directory, so that the next agent goes on with it and `host-agent cleanup` takes
//! it back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use mptcp_pm::{Client, Endpoint, EndpointFlags, Limits};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use super::Addresses;
use crate::config::Config;

/// Addresses that have a table, at most.
pub const MOST: u32 = 16;
const MAIN_TABLE: u32 = 254;
/// Where it is noted.
const NOTE: &str = "mptcp.json";

/// What the agent has changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Note {
    /// Addresses that are endpoints, each with its table.
    endpoints: BTreeMap<IpAddr, u32>,
    /// The limits as they were: accepted addresses, subflows.
    limits: Option<(u32, u32)>,
}

impl Note {
    fn path(state_dir: &Path) -> PathBuf {
        state_dir.join(NOTE)
    }

    fn read(state_dir: &Path) -> Self {
        std::fs::read(Self::path(state_dir))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default()
    }

    fn write(&self, state_dir: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = std::fs::write(Self::path(state_dir), text) {
            tracing::warn!(%error, "cannot note the MPTCP endpoints: \"host-agent cleanup\" will not find them");
        }
    }
}

/// Why the kernel's own path manager cannot be used; none: it can.
pub fn obstacle() -> Option<String> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/mptcp/{name}"));
    match read("enabled") {
        Err(_) => return Some("this kernel has no MPTCP".into()),
        Ok(enabled) if enabled.trim() != "1" => return Some("net.mptcp.enabled is 0; set it to 1".into()),
        Ok(_) => {}
    }
    // The newer name; older kernels have the other alone.
    let manager = read("path_manager").or_else(|_| {
        read("pm_type").map(|number| {
            if number.trim() == "0" {
                "kernel"
            } else {
                "userspace"
            }
            .to_owned()
        })
    });
    match manager {
        Ok(manager) if manager.trim() != "kernel" => Some(format!(
            "net.mptcp.path_manager is `{}`: another program (mptcp-relay, mptcpd) manages the paths of this host; leave \
             mptcp.endpoints off, or set it to `kernel`",
            manager.trim()
        )),
        _ => None,
    }
}

/// The endpoints of this host.
pub struct Endpoints {
    client: Client,
    handle: Handle,
    state_dir: PathBuf,
    table: u32,
    priority: u32,
    flags: EndpointFlags,
    note: Note,
    /// Whether the path manager was usable at the last look.
    usable: bool,
}

impl Endpoints {
    /// Takes up what an earlier agent has left, and sets the limits. None where the kernel cannot.
    pub async fn open(config: &Config, handle: Handle) -> Option<Self> {
        if let Some(why) = obstacle() {
            tracing::warn!("no MPTCP endpoints: {why}");
            return None;
        }
        let client = Client::connect()
            .await
            .inspect_err(|error| tracing::warn!(%error, "no MPTCP endpoints"))
            .ok()?;
        let mut flags = EndpointFlags::SUBFLOW;
        flags.set(EndpointFlags::FULLMESH, config.mptcp.fullmesh);
        let mut endpoints = Self {
            client,
            handle,
            state_dir: config.state_dir.clone(),
            table: config.mptcp.table,
            priority: config.rule_priority + 3,
            flags,
            note: Note::read(&config.state_dir),
            usable: true,
        };
        endpoints.raise_limits(config).await;
        Some(endpoints)
    }

    async fn raise_limits(&mut self, config: &Config) {
        let Ok(before) = self.client.limits().await else {
            return;
        };
        let wanted = Limits {
            subflows: config.mptcp.subflows.max(before.subflows),
            accepted_addresses: config.mptcp.accepted_addresses.max(before.accepted_addresses),
        };
        if wanted == before {
            return;
        }
        if self.note.limits.is_none() {
            self.note.limits = Some((before.accepted_addresses, before.subflows));
            self.note.write(&self.state_dir);
        }
        if let Err(error) = self.client.set_limits(wanted).await {
            tracing::warn!(%error, "the kernel's limits for subflows stay as they are");
        }
    }

    /// Makes the endpoints those addresses.
    pub async fn follow(&mut self, addresses: &Addresses) {
        let obstacle = obstacle();
        if self.usable != obstacle.is_none() {
            self.usable = obstacle.is_none();
            if let Some(why) = &obstacle {
                tracing::warn!("MPTCP endpoints are left as they are: {why}");
            }
        }
        if !self.usable {
            return;
        }
        let there = self.client.endpoints().await.unwrap_or_default();
        let gone: Vec<IpAddr> = self
            .note
            .endpoints
            .keys()
            .filter(|address| !addresses.contains_key(*address))
            .copied()
            .collect();
        for address in gone {
            self.take_back(address, &there).await;
        }
        for (address, ifindex) in addresses {
            let stands = there.iter().any(|endpoint| endpoint.address == *address);
            match self.note.endpoints.get(address) {
                Some(table) => {
                    let table = *table;
                    self.route(*address, *ifindex, table).await;
                    if !stands {
                        self.add(*address, *ifindex).await;
                    }
                }
                // Somebody else has made it one, and looks after it.
                None if stands => {}
                None => self.take_up(*address, *ifindex).await,
            }
        }
    }

    async fn take_up(&mut self, address: IpAddr, ifindex: u32) {
        let taken: Vec<u32> = self.note.endpoints.values().copied().collect();
        let Some(table) = (self.table..self.table + MOST).find(|table| !taken.contains(table)) else {
            return;
        };
        // Routes first: the kernel opens subflows as soon as it hears of the endpoint.
        if !self.route(address, ifindex, table).await {
            return;
        }
        self.note.endpoints.insert(address, table);
        self.note.write(&self.state_dir);
        if let Err(error) = self.rule(address, table, true).await {
            tracing::warn!(%error, %address, "no routing rule: what is sent from here may leave by another device");
        }
        self.add(address, ifindex).await;
    }

    async fn add(&self, address: IpAddr, ifindex: u32) {
        let endpoint = Endpoint {
            interface: Some(ifindex),
            ..Endpoint::new(address, self.flags)
        };
        match self.client.add_endpoint(&endpoint).await {
            Ok(()) => tracing::info!(%address, "an MPTCP endpoint"),
            Err(error) => tracing::warn!(%error, %address, "no MPTCP endpoint"),
        }
    }

    async fn take_back(&mut self, address: IpAddr, there: &[Endpoint]) {
        let Some(table) = self.note.endpoints.remove(&address) else {
            return;
        };
        if let Some(endpoint) = there.iter().find(|endpoint| endpoint.address == address) {
            match self.client.remove_endpoint(endpoint).await {
                Ok(()) => tracing::info!(%address, "no MPTCP endpoint any more"),
                Err(error) => tracing::warn!(%error, %address, "an MPTCP endpoint stays"),
            }
        }
        let _ = self.rule(address, table, false).await;
        flush(&self.handle, address.is_ipv4(), table).await;
        self.note.write(&self.state_dir);
    }

    /// Copies the device's routes of the main table into the address's own. False: there are none yet.
    async fn route(&self, address: IpAddr, ifindex: u32, table: u32) -> bool {
        let own = routes(&self.handle, address.is_ipv4(), table).await;
        let main = routes(&self.handle, address.is_ipv4(), MAIN_TABLE).await;
        let wanted: Vec<RouteMessage> = main
            .into_iter()
            .filter(|route| leads_over(route, ifindex))
            .map(|route| in_table(route, table))
            .collect();
        // Networks on the link before gateways, which are found through them.
        let (through, on_link): (Vec<_>, Vec<_>) = wanted.iter().partition(|route| has_gateway(route));
        for route in on_link.into_iter().chain(through) {
            if own.iter().any(|other| same(other, route)) {
                continue;
            }
            let added = self.handle.route().add(route.clone()).replace().execute().await;
            if let Err(error) = added {
                tracing::debug!(%error, %address, "a route is not copied");
            }
        }
        for route in own
            .iter()
            .filter(|route| !wanted.iter().any(|other| same(other, route)))
        {
            let _ = self.handle.route().del(route.clone()).execute().await;
        }
        !wanted.is_empty()
    }

    async fn rule(&self, address: IpAddr, table: u32, add: bool) -> Result<(), rtnetlink::Error> {
        let message = rule_for(address, self.priority, table);
        match add {
            true => {
                let mut request = self.handle.rule().add();
                *request.message_mut() = message;
                match request.execute().await {
                    Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(()),
                    done => done,
                }
            }
            false => self.handle.rule().del(message).execute().await,
        }
    }
}

/// Takes back what agents have added; says what it was.
pub async fn clean_up(config: &Config, handle: &Handle) -> Vec<String> {
    let note = Note::read(&config.state_dir);
    let mut removed = Vec::new();
    if note.endpoints.is_empty() && note.limits.is_none() {
        return removed;
    }
    let client = Client::connect().await.ok();
    let there = match &client {
        Some(client) => client.endpoints().await.unwrap_or_default(),
        None => Vec::new(),
    };
    for (address, table) in &note.endpoints {
        if let (Some(client), Some(endpoint)) = (&client, there.iter().find(|one| one.address == *address)) {
            let _ = client.remove_endpoint(endpoint).await;
        }
        let rule = rule_for(*address, config.rule_priority + 3, *table);
        let _ = handle.rule().del(rule).execute().await;
        flush(handle, address.is_ipv4(), *table).await;
        removed.push(format!("MPTCP endpoint {address} and its routes"));
    }
    if let (Some(client), Some((accepted_addresses, subflows))) = (&client, note.limits) {
        let limits = Limits {
            accepted_addresses,
            subflows,
        };
        if client.set_limits(limits).await.is_ok() {
            removed.push("limits of MPTCP's path manager".into());
        }
    }
    let _ = std::fs::remove_file(Note::path(&config.state_dir));
    removed
}

fn rule_for(address: IpAddr, priority: u32, table: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    rule.header.src_len = if address.is_ipv4() { 32 } else { 128 };
    rule.header.action = RuleAction::ToTable;
    rule.attributes.push(RuleAttribute::Source(address));
    rule.attributes.push(RuleAttribute::Table(table));
    rule.attributes.push(RuleAttribute::Priority(priority));
    rule
}

async fn routes(handle: &Handle, ipv4: bool, table: u32) -> Vec<RouteMessage> {
    let version = if ipv4 { IpVersion::V4 } else { IpVersion::V6 };
    let wanted = match version {
        IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
        IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
    };
    let mut stream = handle.route().get(wanted).execute();
    let mut found = Vec::new();
    while let Ok(Some(route)) = stream.try_next().await {
        if table_of(&route) == table {
            found.push(route);
        }
    }
    found
}

async fn flush(handle: &Handle, ipv4: bool, table: u32) {
    for route in routes(handle, ipv4, table).await {
        let _ = handle.route().del(route).execute().await;
    }
}

fn table_of(route: &RouteMessage) -> u32 {
    let told = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    told.unwrap_or_else(|| route.header.table.into())
}

fn leads_over(route: &RouteMessage, ifindex: u32) -> bool {
    route
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, RouteAttribute::Oif(index) if *index == ifindex))
}

fn has_gateway(route: &RouteMessage) -> bool {
    let gateway =
        |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Gateway(_) | RouteAttribute::Via(_));
    route.attributes.iter().any(gateway)
}

/// The same route in another table.
fn in_table(mut route: RouteMessage, table: u32) -> RouteMessage {
    route.header.table = 0;
    route.header.flags = RouteFlags::empty();
    route
        .attributes
        .retain(|attribute| !matches!(attribute, RouteAttribute::Table(_) | RouteAttribute::CacheInfo(_)));
    route.attributes.push(RouteAttribute::Table(table));
    route
}

/// Whether two routes lead the same way to the same place.
fn same(one: &RouteMessage, other: &RouteMessage) -> bool {
    let way = |route: &RouteMessage| {
        let all = route.attributes.iter();
        let told: Vec<RouteAttribute> = all
            .filter(|attribute| {
                matches!(
                    attribute,
                    RouteAttribute::Destination(_)
                        | RouteAttribute::Gateway(_)
                        | RouteAttribute::Via(_)
                        | RouteAttribute::Oif(_)
                )
            })
            .cloned()
            .collect();
        told
    };
    let (one_way, other_way) = (way(one), way(other));
    one.header.destination_prefix_length == other.header.destination_prefix_length
        && one_way.len() == other_way.len()
        && one_way.iter().all(|attribute| other_way.contains(attribute))
}
