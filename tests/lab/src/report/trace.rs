//! What happened to one connection between a mover and a server that stays: figure 23 of Shimizu 2002 in numbers.
//!
//! Three captures tell it: the mover's device on the link it leaves, its device on the link it joins, and the
//! server's device. Sequence numbers are counted from the initial one of who sends them.
use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::handshake::{self, Step};
use super::kernel::Move;
use super::segments::{ACK, Request, SYN, Seen};
use crate::emulator::capture::Way;

/// The three captures.
#[derive(Clone, Copy, Debug)]
pub struct Views<'a> {
    pub mover_before: &'a [Seen],
    pub mover_after: &'a [Seen],
    pub server: &'a [Seen],
}

/// The mover's end of a connection at one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// On the mover's own link, before the NAPT.
    pub direct: SocketAddr,
    /// As the server sees it.
    pub observed: SocketAddr,
}

/// One of the server's segments that went where the mover no longer is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Vain {
    /// Seconds since the story began.
    pub time: f64,
    /// Its last byte.
    pub bytes: u32,
    /// It had been sent before.
    pub again: bool,
}

/// Moments, in seconds since the story began.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// The first SYN arrives at the server.
    pub opened: Option<f64>,
    pub lost: Option<f64>,
    /// The last data that reached the mover before that.
    pub last_byte: Option<f64>,
    pub usable: Option<f64>,
    /// The MSYN leaves the mover.
    pub msyn: Option<f64>,
    /// The first data arrives that its receiver did not have before the move.
    pub first_byte: Option<f64>,
}

impl Moments {
    /// From a usable address to the first new byte, in milliseconds.
    pub fn resumption_ms(&self) -> Option<f64> {
        Some((self.first_byte? - self.usable?) * 1e3)
    }

    /// Seconds in which no new byte arrived.
    pub fn outage(&self) -> Option<f64> {
        Some(self.first_byte? - self.last_byte?)
    }

    /// Seconds without any usable address.
    pub fn absence(&self) -> Option<f64> {
        Some(self.usable? - self.lost?)
    }
}

/// One connection's story.
#[derive(Clone, Debug)]
pub struct Trace {
    pub server: SocketAddr,
    pub before: Place,
    pub after: Option<Place>,
    /// Bytes acknowledged by the mover, by time, as they arrive at the server from the first place ...
    pub acknowledged: Vec<(f64, u32)>,
    /// ... and from the second.
    pub acknowledged_after: Vec<(f64, u32)>,
    pub in_vain: Vec<Vain>,
    pub moments: Moments,
    /// The segments around the resumption.
    pub handshake: Vec<Step>,
    /// Connections that were opened to the server's port: SYNs that are no resumptions, repetitions not counted.
    pub opened: usize,
    /// Reset segments that reached either end.
    pub resets: usize,
}

impl Trace {
    /// The first connection to `port` at the server. `None`: nobody connected.
    ///
    /// `moved`: when the mover's address went and came, in seconds since the story began.
    pub fn of(views: Views<'_>, port: u16, moved: Move) -> Option<Trace> {
        let ours = |seen: &&Seen| match seen.way {
            Way::In => seen.destination.port() == port,
            Way::Out => seen.source.port() == port,
        };
        let theirs = |seen: &&Seen| seen.source.port() == port || seen.destination.port() == port;
        let at_server: Vec<&Seen> = views.server.iter().filter(ours).collect();
        let syn = at_server
            .iter()
            .find(|seen| seen.way == Way::In && seen.is_plain_syn())?;
        let (server, observed) = (syn.destination, syn.source);
        let answer = at_server
            .iter()
            .find(|seen| seen.way == Way::Out && seen.flags & (SYN | ACK) == SYN | ACK)?;
        let bases = Bases {
            mover: syn.seq,
            server: answer.seq,
        };
        let left = views
            .mover_before
            .iter()
            .filter(theirs)
            .find(|seen| seen.way == Way::Out && seen.is_plain_syn())?;
        let before = Place {
            direct: left.source,
            observed,
        };
        let joined: Vec<&Seen> = views.mover_after.iter().filter(theirs).collect();
        let after = place_after(&joined, &at_server);
        let acknowledged = |from: SocketAddr| {
            let seen = at_server.iter().filter(move |seen| {
                seen.way == Way::In && seen.source == from && seen.flags & (SYN | ACK) == ACK
            });
            seen.filter(|seen| seen.request.is_none())
                .map(|seen| (seen.time, bases.bytes_of_server(seen.ack)))
                .collect::<Vec<_>>()
        };
        let steps = after.map_or_else(Vec::new, |after| {
            handshake::steps(&joined, &at_server, after, server, bases)
        });
        let msyn = steps.first().and_then(Step::sent);
        let moments = Moments {
            opened: Some(syn.time),
            lost: moved.lost,
            last_byte: last_byte(views.mover_before, server, moved.lost),
            // The log may lag behind; a segment that has left shows that one could leave.
            usable: moved
                .usable
                .map(|usable| msyn.map_or(usable, |msyn| usable.min(msyn))),
            msyn,
            first_byte: handshake::first_new_byte(&steps),
        };
        let resets = [views.mover_before, views.mover_after, views.server]
            .into_iter()
            .flatten()
            .filter(theirs)
            .filter(|seen| seen.way == Way::In && seen.is_rst())
            .count();
        let opened: BTreeSet<(SocketAddr, u32)> = at_server
            .iter()
            .filter(|seen| seen.way == Way::In && seen.is_plain_syn())
            .map(|seen| (seen.source, seen.seq))
            .collect();
        Some(Trace {
            server,
            before,
            after,
            acknowledged: acknowledged(observed),
            acknowledged_after: after.map_or_else(Vec::new, |after| acknowledged(after.observed)),
            in_vain: in_vain(&at_server, observed, bases, moved.lost),
            moments,
            handshake: steps,
            opened: opened.len(),
            resets,
        })
    }

    /// All that the mover has acknowledged.
    pub fn bytes(&self) -> u32 {
        let all = self.acknowledged.iter().chain(&self.acknowledged_after);
        all.map(|(_, bytes)| *bytes).max().unwrap_or_default()
    }

    /// When the mover was last heard.
    pub fn end(&self) -> Option<f64> {
        let vain = self.in_vain.iter().map(|vain| vain.time);
        let all = self.acknowledged.iter().chain(&self.acknowledged_after);
        all.map(|(time, _)| *time).chain(vain).reduce(f64::max)
    }
}

/// The initial sequence numbers, from which bytes are counted.
#[derive(Clone, Copy, Debug)]
pub struct Bases {
    pub mover: u32,
    pub server: u32,
}

impl Bases {
    /// How many bytes of the server's data lie before this sequence number.
    pub fn bytes_of_server(&self, number: u32) -> u32 {
        number.wrapping_sub(self.server.wrapping_add(1))
    }
}

/// Where the MSYN came from.
fn place_after(joined: &[&Seen], at_server: &[&Seen]) -> Option<Place> {
    let sent = joined
        .iter()
        .find(|seen| seen.way == Way::Out && seen.request == Some(Request::Msyn))?;
    let heard = at_server
        .iter()
        .find(|seen| seen.way == Way::In && seen.request == Some(Request::Msyn) && seen.seq == sent.seq)?;
    Some(Place {
        direct: sent.source,
        observed: heard.source,
    })
}

fn last_byte(before: &[Seen], server: SocketAddr, lost: Option<f64>) -> Option<f64> {
    let arrived = before
        .iter()
        .filter(|seen| seen.way == Way::In && seen.source == server && seen.payload > 0);
    arrived
        .map(|seen| seen.time)
        .take_while(|time| lost.is_none_or(|lost| *time <= lost))
        .last()
}

/// The server's data to the old place from the loss of the address on.
fn in_vain(at_server: &[&Seen], old: SocketAddr, bases: Bases, lost: Option<f64>) -> Vec<Vain> {
    let Some(lost) = lost else { return Vec::new() };
    let (mut highest, mut found) = (0, Vec::new());
    for seen in at_server
        .iter()
        .filter(|seen| seen.way == Way::Out && seen.destination == old && seen.payload > 0)
    {
        let end = bases.bytes_of_server(seen.seq.wrapping_add(seen.payload));
        if seen.time >= lost {
            found.push(Vain {
                time: seen.time,
                bytes: end,
                again: end <= highest,
            });
        }
        highest = highest.max(end);
    }
    found
}
