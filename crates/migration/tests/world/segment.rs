//! What is on the wire between two ends, as far as the machines can tell.

use migration::{Endpoint, ReqNo};

/// What a segment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Msyn {
        req_no: ReqNo,
        token_of: ReqNo,
        seq: u32,
        rcv_nxt: u32,
    },
    MsynAck {
        req_no: ReqNo,
        token_of: ReqNo,
        seq: u32,
        ack: u32,
        rcv_nxt: u32,
    },
    MigrateAck {
        req_no: ReqNo,
        token_of: ReqNo,
        seq: u32,
        ack: u32,
    },
    MigrateReset {
        token_of: ReqNo,
    },
    StrangeSynAck {
        ack: u32,
    },
    Rst,
    /// An ordinary segment that wants an acknowledgement.
    Data {
        number: u32,
    },
    /// An ordinary segment that acknowledges everything below.
    Ack {
        below: u32,
    },
    /// An ordinary segment with the FIN.
    Fin {
        number: u32,
    },
}

/// A segment in flight, with the addresses that the receiver will see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    pub src: Endpoint,
    pub dst: Endpoint,
    pub kind: Kind,
    /// Whether its MAC (or, for ordinary segments, its sequence number) is right.
    pub genuine: bool,
}
