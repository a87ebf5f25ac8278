//! "Host unreachable", as a router would say it of one of our segments: RFC 6069 lets TCP take back one doubling
//! of its retransmission timer for each, and send at once when the timer has run out by the shorter measure.
//!
//! The agent says it to its own kernel when a path is back and no cached segment is at hand. A relay says to the
//! sender of a segment that it was too big for the way beyond.

use pnet::packet::Packet;
use pnet::packet::icmp::destination_unreachable::{IcmpCodes, MutableDestinationUnreachablePacket};
use pnet::packet::icmp::{IcmpPacket, IcmpTypes};
use pnet::packet::icmpv6::{Icmpv6Code, Icmpv6Packet, Icmpv6Types, MutableIcmpv6Packet};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;

use std::net::IpAddr;

use crate::flags::Flags;
use crate::segment::{EmitError, HOP_LIMIT, Segment};
use crate::tuple::Tuple;

/// An IP packet to `tuple.local` that says that the segment with this sequence number did not reach
/// `tuple.remote`.
///
/// # Errors
/// The tuple is of two families.
/// # Source
/// RFC 6069, section 4; RFC 792 and RFC 4443 for the layouts.
pub fn unreachable(tuple: Tuple, seq: u32) -> Result<Vec<u8>, EmitError> {
    error(tuple, seq, None)
}

/// An IP packet to `tuple.local` that says that the segment with this sequence number was too big: its packets may have
/// `mtu` bytes.
///
/// # Errors
/// The tuple is of two families.
/// # Source
/// RFC 1191, section 4; RFC 4443, section 3.2.
pub fn too_big(tuple: Tuple, seq: u32, mtu: u32) -> Result<Vec<u8>, EmitError> {
    error(tuple, seq, Some(mtu))
}

fn error(tuple: Tuple, seq: u32, too_big: Option<u32>) -> Result<Vec<u8>, EmitError> {
    let quoted = Segment::bare(tuple, Flags::ACK, seq, 0, 0).emit()?;
    Ok(match (tuple.remote.address, tuple.local.address) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            // IP header and 8 bytes are quoted at least.
            let quoted = &quoted[..28];
            let mut packet = vec![0; 20 + 8 + quoted.len()];
            let length = packet.len() as u16;
            let (header, message) = packet.split_at_mut(20);
            if let Some(mut icmp) = MutableDestinationUnreachablePacket::new(message) {
                icmp.set_icmp_type(IcmpTypes::DestinationUnreachable);
                icmp.set_icmp_code(match too_big {
                    Some(_) => IcmpCodes::FragmentationRequiredAndDFFlagSet,
                    None => IcmpCodes::DestinationHostUnreachable,
                });
                icmp.set_next_hop_mtu(too_big.map_or(0, |mtu| mtu.min(0xffff) as u16));
                icmp.set_payload(quoted);
                let sum =
                    IcmpPacket::new(icmp.packet()).map_or(0, |view| pnet::packet::icmp::checksum(&view));
                icmp.set_checksum(sum);
            }
            if let Some(mut ip) = MutableIpv4Packet::new(header) {
                ip.set_version(4);
                ip.set_header_length(5);
                ip.set_total_length(length);
                ip.set_ttl(HOP_LIMIT);
                ip.set_next_level_protocol(IpNextHeaderProtocols::Icmp);
                ip.set_source(source);
                ip.set_destination(destination);
                ip.set_checksum(ipv4::checksum(&ip.to_immutable()));
            }
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0; 40 + 8 + quoted.len()];
            let length = (packet.len() - 40) as u16;
            let (header, message) = packet.split_at_mut(40);
            message[4..8].copy_from_slice(&too_big.unwrap_or_default().to_be_bytes());
            message[8..].copy_from_slice(&quoted);
            if let Some(mut icmp) = MutableIcmpv6Packet::new(message) {
                icmp.set_icmpv6_type(match too_big {
                    Some(_) => Icmpv6Types::PacketTooBig,
                    None => Icmpv6Types::DestinationUnreachable,
                });
                icmp.set_icmpv6_code(Icmpv6Code(0));
                let sum = Icmpv6Packet::new(icmp.packet()).map_or(0, |view| {
                    pnet::packet::icmpv6::checksum(&view, &source, &destination)
                });
                icmp.set_checksum(sum);
            }
            if let Some(mut ip) = MutableIpv6Packet::new(header) {
                ip.set_version(6);
                ip.set_payload_length(length);
                ip.set_hop_limit(HOP_LIMIT);
                ip.set_next_header(IpNextHeaderProtocols::Icmpv6);
                ip.set_source(source);
                ip.set_destination(destination);
            }
            packet
        }
        // `emit` has refused it.
        _ => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tuple::Endpoint;

    fn tuple(local: &str, remote: &str) -> Tuple {
        let endpoint = |text: &str| Endpoint::new(text.parse().unwrap(), 443);
        Tuple::new(endpoint(local), endpoint(remote))
    }

    #[test]
    fn the_error_goes_to_us_and_quotes_the_segment() {
        let v4 = unreachable(tuple("192.0.2.1", "198.51.100.7"), 0x0102_0304).unwrap();
        assert_eq!(
            (v4[9], &v4[16..20], v4[20], v4[21]),
            (1, &[192, 0, 2, 1][..], 3, 1)
        );
        assert_eq!(&v4[28 + 24..28 + 28], &[1, 2, 3, 4]);
        let view = IcmpPacket::new(&v4[20..]).unwrap();
        assert_eq!(view.get_checksum(), pnet::packet::icmp::checksum(&view));

        let v6 = unreachable(tuple("2001:db8::1", "2001:db8::2"), 0x0102_0304).unwrap();
        assert_eq!((v6[6], v6[40], v6[41]), (58, 1, 0));
        assert_eq!(&v6[48 + 44..48 + 48], &[1, 2, 3, 4]);
    }

    #[test]
    fn what_is_too_big_is_told_with_what_is_not() {
        let v4 = too_big(tuple("192.0.2.1", "198.51.100.7"), 7, 1400).unwrap();
        assert_eq!((v4[20], v4[21], &v4[26..28]), (3, 4, &1400u16.to_be_bytes()[..]));
        let view = IcmpPacket::new(&v4[20..]).unwrap();
        assert_eq!(view.get_checksum(), pnet::packet::icmp::checksum(&view));
        let v6 = too_big(tuple("2001:db8::1", "2001:db8::2"), 7, 1400).unwrap();
        assert_eq!((v6[40], v6[41], &v6[44..48]), (2, 0, &1400u32.to_be_bytes()[..]));
    }
}
