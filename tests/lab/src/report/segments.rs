//! TCP segments out of the captures of a run.
//!
//! Captures keep the beginning of every frame only, and what a kernel hands to a device may be far longer than
//! a frame of the wire: lengths are those that the IP header tells.
use std::fs::File;
use std::io::BufReader;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfName;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::ReportError;
use crate::emulator::capture::Way;
use crate::emulator::segment::Packet;

pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a Migrate-Request says that a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Msyn,
    MsynAck,
    MigrateAck,
    /// Migrate-Reset, a question about a reset, or its answer.
    Other,
}

/// One TCP segment at one device.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Seconds since the story began.
    pub time: f64,
    pub way: Way,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// Bytes of payload on the wire, kept in the capture or not.
    pub payload: u32,
    pub request: Option<Request>,
    /// What the sender of a Migrate-Request expects next.
    pub rcv_nxt: Option<u32>,
    /// The options of the TCP header, as they are.
    pub options: Vec<u8>,
}

impl Seen {
    /// A SYN that opens a connection.
    pub fn is_plain_syn(&self) -> bool {
        self.flags & (SYN | ACK) == SYN && self.request.is_none()
    }

    pub fn is_rst(&self) -> bool {
        self.flags & RST != 0
    }

    /// Whether the payload has this byte of the sequence.
    pub fn carries(&self, byte: u32) -> bool {
        byte.wrapping_sub(self.seq) < self.payload
    }
}

/// All TCP segments that passed the device of `host` on `link`, in the order of the capture.
///
/// `links` is the directory of captures, `began` the beginning of the story in seconds since 1970.
///
/// # Errors
/// There is no such capture, or it is damaged. Frames that hold no TCP segment are skipped.
pub fn at_device(links: &Path, link: &str, host: &str, began: f64) -> Result<Vec<Seen>, ReportError> {
    let mut found = Vec::new();
    for path in files(links, link)? {
        read(&path, &format!("{host}:"), began, &mut found)?;
    }
    Ok(found)
}

/// The files of one link: the first, and those it was continued in.
fn files(links: &Path, link: &str) -> Result<Vec<PathBuf>, ReportError> {
    let number = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix(link)?.strip_prefix('.')?;
        rest.strip_suffix(".pcapng")?.parse().ok()
    };
    let entries = std::fs::read_dir(links).map_err(ReportError::io(format!("read {}", links.display())))?;
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    // Of a long capture the parts in the middle are gone.
    let mut later: Vec<u32> = names.filter_map(|name| number(&name)).collect();
    later.sort_unstable();
    let later = later
        .into_iter()
        .map(|number| links.join(format!("{link}.{number}.pcapng")));
    Ok(std::iter::once(links.join(format!("{link}.pcapng")))
        .chain(later)
        .collect())
}

fn read(path: &Path, device: &str, began: f64, found: &mut Vec<Seen>) -> Result<(), ReportError> {
    let damaged = |error: pcap_file::PcapError| ReportError::Capture {
        path: path.display().to_string(),
        reason: error.to_string(),
    };
    let file = File::open(path).map_err(ReportError::io(format!("read {}", path.display())))?;
    let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(damaged)?;
    let mut devices = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.map_err(damaged)? {
            Block::InterfaceDescription(description) => {
                let named = |name: &str| name.starts_with(device);
                let mut options = description.options.iter();
                devices.push(options.any(|option| matches!(option, IfName(name) if named(name))));
            }
            Block::EnhancedPacket(packet) if devices.get(packet.interface_id as usize) == Some(&true) => {
                let way = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Flags(1) => Some(Way::In),
                    EnhancedPacketOption::Flags(2) => Some(Way::Out),
                    _ => None,
                });
                let time = packet.timestamp.as_secs_f64() - began;
                found.extend(way.and_then(|way| segment(&packet.data, packet.original_len, way, time)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads a frame, cut off or not; `length` is that of the whole frame.
fn segment(frame: &[u8], length: u32, way: Way, time: f64) -> Option<Seen> {
    let packet = Packet::read(frame)?;
    let tcp = packet.tcp?;
    let word = |at: usize| Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?));
    // Where the packet ends, counted from the beginning of the frame: the header says, unless its field is too
    // small for what offloading makes.
    let end = match (packet.source.is_ipv4(), word(16)?, word(18)?) {
        (true, 0, _) | (false, _, 0) => length,
        (true, total, _) => 14 + u32::from(total),
        (false, _, payload) => 14 + 40 + u32::from(payload),
    };
    let request = match tcp.migrate.map(|option| option.kind) {
        None | Some(0) => None,
        Some(1) => Some(Request::Msyn),
        Some(2) => Some(Request::MsynAck),
        Some(3) => Some(Request::MigrateAck),
        Some(_) => Some(Request::Other),
    };
    // Kind, length, experiment, version and type, token and request number come before it.
    let rcv_nxt = request
        .and(tcp.migrate)
        .filter(|option| option.length >= 17)
        .and_then(|option| long(option.at + 13));
    Some(Seen {
        time,
        way,
        source: SocketAddr::new(packet.source, word(tcp.at)?),
        destination: SocketAddr::new(packet.destination, word(tcp.at + 2)?),
        seq: long(tcp.at + 4)?,
        ack: long(tcp.at + 8)?,
        flags: tcp.flags,
        payload: end.saturating_sub((tcp.at + tcp.header) as u32),
        request,
        rcv_nxt,
        options: frame.get(tcp.at + 20..tcp.at + tcp.header)?.to_vec(),
    })
}
