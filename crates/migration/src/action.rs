//! Actions: what the driver is to do, in this order.
//!
//! The driver performs them one after another; an action that fails is a fact it tells by an event.
//! [`Action::StoreReqNo`] always stands before the send it protects.

use std::fmt;
use std::net::IpAddr;

use wire::{Endpoint, ReqNo, Tuple};

use crate::state::{State, WaitReason};
use crate::time::Timestamp;

/// What one step asks for, in order.
pub type Actions = Vec<Action>;

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Stop sending on the wire tuple: packets of the socket are parked, the head of line is cached.
    /// Lasts until a commit, by either side. Nothing happens when the datapath has committed a higher number
    /// meanwhile.
    Park {
        /// The attempt that is the wire tuple.
        req_no: ReqNo,
        /// The wire tuple; its local address is the one that is lost.
        wire: Tuple,
    },
    /// Write down the highest number seen or used, before anything with it leaves the host.
    StoreReqNo {
        /// The number.
        req_no: ReqNo,
    },
    /// Write down, for an agent that takes over, the highest number known to be committed at both ends.
    StoreKnown {
        /// The number.
        req_no: ReqNo,
    },
    /// Send (or repeat) an MSYN, and have what arrives on its tuple stolen before it leaves.
    SendMsyn {
        /// Source.
        from: Endpoint,
        /// Destination.
        to: Endpoint,
        /// The attempt; a repetition has the same number and sequence number.
        req_no: ReqNo,
        /// The number whose token it carries.
        token_of: ReqNo,
        /// SND.NXT - 1 when the attempt began.
        seq: u32,
        /// RCV.NXT when the attempt began.
        rcv_nxt: u32,
        /// 1 for the first transmission.
        tries: u32,
    },
    /// Let the datapath commit this attempt when its Migrate-Ack arrives on this tuple with these numbers. Until
    /// then the tuple carries nothing but the MSYN-ACK. Replaces an older answer on the same tuple.
    InstallAnswered {
        /// The peer's attempt.
        req_no: ReqNo,
        /// Where the MSYN came from and to.
        tuple: Tuple,
        /// Our MSYN-ACK's sequence number: the Migrate-Ack's acknowledgement number is one more.
        seq: u32,
        /// Our MSYN-ACK's acknowledgement number: the Migrate-Ack's sequence number.
        ack: u32,
    },
    /// Send (or repeat) an MSYN-ACK.
    SendMsynAck {
        /// Source.
        from: Endpoint,
        /// Destination.
        to: Endpoint,
        /// The peer's attempt.
        req_no: ReqNo,
        /// The number whose token it carries: that of the MSYN.
        token_of: ReqNo,
        /// SND.NXT - 1 when the attempt was first answered.
        seq: u32,
        /// The MSYN's sequence number + 1.
        ack: u32,
        /// RCV.NXT when the attempt was first answered.
        rcv_nxt: u32,
    },
    /// Make this the wire tuple and unpark. Nothing happens when the datapath has committed a higher number
    /// meanwhile: then this one lingers.
    Commit {
        /// Our attempt.
        req_no: ReqNo,
        /// The new wire tuple.
        wire: Tuple,
    },
    /// Send (or repeat) a Migrate-Ack.
    SendMigrateAck {
        /// Source.
        from: Endpoint,
        /// Destination.
        to: Endpoint,
        /// Our attempt.
        req_no: ReqNo,
        /// The number whose token it carries.
        token_of: ReqNo,
        /// Our MSYN's sequence number + 1.
        seq: u32,
        /// The MSYN-ACK's sequence number + 1.
        ack: u32,
    },
    /// Send a pure ACK with the true window and the cached head of line (or a probe that the peer's kernel must
    /// answer) on the wire tuple.
    Kick {
        /// The attempt that is the wire tuple.
        req_no: ReqNo,
    },
    /// Our attempt is known to be committed at the peer too.
    Confirmed {
        /// The attempt.
        req_no: ReqNo,
    },
    /// Stop hearing this tuple for this attempt: an MSYN that is not repeated any more, an answer that did not
    /// commit, or a tuple that has lingered. Nothing happens when the datapath has committed it and has not been
    /// able to say so yet, or when it is the wire tuple.
    Forget {
        /// The attempt; [`ReqNo::UNMOVED`] for the identity tuple.
        req_no: ReqNo,
        /// Its tuple.
        tuple: Tuple,
    },
    /// Send nothing on this tuple any more, but hear it until then; [`Action::Forget`] follows.
    Linger {
        /// The attempt; [`ReqNo::UNMOVED`] for the identity tuple.
        req_no: ReqNo,
        /// Its tuple.
        tuple: Tuple,
        /// When it is forgotten.
        until: Timestamp,
    },
    /// The peer will not use the tokens of lower numbers any more.
    RetireTokens {
        /// The lowest number whose token must still be known.
        below: ReqNo,
    },
    /// Keep the kernel from giving up: raise the user timeout, remember the old value.
    RaiseTimeouts,
    /// Give the kernel its own timeouts back.
    RestoreTimeouts,
    /// Mark the socket so that its head of line is cached; nothing is parked.
    MarkSuspect,
    /// Ask the peer's agent whether the RST that the datapath holds is its own.
    AskPeerAboutReset,
    /// Give the held RST (or one made for it) to our kernel.
    DeliverReset,
    /// Throw the held RST away.
    DropReset,
    /// Tell the peer, authenticated, that the connection is gone.
    SendMigrateReset {
        /// Source.
        from: Endpoint,
        /// Destination.
        to: Endpoint,
        /// The number whose token it carries.
        token_of: ReqNo,
    },
    /// Send a plain RST to a strange listener.
    SendReset {
        /// Source.
        from: Endpoint,
        /// Destination.
        to: Endpoint,
        /// Its sequence number: the SYN-ACK's acknowledgement number.
        seq: u32,
    },
    /// Give this machine a fresh endpoint on that address (or on a better one), by
    /// [`Event::AddressUsable`](crate::Event::AddressUsable).
    AskForEndpoint {
        /// The address of the attempt that has to be renewed.
        address: IpAddr,
        /// The candidates to name in it, unless the driver knows better ones.
        candidates: Vec<Endpoint>,
        /// Why.
        why: AskReason,
    },
    /// Keep the keys until then, so that an MSYN for this dead connection is answered; [`Action::Bury`] follows.
    Tombstone {
        /// When they are dropped.
        until: Timestamp,
    },
    /// Tell who watches: log, timeline, metrics, mobility server.
    Report(Report),
    /// Ring at that time (once); replaces the alarm set before.
    WakeAt(Timestamp, Why),
    /// Free what the connection held: map entries, retired addresses, ports, store records. The keys stay as
    /// long as the tombstone.
    Release,
    /// Drop the keys and this machine.
    Bury,
    /// The event did not fit; the state is kept. For the log and a counter.
    Refuse(Refusal),
}

/// Why a fresh endpoint is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AskReason {
    /// Our attempt is committed here, but the peer was not heard on it for long.
    Unconfirmed,
    /// The peer has used a higher number meanwhile and may refuse ours.
    Overtaken,
    /// Nobody answers ours: from another port another NAPT's or the peer's books may have room for it.
    Unanswered,
    /// The peer's agent says nothing about a held RST: see whether the peer itself answers.
    ResetInDoubt,
}

/// What happened, for people and for the parts of the driver that decide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Report {
    /// The state has changed.
    Changed {
        /// Before.
        from: State,
        /// After.
        to: State,
    },
    /// No MSYN was answered in time: a destination from the mobility server would help.
    Unanswered {
        /// The attempt.
        req_no: ReqNo,
    },
    /// Our attempt was given up because the connection resumed otherwise.
    Withdrawn {
        /// The attempt.
        req_no: ReqNo,
    },
    /// Nobody could say whether the RST was genuine: it was delivered.
    ResetUndecided,
    /// The connection waited for too long and was reset.
    TimedOut {
        /// What it waited for.
        reason: WaitReason,
    },
    /// The peer has gone away for good and said so.
    PeerReset,
}

/// What an alarm is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Why {
    /// Repeat an MSYN.
    RepeatMsyn,
    /// Repeat the Migrate-Ack.
    RepeatMigrateAck,
    /// Forget an answer that did not commit.
    AnswerExpires,
    /// Forget a tuple that has lingered.
    LingerEnds,
    /// Give the connection up.
    WaitEnds,
    /// Probe the peer about a held RST.
    ProbeReset,
    /// Decide about a held RST.
    ResetUndecided,
    /// Repeat a Migrate-Reset.
    RepeatMigrateReset,
    /// Release what a closed connection held.
    ReleaseDue,
    /// Drop the keys of a closed connection.
    TombstoneEnds,
}

/// Why an event changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Refusal {
    /// The connection is closed.
    #[error("the connection is closed")]
    Closed,
    /// Without keys nothing can be proved.
    #[error("the connection's keys are lost; it cannot migrate until the pair has exchanged new ones")]
    KeysGone,
    /// There is no endpoint to try.
    #[error("no candidate for the peer's endpoint was given")]
    NoCandidate,
    /// An MSYN with a number of our own parity.
    #[error("attempt {req_no} has a number of our own side")]
    OwnNumber {
        /// Its number.
        req_no: ReqNo,
    },
    /// An MSYN with a number that is not greater than the committed one.
    #[error("attempt {req_no} is not above the committed {committed}")]
    NotGreater {
        /// Its number.
        req_no: ReqNo,
        /// The highest committed one.
        committed: ReqNo,
    },
    /// An MSYN on a tuple on which a later attempt was answered already.
    #[error("attempt {req_no} is older than {answered}, answered on the same tuple")]
    Superseded {
        /// Its number.
        req_no: ReqNo,
        /// The one answered there.
        answered: ReqNo,
    },
    /// The local address of the segment is gone.
    #[error("the local address {local} is not usable any more")]
    AddressGone {
        /// The address.
        local: IpAddr,
    },
    /// An answer to no attempt of ours.
    #[error("no attempt {req_no} is under way from there to there")]
    NoSuchAttempt {
        /// Its number.
        req_no: ReqNo,
    },
    /// An acknowledgement number that does not fit our MSYN.
    #[error("acknowledgement {got} does not fit the MSYN, expected {expected}")]
    AckMismatch {
        /// What our MSYN asks for.
        expected: u32,
        /// What came.
        got: u32,
    },
    /// A SYN-ACK from nowhere we sent an MSYN to.
    #[error("no MSYN was sent from there to there")]
    NoSuchTuple,
    /// One question about an RST is already with the peer.
    #[error("a question about a reset is already with the peer")]
    QuestionOutstanding,
    /// An answer to no question.
    #[error("no question about a reset is open")]
    NoQuestion,
    /// A request number cannot grow any more.
    #[error("the connection has used up its request numbers and stays where it is")]
    NumbersExhausted,
    /// The event is true but changes nothing in this state.
    #[error("nothing to do")]
    NothingToDo,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::RepeatMsyn => "repeat the MSYN",
            Why::RepeatMigrateAck => "repeat the Migrate-Ack",
            Why::AnswerExpires => "forget an answer",
            Why::LingerEnds => "forget a tuple",
            Why::WaitEnds => "give up",
            Why::ProbeReset => "probe about a reset",
            Why::ResetUndecided => "decide about a reset",
            Why::RepeatMigrateReset => "repeat the Migrate-Reset",
            Why::ReleaseDue => "release",
            Why::TombstoneEnds => "bury",
        })
    }
}
