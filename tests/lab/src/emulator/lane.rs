//! One direction of a link: when a frame that enters now arrives, or that it never does.
//!
//! Pure: time comes in, chance comes from a seed.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use crate::language::ast::Shape;

/// Preamble, frame check and gap between frames: what a frame costs on the wire beyond its bytes.
const FRAMING: usize = 24;
/// What waits on a link with a rate and no `queue=`: this much time, at least [`SMALLEST_QUEUE`] bytes.
const QUEUE_TIME: Duration = Duration::from_millis(100);
const SMALLEST_QUEUE: u64 = 64 * 1024;

/// A frame on its way, with its offload header.
struct Flying {
    due: Instant,
    /// Frames due at one time keep their order.
    order: u64,
    frame: Vec<u8>,
}

pub struct Lane {
    flying: BinaryHeap<Reverse<Flying>>,
    /// When the sender's end of the wire is free again.
    free: Option<Instant>,
    order: u64,
    chance: Chance,
    pub dropped: u64,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Arrives(Instant),
}

impl Lane {
    pub fn new(seed: u64) -> Lane {
        Lane {
            flying: BinaryHeap::new(),
            free: None,
            order: 0,
            chance: Chance(seed),
            dropped: 0,
        }
    }

    /// Decides over a frame of `length` bytes that enters now.
    pub fn fate(&mut self, shape: &Shape, length: usize, now: Instant) -> Fate {
        if shape.loss > 0.0 && self.chance.next() < shape.loss {
            self.dropped += 1;
            return Fate::Lost;
        }
        let Some(rate) = shape.rate else {
            return Fate::Arrives(now + shape.delay);
        };
        let begin = self.free.map_or(now, |free| free.max(now));
        let queue = shape
            .queue
            .unwrap_or_else(|| bytes_in(rate, QUEUE_TIME).max(SMALLEST_QUEUE));
        if bytes_in(rate, begin - now) > queue {
            self.dropped += 1;
            return Fate::Lost;
        }
        let end = begin + Duration::from_nanos((length + FRAMING) as u64 * 8 * 1_000_000_000 / rate);
        self.free = Some(end);
        Fate::Arrives(end + shape.delay)
    }

    /// Nothing flies: a frame that is due at once need not wait.
    pub fn is_empty(&self) -> bool {
        self.flying.is_empty()
    }

    pub fn put(&mut self, due: Instant, frame: &[u8]) {
        self.order += 1;
        self.flying.push(Reverse(Flying {
            due,
            order: self.order,
            frame: frame.to_vec(),
        }));
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse(flying)| flying.due)
    }

    /// The next frame that is due.
    pub fn take_due(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.flying.pop().map(|Reverse(flying)| flying.frame)
    }

    /// The cable is pulled: what is on it is gone.
    pub fn clear(&mut self) {
        self.flying.clear();
        self.free = None;
    }
}

fn bytes_in(rate: u64, time: Duration) -> u64 {
    (u128::from(rate) * time.as_nanos() / 8_000_000_000) as u64
}

impl Ord for Flying {
    fn cmp(&self, other: &Flying) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Flying) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Flying) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl Eq for Flying {}

/// SplitMix64: small, and the same sequence on every machine.
pub struct Chance(pub u64);

impl Chance {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between 0 and 1.
    #[allow(
        clippy::should_implement_trait,
        reason = "an endless source is no iterator here"
    )]
    pub fn next(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
