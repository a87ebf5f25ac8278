//! What happens to a segment that a socket sends, as `to_physical` and `send_out` have it.

use wire::segment::Segment;

use super::FakeDatapath;
use crate::event::Event;
use crate::types::{Frame, Path};

/// What became of a segment that a socket sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It left as it is, where the kernel's routing sends it.
    Plain(Segment),
    /// It left as it is or with its wire tuple, by this way.
    Directed(Segment, Path),
    /// It is kept back.
    Parked,
}

/// The most that is remembered of a segment, as `FRAME_BYTES` in `intf.h`.
const FRAME_BYTES: usize = 1500;

impl FakeDatapath {
    /// Lets a socket send a segment; its tuple is the socket's.
    pub fn leave(&mut self, segment: &Segment) -> Departure {
        let identity = segment.tuple();
        let retired = self
            .sources
            .get(&identity.local.address)
            .is_some_and(|source| !source.usable);
        let marked = self.sockets.get(&identity).is_some_and(|socket| socket.marked);
        // The rules that lead to the parking device: by mark, and by an address that the host has lost.
        if marked || retired {
            return self.send_out(segment);
        }
        if self.load.0 > 0 && self.load.1 > 0 && self.wires.contains_key(&identity) {
            self.count("caught");
            return self.send_out(segment);
        }
        if self.load.0 > 0 && segment.payload.len() <= 1 {
            self.suspect(segment);
        }
        Departure::Plain(segment.clone())
    }

    fn send_out(&mut self, segment: &Segment) -> Departure {
        let identity = segment.tuple();
        let state = self.wires.get(&identity).copied();
        let wire = state.map_or(identity, |state| state.wire);
        let source = self
            .sources
            .get(&wire.local.address)
            .copied()
            .filter(|source| source.usable);
        let no_way = state.is_some_and(|state| state.path.ifindex == 0);
        let Some(source) = source.filter(|_| !no_way) else {
            self.remember(segment, true);
            self.count("parked");
            return Departure::Parked;
        };
        self.remember(segment, false);
        let Some(state) = state else {
            return Departure::Directed(
                segment.clone(),
                Path {
                    ifindex: source.ifindex,
                    next_hop: None,
                },
            );
        };
        self.count("translated_out");
        let translated = Segment {
            source: wire.local,
            destination: wire.remote,
            ..segment.clone()
        };
        Departure::Directed(translated, state.path)
    }

    /// Keeps the segment at SND.UNA, and the last one that is parked.
    fn remember(&mut self, segment: &Segment, parked: bool) {
        let identity = segment.tuple();
        let Some(socket) = self.sockets.get(&identity) else {
            return;
        };
        let head = socket.tcp.snd_una == segment.seq;
        if segment.payload.is_empty() || !(head || parked) {
            return;
        }
        let Ok(mut bytes) = segment.emit() else { return };
        bytes.truncate(FRAME_BYTES);
        let frame = Frame {
            seq: segment.seq,
            bytes,
        };
        let kept = self.heads.entry(identity).or_default();
        match head {
            true => kept.head = Some(frame),
            false => kept.last = Some(frame),
        }
    }

    /// A probe goes out though an earlier one was not answered.
    fn suspect(&mut self, segment: &Segment) {
        let identity = segment.tuple();
        let known = self.sessions.contains_key(&identity);
        let Some(socket) = self.sockets.get_mut(&identity) else {
            return;
        };
        let probe = socket.tcp.probes_out > 0 && segment.seq == socket.tcp.snd_una.wrapping_sub(1);
        if known && probe && !socket.suspect {
            socket.suspect = true;
            self.tell(Event::Suspect { identity });
        }
    }
}
