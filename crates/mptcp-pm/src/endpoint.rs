//! Addresses as the path manager knows them, and how many it takes.

use std::net::{IpAddr, SocketAddr};

use crate::attribute::{self, Attribute};
use crate::family::address;

bitflags::bitflags! {
    /// What an address is for (`MPTCP_PM_ADDR_FLAG_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct EndpointFlags: u32 {
        /// Announced to the peer by ADD_ADDR.
        const SIGNAL = 1 << 0;
        /// Used to open subflows from.
        const SUBFLOW = 1 << 1;
        /// Its subflows carry data only while no others work.
        const BACKUP = 1 << 2;
        /// Subflows to every address of the peer, not to one.
        const FULLMESH = 1 << 3;
        /// Made by the kernel for a subflow that it did not choose.
        const IMPLICIT = 1 << 4;
        /// Subflows from here carry additional data as soon as the connection stands (newer kernels).
        const LAMINAR = 1 << 5;
        const _ = !0;
    }
}

/// An address of this host, or one announced by it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port; without one the connection's own.
    pub port: Option<u16>,
    /// Its number, 1 to 255; 0 in a request: the kernel chooses.
    pub id: u8,
    /// What it is for.
    pub flags: EndpointFlags,
    /// Index of the interface that its subflows are bound to.
    pub interface: Option<u32>,
}

impl Endpoint {
    /// An address with flags; the rest is left to the kernel.
    pub fn new(address: IpAddr, flags: EndpointFlags) -> Self {
        Self {
            address,
            port: None,
            id: 0,
            flags,
            interface: None,
        }
    }

    pub(crate) fn attribute(&self, kind: u16) -> Attribute {
        let mut inner = named(self.address);
        if self.id != 0 {
            inner.push(Attribute::u8(address::ID, self.id));
        }
        if let Some(port) = self.port {
            inner.push(Attribute::u16(address::PORT, port));
        }
        if !self.flags.is_empty() {
            inner.push(Attribute::u32(address::FLAGS, self.flags.bits()));
        }
        if let Some(interface) = self.interface {
            inner.push(Attribute::u32(address::IF_IDX, interface));
        }
        Attribute::nested(kind, &inner)
    }

    /// Reads what stands in an address attribute; None if there is no address.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let mut found = None;
        let (mut port, mut id, mut flags, mut interface) = (None, 0, EndpointFlags::empty(), None);
        for (kind, value) in attribute::read(bytes) {
            match kind {
                address::ADDR4 | address::ADDR6 => found = attribute::to_address(value),
                address::PORT => port = attribute::to_u16(value).filter(|port| *port != 0),
                address::ID => id = attribute::to_u8(value).unwrap_or(0),
                address::FLAGS => {
                    flags = EndpointFlags::from_bits_retain(attribute::to_u32(value).unwrap_or(0))
                }
                address::IF_IDX => interface = attribute::to_u32(value).filter(|index| *index != 0),
                _ => {}
            }
        }
        Some(Self {
            address: found?,
            port,
            id,
            flags,
            interface,
        })
    }
}

/// An address and port of one end of a subflow.
pub(crate) fn end(kind: u16, end: SocketAddr, id: u8, flags: EndpointFlags) -> Attribute {
    let port = (end.port() != 0).then_some(end.port());
    Endpoint {
        port,
        id,
        ..Endpoint::new(end.ip(), flags)
    }
    .attribute(kind)
}

fn named(host: IpAddr) -> Vec<Attribute> {
    // An IPv4 address in IPv6 clothes is IPv4 to the kernel.
    match host.to_canonical() {
        IpAddr::V4(host) => vec![
            Attribute::u16(address::FAMILY, libc::AF_INET as u16),
            Attribute::bytes(address::ADDR4, &host.octets()),
        ],
        IpAddr::V6(host) => vec![
            Attribute::u16(address::FAMILY, libc::AF_INET6 as u16),
            Attribute::bytes(address::ADDR6, &host.octets()),
        ],
    }
}

/// How much the kernel's path manager does for each connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Limits {
    /// Additional subflows, 0 to 8.
    pub subflows: u32,
    /// Announced addresses of the peer that are accepted, 0 to 8.
    pub accepted_addresses: u32,
}
