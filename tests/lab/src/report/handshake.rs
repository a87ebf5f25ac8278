//! The milliseconds around a resumption, segment by segment, as both ends saw them.
use std::net::SocketAddr;

use super::segments::{Request, Seen};
use super::trace::{Bases, Place};
use crate::emulator::capture::Way;

/// More segments than this are not looked at.
const MOST: usize = 40;
/// Two captures disagree about the order of things by less than this, in seconds.
const DISAGREEMENT: f64 = 0.0005;

/// What a segment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Msyn,
    MsynAck,
    MigrateAck,
    PureAck,
    /// One byte that the receiver has already: it makes the receiver answer.
    Probe,
    /// The first bytes that the receiver lacks.
    HeadOfLine,
    Data,
    /// Acknowledges the first new bytes.
    Progress,
    Other,
}

impl Purpose {
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Msyn => "MSYN",
            Purpose::MsynAck => "MSYN-ACK",
            Purpose::MigrateAck => "Migrate-Ack",
            Purpose::PureAck => "pure ACK",
            Purpose::Probe => "probe",
            Purpose::HeadOfLine => "head of line",
            Purpose::Data => "data",
            Purpose::Progress => "ACK of new data",
            Purpose::Other => "Migrate, other",
        }
    }

    /// For who has not read the protocol.
    pub fn meaning(self) -> &'static str {
        match self {
            Purpose::Msyn => "the mover names the connection by its token and proves that it holds the key",
            Purpose::MsynAck => "the server proves the same; nothing is decided yet",
            Purpose::MigrateAck => "the server commits the connection to the new addresses",
            Purpose::PureAck => "what is expected next, and the true window",
            Purpose::Probe => "one byte the receiver has already, so that it answers at once",
            Purpose::HeadOfLine => {
                "the first bytes that were lost in the move, sent again without waiting for a timer"
            }
            Purpose::Data => "data",
            Purpose::Progress => "the connection flows again",
            Purpose::Other => "another Migrate segment",
        }
    }
}

/// One segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub purpose: Purpose,
    pub from_mover: bool,
    /// When it passed the mover's device and the server's, in seconds since the story began.
    pub at_mover: Option<f64>,
    pub at_server: Option<f64>,
    /// Relative to the initial sequence numbers; `ack` none: the segment acknowledges nothing.
    pub seq: u32,
    pub ack: Option<u32>,
    pub payload: u32,
    /// The same has been sent before.
    pub again: bool,
}

impl Step {
    pub fn sent(&self) -> Option<f64> {
        if self.from_mover {
            self.at_mover
        } else {
            self.at_server
        }
    }

    pub fn arrived(&self) -> Option<f64> {
        if self.from_mover {
            self.at_server
        } else {
            self.at_mover
        }
    }
}

/// The segments between the mover's new place and the server, from the MSYN to the first acknowledgement of new
/// data, in the order in which they were sent.
pub fn steps(
    at_mover: &[&Seen],
    at_server: &[&Seen],
    after: Place,
    server: SocketAddr,
    bases: Bases,
) -> Vec<Step> {
    let of = |seen: &[&Seen], mover: SocketAddr, way: Way| -> Vec<Seen> {
        let from_mover = |seen: &Seen| seen.source == mover && seen.destination == server;
        let to_mover = |seen: &Seen| seen.source == server && seen.destination == mover;
        let ours = seen.iter().filter(|seen| seen.way == way);
        ours.filter(|seen| from_mover(seen) || to_mover(seen))
            .map(|seen| (*seen).clone())
            .collect()
    };
    let sent = [
        of(at_mover, after.direct, Way::Out),
        of(at_server, after.observed, Way::Out),
    ];
    let mut arrived = [
        of(at_server, after.observed, Way::In),
        of(at_mover, after.direct, Way::In),
    ];
    let expectations = Expectations::of(&sent);
    let [of_mover, of_server] = sent;
    let mut all: Vec<(bool, Seen)> = of_mover.into_iter().map(|seen| (true, seen)).collect();
    all.extend(of_server.into_iter().map(|seen| (false, seen)));
    all.sort_by(|(_, one), (_, other)| one.time.total_cmp(&other.time));
    let mut steps: Vec<Step> = Vec::new();
    for (from_mover, seen) in all {
        let arrived_at = take_arrival(&mut arrived[usize::from(!from_mover)], &seen);
        let step = step(&seen, from_mover, arrived_at, expectations, bases, &steps);
        let last = step.purpose == Purpose::Progress;
        steps.push(step);
        if last || steps.len() == MOST {
            break;
        }
    }
    steps
}

/// When the first byte arrives that its receiver did not have.
pub fn first_new_byte(steps: &[Step]) -> Option<f64> {
    let heads = steps.iter().filter(|step| step.purpose == Purpose::HeadOfLine);
    heads.filter_map(Step::arrived).reduce(f64::min)
}

/// What each end expects next, as it says in its first segment.
#[derive(Clone, Copy, Debug)]
struct Expectations {
    mover: Option<u32>,
    server: Option<u32>,
}

impl Expectations {
    fn of([of_mover, of_server]: &[Vec<Seen>; 2]) -> Expectations {
        let said = |sent: &[Seen], request| {
            sent.iter()
                .find(|seen| seen.request == Some(request))
                .and_then(|seen| seen.rcv_nxt)
        };
        Expectations {
            mover: said(of_mover, Request::Msyn),
            server: said(of_server, Request::MsynAck),
        }
    }
}

/// Finds and takes out what arrived of a segment: the same, or its first part if it was cut on the way.
fn take_arrival(arrived: &mut Vec<Seen>, sent: &Seen) -> Option<f64> {
    let is_it = |seen: &Seen| {
        let whole = seen.payload == sent.payload || (seen.payload > 0 && seen.payload < sent.payload);
        seen.time >= sent.time - DISAGREEMENT
            && seen.seq == sent.seq
            && seen.ack == sent.ack
            && seen.request == sent.request
            && whole
    };
    let found = arrived.iter().position(is_it)?;
    Some(arrived.remove(found).time)
}

fn step(
    seen: &Seen,
    from_mover: bool,
    arrived: Option<f64>,
    expectations: Expectations,
    bases: Bases,
    earlier: &[Step],
) -> Step {
    let (own, far) = if from_mover {
        (bases.mover, bases.server)
    } else {
        (bases.server, bases.mover)
    };
    let (expected_there, expected_here) = if from_mover {
        (expectations.server, expectations.mover)
    } else {
        (expectations.mover, expectations.server)
    };
    let purpose = purpose(seen, expected_there, expected_here);
    let (seq, payload) = (seen.seq.wrapping_sub(own), seen.payload);
    let ack = (purpose != Purpose::Msyn).then(|| seen.ack.wrapping_sub(far));
    let (at_mover, at_server) = if from_mover {
        (Some(seen.time), arrived)
    } else {
        (arrived, Some(seen.time))
    };
    Step {
        purpose,
        from_mover,
        at_mover,
        at_server,
        seq,
        ack,
        payload,
        again: earlier.iter().any(|step| {
            (step.from_mover, step.purpose, step.seq, step.ack) == (from_mover, purpose, seq, ack)
        }),
    }
}

/// `expected_there`: the next byte that the receiver lacks; `expected_here`: the next that the sender lacks.
fn purpose(seen: &Seen, expected_there: Option<u32>, expected_here: Option<u32>) -> Purpose {
    match seen.request {
        Some(Request::Msyn) => return Purpose::Msyn,
        Some(Request::MsynAck) => return Purpose::MsynAck,
        Some(Request::MigrateAck) => return Purpose::MigrateAck,
        Some(Request::Other) => return Purpose::Other,
        None => {}
    }
    let is_after = |number: u32, other: u32| number != other && number.wrapping_sub(other) < 1 << 31;
    if seen.payload == 0 {
        let progress = expected_here.is_some_and(|expected| is_after(seen.ack, expected));
        return if progress {
            Purpose::Progress
        } else {
            Purpose::PureAck
        };
    }
    match expected_there {
        Some(expected) if seen.carries(expected) => Purpose::HeadOfLine,
        Some(expected) if !is_after(seen.seq.wrapping_add(seen.payload), expected) => Purpose::Probe,
        _ => Purpose::Data,
    }
}
