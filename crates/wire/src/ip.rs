//! The IP layer under a TCP segment: reading it strictly or leniently, and writing it with its checksums.
//!
//! Reading is etherparse's (IPv6 extension headers included), writing is pnet's.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{IpSlice, LaxIpSlice, LenSource, TcpSlice, ip_number};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, Ipv4Flags, Ipv4Packet, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket};

use crate::segment::{Checksums, EmitError};
use crate::tuple::address_bytes;

const IPV4_HEADER_LEN: usize = 20;
const IPV6_HEADER_LEN: usize = 40;

/// Why bytes are not one TCP segment in one IP packet.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// The IP header or one of its extensions is cut off or contradicts itself.
    #[error("not an IP packet: {0}")]
    Ip(String),
    /// The packet is a fragment; the kernel reassembles before the places where segments are captured.
    #[error("an IP fragment, not a whole segment: capture behind reassembly")]
    Fragment,
    /// The packet carries something else.
    #[error("IP protocol {protocol} instead of TCP")]
    NotTcp {
        /// The protocol number or next header.
        protocol: u8,
    },
    /// An IPv4-mapped address inside an IPv6 packet; nobody may send this (RFC 4942, 2.2).
    #[error("IPv4-mapped address {0} in an IPv6 packet")]
    Mapped(Ipv6Addr),
    /// The TCP header is cut off or contradicts itself.
    #[error("not a TCP segment: {0}")]
    Tcp(String),
    /// The checksum of the IPv4 header is wrong.
    #[error("IPv4 header checksum {got:#06x} instead of {expected:#06x}")]
    IpChecksum {
        /// Computed from the packet.
        expected: u16,
        /// Found in it.
        got: u16,
    },
    /// The checksum of the TCP segment is wrong.
    #[error(
        "TCP checksum {got:#06x} instead of {expected:#06x}; a segment captured before offloading has a partial one"
    )]
    TcpChecksum {
        /// Computed from the packet.
        expected: u16,
        /// Found in it.
        got: u16,
    },
}

/// What of an IP header travels with a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct IpFields {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Type of service or traffic class.
    pub(crate) traffic_class: u8,
    /// Zero on IPv4.
    pub(crate) flow_label: u32,
    /// Time to live or hop limit.
    pub(crate) hop_limit: u8,
}

/// A packet taken apart.
pub(crate) struct Captured<'a> {
    pub(crate) fields: IpFields,
    pub(crate) tcp: TcpSlice<'a>,
    /// The length in the IP header is that of the captured bytes: nothing is missing, nothing is padding.
    pub(crate) whole: bool,
}

/// Reads a packet as it is on the wire: lengths must fit, and the checksums too unless told otherwise.
/// Padding behind the packet, as of short Ethernet frames, is ignored.
pub(crate) fn read(packet: &[u8], checksums: Checksums) -> Result<Captured<'_>, Unreadable> {
    let ip = IpSlice::from_slice(packet).map_err(|error| Unreadable::Ip(error.to_string()))?;
    let fields = match &ip {
        IpSlice::Ipv4(ip) => IpFields::of_ipv4(ip.header()),
        IpSlice::Ipv6(ip) => IpFields::of_ipv6(ip.header())?,
    };
    let payload = ip.payload();
    if payload.len_source == LenSource::Slice {
        return Err(Unreadable::Ip("payload length 0 in an IPv6 header".into()));
    }
    if payload.fragmented {
        return Err(Unreadable::Fragment);
    }
    let tcp = tcp_of(payload.ip_number.0, payload.payload)?;
    if checksums == Checksums::Verify {
        if let IpSlice::Ipv4(ip) = &ip {
            verify_ipv4(ip.header().slice())?;
        }
        verify_tcp(&fields, &tcp)?;
    }
    Ok(Captured {
        fields,
        tcp,
        whole: true,
    })
}

/// Reads a packet as the kernel holds it before it is sent: the length in the IP header may be zero or stale,
/// checksums are not looked at, and the end of the packet may be missing.
pub(crate) fn read_leniently(packet: &[u8]) -> Result<Captured<'_>, Unreadable> {
    let (ip, stopped) = LaxIpSlice::from_slice(packet).map_err(|error| Unreadable::Ip(error.to_string()))?;
    if let Some((error, _)) = stopped {
        return Err(Unreadable::Ip(error.to_string()));
    }
    let (fields, declared) = match &ip {
        LaxIpSlice::Ipv4(ip) => (
            IpFields::of_ipv4(ip.header()),
            usize::from(ip.header().total_len()),
        ),
        LaxIpSlice::Ipv6(ip) => (
            IpFields::of_ipv6(ip.header())?,
            IPV6_HEADER_LEN + usize::from(ip.header().payload_length()),
        ),
    };
    let payload = ip.payload();
    if payload.fragmented {
        return Err(Unreadable::Fragment);
    }
    let tcp = tcp_of(payload.ip_number.0, payload.payload)?;
    Ok(Captured {
        fields,
        tcp,
        whole: declared == packet.len(),
    })
}

fn tcp_of(protocol: u8, bytes: &[u8]) -> Result<TcpSlice<'_>, Unreadable> {
    if protocol != ip_number::TCP.0 {
        return Err(Unreadable::NotTcp { protocol });
    }
    TcpSlice::from_slice(bytes).map_err(|error| Unreadable::Tcp(error.to_string()))
}

fn verify_ipv4(header: &[u8]) -> Result<(), Unreadable> {
    let Some(header) = Ipv4Packet::new(header) else {
        return Err(Unreadable::Ip("an IPv4 header shorter than 20 bytes".into()));
    };
    let (got, expected) = (header.get_checksum(), ipv4::checksum(&header));
    match same_checksum(got, expected) {
        true => Ok(()),
        false => Err(Unreadable::IpChecksum { expected, got }),
    }
}

fn verify_tcp(ip: &IpFields, tcp: &TcpSlice<'_>) -> Result<(), Unreadable> {
    let expected = match (ip.source, ip.destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4(from.octets(), to.octets()),
        (from, to) => tcp.calc_checksum_ipv6(address_bytes(from), address_bytes(to)),
    }
    .map_err(|error| Unreadable::Tcp(error.to_string()))?;
    let got = tcp.checksum();
    match same_checksum(got, expected) {
        true => Ok(()),
        false => Err(Unreadable::TcpChecksum { expected, got }),
    }
}

/// Both zeros of one's complement arithmetic are the same checksum (RFC 1624, 3).
fn same_checksum(one: u16, other: u16) -> bool {
    one % u16::MAX == other % u16::MAX
}

impl IpFields {
    fn of_ipv4(header: etherparse::Ipv4HeaderSlice<'_>) -> Self {
        Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            traffic_class: header.dcp().value() << 2 | header.ecn().value(),
            flow_label: 0,
            hop_limit: header.ttl(),
        }
    }

    fn of_ipv6(header: etherparse::Ipv6HeaderSlice<'_>) -> Result<Self, Unreadable> {
        let (source, destination) = (header.source_addr(), header.destination_addr());
        match [source, destination]
            .into_iter()
            .find(|address| address.to_ipv4_mapped().is_some())
        {
            Some(mapped) => Err(Unreadable::Mapped(mapped)),
            None => Ok(Self {
                source: source.into(),
                destination: destination.into(),
                traffic_class: header.traffic_class(),
                flow_label: header.flow_label().value(),
                hop_limit: header.hop_limit(),
            }),
        }
    }

    /// The packet of these fields around the TCP segment that `write` fills in; checksums are computed here.
    ///
    /// On IPv4 DF is set and the identification is zero (RFC 6864, 4.1).
    pub(crate) fn packet(
        &self,
        tcp_len: usize,
        write: impl FnOnce(&mut MutableTcpPacket<'_>),
    ) -> Result<Vec<u8>, EmitError> {
        let too_long = EmitError::Length { got: tcp_len };
        match (self.source.to_canonical(), self.destination.to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let total = u16::try_from(IPV4_HEADER_LEN + tcp_len).map_err(|_| too_long)?;
                let mut bytes = vec![0; IPV4_HEADER_LEN + tcp_len];
                let (header, payload) = bytes.split_at_mut(IPV4_HEADER_LEN);
                let (Some(mut ip), Some(mut tcp)) =
                    (MutableIpv4Packet::new(header), MutableTcpPacket::new(payload))
                else {
                    return Err(too_long);
                };
                ip.set_version(4);
                ip.set_header_length((IPV4_HEADER_LEN / 4) as u8);
                ip.set_dscp(self.traffic_class >> 2);
                ip.set_ecn(self.traffic_class & 0b11);
                ip.set_total_length(total);
                ip.set_flags(Ipv4Flags::DontFragment);
                ip.set_ttl(self.hop_limit);
                ip.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
                ip.set_source(source);
                ip.set_destination(destination);
                ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
                write(&mut tcp);
                tcp.set_checksum(tcp::ipv4_checksum(&tcp.to_immutable(), &source, &destination));
                Ok(bytes)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let payload_length = u16::try_from(tcp_len).map_err(|_| too_long)?;
                let mut bytes = vec![0; IPV6_HEADER_LEN + tcp_len];
                let (header, payload) = bytes.split_at_mut(IPV6_HEADER_LEN);
                let (Some(mut ip), Some(mut tcp)) =
                    (MutableIpv6Packet::new(header), MutableTcpPacket::new(payload))
                else {
                    return Err(too_long);
                };
                ip.set_version(6);
                ip.set_traffic_class(self.traffic_class);
                ip.set_flow_label(self.flow_label);
                ip.set_payload_length(payload_length);
                ip.set_next_header(IpNextHeaderProtocols::Tcp);
                ip.set_hop_limit(self.hop_limit);
                ip.set_source(source);
                ip.set_destination(destination);
                write(&mut tcp);
                tcp.set_checksum(tcp::ipv6_checksum(&tcp.to_immutable(), &source, &destination));
                Ok(bytes)
            }
            (source, destination) => Err(EmitError::Families {
                source_address: source,
                destination,
            }),
        }
    }
}
