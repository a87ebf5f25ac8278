//! What the story does to chosen segments on a link.
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::segment::{self, Packet};
use super::tap::OFFLOAD_HEADER;
use crate::language::ast::{Deed, Flip, Interference, Segments};

/// Frames recorded by name, shared by all links: the last one of each name, with its offload header.
#[derive(Clone, Default)]
pub struct Recordings(Arc<Mutex<HashMap<String, Recording>>>);

#[derive(Clone)]
pub struct Recording {
    pub frame: Vec<u8>,
    /// The link and the end that sent it.
    pub link: String,
    pub end: usize,
}

impl Recordings {
    pub fn keep(&self, name: &str, recording: Recording) {
        self.0
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .insert(name.to_owned(), recording);
    }

    pub fn get(&self, name: &str) -> Option<Recording> {
        self.0
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .get(name)
            .cloned()
    }
}

/// One order of the story, and how many segments it has met.
struct Standing {
    segments: Segments,
    first: u64,
    last: Option<u64>,
    /// Only frames sent by this end.
    end: Option<usize>,
    deed: Deed,
    met: u64,
}

/// Flips one bit of a frame with offload header; false if it has no such bit.
pub fn flip(frame: &mut [u8], change: Flip) -> bool {
    complete_checksum(frame);
    let bare = &mut frame[OFFLOAD_HEADER..];
    let tcp = Packet::read(bare).and_then(|packet| packet.tcp);
    tcp.is_some_and(|tcp| segment::flip(bare, &tcp, change))
}

/// A reset with the number that the receiver of this frame expects next, with an offload header that asks for nothing.
pub fn reset_behind(frame: &[u8]) -> Option<Vec<u8>> {
    let mut reset = vec![0; OFFLOAD_HEADER];
    reset.extend(segment::reset_behind(frame.get(OFFLOAD_HEADER..)?)?);
    Some(reset)
}

/// A kernel leaves the checksum to the card and says so in the offload header; nothing is checked then on the way.
/// Does what the card would do, for a frame that is one segment.
fn complete_checksum(frame: &mut [u8]) {
    const NEEDS_CHECKSUM: u8 = 1;
    let word = |at: usize| usize::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    let (start, offset) = (OFFLOAD_HEADER + word(6), word(8));
    let is_one_segment = frame[1] == 0;
    if frame[0] & NEEDS_CHECKSUM == 0 || !is_one_segment || start + offset + 2 > frame.len() {
        return;
    }
    // The field holds the sum of the pseudo header already.
    let mut sum: u32 = frame[start..]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[start + offset..start + offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    frame[0] &= !NEEDS_CHECKSUM;
}

/// All orders that stand on one link.
#[derive(Default)]
pub struct Orders {
    standing: Vec<Standing>,
}

/// What is to happen to one frame.
#[derive(Debug, Default, PartialEq)]
pub struct Treatment {
    pub drop: bool,
    pub delay: Duration,
    /// Copies beyond the frame itself.
    pub copies: u32,
    /// What was done, for the timeline.
    pub said: Vec<String>,
}

impl Orders {
    pub fn add(&mut self, order: &Interference, end: Option<usize>) {
        let Interference {
            segments,
            first,
            last,
            deed,
            ..
        } = order.clone();
        self.standing.push(Standing {
            segments,
            first,
            last,
            end,
            deed,
            met: 0,
        });
    }

    pub fn is_empty(&self) -> bool {
        self.standing.is_empty()
    }

    /// Treats a frame (with offload header) that `end` sent; may change its bits.
    pub fn treat(
        &mut self,
        frame: &mut [u8],
        packet: Option<&Packet>,
        end: usize,
        link: &str,
        recordings: &Recordings,
    ) -> Treatment {
        let mut treatment = Treatment::default();
        for order in &mut self.standing {
            let meant = match packet {
                Some(packet) => packet.is(order.segments),
                None => order.segments == Segments::Any,
            };
            if !meant || order.end.is_some_and(|only| only != end) {
                continue;
            }
            order.met += 1;
            if order.met < order.first || order.last.is_some_and(|last| order.met > last) {
                continue;
            }
            let said = format!("{} {}", order.segments.word(), order.met);
            match &order.deed {
                Deed::Drop => {
                    treatment.drop = true;
                    treatment.said.push(format!("dropped {said}"));
                }
                Deed::Delay(by) => {
                    treatment.delay += *by;
                    treatment.said.push(format!("delayed {said}"));
                }
                Deed::Duplicate => {
                    treatment.copies += 1;
                    treatment.said.push(format!("duplicated {said}"));
                }
                Deed::Flip(change) => {
                    let what = if flip(frame, *change) {
                        "flipped a bit of"
                    } else {
                        "has no such bit:"
                    };
                    treatment.said.push(format!("{what} {said}"));
                }
                Deed::Record(name) => {
                    let recording = Recording {
                        frame: frame.to_vec(),
                        link: link.to_owned(),
                        end,
                    };
                    recordings.keep(&name.text, recording);
                    treatment.said.push(format!("recorded {said} as {name}"));
                }
            }
        }
        self.standing
            .retain(|order| order.last.is_none_or(|last| order.met < last));
        treatment
    }
}
