//! Multipath connections as the captures of one host show them.
//!
//! Every subflow is a TCP connection with numbers of its own; the data sequence numbers say where its bytes belong in
//! the stream of the whole connection. From the keys of the first handshake follow the number of the first byte and
//! the token by which later subflows name the connection (RFC 8684, 3.1 and 3.2). What is seen here is taken for
//! granted nowhere: whether each subflow is contiguous, whether every byte of it is mapped, and whether the mappings
//! of all subflows tile the stream.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ReportError;
use super::segments::{self, ACK, SYN, Seen};
use crate::emulator::capture::Way;

const MPTCP: u8 = 30;
const CAPABLE: u8 = 0;
const JOIN: u8 = 1;
const DSS: u8 = 2;

/// One connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// By which its subflows name it.
    pub token: u32,
    /// What this host has received, and what it has sent.
    pub received: Stream,
    pub sent: Stream,
}

/// One direction of a connection.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub subflows: Vec<Part>,
    /// Bytes of the stream, each counted once.
    pub bytes: u64,
    /// Bytes that came by more than one subflow.
    pub twice: u64,
    /// Places of the stream that no subflow has carried.
    pub holes: usize,
}

/// What one subflow has carried in one direction.
#[derive(Clone, Debug)]
pub struct Part {
    pub link: String,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Bytes of the subflow, each counted once.
    pub bytes: u64,
    /// Places in the subflow's own sequence numbers that were not seen.
    pub gaps: usize,
    /// Bytes that no mapping gives a place in the stream.
    pub unmapped: u64,
    /// When, in seconds since the story began, how many bytes it had carried.
    pub progress: Vec<(f64, u64)>,
}

impl Part {
    /// Contiguous, and mapped to the last byte.
    pub fn is_whole(&self) -> bool {
        self.gaps == 0 && self.unmapped == 0
    }
}

/// An MPTCP option of a segment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said<'a> {
    /// The keys it shows: the sender's, and the receiver's; and how much data its first mapping has.
    Capable(Option<&'a [u8]>, Option<&'a [u8]>, Option<u16>),
    /// The token on a SYN.
    Join(Option<u32>),
    /// Data sequence number and its width, subflow sequence number, length.
    Mapping(u64, bool, u32, u16),
}

/// Reads what a host has seen of its multipath connections on these links.
///
/// `captures` is the directory of captures, `began` the beginning of the story in seconds since 1970.
///
/// # Errors
/// A capture is missing or damaged.
pub fn at_host(
    captures: &Path,
    host: &str,
    links: &[&str],
    began: f64,
) -> Result<Vec<Connection>, ReportError> {
    let mut seen = Vec::new();
    for link in links {
        seen.push((
            (*link).to_owned(),
            segments::at_device(captures, link, host, began)?,
        ));
    }
    Ok(connections(&seen))
}

/// Whether any option of MPTCP is among these.
pub fn is_multipath(options: &[u8]) -> bool {
    kinds(options).next().is_some()
}

/// The connections whose first handshake is among these segments.
fn connections(seen: &[(String, Vec<Seen>)]) -> Vec<Connection> {
    let all = || {
        seen.iter()
            .flat_map(|(link, segments)| segments.iter().map(move |segment| (link, segment)))
    };
    // The acceptor's key is in its SYN-ACK, the initiator's in the segment after it.
    let mut found = Vec::new();
    for (link, answer) in all().filter(|(_, segment)| segment.flags & (SYN | ACK) == SYN | ACK) {
        let Some(Said::Capable(Some(acceptor), ..)) = said(&answer.options).next() else {
            continue;
        };
        let mut back = all().filter(|(there, segment)| {
            *there == link && segment.source == answer.destination && segment.destination == answer.source
        });
        let initiator = back.find_map(|(_, segment)| {
            said(&segment.options).find_map(|said| match said {
                Said::Capable(Some(own), Some(_), _) => Some(own),
                _ => None,
            })
        });
        let Some(initiator) = initiator else { continue };
        let token = token(acceptor);
        // The first one first.
        let mut flows = vec![(link.clone(), answer.destination, answer.source)];
        // Whoever opened the connection opens its subflows; from its end they are named.
        for (link, segment) in all().filter(|(_, segment)| segment.flags & (SYN | ACK) == SYN) {
            let flow = (link.clone(), segment.source, segment.destination);
            let joins = said(&segment.options).any(|said| said == Said::Join(Some(token)));
            if joins && !flows.contains(&flow) {
                flows.push(flow);
            }
        }
        let opened_here = answer.way == Way::In;
        let stream = |of_acceptor: bool| {
            let first = first_number(if of_acceptor { acceptor } else { initiator });
            let flows = flows.iter().map(|(link, opener, other)| match of_acceptor {
                true => (link.as_str(), *other, *opener),
                false => (link.as_str(), *opener, *other),
            });
            stream(seen, flows, first)
        };
        found.push(Connection {
            token,
            received: stream(opened_here),
            sent: stream(!opened_here),
        });
    }
    found
}

/// One direction, by its subflows, each with the link on which it is seen.
fn stream<'a>(
    seen: &[(String, Vec<Seen>)],
    flows: impl Iterator<Item = (&'a str, SocketAddr, SocketAddr)>,
    first: u64,
) -> Stream {
    let mut whole = Spans::default();
    let mut stream = Stream::default();
    for (link, source, destination) in flows {
        let segments = seen
            .iter()
            .filter(|(name, _)| name == link)
            .flat_map(|(_, segments)| segments);
        let own: Vec<&Seen> = segments
            .filter(|segment| segment.source == source && segment.destination == destination)
            .collect();
        let Some(syn) = own.iter().find(|segment| segment.flags & SYN != 0) else {
            continue;
        };
        let base = syn.seq.wrapping_add(1);
        let maps = mappings(&own, first);
        let (mut part, mut carried) = (Spans::default(), Vec::new());
        let (mut unmapped, mut count, mut progress) = (0, 0, Vec::new());
        for segment in own
            .iter()
            .filter(|segment| segment.flags & SYN == 0 && segment.payload > 0)
        {
            let from = u64::from(segment.seq.wrapping_sub(base));
            for (from, to) in part.add(from, from + u64::from(segment.payload)) {
                count += to - from;
                unmapped += place(&maps, from, to, &mut carried);
            }
            progress.push((segment.time, count));
        }
        for (from, to) in carried {
            let fresh: u64 = whole.add(from, to).iter().map(|(from, to)| to - from).sum();
            stream.twice += (to - from) - fresh;
        }
        stream.subflows.push(Part {
            link: link.to_owned(),
            source,
            destination,
            bytes: count,
            gaps: part.holes(),
            unmapped,
            progress,
        });
    }
    stream.bytes = whole.length();
    stream.holes = whole.holes();
    stream
}

/// Where bytes of a subflow lie in the stream, by their first byte in the subflow: place and length.
fn mappings(segments: &[&Seen], first: u64) -> BTreeMap<u64, (u64, u64)> {
    let mut maps = BTreeMap::new();
    for segment in segments.iter().filter(|segment| segment.payload > 0) {
        for said in said(&segment.options) {
            match said {
                // The numbers of a subflow's bytes begin with 1.
                Said::Mapping(number, wide, begin, length) if begin > 0 && length > 0 => {
                    let place = match wide {
                        true => number.wrapping_sub(first),
                        false => u64::from((number as u32).wrapping_sub(first as u32)),
                    };
                    maps.insert(u64::from(begin - 1), (place, u64::from(length)));
                }
                Said::Capable(_, Some(_), Some(length)) => {
                    maps.insert(0, (0, u64::from(length)));
                }
                _ => {}
            }
        }
    }
    maps
}

/// Puts bytes of a subflow in their places of the stream; how many have none.
fn place(maps: &BTreeMap<u64, (u64, u64)>, mut from: u64, to: u64, carried: &mut Vec<(u64, u64)>) -> u64 {
    let mut unmapped = 0;
    while from < to {
        let map = maps.range(..=from).next_back();
        match map.filter(|(begin, (_, length))| from < **begin + length) {
            Some((begin, (place, length))) => {
                let end = to.min(begin + length);
                carried.push((place + from - begin, place + end - begin));
                from = end;
            }
            None => {
                let next = maps.range(from..).next().map_or(to, |(begin, _)| to.min(*begin));
                unmapped += next - from;
                from = next;
            }
        }
    }
    unmapped
}

/// The MPTCP options of a segment, whole.
fn kinds(options: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = options;
    std::iter::from_fn(move || {
        loop {
            match rest {
                [] | [0, ..] => return None,
                [1, tail @ ..] => rest = tail,
                [kind, length, ..] => {
                    let length = usize::from(*length);
                    let option = rest.get(..length).filter(|_| length >= 2)?;
                    let kind = *kind;
                    rest = &rest[length..];
                    if kind == MPTCP {
                        return Some(option);
                    }
                }
                [_] => return None,
            }
        }
    })
}

/// What they say.
fn said(options: &[u8]) -> impl Iterator<Item = Said<'_>> {
    kinds(options).filter_map(|option| match option.get(2)? >> 4 {
        CAPABLE => Some(Said::Capable(
            option.get(4..12),
            option.get(12..20),
            option.get(20..22).map(short),
        )),
        JOIN => Some(Said::Join(
            // On a SYN only; the answer and the third segment have other fields.
            option.get(4..8).filter(|_| option.len() == 12).map(long),
        )),
        DSS => mapping(option),
        _ => None,
    })
}

fn mapping(option: &[u8]) -> Option<Said<'_>> {
    const ACK_THERE: u8 = 1;
    const ACK_WIDE: u8 = 2;
    const MAP_THERE: u8 = 4;
    const MAP_WIDE: u8 = 8;
    const DATA_FIN: u8 = 16;
    let flags = *option.get(3)?;
    if flags & MAP_THERE == 0 {
        return None;
    }
    let ack = match flags & (ACK_THERE | ACK_WIDE) {
        ACK_THERE => 4,
        0 | ACK_WIDE => 0,
        _ => 8,
    };
    let wide = flags & MAP_WIDE != 0;
    let at = 4 + ack;
    let after = at + if wide { 8 } else { 4 };
    let number = option.get(at..after)?;
    let number = number
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let begin = long(option.get(after..after + 4)?);
    let length = short(option.get(after + 4..after + 6)?);
    // The end of the stream has a number, but is no byte.
    let length = length.saturating_sub(u16::from(flags & DATA_FIN != 0));
    Some(Said::Mapping(number, wide, begin, length))
}

fn short(bytes: &[u8]) -> u16 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u16::from(*byte))
}

fn long(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The connection's name for the end that did not choose the key.
fn token(key: &[u8]) -> u32 {
    long(&Sha256::digest(key)[..4])
}

/// The number of the first byte that the owner of this key sends.
fn first_number(key: &[u8]) -> u64 {
    let digest = Sha256::digest(key);
    let initial = digest[24..]
        .iter()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    initial.wrapping_add(1)
}

/// Ranges of numbers from 0 on, each begin with its end; none touches another.
#[derive(Clone, Debug, Default)]
struct Spans {
    spans: BTreeMap<u64, u64>,
}

impl Spans {
    /// Adds a range; the parts of it that are new.
    fn add(&mut self, from: u64, to: u64) -> Vec<(u64, u64)> {
        let (mut begin, mut end) = (from, to);
        let mut fresh = Vec::new();
        let mut at = from;
        let touched: Vec<(u64, u64)> = self
            .spans
            .range(..=to)
            .rev()
            .take_while(|(_, end)| **end >= from)
            .map(|(begin, end)| (*begin, *end))
            .collect();
        for (old_begin, old_end) in touched.into_iter().rev() {
            if at < old_begin {
                fresh.push((at, old_begin.min(to)));
            }
            at = at.max(old_end);
            begin = begin.min(old_begin);
            end = end.max(old_end);
            self.spans.remove(&old_begin);
        }
        if at < to {
            fresh.push((at, to));
        }
        self.spans.insert(begin, end);
        fresh
    }

    fn length(&self) -> u64 {
        self.spans.iter().map(|(begin, end)| end - begin).sum()
    }

    /// Holes up to the last number, one before the first range included.
    fn holes(&self) -> usize {
        let begins_late = self.spans.keys().next().is_some_and(|begin| *begin > 0);
        self.spans.len().saturating_sub(1) + usize::from(begins_late)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_join_and_tell_what_is_new() {
        let mut spans = Spans::default();
        assert_eq!(spans.add(10, 20), [(10, 20)]);
        assert_eq!(spans.holes(), 1, "before the first");
        assert_eq!(spans.add(30, 40), [(30, 40)]);
        assert_eq!(spans.add(15, 35), [(20, 30)]);
        assert_eq!(spans.add(0, 12), [(0, 10)]);
        assert_eq!((spans.length(), spans.holes()), (40, 0));
        assert_eq!(spans.add(5, 25), []);
    }

    #[test]
    fn a_mapping_is_read_with_and_without_its_parts() {
        // Data ACK of 8 bytes, number of 8, the end of the stream behind 16 bytes.
        let mut option = vec![30, 26, 0x20, 0x1f];
        option.extend(7_u64.to_be_bytes());
        option.extend(9_u64.to_be_bytes());
        option.extend(5_u32.to_be_bytes());
        option.extend(17_u16.to_be_bytes());
        let read: Vec<Said<'_>> = said(&option).collect();
        assert_eq!(read, [Said::Mapping(9, true, 5, 16)]);
        let narrow = [1, 1, 30, 14, 0x20, 0x04, 0, 0, 0, 9, 0, 0, 0, 5, 0, 16];
        assert_eq!(
            said(&narrow).collect::<Vec<_>>(),
            [Said::Mapping(9, false, 5, 16)]
        );
        // Cut off, and an acknowledgement alone.
        assert_eq!(said(&option[..20]).count(), 0);
        assert_eq!(said(&[30, 8, 0x20, 1, 0, 0, 0, 7]).count(), 0);
    }

    #[test]
    fn bytes_without_a_mapping_are_counted() {
        let maps = BTreeMap::from([(0, (100, 10)), (20, (110, 10))]);
        let mut carried = Vec::new();
        assert_eq!(place(&maps, 0, 35, &mut carried), 15);
        assert_eq!(carried, [(100, 110), (110, 120)]);
    }
}
