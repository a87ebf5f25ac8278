//! What a daemon that comes back finds of a lease.

use wire::handshake::SynOptions;
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Tuple, address_bytes, address_from_bytes};

use super::Knocked;
use crate::skeleton::{Plain, relay_types as raw};
use crate::types::{tuple_from_raw, tuple_to_raw};

/// How far a lease is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteState {
    /// An end has not come.
    Waiting,
    /// Both have.
    Spliced,
    /// It is over; kept so that its ticket does not count a second time.
    Ended,
}

/// One leg.
#[derive(Clone, Debug)]
pub struct LegNote {
    /// Signs what the agent sends.
    pub to_proxy: MacKey,
    /// Signs what it is answered.
    pub to_agent: MacKey,
    /// A digest of the agent's name.
    pub agent: [u8; 16],
    /// Only from this address.
    pub expected: Option<std::net::IpAddr>,
    /// Where the agent knocks, and from where it did; before it has, `remote` means nothing.
    pub wire: Tuple,
    /// The MSYN that counts, and whether nothing translated between its sender and the relay.
    pub heard: Option<(Knocked, bool)>,
}

/// One lease.
#[derive(Clone, Debug)]
pub struct LeaseNote {
    /// The pair's ID.
    pub pair: [u8; 16],
    /// The connection's label.
    pub label: u64,
    /// Until then both ends have to come.
    pub expires_unix_seconds: u64,
    /// CLOCK_MONOTONIC of the splice, in nanoseconds.
    pub since_ns: u64,
    /// CLOCK_MONOTONIC of the server's release, in nanoseconds.
    pub released_ns: Option<u64>,
    /// A digest of its ticket.
    pub ticket: [u8; 32],
    /// How far it is.
    pub state: NoteState,
    /// Its legs.
    pub legs: [LegNote; 2],
}

impl From<&LeaseNote> for raw::lease_note {
    fn from(note: &LeaseNote) -> Self {
        let mut out = raw::lease_note::zeroed();
        out.pair = note.pair;
        out.label = note.label;
        out.expires_unix_seconds = note.expires_unix_seconds;
        out.since_ns = note.since_ns;
        out.released_ns = note.released_ns.unwrap_or_default();
        out.ticket = note.ticket;
        out.state = match note.state {
            NoteState::Waiting => 1,
            NoteState::Spliced => 2,
            NoteState::Ended => 3,
        };
        for (to, leg) in out.legs.iter_mut().zip(&note.legs) {
            to.key_to_proxy = *leg.to_proxy.as_bytes();
            to.key_to_agent = *leg.to_agent.as_bytes();
            to.agent = leg.agent;
            to.expected = leg.expected.map_or([0; 16], address_bytes);
            to.wire = super::adopt::tuple(&tuple_to_raw(&leg.wire));
            if let Some((knocked, outside)) = &leg.heard {
                to.heard = 1;
                to.outside = u8::from(*outside);
                to.token = knocked.token.0;
                to.req_no = knocked.req_no.0;
                to.seq = knocked.seq;
                to.rcv_nxt = knocked.rcv_nxt;
                to.window = knocked.window;
                if let Some(syn) = knocked.syn {
                    to.scale = syn.window_scale;
                    to.mss = syn.mss;
                }
            }
        }
        out
    }
}

impl From<&raw::lease_note> for LeaseNote {
    fn from(note: &raw::lease_note) -> Self {
        Self {
            pair: note.pair,
            label: note.label,
            expires_unix_seconds: note.expires_unix_seconds,
            since_ns: note.since_ns,
            released_ns: (note.released_ns != 0).then_some(note.released_ns),
            ticket: note.ticket,
            state: match note.state {
                1 => NoteState::Waiting,
                2 => NoteState::Spliced,
                _ => NoteState::Ended,
            },
            legs: [leg(&note.legs[0]), leg(&note.legs[1])],
        }
    }
}

fn leg(note: &raw::leg_note) -> LegNote {
    let wire = tuple_from_raw(&super::adopt::tuple_back(&note.wire));
    let knocked = Knocked {
        wire,
        token: Token(note.token),
        req_no: ReqNo(note.req_no),
        seq: note.seq,
        rcv_nxt: note.rcv_nxt,
        window: note.window,
        digest: 0,
        syn: Some(SynOptions {
            window_scale: note.scale,
            mss: note.mss,
        }),
    };
    LegNote {
        to_proxy: MacKey::new(note.key_to_proxy),
        to_agent: MacKey::new(note.key_to_agent),
        agent: note.agent,
        expected: (note.expected != [0; 16]).then(|| address_from_bytes(note.expected)),
        wire,
        heard: (note.heard != 0).then_some((knocked, note.outside != 0)),
    }
}
