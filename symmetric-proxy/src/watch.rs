//! This host's devices and addresses, by netlink, and word that they have changed.

use std::net::IpAddr;

use anyhow::Context;
use datapath::attach::Link;
use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType};
use rtnetlink::{Handle, MulticastGroup};

use tokio::sync::mpsc;

use crate::config::Config;

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// What stands before its IP headers.
    pub link: Link,
    /// It leads nowhere else.
    pub loopback: bool,
}

/// Opens netlink.
///
/// # Errors
/// The kernel refuses the socket.
pub fn open() -> anyhow::Result<Handle> {
    let (connection, handle, _) = rtnetlink::new_connection().context("cannot open netlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Opens netlink, and tells of devices, addresses and routes that change: that something has, not what.
///
/// # Errors
/// The kernel refuses the socket.
pub fn subscribe() -> anyhow::Result<(Handle, mpsc::Receiver<()>)> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Ipv4Rule,
        MulticastGroup::Ipv6Rule,
    ])
    .context("cannot open netlink")?;
    tokio::spawn(connection);
    let (changed, changes) = mpsc::channel(1);
    tokio::spawn(async move {
        while messages.next().await.is_some() {
            // One word for all that has not been looked at yet.
            if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                return;
            }
        }
    });
    Ok((handle, changes))
}

/// All devices.
///
/// # Errors
/// The kernel refuses.
pub async fn devices(handle: &Handle) -> anyhow::Result<Vec<Device>> {
    let mut found = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.context("cannot list devices")? {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        found.push(Device {
            index: link.header.index,
            name: name.unwrap_or_default(),
            link: match link.header.link_layer_type {
                LinkLayerType::Ether => Link::Ethernet,
                _ => Link::Raw,
            },
            loopback: link.header.flags.contains(LinkFlags::Loopback),
        });
    }
    Ok(found)
}

/// Those over which agents come.
pub fn chosen(devices: Vec<Device>, config: &Config) -> Vec<Device> {
    devices
        .into_iter()
        .filter(|device| match config.interfaces.is_empty() {
            true => !device.loopback,
            false => config.interfaces.contains(&device.name),
        })
        .collect()
}

/// The addresses at which the proxy relays: those of the configuration, else all of this host that could be public.
///
/// # Errors
/// There is none.
pub async fn addresses(handle: &Handle, config: &Config) -> anyhow::Result<Vec<IpAddr>> {
    if !config.addresses.is_empty() {
        return Ok(config.addresses.clone());
    }
    let mut found = Vec::new();
    let mut all = handle.address().get().execute();
    while let Some(message) = all.try_next().await.context("cannot list addresses")? {
        let pick = |local: bool| {
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) if local => Some(*address),
                AddressAttribute::Address(address) if !local => Some(*address),
                _ => None,
            })
        };
        let Some(address) = pick(true).or_else(|| pick(false)) else {
            continue;
        };
        let only_here = match address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        if !only_here && !config.refuses(address) && !found.contains(&address) {
            found.push(address);
        }
    }
    found.truncate(64);
    match found.is_empty() {
        true => anyhow::bail!(
            "this host has no address that is not in `refuse`: set `addresses`, or shorten `refuse` if agents come from \
             such networks"
        ),
        false => Ok(found),
    }
}
