//! A held SYN, or the answer to one: who wants to talk to whom, and what its MPTCP option says.
//!
//! Packets come from strangers: whatever is malformed is `None`, and goes its way as if nobody had looked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mptcp_pm::Token;
use wire::option::{MigrateOption, Options};

/// The two ends of a connection, as both of them know it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Ends {
    /// Who speaks MPTCP, as the relay sees it.
    pub terminal: SocketAddr,
    /// Who does not have to.
    pub server: SocketAddr,
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} > {}", self.terminal, self.server)
    }
}

/// What the SYN asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asks {
    /// A new connection (MP_CAPABLE).
    Capable,
    /// One more subflow of the connection with this token (MP_JOIN).
    Join(Token),
    /// A new connection of a terminal without MPTCP whose agent offers to migrate it (Migrate-Permit).
    Migrate,
    /// An ordinary connection.
    Plain,
}

/// A SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syn {
    /// Where it comes from, and where it goes: the terminal is who sent it.
    pub ends: Ends,
    /// What it asks for.
    pub asks: Asks,
}

const TCP: u8 = 6;
const MPTCP_OPTION: u8 = 30;
const MP_CAPABLE: u8 = 0;
const MP_JOIN: u8 = 1;
/// Flags of interest in the 14th byte of the TCP header: FIN, SYN, RST, ACK.
const FLAGS: u8 = 0x17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

impl Syn {
    /// Reads an IPv4 or IPv6 packet. IPv6 extension headers are not followed: such a SYN is not relayed.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let segment = Segment::read(packet)?;
        if segment.header[13] & FLAGS != SYN {
            return None;
        }
        Some(Self {
            ends: Ends {
                terminal: segment.from,
                server: segment.to,
            },
            asks: asks(segment.options),
        })
    }
}

/// What a terminal answers to a SYN: a SYN-ACK.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynAck {
    /// The terminal is who sent it.
    pub ends: Ends,
    /// Whether it agrees to MPTCP.
    pub capable: bool,
    /// What it acknowledges: the number that a reset must have to end what it answers.
    pub acknowledges: u32,
    /// Its own number.
    pub number: u32,
}

impl SynAck {
    /// Reads an IPv4 or IPv6 packet.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let segment = Segment::read(packet)?;
        if segment.header[13] & FLAGS != SYN | ACK {
            return None;
        }
        let word = |at: usize| {
            let bytes: [u8; 4] = segment.header.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        Some(Self {
            ends: Ends {
                terminal: segment.from,
                server: segment.to,
            },
            capable: agrees(segment.options),
            acknowledges: word(8)?,
            number: word(4)?,
        })
    }
}

/// The parts of a TCP segment that matter here.
struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    header: &'a [u8],
    options: &'a [u8],
}

impl<'a> Segment<'a> {
    fn read(packet: &'a [u8]) -> Option<Self> {
        let (source, destination, segment) = match packet.first()? >> 4 {
            4 => {
                let length = usize::from(packet[0] & 0xf) * 4;
                let header = packet.get(..length.max(20))?;
                if header[9] != TCP {
                    return None;
                }
                let address = |at: usize| {
                    let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
                    Some(IpAddr::V4(Ipv4Addr::from(bytes)))
                };
                (address(12)?, address(16)?, packet.get(length..)?)
            }
            6 => {
                let header = packet.get(..40)?;
                if header[6] != TCP {
                    return None;
                }
                let address = |at: usize| {
                    let bytes: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
                    Some(IpAddr::V6(Ipv6Addr::from(bytes)))
                };
                (address(8)?, address(24)?, packet.get(40..)?)
            }
            _ => return None,
        };
        let header = segment.get(..20)?;
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self {
            from: SocketAddr::new(source, port(0)),
            to: SocketAddr::new(destination, port(2)),
            header,
            options: segment.get(20..usize::from(header[12] >> 4) * 4)?,
        })
    }
}

/// The first MPTCP option among these, as far as they can be read.
fn multipath(options: &[u8]) -> Option<&[u8]> {
    let mut all = Options::of(options).map_while(Result::ok);
    let found = all.find(|option| option.kind() == MPTCP_OPTION)?;
    Some(found.bytes())
}

/// Whether Migrate-Permit is among these.
fn permits(options: &[u8]) -> bool {
    let mut all = Options::of(options).map_while(Result::ok);
    all.any(|option| matches!(option.migrate(), Ok(Some(MigrateOption::Permit(_)))))
}

/// RFC 8684: MP_CAPABLE on a SYN has 4 bytes (12 in version 0), MP_JOIN on a SYN has 12.
fn asks(options: &[u8]) -> Asks {
    let Some(option) = multipath(options) else {
        return match permits(options) {
            true => Asks::Migrate,
            false => Asks::Plain,
        };
    };
    match (option.get(2).map(|byte| byte >> 4), option.len()) {
        (Some(MP_CAPABLE), 4 | 12) => Asks::Capable,
        (Some(MP_JOIN), 12) => Asks::Join(Token(u32::from_be_bytes([
            option[4], option[5], option[6], option[7],
        ]))),
        _ => Asks::Plain,
    }
}

/// And on a SYN-ACK 12, with the answerer's key.
fn agrees(options: &[u8]) -> bool {
    multipath(options).is_some_and(|option| option.len() == 12 && option[2] >> 4 == MP_CAPABLE)
}
