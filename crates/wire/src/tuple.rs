//! Endpoints and tuples: who talks to whom.
//!
//! A [`Tuple`] is always written from the point of view of *this* host: `local` is ours, `remote` is the
//! peer's. The **identity tuple** of a connection is the one its sockets know for life; its **wire tuple** is
//! the one on the wire now. While a connection has not moved they are equal.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address and a TCP port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// IPv4 or IPv6; IPv4-mapped IPv6 addresses are folded to IPv4 by [`Endpoint::new`].
    pub address: IpAddr,
    /// Host byte order.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint; an IPv4-mapped IPv6 address (what a dual-stack listener reports) becomes IPv4.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address: address.to_canonical(),
            port,
        }
    }

    /// The 16 bytes under which the address is known in maps and digests: IPv6, or IPv4-mapped IPv6.
    pub fn address_bytes(&self) -> [u8; 16] {
        address_bytes(self.address)
    }
}

/// The 16 bytes under which an address is known in maps and digests: IPv6, or IPv4-mapped IPv6.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The inverse of [`address_bytes`].
pub fn address_from_bytes(bytes: [u8; 16]) -> IpAddr {
    let v6 = Ipv6Addr::from(bytes);
    match v6.to_ipv4_mapped() {
        Some(v4) => IpAddr::V4(v4),
        None => IpAddr::V6(v6),
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(value: SocketAddr) -> Self {
        Self::new(value.ip(), value.port())
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(value: Endpoint) -> Self {
        SocketAddr::new(value.address, value.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Both endpoints of a connection as one host sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// This host's end.
    pub local: Endpoint,
    /// The peer's end.
    pub remote: Endpoint,
}

impl Tuple {
    /// A tuple from both ends.
    pub fn new(local: Endpoint, remote: Endpoint) -> Self {
        Self { local, remote }
    }

    /// The same connection as the peer sees it when nothing on the path translates.
    pub fn reversed(self) -> Self {
        Self {
            local: self.remote,
            remote: self.local,
        }
    }

    /// Whether both ends are IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.local.address.is_ipv4() && self.remote.address.is_ipv4()
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} <-> {}", self.local, self.remote)
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The unspecified IPv4 endpoint, for places where nothing is known yet.
pub const UNSPECIFIED: Endpoint = Endpoint {
    address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    port: 0,
};
