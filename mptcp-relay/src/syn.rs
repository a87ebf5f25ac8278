//! A held SYN: who wants to talk to whom, and what its MPTCP option says.
//!
//! Packets come from strangers: whatever is malformed is `None`, and goes its way as if nobody had looked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mptcp_pm::Token;

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

impl Syn {
    /// Reads an IPv4 or IPv6 packet. IPv6 extension headers are not followed: such a SYN is not relayed.
    pub fn read(packet: &[u8]) -> Option<Self> {
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
        if header[13] & FLAGS != SYN {
            return None;
        }
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let options = segment.get(20..usize::from(header[12] >> 4) * 4)?;
        Some(Self {
            ends: Ends {
                terminal: SocketAddr::new(source, port(0)),
                server: SocketAddr::new(destination, port(2)),
            },
            asks: asks(options),
        })
    }
}

fn asks(mut options: &[u8]) -> Asks {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => break,
            1 => options = rest,
            _ => {
                let length = usize::from(*rest.first().unwrap_or(&0));
                let Some(option) = options.get(..length).filter(|option| option.len() >= 2) else {
                    break;
                };
                if *kind == MPTCP_OPTION {
                    return mptcp(option);
                }
                options = &options[length..];
            }
        }
    }
    Asks::Plain
}

/// RFC 8684: MP_CAPABLE on a SYN has 4 bytes (12 in version 0), MP_JOIN on a SYN has 12.
fn mptcp(option: &[u8]) -> Asks {
    match (option.get(2).map(|byte| byte >> 4), option.len()) {
        (Some(MP_CAPABLE), 4 | 12) => Asks::Capable,
        (Some(MP_JOIN), 12) => Asks::Join(Token(u32::from_be_bytes([
            option[4], option[5], option[6], option[7],
        ]))),
        _ => Asks::Plain,
    }
}
