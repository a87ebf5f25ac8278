//! The parking device and the routing that leads to it.
//!
//! The device keeps the addresses this host has lost for as long as a connection needs them. Rules send there
//! what comes from such an address, and the marked sockets; the table behind the rules knows one route. The
//! agent's own segments carry another mark with a rule ahead of these. Everything can be found again by the
//! device's name and the table's number, and [`Parking::clean_up`] leaves nothing of it.

mod rules;

use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::{Handle, LinkDummy, LinkIfb, LinkUnspec, RouteMessageBuilder};

use self::rules::{attribute_is, rules, same_rule};

/// Names and numbers of the parking device and its routing.
#[derive(Clone, Debug)]
pub struct ParkingOptions {
    /// Name of the device.
    pub device: String,
    /// Number of the routing table.
    pub table: u32,
    /// Priority of the first of three rules.
    pub rule_priority: u32,
    /// Mark bit of sockets whose segments go there.
    pub mark: u32,
    /// Mark bit of the agent's own segments.
    pub agent_mark: u32,
}

/// Why the parking device could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum ParkingError {
    /// Neither kind of device can be made.
    #[error(
        "cannot create the parking device {device}: {error}; the kernel needs CONFIG_DUMMY or CONFIG_IFB, and the agent CAP_NET_ADMIN"
    )]
    Create {
        /// Its name.
        device: String,
        /// The kernel's answer.
        error: rtnetlink::Error,
    },
    /// The kernel refused a change.
    #[error("{what}: {error}")]
    Netlink {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        error: rtnetlink::Error,
    },
    /// A device of that name is there, and is no parking device.
    #[error("the device {0} is somebody else's; set `device` to another name")]
    Taken(String),
    /// The device vanished.
    #[error("the parking device {0} does not exist; restart the agent")]
    Missing(String),
}

/// How to reach a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the device.
    pub ifindex: u32,
    /// The gateway; `None`: the destination is on-link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
}

/// The parking device.
#[derive(Clone)]
pub struct Parking {
    handle: Handle,
    options: ParkingOptions,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: [u8; 6],
    leads: bool,
}

fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> ParkingError {
    let what = what.into();
    move |error| ParkingError::Netlink { what, error }
}

impl Parking {
    /// Creates the device and the rules, or finds those of an earlier agent.
    pub async fn set_up(handle: Handle, options: ParkingOptions) -> Result<Self, ParkingError> {
        if find_device(&handle, &options.device).await.is_none() {
            create(&handle, &options.device).await?;
        }
        let link = find_device(&handle, &options.device)
            .await
            .ok_or_else(|| ParkingError::Missing(options.device.clone()))?;
        if !parks(&link) {
            return Err(ParkingError::Taken(options.device));
        }
        let ifindex = link.header.index;
        let mac = mac_of(&link).unwrap_or_default();
        quiet_device(&options.device);
        handle
            .link()
            .set(LinkUnspec::new_with_index(ifindex).up().build())
            .execute()
            .await
            .map_err(netlink("cannot bring the parking device up"))?;
        let mut parking = Self {
            handle,
            options,
            ifindex,
            mac,
            leads: false,
        };
        let marks = parking.mark_rules(AddressFamily::Inet);
        let present = parking.rules().await;
        let left = |rule: &RuleMessage| {
            attribute_is(rule, |a| *a == RuleAttribute::Table(parking.options.table))
                || marks.iter().any(|ours| same_rule(ours, rule))
        };
        parking.leads = present.iter().any(left);
        if parking.leads {
            parking.add_mark_rules().await?;
        }
        parking.set_mtu(None).await?;
        Ok(parking)
    }

    /// Points the table at the device, with the MTUs that segments may have there: IPv4's and IPv6's, in bytes.
    pub async fn set_mtu(&self, mtus: Option<(u32, u32)>) -> Result<(), ParkingError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessageBuilder::<IpAddr>::new()
                .table_id(self.options.table)
                .output_interface(self.ifindex)
                .build();
            message.header.address_family = family;
            if let Some((v4, v6)) = mtus {
                let mtu = if family == AddressFamily::Inet { v4 } else { v6 };
                message
                    .attributes
                    .push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
            }
            let result = self.handle.route().add(message).replace().execute().await;
            match result {
                Err(error) if family == AddressFamily::Inet6 => {
                    tracing::debug!(%error, "no IPv6 route to the parking device");
                }
                other => other.map_err(netlink("cannot route to the parking device"))?,
            }
        }
        Ok(())
    }

    /// Keeps an address that the host has lost: the rule first, so that nothing leaks.
    pub async fn retire(&mut self, address: IpAddr) -> Result<(), ParkingError> {
        self.add_rule(self.rule_for(address)).await?;
        self.lead().await?;
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(self.ifindex, address, prefix);
        if address.is_ipv6() {
            let message = request.message_mut();
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            let mut cache = rtnetlink::packet_route::address::CacheInfo::default();
            cache.ifa_preferred = 0;
            cache.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(cache));
        }
        ignore_existing(request.execute().await)
            .map_err(netlink(format!("cannot keep the address {address}")))
    }

    /// Lets go of a kept address.
    pub async fn release(&self, address: IpAddr) -> Result<(), ParkingError> {
        let mut stream = self
            .handle
            .address()
            .get()
            .set_link_index_filter(self.ifindex)
            .execute();
        while let Ok(Some(message)) = stream.try_next().await {
            if message.attributes.contains(&AddressAttribute::Address(address)) {
                let gone = self.handle.address().del(message).execute().await;
                gone.map_err(netlink(format!("cannot let go of the address {address}")))?;
            }
        }
        // By what it leads, so that a rule of an earlier version goes too.
        for rule in self.rules().await {
            let leads = attribute_is(&rule, |a| *a == RuleAttribute::Source(address))
                && attribute_is(&rule, |a| *a == RuleAttribute::Table(self.options.table));
            if leads {
                let _ = self.handle.rule().del(rule).execute().await;
            }
        }
        Ok(())
    }

    /// The addresses that are kept.
    pub async fn retired(&self) -> Vec<IpAddr> {
        let mut found = Vec::new();
        let mut stream = self
            .handle
            .address()
            .get()
            .set_link_index_filter(self.ifindex)
            .execute();
        while let Ok(Some(message)) = stream.try_next().await {
            found.extend(message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) if !is_link_local(*address) => Some(*address),
                _ => None,
            }));
        }
        found
    }

    /// How the host reaches a destination now, leaving from `source` when one is given.
    pub async fn route_to(
        &self,
        destination: IpAddr,
        source: Option<IpAddr>,
        ifindex: Option<u32>,
    ) -> Option<Route> {
        route_to(
            &self.handle,
            self.options.agent_mark,
            destination,
            source,
            ifindex,
        )
        .await
    }

    /// Removes the device, its addresses, rules and routes, whoever made them. Says what it removed.
    pub async fn clean_up(handle: &Handle, device: &str, table: u32, rule_priority: u32) -> Vec<String> {
        let mut removed = Vec::new();
        for rule in rules(handle).await {
            let ours = (rule_priority..=rule_priority + 2)
                .any(|priority| attribute_is(&rule, |a| *a == RuleAttribute::Priority(priority)));
            let to_table = attribute_is(&rule, |a| *a == RuleAttribute::Table(table));
            let agent_rule = attribute_is(&rule, |a| *a == RuleAttribute::Priority(rule_priority))
                && attribute_is(&rule, |a| matches!(a, RuleAttribute::FwMark(_)));
            if ours && (to_table || agent_rule) && handle.rule().del(rule).execute().await.is_ok() {
                removed.push(format!("routing rule of table {table}"));
            }
        }
        if let Some(link) = find_device(handle, device).await
            && parks(&link)
            && handle.link().del(link.header.index).execute().await.is_ok()
        {
            removed.push(format!("parking device {device} with its addresses and routes"));
        }
        removed
    }
}

/// How the host reaches a destination now.
pub async fn route_to(
    handle: &Handle,
    mark: u32,
    destination: IpAddr,
    source: Option<IpAddr>,
    ifindex: Option<u32>,
) -> Option<Route> {
    let prefix = if destination.is_ipv4() { 32 } else { 128 };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination, prefix)
        .ok()?;
    if let Some(source) = source {
        builder = builder.source_prefix(source, prefix).ok()?;
    }
    let mut message: RouteMessage = builder.build();
    // The kernel wants the bare question.
    message.header.table = 0;
    message.header.protocol = Default::default();
    message.header.scope = Default::default();
    message.header.kind = Default::default();
    message.attributes.push(RouteAttribute::Mark(mark));
    if let Some(ifindex) = ifindex {
        message.attributes.push(RouteAttribute::Oif(ifindex));
    }
    let mut stream = handle.route().get(message).execute();
    let answer = stream.try_next().await.ok()??;
    let mut route = Route {
        ifindex: 0,
        gateway: None,
        source: None,
    };
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Gateway(gateway) => route.gateway = ip(gateway),
            RouteAttribute::PrefSource(source) => route.source = ip(source),
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

fn ip(address: &rtnetlink::packet_route::route::RouteAddress) -> Option<IpAddr> {
    use rtnetlink::packet_route::route::RouteAddress;
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

async fn create(handle: &Handle, device: &str) -> Result<(), ParkingError> {
    // A dummy where there is one; an ifb does the same.
    if handle
        .link()
        .add(LinkDummy::new(device).build())
        .execute()
        .await
        .is_ok()
    {
        return Ok(());
    }
    ignore_existing(handle.link().add(LinkIfb::new(device).build()).execute().await).map_err(|error| {
        ParkingError::Create {
            device: device.to_string(),
            error,
        }
    })
}

async fn find_device(handle: &Handle, device: &str) -> Option<LinkMessage> {
    handle
        .link()
        .get()
        .match_name(device.to_string())
        .execute()
        .try_next()
        .await
        .ok()
        .flatten()
}

/// Whether a device is of a kind that [`create`] makes: never a real one.
fn parks(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos
            .iter()
            .any(|info| matches!(info, LinkInfo::Kind(InfoKind::Dummy | InfoKind::Ifb))),
        _ => false,
    })
}

fn mac_of(link: &LinkMessage) -> Option<[u8; 6]> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Address(address) => address.as_slice().try_into().ok(),
        _ => None,
    })
}

/// No link-local address, no router advertisements, no reverse-path objections: only on our own device.
fn quiet_device(device: &str) {
    for (path, value) in [
        (format!("/proc/sys/net/ipv6/conf/{device}/addr_gen_mode"), "1"),
        (format!("/proc/sys/net/ipv6/conf/{device}/accept_ra"), "0"),
        (
            format!("/proc/sys/net/ipv6/conf/{device}/router_solicitations"),
            "0",
        ),
        (format!("/proc/sys/net/ipv4/conf/{device}/src_valid_mark"), "1"),
        (format!("/proc/sys/net/ipv4/conf/{device}/rp_filter"), "0"),
        // What is handed in may be for a transparent socket, whose delivery is a local route by mark.
        (format!("/proc/sys/net/ipv4/conf/{device}/accept_local"), "1"),
    ] {
        if let Err(error) = std::fs::write(&path, value) {
            tracing::debug!(path, %error, "cannot set");
        }
    }
}

fn ignore_existing(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(rtnetlink::Error::NetlinkError(message)) if message.raw_code() == -libc::EEXIST => Ok(()),
        other => other,
    }
}
