//! What a frame carries, as far as the lab cares. Total over all bytes: whatever cannot be read is `None`.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::language::ast::{Flip, Segments};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Kind and experiment of the Migrate options.
const MIGRATE: [u8; 1] = [253];
const EXPERIMENT: [u8; 2] = [0x4d, 0x49];

/// The IP packet in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub tcp: Option<Tcp>,
}

/// The TCP segment in a packet; offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub at: usize,
    pub header: usize,
    pub payload: usize,
    pub flags: u8,
    pub migrate: Option<Migrate>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrate {
    pub at: usize,
    pub length: usize,
    /// The low half of the option's fifth byte.
    pub kind: u8,
}

impl Packet {
    /// Reads an Ethernet frame (without offload header).
    pub fn read(frame: &[u8]) -> Option<Packet> {
        let kind = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
        match kind {
            0x0800 => Self::ipv4(frame),
            0x86dd => Self::ipv6(frame),
            _ => None,
        }
    }

    fn ipv4(frame: &[u8]) -> Option<Packet> {
        let ip = frame.get(14..)?;
        let header = usize::from(ip.first()? & 0x0f) * 4;
        let total = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
        let source: [u8; 4] = ip.get(12..16)?.try_into().ok()?;
        let destination: [u8; 4] = ip.get(16..20)?.try_into().ok()?;
        let fragment = u16::from_be_bytes([*ip.get(6)?, *ip.get(7)?]) & 0x1fff;
        // A segment too large for the field travels with length 0 inside the machine.
        let length = if total == 0 { ip.len() } else { total.min(ip.len()) };
        let tcp =
            (ip.get(9) == Some(&6) && fragment == 0).then(|| Tcp::read(frame, 14 + header, 14 + length));
        Some(Packet {
            source: IpAddr::V4(Ipv4Addr::from(source)),
            destination: IpAddr::V4(Ipv4Addr::from(destination)),
            tcp: tcp.flatten(),
        })
    }

    fn ipv6(frame: &[u8]) -> Option<Packet> {
        let ip = frame.get(14..)?;
        let payload = usize::from(u16::from_be_bytes([*ip.get(4)?, *ip.get(5)?]));
        let source: [u8; 16] = ip.get(8..24)?.try_into().ok()?;
        let destination: [u8; 16] = ip.get(24..40)?.try_into().ok()?;
        let length = if payload == 0 {
            ip.len()
        } else {
            (40 + payload).min(ip.len())
        };
        let tcp = (ip.get(6) == Some(&6)).then(|| Tcp::read(frame, 14 + 40, 14 + length));
        Some(Packet {
            source: IpAddr::V6(Ipv6Addr::from(source)),
            destination: IpAddr::V6(Ipv6Addr::from(destination)),
            tcp: tcp.flatten(),
        })
    }

    pub fn is_rst(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.flags & RST != 0)
    }

    /// Whether this is one of the segments a line of the story means.
    pub fn is(&self, segments: Segments) -> bool {
        if segments == Segments::Any {
            return true;
        }
        let Some(tcp) = self.tcp else { return false };
        let migrate = tcp.migrate.map(|option| option.kind).filter(|kind| *kind != 0);
        match segments {
            Segments::Any => true,
            Segments::Syn => tcp.flags & (SYN | ACK) == SYN && migrate.is_none(),
            Segments::SynAck => tcp.flags & (SYN | ACK) == SYN | ACK && migrate.is_none(),
            Segments::Fin => tcp.flags & FIN != 0,
            Segments::Rst => tcp.flags & RST != 0,
            Segments::Data => tcp.payload > 0 && tcp.flags & SYN == 0,
            Segments::Msyn => migrate == Some(1),
            Segments::MsynAck => migrate == Some(2),
            Segments::MigrateAck => migrate == Some(3),
            Segments::MigrateReset => migrate == Some(4),
        }
    }
}

impl Tcp {
    /// Reads the segment from `at`; `end` is where the packet says it ends.
    fn read(frame: &[u8], at: usize, end: usize) -> Option<Tcp> {
        let tcp = frame.get(at..end)?;
        let header = usize::from(tcp.get(12)? >> 4) * 4;
        let flags = *tcp.get(13)?;
        let options = tcp.get(20..header)?;
        Some(Tcp {
            at,
            header,
            payload: tcp.len() - header,
            flags,
            migrate: migrate(options, at + 20),
        })
    }
}

/// Finds the Migrate option; `base` is where the options begin in the frame.
fn migrate(options: &[u8], base: usize) -> Option<Migrate> {
    let mut at = 0;
    while at < options.len() {
        match options[at] {
            0 => return None,
            1 => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                let body = options.get(at..at + length.max(2))?;
                if MIGRATE.contains(&kind) && body.get(2..4) == Some(&EXPERIMENT) && length >= 5 {
                    return Some(Migrate {
                        at: base + at,
                        length,
                        kind: body[4] & 0x0f,
                    });
                }
                at += length.max(2);
            }
        }
    }
    None
}

/// Flips one bit of the frame and, unless `stale`, repairs the TCP checksum so that only a check of the content
/// can find it. False if there is no such bit.
pub fn flip(frame: &mut [u8], tcp: &Tcp, change: Flip) -> bool {
    let Flip {
        bit,
        in_option,
        stale,
    } = change;
    let (start, length) = match (in_option, tcp.migrate) {
        (true, Some(option)) => (option.at, option.length),
        (true, None) => return false,
        (false, _) => (tcp.at, tcp.header),
    };
    let byte = bit as usize / 8;
    if byte >= length || start + byte >= frame.len() {
        return false;
    }
    // Checksums count 16-bit words from the start of the TCP header.
    let word_at = tcp.at + (start + byte - tcp.at) / 2 * 2;
    let word =
        |frame: &[u8]| u16::from_be_bytes([frame[word_at], frame.get(word_at + 1).copied().unwrap_or(0)]);
    let before = word(frame);
    frame[start + byte] ^= 0x80 >> (bit % 8);
    let after = word(frame);
    let checksum = tcp.at + 16;
    if !stale && word_at != checksum && checksum + 1 < frame.len() {
        let old = u16::from_be_bytes([frame[checksum], frame[checksum + 1]]);
        // RFC 1624, equation 3.
        let mut sum = u32::from(!old) + u32::from(!before) + u32::from(after);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[checksum..checksum + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    true
}

/// A reset from the sender of this segment with the number that follows it.
pub fn reset_behind(frame: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 20;
    let tcp = Packet::read(frame)?.tcp?;
    let mut reset = frame.get(..tcp.at + HEADER)?.to_vec();
    let field = &mut reset[tcp.at..];
    let seq = u32::from_be_bytes([field[4], field[5], field[6], field[7]]);
    let next = seq.wrapping_add(tcp.payload as u32);
    field[4..8].copy_from_slice(&next.to_be_bytes());
    field[12] = (HEADER as u8 / 4) << 4;
    field[13] = RST | ACK;
    field[14..20].fill(0);
    let length = (tcp.at + HEADER - 14) as u16;
    let addresses = match frame.get(14)? >> 4 {
        4 => {
            reset[16..18].copy_from_slice(&length.to_be_bytes());
            reset[24..26].fill(0);
            let checksum = !folded(words(&reset[14..tcp.at]));
            reset[24..26].copy_from_slice(&checksum.to_be_bytes());
            26..34
        }
        _ => {
            reset[18..20].copy_from_slice(&(length - 40).to_be_bytes());
            22..54
        }
    };
    const TCP: u32 = 6;
    let sum = words(&reset[addresses]) + TCP + HEADER as u32 + words(&reset[tcp.at..]);
    let at = tcp.at + 16;
    reset[at..at + 2].copy_from_slice(&(!folded(sum)).to_be_bytes());
    Some(reset)
}

fn words(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2);
    pairs
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum()
}

fn folded(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
