//! Segments: a whole IP packet with one TCP segment, as a value.
//!
//! [`Segment::parse`] reads what was captured, [`Segment::emit`] writes what is to be sent; the constructors in
//! [`crate::handshake`] say which segments there are. A value holds the options that matter to a resumption;
//! others (SACK blocks, MPTCP) are skipped by `parse` and therefore not written by `emit`.

use std::fmt;
use std::net::IpAddr;

use pnet::packet::tcp::{MutableTcpPacket, TcpOption, TcpOptionNumber, TcpOptionNumbers, TcpOptionPacket};

use crate::flags::Flags;
use crate::ip::{self, IpFields, Unreadable};
use crate::option::{KIND, MAX_AREA, MigrateOption, OptionError, OptionRef, Options};
use crate::permit::Permit;
use crate::request::Request;
use crate::tuple::{Endpoint, Tuple};

/// The hop limit of segments made here; Linux' default for its own.
pub const HOP_LIMIT: u8 = 64;

/// The fixed part of a TCP header, in bytes.
const TCP_HEADER_LEN: usize = 20;

/// Whether checksums are verified.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Checksums {
    /// A wrong checksum is an error: for what came over a wire.
    Verify,
    /// Not looked at: for what the kernel hands over before (or instead of) computing them.
    Ignore,
}

/// Why a packet is not a segment we can read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    /// Not one TCP segment in one IP packet, or damaged on the way.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The options area is damaged, or an option has not the layout it should.
    #[error(transparent)]
    Option(#[from] OptionError),
}

/// Why a segment cannot be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EmitError {
    /// One IPv4 and one IPv6 endpoint.
    #[error("no packet can go from {source_address} to {destination}: different address families")]
    Families {
        /// Where it should come from.
        source_address: IpAddr,
        /// Where it should go to.
        destination: IpAddr,
    },
    /// The options need more room than a TCP header has.
    #[error("{got} bytes of options where {MAX_AREA} fit: leave out timestamps or the permit")]
    Options {
        /// What they need, in bytes.
        got: usize,
    },
    /// The segment is longer than the length field of an IP header can say.
    #[error("a TCP segment of {got} bytes does not fit into an IP packet: cut the payload")]
    Length {
        /// TCP header and payload, in bytes.
        got: usize,
    },
}

/// One TCP segment in one IP packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Where it comes from.
    pub source: Endpoint,
    /// Where it goes to; of the same family.
    pub destination: Endpoint,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; counts only with [`Flags::ACK`].
    pub ack: u32,
    /// Flags.
    pub flags: Flags,
    /// Window field of the header, unscaled.
    pub window: u16,
    /// Window scale option: a shift count.
    pub window_scale: Option<u8>,
    /// SACK-permitted option.
    pub sack_permitted: bool,
    /// Maximum segment size option, in bytes.
    pub mss: Option<u16>,
    /// Timestamps option: TSval and TSecr.
    pub timestamps: Option<(u32, u32)>,
    /// Migrate-Request option.
    pub migrate: Option<Request>,
    /// Migrate-Permit option.
    pub permit: Option<Permit>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Segment {
    /// A segment without options and payload.
    ///
    /// The tuple is the sender's: `local` is the source.
    pub fn bare(tuple: Tuple, flags: Flags, seq: u32, ack: u32, window: u16) -> Self {
        Self {
            source: tuple.local,
            destination: tuple.remote,
            hop_limit: HOP_LIMIT,
            seq,
            ack,
            flags,
            window,
            window_scale: None,
            sack_permitted: false,
            mss: None,
            timestamps: None,
            migrate: None,
            permit: None,
            payload: Vec::new(),
        }
    }

    /// Reads an IP packet as it came over the wire, options in any order, both checksums verified.
    ///
    /// # Errors
    /// See [`SegmentError`]. Two migration options of one kind are an error, of other repeated options the last
    /// counts, as in Linux.
    pub fn parse(ip_packet: &[u8]) -> Result<Self, SegmentError> {
        Self::parse_with(ip_packet, Checksums::Verify)
    }

    /// [`Segment::parse`], with a choice about checksums: a packet that never left the host may have none.
    ///
    /// # Errors
    /// As [`Segment::parse`].
    pub fn parse_with(ip_packet: &[u8], checksums: Checksums) -> Result<Self, SegmentError> {
        let captured = ip::read(ip_packet, checksums)?;
        let (ip, tcp) = (captured.fields, captured.tcp);
        let tuple = Tuple::new(
            Endpoint::new(ip.source, tcp.source_port()),
            Endpoint::new(ip.destination, tcp.destination_port()),
        );
        let flags = Flags(tcp.header_slice()[13]);
        let mut segment = Self::bare(
            tuple,
            flags,
            tcp.sequence_number(),
            tcp.acknowledgment_number(),
            tcp.window_size(),
        );
        segment.hop_limit = ip.hop_limit;
        segment.payload = tcp.payload().to_vec();
        for option in Options::of(tcp.options()) {
            segment.take(option?)?;
        }
        Ok(segment)
    }

    /// Takes over one option of a captured segment.
    fn take(&mut self, option: OptionRef<'_>) -> Result<(), OptionError> {
        match TcpOptionNumber(option.kind()) {
            TcpOptionNumbers::MSS => self.mss = Some(u16::from_be_bytes(fixed(option)?)),
            TcpOptionNumbers::WSCALE => self.window_scale = Some(u8::from_be_bytes(fixed(option)?)),
            TcpOptionNumbers::SACK_PERMITTED => self.sack_permitted = fixed(option).map(|[]| true)?,
            TcpOptionNumbers::TIMESTAMPS => {
                let [v0, v1, v2, v3, e0, e1, e2, e3] = fixed(option)?;
                self.timestamps = Some((
                    u32::from_be_bytes([v0, v1, v2, v3]),
                    u32::from_be_bytes([e0, e1, e2, e3]),
                ));
            }
            _ => match option.migrate()? {
                Some(MigrateOption::Request(request)) => set_once(&mut self.migrate, request)?,
                Some(MigrateOption::Permit(permit)) => set_once(&mut self.permit, permit)?,
                None => {}
            },
        }
        Ok(())
    }

    /// Writes the IP packet: right checksums, DF set on IPv4, no flow label on IPv6.
    ///
    /// Options follow in a fixed order: Migrate-Request, window scale, SACK-permitted, MSS, Migrate-Permit,
    /// timestamps, with NOPs so that the timestamps are aligned (which Linux' fast path expects) and the area
    /// ends at a multiple of four. What [`Segment::parse`] has read never needs more room than it had.
    ///
    /// # Errors
    /// See [`EmitError`].
    pub fn emit(&self) -> Result<Vec<u8>, EmitError> {
        let options = self.options();
        let options_len = length(&options);
        if options_len > MAX_AREA {
            return Err(EmitError::Options { got: options_len });
        }
        let header_len = TCP_HEADER_LEN + options_len;
        let ip = IpFields {
            source: self.source.address,
            destination: self.destination.address,
            traffic_class: 0,
            flow_label: 0,
            hop_limit: self.hop_limit,
        };
        ip.packet(
            header_len + self.payload.len(),
            |tcp: &mut MutableTcpPacket<'_>| {
                tcp.set_source(self.source.port);
                tcp.set_destination(self.destination.port);
                tcp.set_sequence(self.seq);
                tcp.set_acknowledgement(self.ack);
                tcp.set_data_offset((header_len / 4) as u8);
                tcp.set_flags(self.flags.0);
                tcp.set_window(self.window);
                tcp.set_options(&options);
                tcp.set_payload(&self.payload);
            },
        )
    }

    /// The options in the order of [`Segment::emit`], padding included.
    fn options(&self) -> Vec<TcpOption> {
        let mut options = Vec::new();
        options.extend(self.migrate.map(|request| ours(&request.to_bytes())));
        options.extend(self.window_scale.map(TcpOption::wscale));
        options.extend(self.sack_permitted.then(TcpOption::sack_perm));
        options.extend(self.mss.map(TcpOption::mss));
        options.extend(self.permit.map(|permit| ours(&permit.to_bytes())));
        // Kind and length byte of the timestamps come right before a multiple of four.
        let timestamps = self
            .timestamps
            .map(|(value, echo)| TcpOption::timestamp(value, echo));
        let tail = timestamps.iter().map(TcpOptionPacket::packet_size).sum::<usize>();
        let end = length(&options) + tail;
        options.extend((end..end.next_multiple_of(4)).map(|_| TcpOption::nop()));
        options.extend(timestamps);
        options
    }

    /// The sender's view of who talks to whom.
    pub fn tuple(&self) -> Tuple {
        Tuple::new(self.source, self.destination)
    }
}

/// The data of an option whose layout has exactly `N` bytes of it.
fn fixed<const N: usize>(option: OptionRef<'_>) -> Result<[u8; N], OptionError> {
    let wrong = OptionError::Length {
        expected: N + 2,
        got: option.bytes().len(),
    };
    option.data().try_into().map_err(|_| wrong)
}

/// What options need, in bytes.
fn length(options: &[TcpOption]) -> usize {
    options.iter().map(TcpOptionPacket::packet_size).sum()
}

fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), OptionError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(OptionError::Duplicate),
    }
}

/// One of our options as pnet writes it; `bytes` begin with kind and length byte.
fn ours(bytes: &[u8]) -> TcpOption {
    TcpOption {
        number: TcpOptionNumber(KIND),
        length: bytes[1..2].to_vec(),
        data: bytes[2..].to_vec(),
    }
}

/// One line in the manner of tcpdump.
impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} > {}: Flags [{}], seq {}",
            self.source, self.destination, self.flags, self.seq
        )?;
        if self.flags.contains(Flags::ACK) {
            write!(f, ", ack {}", self.ack)?;
        }
        write!(f, ", win {}", self.window)?;
        let options: Vec<String> = [
            self.migrate.map(|request| request.to_string()),
            self.window_scale.map(|shift| format!("wscale {shift}")),
            self.sack_permitted.then(|| "sackOK".to_owned()),
            self.mss.map(|mss| format!("mss {mss}")),
            self.permit.map(|permit| permit.to_string()),
            self.timestamps
                .map(|(value, echo)| format!("TS val {value} ecr {echo}")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !options.is_empty() {
            write!(f, ", options [{}]", options.join(", "))?;
        }
        write!(f, ", length {}", self.payload.len())
    }
}
