//! What a connection shows of itself.
//!
//! Figure 14 of the source has one state at a time. In a [`Machine`](crate::Machine) several regions run side by
//! side: how far the kernel's socket is with closing, whether our own attempts are under way, which attempts of the
//! peer are answered, and whether the peer seems silent. A [`State`] names what a person wants to see first.

use std::fmt;

/// What a connection is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum State {
    /// Data flows on the wire tuple.
    Established,
    /// As Established, after our FIN.
    FinWait1,
    /// As Established, after our acknowledged FIN.
    FinWait2,
    /// As Established, after the peer's FIN.
    CloseWait,
    /// As Established, after both FINs, ours first.
    Closing,
    /// As Established, after both FINs, the peer's first.
    LastAck,
    /// As Established, when only a repeated FIN of the peer needs an answer.
    TimeWait,
    /// The peer has been silent, and we have not moved: it may have.
    Suspect,
    /// An MSYN of the peer is answered; its Migrate-Ack has not come. The previous tuple goes on.
    SynRecv,
    /// An MSYN of ours is under way.
    MigSent,
    /// Nothing worked yet: wait for an MSYN, a usable address or a destination.
    MigWait(WaitReason),
    /// The connection has ended; retransmitted FINs and late MSYNs are still answered.
    Closed,
    /// Nothing is left.
    Buried,
}

/// Why a connection is in [`State::MigWait`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum WaitReason {
    /// This host has no usable address.
    NoAddress,
    /// No MSYN-ACK has come.
    NoAnswer,
    /// The peer has not been heard on the tuple that our attempt committed.
    Unconfirmed,
    /// The keys are lost while the connection is parked.
    KeysGone,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::MigWait(reason) => write!(f, "MigWait ({reason})"),
            named => write!(f, "{named:?}"),
        }
    }
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WaitReason::NoAddress => "no address",
            WaitReason::NoAnswer => "no answer",
            WaitReason::Unconfirmed => "unconfirmed",
            WaitReason::KeysGone => "keys gone",
        })
    }
}
