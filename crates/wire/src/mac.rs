//! MACs: the proof that a Migrate-Request comes from the other end of the connection.
//!
//! The sender fills in its segment, takes the [`MacInput`] of it and signs that with the key of its direction.
//! The receiver's BPF program builds the same 32 bytes from what arrived and from what it knows, and steals or
//! drops the segment accordingly; user space can verify again with the same functions.
//!
//! The input holds neither addresses nor ports: NAPTs rewrite these, and the point of a resumption is that they
//! are new. Window scale and MSS are outside it too.

use std::fmt;

use siphasher::sip::SipHasher24;
use subtle::ConstantTimeEq;

use crate::digest::Digest;
use crate::flags::Flags;
use crate::keys::MacKey;
use crate::reqno::ReqNo;
use crate::segment::Segment;
use crate::token::Token;

/// SipHash-2-4 of a [`MacInput`], written as a little-endian 64-bit number. Compares in constant time.
#[derive(Clone, Copy, Default)]
pub struct Mac(pub [u8; 8]);

impl PartialEq for Mac {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Mac {}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// Why a segment is not taken for genuine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MacError {
    /// Nothing to sign or to verify.
    #[error("the segment carries no Migrate-Request")]
    NoRequest,
    /// Written by somebody without the key, changed on the way, or about another attempt of the peer.
    #[error("the MAC does not fit the segment")]
    Mismatch,
}

/// What a MAC covers; 32 bytes, multi-byte fields big-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MacInput {
    /// Byte 0: version and type as in the option.
    pub version_type: u8,
    /// Byte 1: the low six of the TCP flags; those of ECN are for middleboxes to change and stay outside.
    pub flags: Flags,
    /// Bytes 2 to 3: the window field of the header, unscaled.
    pub window: u16,
    /// Bytes 4 to 7.
    pub token: Token,
    /// Bytes 8 to 11: the attempt of the segment's sender.
    pub req_no: ReqNo,
    /// Bytes 12 to 15: the attempt of the other end as the sender knows it; 0 in a direct handshake.
    pub other_req_no: ReqNo,
    /// Bytes 16 to 19: the segment's sequence number.
    pub seq: u32,
    /// Bytes 20 to 23: the segment's acknowledgement number; 0 without the ACK flag.
    pub ack: u32,
    /// Bytes 24 to 27.
    pub rcv_nxt: u32,
    /// Bytes 28 to 29; 30 and 31 are zero.
    pub digest: Digest,
}

impl MacInput {
    /// What the MAC of this segment covers, when its sender knows the other end's attempt as `other_req_no`.
    ///
    /// # Errors
    /// [`MacError::NoRequest`] when it carries no Migrate-Request.
    pub fn of(segment: &Segment, other_req_no: ReqNo) -> Result<Self, MacError> {
        let request = segment.migrate.as_ref().ok_or(MacError::NoRequest)?;
        Ok(Self {
            version_type: request.version_type(),
            flags: segment.flags,
            window: segment.window,
            token: request.token,
            req_no: request.req_no,
            other_req_no,
            seq: segment.seq,
            ack: if segment.flags.contains(Flags::ACK) {
                segment.ack
            } else {
                0
            },
            rcv_nxt: request.rcv_nxt,
            digest: request.digest,
        })
    }

    /// The 32 bytes under the MAC.
    pub fn to_bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = self.version_type;
        bytes[1] = (self.flags & Flags::CLASSIC).0;
        bytes[2..4].copy_from_slice(&self.window.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.token.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.req_no.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.other_req_no.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.seq.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.ack.to_be_bytes());
        bytes[24..28].copy_from_slice(&self.rcv_nxt.to_be_bytes());
        bytes[28..30].copy_from_slice(&self.digest.0.to_be_bytes());
        bytes
    }

    /// The MAC of this input.
    pub fn sign(&self, key: &MacKey) -> Mac {
        Mac(SipHasher24::new_with_key(key.as_bytes())
            .hash(&self.to_bytes())
            .to_le_bytes())
    }

    /// Whether `mac` is the MAC of this input, in constant time.
    #[must_use]
    pub fn verify(&self, key: &MacKey, mac: &Mac) -> bool {
        self.sign(key) == *mac
    }
}

impl Segment {
    /// Puts the MAC into the segment's Migrate-Request. Any change to the segment comes before it.
    ///
    /// # Errors
    /// [`MacError::NoRequest`] when it carries no Migrate-Request.
    pub fn sign(&mut self, key: &MacKey, other_req_no: ReqNo) -> Result<(), MacError> {
        let mac = MacInput::of(self, other_req_no)?.sign(key);
        self.migrate.as_mut().ok_or(MacError::NoRequest)?.mac = mac;
        Ok(())
    }

    /// Checks the MAC in the segment's Migrate-Request.
    ///
    /// # Errors
    /// [`MacError::NoRequest`], or [`MacError::Mismatch`] when the segment is not genuine.
    pub fn verify(&self, key: &MacKey, other_req_no: ReqNo) -> Result<(), MacError> {
        let request = self.migrate.as_ref().ok_or(MacError::NoRequest)?;
        match MacInput::of(self, other_req_no)?.verify(key, &request.mac) {
            true => Ok(()),
            false => Err(MacError::Mismatch),
        }
    }
}
