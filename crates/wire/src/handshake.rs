//! The segments of a resumption, in the order in which they are sent.
//!
//! 1. The mover sends an MSYN from its new address.
//! 2. The peer answers with an MSYN-ACK and goes on using the previous tuple.
//! 3. The mover's Migrate-Ack commits the attempt.
//! 4. Both ends send a pure ACK with the true RCV.NXT and window, and then their head-of-line frame, or a probe
//!    when nothing is outstanding.
//!
//! Migrate-Reset, Query and Answer have the form of a Migrate-Ack. A segment with a Migrate-Request leaves its
//! constructor unsigned: [`Segment::sign`] is the last step before [`Segment::emit`].

use crate::digest::digest;
use crate::flags::Flags;
use crate::mac::Mac;
use crate::reqno::ReqNo;
use crate::request::{Request, RequestType};
use crate::segment::Segment;
use crate::token::Token;
use crate::tuple::Tuple;

/// Where the sender of a Migrate-Request stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// The connection's token.
    pub token: Token,
    /// The attempt, as the sender numbers it.
    pub req_no: ReqNo,
    /// The sequence number of the segment: SND.NXT-1 in MSYN and MSYN-ACK, one more in what follows.
    pub seq: u32,
    /// What the sender expects next.
    pub rcv_nxt: u32,
    /// The window field: unscaled in MSYN and MSYN-ACK, already shifted in what follows.
    pub window: u16,
}

/// What only MSYN and MSYN-ACK say; a NAPT's connection tracking needs the scale to judge later windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynOptions {
    /// The shift count that the connection has used all its life.
    pub window_scale: u8,
    /// For the new path, in bytes.
    pub mss: u16,
}

/// `tuple` is the sender's: `local` is the source, as the sender knows it, and the digest is made of it.
impl Segment {
    /// The mover's first segment: 36 bytes of options.
    pub fn msyn(tuple: Tuple, standing: Standing, syn: SynOptions) -> Self {
        Self::request(tuple, RequestType::Msyn, standing, 0).with_syn_options(syn)
    }

    /// The answer to an MSYN; `ack` is the MSYN's sequence number plus one.
    pub fn msyn_ack(tuple: Tuple, standing: Standing, ack: u32, syn: SynOptions) -> Self {
        Self::request(tuple, RequestType::MsynAck, standing, ack).with_syn_options(syn)
    }

    /// The third segment; `ack` is the MSYN-ACK's sequence number plus one. 28 bytes of options.
    pub fn migrate_ack(tuple: Tuple, standing: Standing, ack: u32) -> Self {
        Self::request(tuple, RequestType::MigrateAck, standing, ack)
    }

    /// "This connection is gone here."
    pub fn migrate_reset(tuple: Tuple, standing: Standing, ack: u32) -> Self {
        Self::request(tuple, RequestType::MigrateReset, standing, ack)
    }

    /// "Is the reset I hold yours?"
    pub fn query(tuple: Tuple, standing: Standing, ack: u32) -> Self {
        Self::request(tuple, RequestType::Query, standing, ack)
    }

    /// The answer to a query of a connection that lives; that of a dead one is a Migrate-Reset.
    pub fn answer(tuple: Tuple, standing: Standing, ack: u32) -> Self {
        Self::request(tuple, RequestType::Answer, standing, ack)
    }

    /// An ACK without data; `timestamps` are TSval and TSecr, where a stale TSval is harmless and one ahead of
    /// the kernel's clock hangs the connection.
    pub fn pure_ack(tuple: Tuple, seq: u32, ack: u32, window: u16, timestamps: Option<(u32, u32)>) -> Self {
        Self {
            timestamps,
            ..Self::bare(tuple, Flags::ACK, seq, ack, window)
        }
    }

    /// One byte that the peer has acknowledged already, just below `snd_una`: the peer drops it and answers at
    /// once with its RCV.NXT and window. Without the byte the answer would be rate-limited.
    pub fn probe(tuple: Tuple, snd_una: u32, ack: u32, window: u16, timestamps: Option<(u32, u32)>) -> Self {
        let seq = snd_una.wrapping_sub(1);
        Self {
            payload: vec![0],
            ..Self::pure_ack(tuple, seq, ack, window, timestamps)
        }
    }

    fn request(tuple: Tuple, r#type: RequestType, standing: Standing, ack: u32) -> Self {
        let Standing {
            token,
            req_no,
            seq,
            rcv_nxt,
            window,
        } = standing;
        let digest = digest(tuple.local, seq);
        let request = Request {
            r#type,
            token,
            req_no,
            rcv_nxt,
            digest,
            mac: Mac::default(),
        };
        Self {
            migrate: Some(request),
            ..Self::bare(tuple, r#type.flags(), seq, ack, window)
        }
    }

    fn with_syn_options(self, syn: SynOptions) -> Self {
        Self {
            window_scale: Some(syn.window_scale),
            sack_permitted: true,
            mss: Some(syn.mss),
            ..self
        }
    }
}
