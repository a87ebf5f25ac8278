//! Migrate-Permit: the offer in SYN and SYN-ACK.
//!
//! The initiator's SYN carries it, the acceptor's SYN-ACK answers with its own. It names the port that the
//! sender believes to use and the port of its agent, and holds the [digest](mod@crate::digest) of the endpoint
//! the sender believes to speak from: the receiver sees whether a NAPT sits between them.

use std::fmt;

use crate::digest::{Digest, digest};
use crate::option::{Head, OptionError};
use crate::tuple::Endpoint;

/// The Migrate-Permit option.
///
/// Eleven bytes: kind, length, experiment 16, version and type 8, direct port 16, agent port 16, digest 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permit {
    /// The sender's port before any NAPT.
    pub direct_port: u16,
    /// The TCP port at which the sender's agent listens.
    pub agent_port: u16,
    /// Of the sender's direct endpoint, salted with the sequence number of the carrying segment.
    pub digest: Digest,
}

impl Permit {
    /// The length of the option, in bytes.
    pub const LEN: usize = 11;
    /// The option's type number.
    pub const TYPE: u8 = 0;

    /// The offer of a host that speaks from `direct` in a segment with sequence number `seq`.
    pub fn new(direct: Endpoint, agent_port: u16, seq: u32) -> Self {
        Self {
            direct_port: direct.port,
            agent_port,
            digest: digest(direct, seq),
        }
    }

    /// Whether the sender speaks from the endpoint it is seen at, `observed`: no NAPT in between.
    ///
    /// One in 65536 NAPTs is missed.
    pub fn is_direct(&self, observed: Endpoint, seq: u32) -> bool {
        self.direct_port == observed.port && self.digest == digest(observed, seq)
    }

    /// Reads the option, kind and length byte included.
    ///
    /// # Errors
    /// See [`OptionError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, OptionError> {
        let Head { r#type } = Head::parse(bytes)?;
        if r#type != Self::TYPE {
            return Err(OptionError::Type { got: r#type });
        }
        let &[_, _, _, _, _, d0, d1, a0, a1, x0, x1] = bytes else {
            return Err(OptionError::Length {
                expected: Self::LEN,
                got: bytes.len(),
            });
        };
        Ok(Self {
            direct_port: u16::from_be_bytes([d0, d1]),
            agent_port: u16::from_be_bytes([a0, a1]),
            digest: Digest(u16::from_be_bytes([x0, x1])),
        })
    }

    /// The option, kind and length byte included.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..5].copy_from_slice(&Head::bytes(Self::LEN, Self::TYPE));
        bytes[5..7].copy_from_slice(&self.direct_port.to_be_bytes());
        bytes[7..9].copy_from_slice(&self.agent_port.to_be_bytes());
        bytes[9..].copy_from_slice(&self.digest.0.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            direct_port,
            agent_port,
            digest,
        } = self;
        write!(
            f,
            "permit direct-port {direct_port} agent-port {agent_port} digest {digest}"
        )
    }
}
