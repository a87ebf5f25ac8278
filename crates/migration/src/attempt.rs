//! Attempts: ours (we move), the peer's (we answered), and the tuples that older ones have left behind.

use std::time::Duration;

use wire::{Endpoint, ReqNo, Tuple};

use crate::time::Timestamp;

/// An attempt of ours: MSYNs go out, no MSYN-ACK has come yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Its number.
    pub req_no: ReqNo,
    /// Our endpoint.
    pub from: Endpoint,
    /// Where the peer may be.
    pub(crate) candidates: Vec<Candidate>,
    /// Index of the candidate that is tried now.
    pub(crate) current: usize,
    /// SND.NXT - 1 when it began.
    pub seq: u32,
    /// RCV.NXT when it began.
    pub(crate) rcv_nxt: u32,
    /// MSYNs sent so far.
    pub tries: u32,
    /// Whether it is repeated slowly only: nothing came in time.
    pub exhausted: bool,
    /// When the next MSYN is due.
    pub(crate) due: Timestamp,
    /// Jitters the timer.
    pub(crate) random: u64,
    /// Set once a symmetric proxy has answered: where, and what the Migrate-Ack acknowledges.
    pub(crate) spliced: Option<Spliced>,
    /// Whether the peer begins one at the same moment: the first MSYN only opens the way through our NAPT.
    pub crossing: bool,
    /// Whether it has just asked for a fresh endpoint, because nobody answers: what takes its place is no more hurried.
    pub(crate) asks: bool,
    /// Whether nothing was wrong with the wire tuple when it began: then it is a wish and outlives a resumption
    /// by other means.
    pub(crate) voluntary: bool,
}

/// What a symmetric proxy has said of the peer's attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spliced {
    /// Our endpoint and the proxy's.
    pub(crate) tuple: Tuple,
    /// The peer's attempt; our own when the peer has stayed where it is, and only answers ours.
    pub(crate) peers: ReqNo,
    /// Of our Migrate-Ack: the sequence number of the proxy's answer + 1.
    pub(crate) ack: u32,
}

/// The Migrate-Ack that a peer beyond a symmetric proxy may still be waiting for, though it is committed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Relayed {
    /// Our attempt; the peer commits it.
    pub(crate) req_no: ReqNo,
    /// Of our Migrate-Ack.
    pub(crate) seq: u32,
    /// Of our Migrate-Ack.
    pub(crate) ack: u32,
    /// How often it may still be said.
    pub(crate) left: u32,
}

/// One place where the peer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    pub(crate) to: Endpoint,
    /// Whether an MSYN was sent there.
    pub(crate) tried: bool,
    /// Whether somebody else answered there.
    pub(crate) strange: bool,
}

impl Candidate {
    pub(crate) fn new(to: Endpoint) -> Self {
        Self {
            to,
            tried: false,
            strange: false,
        }
    }
}

impl Attempt {
    /// Where the MSYN goes now.
    pub fn to(&self) -> Endpoint {
        self.candidates[self.current].to
    }

    /// The tuples on which an MSYN went out.
    pub fn tried_tuples(&self) -> impl Iterator<Item = Tuple> + '_ {
        let tried = self.candidates.iter().filter(|candidate| candidate.tried);
        tried.map(|candidate| Tuple::new(self.from, candidate.to))
    }

    /// The places where the peer may be, in the order they are tried.
    pub fn destinations(&self) -> Vec<Endpoint> {
        self.candidates.iter().map(|candidate| candidate.to).collect()
    }

    /// Whether an MSYN of this attempt went to `to`.
    pub fn tried(&self, to: Endpoint) -> bool {
        self.candidates
            .iter()
            .any(|candidate| candidate.to == to && candidate.tried)
    }

    /// Moves on to the next candidate that is not strange; false when there is none.
    pub(crate) fn next_candidate(&mut self) -> bool {
        let count = self.candidates.len();
        let next = (1..=count)
            .map(|step| (self.current + step) % count)
            .find(|&index| !self.candidates[index].strange);
        self.current = next.unwrap_or(self.current);
        next.is_some()
    }

    /// Gives strange candidates another chance: a listener goes away, and a SYN-ACK may have been forged.
    pub(crate) fn forgive(&mut self) {
        self.candidates
            .iter_mut()
            .for_each(|candidate| candidate.strange = false);
    }
}

/// How an attempt of ours that is committed here stands at the peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mover {
    /// What is said again; nothing when another agent process had said it first.
    pub(crate) words: Option<Words>,
    /// Migrate-Acks sent.
    pub(crate) tries: u32,
    /// When the next is due; none once the peer was heard on the new tuple, or when we cannot send on it.
    pub(crate) due: Option<Timestamp>,
    /// Whether the peer was heard on the new tuple.
    pub(crate) heard: bool,
    /// Whether the peer counts as being on it too.
    pub(crate) confirmed: bool,
    /// Whether the peer may have used this very tuple under another number: then hearing it there does not
    /// prove that it knows this one.
    pub(crate) ambiguous: bool,
}

/// The numbers in our MSYN and Migrate-Ack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Words {
    /// Of our MSYN.
    pub(crate) seq: u32,
    /// Of our MSYN.
    pub(crate) rcv_nxt: u32,
    /// Of the Migrate-Ack: the MSYN-ACK's sequence number + 1.
    pub(crate) ack: u32,
}

/// An attempt of the peer that we have answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Its number.
    pub req_no: ReqNo,
    /// Where its MSYN came from and to.
    pub tuple: Tuple,
    /// Of our MSYN-ACK.
    pub seq: u32,
    /// Of our MSYN-ACK.
    pub ack: u32,
    pub(crate) rcv_nxt: u32,
    /// How long it is kept after the last MSYN.
    pub(crate) lifetime: Duration,
    /// When it is forgotten.
    pub expires: Timestamp,
}

/// A tuple that is heard though nothing is sent on it any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lingering {
    /// The attempt that had made it the wire tuple.
    pub req_no: ReqNo,
    /// The tuple.
    pub tuple: Tuple,
    /// When it is forgotten.
    pub until: Timestamp,
}
