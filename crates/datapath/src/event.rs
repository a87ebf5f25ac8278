//! What the data path tells the agent.

use wire::reqno::ReqNo;
use wire::request::RequestType;
use wire::token::Token;
use wire::tuple::Tuple;

use crate::skeleton::{Plain, types as raw};
use crate::types::tuple_from_raw;

/// An authentic segment with a Migrate-Request, as it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The connection it names.
    pub identity: Tuple,
    /// The tuple it arrived on.
    pub wire: Tuple,
    /// Which of the token's candidates its MAC fits.
    pub candidate: u32,
    /// Token, as sent.
    pub token: Token,
    /// The attempt.
    pub req_no: ReqNo,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningless in an MSYN.
    pub ack: u32,
    /// What its sender expects next.
    pub rcv_nxt: u32,
    /// Digest of the sender's own endpoint.
    pub digest: u16,
    /// Index of the device it arrived on.
    pub ifindex: u32,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
}

/// Something the data path saw. Past facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An authentic MSYN, MSYN-ACK, Migrate-Reset, Query or Answer.
    Segment(RequestType, Heard),
    /// A Migrate-Ack committed an attempt; `again`: it had been committed before.
    Committed { heard: Heard, again: bool },
    /// The peer's first ordinary segment on a committed tuple.
    Confirmed {
        identity: Tuple,
        req_no: ReqNo,
        ack: u32,
    },
    /// A plain reset that the kernel would believe is held back.
    ResetHeld {
        identity: Tuple,
        wire: Tuple,
        seq: u32,
        ack: u32,
        flags: u8,
    },
    /// Our MSYN was answered by a SYN-ACK without the option, or by a reset.
    Stranger {
        identity: Tuple,
        wire: Tuple,
        req_no: ReqNo,
        seq: u32,
        ack: u32,
        flags: u8,
    },
    /// The first connection with a peer that offers migration.
    Peer {
        identity: Tuple,
        agent_port: u16,
        initiated_here: bool,
    },
    /// The socket of a session changed its state; numbers as the kernel's.
    TcpState {
        identity: Tuple,
        old: u32,
        new: u32,
        snd_nxt: u32,
        rcv_nxt: u32,
    },
    /// A retransmission timed out, or a probe stayed unanswered.
    Suspect { identity: Tuple },
    /// An MSYN whose token is not known.
    UnknownToken { wire: Tuple, token: Token },
}

impl Event {
    /// `None`: not an event that this agent knows (a newer data path may say more).
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let raw = raw::event::from_bytes(bytes)?;
        let identity = tuple_from_raw(&raw.identity);
        let wire = tuple_from_raw(&raw.wire);
        let heard = Heard {
            identity,
            wire,
            candidate: raw.candidate,
            token: Token(raw.token),
            req_no: ReqNo(raw.req_no),
            seq: raw.seq,
            ack: raw.ack,
            rcv_nxt: raw.rcv_nxt,
            digest: raw.digest,
            ifindex: raw.ifindex,
            time_ns: raw.time_ns,
        };
        let flags = raw.detail as u8;
        Some(match raw.kind {
            1 => Self::Segment(RequestType::from_number(raw.r#type as u8).ok()?, heard),
            2 => Self::Committed {
                heard,
                again: raw.detail != 0,
            },
            3 => Self::Confirmed {
                identity,
                req_no: ReqNo(raw.req_no),
                ack: raw.ack,
            },
            4 => Self::ResetHeld {
                identity,
                wire,
                seq: raw.seq,
                ack: raw.ack,
                flags,
            },
            5 => Self::Stranger {
                identity,
                wire,
                req_no: ReqNo(raw.req_no),
                seq: raw.seq,
                ack: raw.ack,
                flags,
            },
            6 => Self::Peer {
                identity,
                agent_port: raw.peer_agent_port,
                initiated_here: raw.detail == 0,
            },
            7 => Self::TcpState {
                identity,
                old: raw.detail,
                new: raw.r#type,
                snd_nxt: raw.seq,
                rcv_nxt: raw.ack,
            },
            8 => Self::Suspect { identity },
            9 => Self::UnknownToken {
                wire,
                token: Token(raw.token),
            },
            _ => return None,
        })
    }
}
