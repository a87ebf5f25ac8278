//! The host's links and addresses, kept from netlink messages.
//!
//! Pure: a message goes in, what it means for connections comes out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

/// What a change means. Past facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkEvent {
    /// A device over which peers may be reached has appeared.
    DeviceAppeared {
        /// Its index.
        ifindex: u32,
        /// Its name.
        name: String,
        /// Whether packets on it have an Ethernet header.
        ethernet: bool,
    },
    /// An address can be used: its link is up and it is not tentative.
    AddressGained {
        /// The address.
        address: IpAddr,
        /// The device that has it.
        ifindex: u32,
    },
    /// An address cannot be used any more.
    AddressLost {
        /// The address.
        address: IpAddr,
    },
    /// An address that can be used was given again: its lifetime begins anew.
    AddressRenewed {
        /// The address.
        address: IpAddr,
    },
    /// A neighbour answers from another device: a router behind an unchanged address may be another one.
    NeighbourChanged {
        /// Its address.
        address: IpAddr,
    },
    /// Routes have changed: what had no way out may have one now.
    RoutesChanged,
}

#[derive(Clone, Debug)]
struct Link {
    name: String,
    up: bool,
    mtu: u32,
    loopback: bool,
    ethernet: bool,
}

/// What is known of the host's network.
#[derive(Debug)]
pub struct Network {
    parking: u32,
    links: HashMap<u32, Link>,
    addresses: HashMap<(u32, IpAddr), bool>,
    usable: BTreeMap<IpAddr, u32>,
    /// Hardware addresses on the last hop.
    neighbours: HashMap<(u32, IpAddr), Vec<u8>>,
    /// Other hosts' addresses that connections have here.
    anchored: Vec<(IpAddr, u8)>,
}

/// How many neighbours are remembered; beyond it those of the first come.
const MOST_NEIGHBOURS: usize = 1024;

impl Network {
    /// `parking`: index of the parking device, whose addresses do not count.
    pub fn new(parking: u32) -> Self {
        Self {
            parking,
            links: HashMap::new(),
            addresses: HashMap::new(),
            usable: BTreeMap::new(),
            neighbours: HashMap::new(),
            anchored: Vec::new(),
        }
    }

    /// Connections of these servers end on this host, at a relay: their addresses stay, and have no device.
    pub fn anchor(&mut self, servers: Vec<(IpAddr, u8)>) {
        self.anchored = servers;
    }

    /// Whether this is the address of a server whose connections end here.
    pub fn is_anchored(&self, address: IpAddr) -> bool {
        !self.usable.contains_key(&address)
            && self
                .anchored
                .iter()
                .any(|(prefix, length)| shares(*prefix, address, *length))
    }

    /// Those that are one address each.
    pub fn anchored_hosts(&self) -> impl Iterator<Item = IpAddr> {
        let hosts = self
            .anchored
            .iter()
            .filter(|(address, length)| *length == if address.is_ipv4() { 32 } else { 128 });
        hosts.map(|(address, _)| *address)
    }

    /// The addresses that can be used now, with their devices.
    pub fn usable(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.usable.iter().map(|(address, ifindex)| (*address, *ifindex))
    }

    /// The device of a usable address; 0: the routing knows, since it is a server's whose anchor this is.
    pub fn device_of(&self, address: IpAddr) -> Option<u32> {
        let own = self.usable.get(&address).copied();
        own.or_else(|| self.is_anchored(address).then_some(0))
    }

    /// The MTU of a device in bytes.
    pub fn mtu(&self, ifindex: u32) -> Option<u32> {
        self.links.get(&ifindex).map(|link| link.mtu)
    }

    /// The smallest MTU of the devices that have usable addresses, in bytes.
    pub fn smallest_mtu(&self) -> Option<u32> {
        self.usable
            .values()
            .filter_map(|ifindex| self.mtu(*ifindex))
            .min()
    }

    /// Whether packets on a device have an Ethernet header, and need a neighbour.
    pub fn is_ethernet(&self, ifindex: u32) -> bool {
        self.links.get(&ifindex).is_some_and(|link| link.ethernet)
    }

    /// The name of a device.
    pub fn name(&self, ifindex: u32) -> Option<&str> {
        self.links.get(&ifindex).map(|link| link.name.as_str())
    }

    /// Takes one message; says what it means.
    pub fn apply(&mut self, message: &RouteNetlinkMessage) -> Vec<NetworkEvent> {
        let mut events = Vec::new();
        match message {
            RouteNetlinkMessage::NewLink(link) => events.extend(self.link_changed(link)),
            RouteNetlinkMessage::DelLink(link) => {
                self.links.remove(&link.header.index);
                self.addresses
                    .retain(|(ifindex, _), _| *ifindex != link.header.index);
            }
            RouteNetlinkMessage::NewAddress(address) => {
                let again = address_of(address).filter(|ip| self.usable.contains_key(ip));
                events.extend(again.map(|address| NetworkEvent::AddressRenewed { address }));
                self.address_changed(address);
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) => {
                events.extend(self.neighbour_changed(neighbour));
                return events;
            }
            RouteNetlinkMessage::DelAddress(address) => {
                if let Some(ip) = address_of(address) {
                    self.addresses.remove(&(address.header.index, ip));
                }
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                events.push(NetworkEvent::RoutesChanged);
            }
            _ => return events,
        }
        self.compare(&mut events);
        events
    }

    /// Changes were lost: this is all that is there now. What is known and not among it has gone.
    pub fn take_stock(&mut self, inventory: &[RouteNetlinkMessage]) -> Vec<NetworkEvent> {
        let mut events = Vec::new();
        let mut found = HashSet::new();
        self.addresses.clear();
        for message in inventory {
            match message {
                RouteNetlinkMessage::NewLink(link) => {
                    found.insert(link.header.index);
                    events.extend(self.link_changed(link));
                }
                RouteNetlinkMessage::NewAddress(address) => self.address_changed(address),
                RouteNetlinkMessage::NewNeighbour(neighbour) => {
                    events.extend(self.neighbour_changed(neighbour));
                }
                _ => {}
            }
        }
        self.links.retain(|ifindex, _| found.contains(ifindex));
        self.compare(&mut events);
        events.push(NetworkEvent::RoutesChanged);
        events
    }

    fn link_changed(&mut self, message: &LinkMessage) -> Option<NetworkEvent> {
        let index = message.header.index;
        if index == self.parking {
            return None;
        }
        let flags = message.header.flags;
        let mut link = Link {
            name: String::new(),
            up: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::LowerUp),
            mtu: 1500,
            loopback: flags.contains(LinkFlags::Loopback),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name.clone(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        let appeared = !link.loopback && !self.links.contains_key(&index);
        let event = appeared.then(|| NetworkEvent::DeviceAppeared {
            ifindex: index,
            name: link.name.clone(),
            ethernet: link.ethernet,
        });
        self.links.insert(index, link);
        event
    }

    fn address_changed(&mut self, message: &AddressMessage) {
        let Some(ip) = address_of(message) else { return };
        let tentative = message.header.flags.contains(AddressHeaderFlags::Tentative)
            || message.header.flags.contains(AddressHeaderFlags::Dadfailed)
            || message.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Flags(flags)
                    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed))
            });
        self.addresses.insert((message.header.index, ip), !tentative);
    }

    fn neighbour_changed(&mut self, message: &NeighbourMessage) -> Option<NetworkEvent> {
        let mut place = None;
        let mut hardware = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => place = Some(IpAddr::V4(*v4)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => place = Some(IpAddr::V6(*v6)),
                NeighbourAttribute::LinkLayerAddress(bytes) => hardware = Some(bytes.clone()),
                _ => {}
            }
        }
        let (address, hardware) = (place?, hardware.filter(|bytes| !bytes.is_empty())?);
        let place = (message.header.ifindex, address);
        if self.neighbours.len() >= MOST_NEIGHBOURS && !self.neighbours.contains_key(&place) {
            return None;
        }
        let before = self.neighbours.insert(place, hardware.clone())?;
        (before != hardware).then_some(NetworkEvent::NeighbourChanged { address })
    }

    fn compare(&mut self, events: &mut Vec<NetworkEvent>) {
        let usable: BTreeMap<IpAddr, u32> = self
            .addresses
            .iter()
            .filter(|((ifindex, address), settled)| {
                **settled
                    && *ifindex != self.parking
                    && !is_local_only(*address)
                    && self
                        .links
                        .get(ifindex)
                        .is_some_and(|link| link.up && !link.loopback)
            })
            .map(|((ifindex, address), _)| (*address, *ifindex))
            .collect();
        for address in self
            .usable
            .keys()
            .filter(|address| !usable.contains_key(*address))
        {
            events.push(NetworkEvent::AddressLost { address: *address });
        }
        for (address, ifindex) in &usable {
            if self.usable.get(address) != Some(ifindex) {
                events.push(NetworkEvent::AddressGained {
                    address: *address,
                    ifindex: *ifindex,
                });
            }
        }
        self.usable = usable;
    }
}

/// Whether the first bits of both are the same.
fn shares(prefix: IpAddr, address: IpAddr, length: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, true),
        IpAddr::V6(v6) => (v6.to_bits(), false),
    };
    let ((prefix, v4), (address, other)) = (bits(prefix), bits(address));
    v4 == other
        && (prefix ^ address)
            .checked_shr(128 - u32::from(length))
            .unwrap_or(0)
            == 0
}

fn is_local_only(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_unspecified() || v4.is_multicast(),
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    // On point-to-point links `Address` is the far end.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}
