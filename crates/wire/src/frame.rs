//! The cached head-of-line frame, made fit for a new path.
//!
//! While a connection is parked, the datapath keeps the frame whose sequence number is SND.UNA. It is the
//! kernel's own copy: up to 64 kB long because of segmentation offload, with a partial checksum, under the
//! identity tuple. Sent first thing on the new path it saves the wait for a retransmission timeout; for that it
//! gets the wire tuple, of whichever family, and is cut to what one segment may carry.

use std::ops::Range;

use pnet::packet::MutablePacket;

use crate::flags::Flags;
use crate::ip::{self, Captured, IpFields, Unreadable};
use crate::option::Options;
use crate::segment::EmitError;
use crate::tuple::Tuple;

/// Why a frame cannot be sent again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// Not one TCP segment in one IP packet.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The wire tuple is of two families, or the segment too long for any packet.
    #[error(transparent)]
    Emit(#[from] EmitError),
    /// Nothing would be left of the data.
    #[error("no payload fits into a segment on this path: send a probe instead")]
    NoRoom,
}

/// The frame under another tuple, cut to `max_segment_payload` bytes of data and with right checksums.
///
/// `wire` is the sender's: `local` becomes the source. `ip_packet` may be longer than any MTU, its checksums and
/// the length in its IP header may be wrong, and its end may be missing. Sequence and acknowledgement number,
/// window, TCP options, PSH, traffic class and hop limit stay (also when the family changes); the flow label
/// stays on IPv6. FIN stays only when all data before it does. IP options and extension headers go: they belong
/// to the old path.
///
/// # Errors
/// See [`FrameError`].
pub fn rewrite_frame(
    ip_packet: &[u8],
    wire: Tuple,
    max_segment_payload: usize,
) -> Result<Vec<u8>, FrameError> {
    let frame = ip::read_leniently(ip_packet)?;
    let length = frame.tcp.payload().len();
    let kept = length.min(max_segment_payload);
    if kept == 0 && length > 0 {
        return Err(FrameError::NoRoom);
    }
    piece(&frame, wire, 0..kept, None)
}

/// The whole frame under another tuple, in as many packets as an MTU of `mtu` bytes needs.
///
/// Otherwise as [`rewrite_frame`]. The sequence number of each piece counts on from the one before. A timestamps
/// option is given the values of `timestamps` (TSval, TSecr): the frame is as old as the outage, and what the peer
/// echoes of it would be taken for the round-trip time.
///
/// # Errors
/// See [`FrameError`].
pub fn cut_frame(
    ip_packet: &[u8],
    wire: Tuple,
    mtu: usize,
    timestamps: Option<(u32, u32)>,
) -> Result<Vec<Vec<u8>>, FrameError> {
    let frame = ip::read_leniently(ip_packet)?;
    let length = frame.tcp.payload().len();
    let headers = frame.tcp.header_slice().len() + if wire.is_ipv4() { 20 } else { 40 };
    let room = mtu.saturating_sub(headers);
    if room == 0 {
        return Err(FrameError::NoRoom);
    }
    (0..length.max(1))
        .step_by(room)
        .map(|start| piece(&frame, wire, start..length.min(start + room), timestamps))
        .collect()
}

/// A part of the frame's data behind the frame's own header.
fn piece(
    frame: &Captured<'_>,
    wire: Tuple,
    part: Range<usize>,
    timestamps: Option<(u32, u32)>,
) -> Result<Vec<u8>, FrameError> {
    let payload = frame.tcp.payload();
    let mut header = frame.tcp.header_slice().to_vec();
    if let Some(timestamps) = timestamps {
        renew(&mut header, timestamps);
    }
    let flags = Flags(header[13]);
    let flags = match frame.whole && part.end == payload.len() {
        true => flags,
        false => flags.without(Flags::FIN),
    };
    let ip = IpFields {
        source: wire.local.address,
        destination: wire.remote.address,
        ..frame.fields
    };
    let seq = frame.tcp.sequence_number().wrapping_add(part.start as u32);
    let packet = ip.packet(header.len() + part.len(), |tcp| {
        tcp.packet_mut()[..header.len()].copy_from_slice(&header);
        tcp.set_source(wire.local.port);
        tcp.set_destination(wire.remote.port);
        tcp.set_sequence(seq);
        tcp.set_flags(flags.0);
        tcp.set_payload(&payload[part]);
    })?;
    Ok(packet)
}

/// Overwrites the values of a timestamps option (RFC 7323), if the header has one.
fn renew(header: &mut [u8], (value, echo): (u32, u32)) {
    const TIMESTAMPS: u8 = 8;
    const LENGTH: usize = 10;
    let old = Options::of(&header[20..])
        .filter_map(Result::ok)
        .find(|option| option.kind() == TIMESTAMPS && option.bytes().len() == LENGTH)
        .map(|option| option.bytes().to_vec());
    let place = old.and_then(|old| header[20..].windows(LENGTH).position(|bytes| bytes == old));
    if let Some(place) = place {
        let values = &mut header[20 + place + 2..20 + place + LENGTH];
        values[..4].copy_from_slice(&value.to_be_bytes());
        values[4..].copy_from_slice(&echo.to_be_bytes());
    }
}
