//! Messages between two agents: bytes to checked values and back.
//!
//! Decoding is total: any bytes give a value or an error that names the field. Counts and lengths are bounded here,
//! so that what a peer sends costs no more than the 64 KiB of its frame allows.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use prost::Message as _;
use proto::pair::v1 as pb;
use thiserror::Error;
use uuid::Uuid;
use wire::{Endpoint, Tuple};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::pair::{Abilities, SleepHint};

/// The version of the exchange that is spoken here.
pub const PROTOCOL_VERSION: u32 = 1;
/// How many direct addresses a host may name.
pub const MAX_ADDRESSES: usize = 64;
/// How many mobility servers a host may name.
pub const MAX_SERVERS: usize = 16;
/// Length of a server's URL, in bytes.
pub const MAX_URL: usize = 255;

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum MessageError {
    #[error("it is no protobuf message of this protocol ({0})")]
    Protobuf(String),
    #[error("it has no known content")]
    Empty,
    #[error("it speaks version {theirs} of the exchange, this side {PROTOCOL_VERSION}")]
    Version { theirs: u32 },
    #[error("its field {0} is missing or out of range")]
    Field(&'static str),
}

/// What both ends of a channel may say once the exchange is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// "A reset arrived for this connection: is it yours?"
    AskReset {
        /// Pairs question and answer.
        question: u64,
        /// Initial sequence number of the connection's initiator.
        isn_initiator: u32,
        /// Initial sequence number of its acceptor.
        isn_acceptor: u32,
        /// The tuple on which the reset arrived, as the asking side sees it.
        tuple: Tuple,
    },
    /// The answer to [`Message::AskReset`].
    ResetAnswer {
        /// The question that it answers.
        question: u64,
        /// The answer.
        verdict: ResetVerdict,
    },
    /// After a resumption: the wire tuple as the sender observes it.
    ObservedTuple {
        /// Initial sequence number of the connection's initiator.
        isn_initiator: u32,
        /// Initial sequence number of its acceptor.
        isn_acceptor: u32,
        /// The committed request number that the tuple belongs to.
        req_no: u32,
        /// As the sender sees it.
        tuple: Tuple,
    },
    /// What the sender says on this connection is not acknowledged, though the agents hear each other.
    Unheard {
        /// Initial sequence number of the connection's initiator.
        isn_initiator: u32,
        /// Initial sequence number of its acceptor.
        isn_acceptor: u32,
    },
    /// Takes up a connection whose handshake carried no option.
    Enrol(Enrol),
    /// The sender no longer holds the keys of epochs up to this one; a new exchange is due.
    KeysLost {
        /// The highest epoch that is lost.
        highest_epoch: u32,
    },
    /// The sender goes to sleep and asks to keep its connections waiting this long.
    GoingToSleep {
        /// In whole seconds.
        longest: Duration,
    },
    /// A heartbeat.
    Ping {
        /// Comes back in the pong.
        number: u64,
    },
    /// The answer to a heartbeat.
    Pong {
        /// From the ping.
        number: u64,
    },
    /// The sender closes the channel; the pair stays.
    Bye,
}

/// Whether a reset was sent by the host from which it seems to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetVerdict {
    /// It was.
    Genuine,
    /// The connection lives and sent none.
    NotMine,
    /// The agent knows no such connection.
    Unknown,
}

/// The step of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnrolStep {
    /// "Do you know this connection?"
    Offer,
    /// "Yes, with these sequence numbers."
    Accept,
    /// "No."
    Decline,
}

/// One message of an enrolment; `random` is secret and wiped on drop.
#[derive(Clone, PartialEq, Eq)]
pub struct Enrol {
    /// Pairs offer and answer.
    pub question: u64,
    /// Offer or answer.
    pub step: EnrolStep,
    /// The identity tuple as the sender sees it.
    pub tuple: Tuple,
    /// The sender's SND.UNA.
    pub snd_una: u32,
    /// The sender's SND.NXT.
    pub snd_nxt: u32,
    /// The sender's RCV.NXT.
    pub rcv_nxt: u32,
    /// The sender's share of the connection's key.
    pub random: EnrolSecret,
}

/// Fresh randomness of one side; wiped on drop, silent in logs.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EnrolSecret(pub [u8; 16]);

impl fmt::Debug for EnrolSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrolSecret(..)")
    }
}

impl fmt::Debug for Enrol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enrol")
            .field("question", &self.question)
            .field("step", &self.step)
            .field("tuple", &self.tuple)
            .finish_non_exhaustive()
    }
}

/// Why a side ended the exchange, as it tells the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum RefuseReason {
    Version,
    Malformed,
    Myself,
    Epoch,
    Confirm,
}

impl fmt::Display for RefuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "it speaks another version of the exchange",
            Self::Malformed => "it cannot read what this agent sent",
            Self::Myself => "both ends show the same identity",
            Self::Epoch => "the numbers of epochs do not fit",
            Self::Confirm => "the confirmation does not fit",
        })
    }
}

/// What an agent tells about itself in Hello and Welcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub agent_port: u16,
    pub direct_addresses: Vec<IpAddr>,
    pub observed: Option<Endpoint>,
    pub servers: Vec<String>,
    pub abilities: Abilities,
    pub random: [u8; 16],
    pub epoch: u32,
    pub known_pair_id: Option<Uuid>,
    pub sleep: SleepHint,
}

/// All that can be in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Frame {
    Hello(Facts),
    Welcome { facts: Facts, pair_id: Uuid },
    Confirm { mac: [u8; 32] },
    Refuse { reason: RefuseReason, version: u32 },
    Message(Message),
}

impl Message {
    /// Appends the message as the body of a frame (without the length).
    pub fn encode(&self, into: &mut BytesMut) {
        Frame::Message(self.clone()).encode(into);
    }

    /// Reads the body of a frame.
    ///
    /// # Errors
    /// The bytes are no message of this protocol, or one of the exchange itself.
    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        match Frame::decode(body)? {
            Frame::Message(message) => Ok(message),
            _ => Err(MessageError::Field(
                "body (a message of the exchange, which is over)",
            )),
        }
    }
}

impl Frame {
    pub fn encode(self, into: &mut BytesMut) {
        let envelope = pb::Envelope {
            body: Some(self.into()),
        };
        into.reserve(envelope.encoded_len());
        envelope.encode_raw(into);
    }

    pub fn decode(body: &[u8]) -> Result<Self, MessageError> {
        let envelope =
            pb::Envelope::decode(body).map_err(|error| MessageError::Protobuf(error.to_string()))?;
        envelope.body.ok_or(MessageError::Empty)?.try_into()
    }
}

pub(crate) mod convert;
