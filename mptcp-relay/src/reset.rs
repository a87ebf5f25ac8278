//! Segments in a server's name: a reset ends what a terminal has half open when it turned out to speak no MPTCP; a question
//! has a terminal say what it has heard.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

const TCP: u8 = 6;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const HOPS: u8 = 64;

/// What a segment is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// It ends what is half open at this number.
    Reset {
        /// The number that is expected next.
        sequence: u32,
    },
    /// As a keepalive: a number that was heard before, which makes who hears it say how far it has heard.
    Question {
        /// Below what is expected next.
        sequence: u32,
        /// How far the other end was heard.
        acknowledges: u32,
    },
}

/// Sends it.
///
/// # Errors
/// No raw socket, or no route.
pub fn send(from: SocketAddr, to: SocketAddr, purpose: Purpose, mark: u32) -> io::Result<()> {
    let domain = if to.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_mark(mark)?;
    let packet = packet(from, to, purpose);
    // A raw socket of IPv6 takes a port for a protocol.
    socket
        .send_to(&packet, &SocketAddr::new(to.ip(), 0).into())
        .map(|_| ())
}

/// The packet, from the IP header on.
pub fn packet(from: SocketAddr, to: SocketAddr, purpose: Purpose) -> Vec<u8> {
    let (sequence, acknowledges, flags) = match purpose {
        Purpose::Reset { sequence } => (sequence, 0, RST),
        Purpose::Question {
            sequence,
            acknowledges,
        } => (sequence, acknowledges, ACK),
    };
    let mut segment = Vec::with_capacity(20);
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend(acknowledges.to_be_bytes());
    segment.extend([5 << 4, flags]);
    // What the window says nobody believes at such a number.
    segment.extend([0; 6]);
    let mut pseudo = addresses(from, to);
    pseudo.extend((segment.len() as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, TCP]);
    pseudo.extend(&segment);
    segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
    let mut packet = Vec::with_capacity(60);
    if to.is_ipv6() {
        packet.extend([0x60, 0, 0, 0]);
        packet.extend((segment.len() as u16).to_be_bytes());
        packet.extend([TCP, HOPS]);
        packet.extend(addresses(from, to));
    } else {
        packet.extend([0x45, 0]);
        packet.extend((segment.len() as u16 + 20).to_be_bytes());
        // Don't fragment; the kernel fills in the checksum.
        packet.extend([0, 0, 0x40, 0, HOPS, TCP, 0, 0]);
        packet.extend(addresses(from, to));
    }
    packet.extend(segment);
    packet
}

fn addresses(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    [octets(from), octets(to)].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
