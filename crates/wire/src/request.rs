//! Migrate-Request: the option of every segment that resumes a connection or speaks about its end.
//!
//! It names the connection by its [`Token`], the attempt by its [`ReqNo`], tells what the sender expects next
//! (RCV.NXT, which the header cannot say in an MSYN) and where the sender believes to be, and proves all that by
//! a [`Mac`].

use std::fmt;

use crate::digest::{Digest, digest};
use crate::flags::Flags;
use crate::mac::Mac;
use crate::option::{Head, OptionError, version_type};
use crate::reqno::ReqNo;
use crate::token::Token;
use crate::tuple::Endpoint;

/// What a segment with a Migrate-Request is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RequestType {
    /// The mover's first segment, a SYN.
    Msyn = 1,
    /// The answer to it, a SYN-ACK.
    MsynAck = 2,
    /// The third segment, which commits the attempt.
    MigrateAck = 3,
    /// The connection is gone at the sender's end.
    MigrateReset = 4,
    /// "Is the reset I hold yours?"
    Query = 5,
    /// The answer to a query.
    Answer = 6,
}

impl RequestType {
    /// All types, in the order of their numbers.
    pub const ALL: [RequestType; 6] = [
        Self::Msyn,
        Self::MsynAck,
        Self::MigrateAck,
        Self::MigrateReset,
        Self::Query,
        Self::Answer,
    ];

    /// The type with this number.
    ///
    /// # Errors
    /// [`OptionError::Type`] when there is none.
    pub fn from_number(number: u8) -> Result<Self, OptionError> {
        Self::ALL
            .into_iter()
            .find(|known| known.number() == number)
            .ok_or(OptionError::Type { got: number })
    }

    /// The type's number on the wire.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The TCP flags of a segment of this type.
    ///
    /// A Migrate-Reset travels as an ACK: middleboxes act on an RST before the peer has seen that it is genuine.
    pub fn flags(self) -> Flags {
        match self {
            Self::Msyn => Flags::SYN,
            Self::MsynAck => Flags::SYN | Flags::ACK,
            Self::MigrateAck | Self::MigrateReset | Self::Query | Self::Answer => Flags::ACK,
        }
    }
}

impl fmt::Display for RequestType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Msyn => "msyn",
            Self::MsynAck => "msyn-ack",
            Self::MigrateAck => "migrate-ack",
            Self::MigrateReset => "migrate-reset",
            Self::Query => "query",
            Self::Answer => "answer",
        })
    }
}

/// The Migrate-Request option.
///
/// 27 bytes: kind, length, experiment 16, version and type 8, token 32, request number 32, RCV.NXT 32,
/// digest 16, MAC 64.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What the segment is.
    pub r#type: RequestType,
    /// Which connection it is about.
    pub token: Token,
    /// The attempt, numbered by the sender of this segment.
    pub req_no: ReqNo,
    /// The sequence number that the sender expects next.
    pub rcv_nxt: u32,
    /// Of the sender's own endpoint, salted with the sequence number of the carrying segment.
    pub digest: Digest,
    /// Proof of all that ([`crate::MacInput`]).
    pub mac: Mac,
}

impl Request {
    /// The length of the option, in bytes.
    pub const LEN: usize = 27;

    /// The byte that holds version and type, as it is on the wire and under the MAC.
    pub fn version_type(&self) -> u8 {
        version_type(self.r#type.number())
    }

    /// Whether the sender speaks from the endpoint it is seen at, `observed`: no NAPT in between.
    ///
    /// One in 65536 NAPTs is missed.
    pub fn is_direct(&self, observed: Endpoint, seq: u32) -> bool {
        self.digest == digest(observed, seq)
    }

    /// Reads the option, kind and length byte included.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OptionError> {
        let r#type = RequestType::from_number(Head::parse(bytes)?.r#type)?;
        let &[
            _,
            _,
            _,
            _,
            _, // the head
            t0,
            t1,
            t2,
            t3, // token
            q0,
            q1,
            q2,
            q3, // request number
            n0,
            n1,
            n2,
            n3, // RCV.NXT
            d0,
            d1, // digest
            ref mac @ ..,
        ] = bytes
        else {
            return Err(OptionError::Length {
                expected: Self::LEN,
                got: bytes.len(),
            });
        };
        let Ok(mac) = <[u8; 8]>::try_from(mac) else {
            return Err(OptionError::Length {
                expected: Self::LEN,
                got: bytes.len(),
            });
        };
        Ok(Self {
            r#type,
            token: Token(u32::from_be_bytes([t0, t1, t2, t3])),
            req_no: ReqNo(u32::from_be_bytes([q0, q1, q2, q3])),
            rcv_nxt: u32::from_be_bytes([n0, n1, n2, n3]),
            digest: Digest(u16::from_be_bytes([d0, d1])),
            mac: Mac(mac),
        })
    }

    /// The option, kind and length byte included.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..5].copy_from_slice(&Head::bytes(Self::LEN, self.r#type.number()));
        bytes[5..9].copy_from_slice(&self.token.0.to_be_bytes());
        bytes[9..13].copy_from_slice(&self.req_no.0.to_be_bytes());
        bytes[13..17].copy_from_slice(&self.rcv_nxt.to_be_bytes());
        bytes[17..19].copy_from_slice(&self.digest.0.to_be_bytes());
        bytes[19..].copy_from_slice(&self.mac.0);
        bytes
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            r#type,
            token,
            req_no,
            rcv_nxt,
            digest,
            mac,
        } = self;
        write!(
            f,
            "{type} token {token} req {req_no} rcv.nxt {rcv_nxt} digest {digest} mac {mac}"
        )
    }
}
