//! Events: what has happened, told to the machine by its driver.
//!
//! Time, randomness, addresses and the state of the kernel's socket come in here and nowhere else. The datapath
//! has already checked every MAC: a segment that is not genuine never becomes an event.

use std::net::IpAddr;
use std::time::Duration;

use wire::{Endpoint, ReqNo, Tuple};

/// What the machine needs to know of the kernel's socket when it builds a handshake segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSnapshot {
    /// Oldest sequence number the peer has not acknowledged.
    pub snd_una: u32,
    /// Next sequence number to send.
    pub snd_nxt: u32,
    /// Next sequence number expected from the peer.
    pub rcv_nxt: u32,
    /// Retransmission timeout without backoff; zero when unknown.
    pub rto: Duration,
}

/// The states of the kernel's socket after the handshake (RFC 9293, 3.3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub enum TcpState {
    /// Open in both directions.
    #[default]
    Established,
    /// Our FIN is sent and not acknowledged.
    FinWait1,
    /// Our FIN is acknowledged; the peer may still send.
    FinWait2,
    /// The peer's FIN has come; we may still send.
    CloseWait,
    /// Both FINs are sent and ours is not acknowledged; ours was first or they crossed.
    Closing,
    /// Both FINs are sent and ours, the second, is not acknowledged.
    LastAck,
    /// Everything is acknowledged; the kernel still answers a repeated FIN.
    TimeWait,
    /// The socket is gone.
    Closed,
}

/// What the peer's agent says about a plain RST that we hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResetAnswer {
    /// The peer's kernel sent it.
    Genuine,
    /// The peer's connection is alive: a stranger or a NAPT sent it.
    NotMine,
    /// The peer's agent does not know the connection.
    Unknown,
}

/// Something that has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A local address stopped being usable: removed, its link down, or its NAPT found dead.
    AddressLost {
        /// The address.
        local: IpAddr,
    },
    /// A local address that was lost can be used again. Whether an attempt begins there is another matter.
    AddressReturned {
        /// The address.
        local: IpAddr,
    },
    /// A local address can be used, and the connection should try it: after a loss, after a change that shows
    /// no other address (another gateway, another NAPT), or as the answer to
    /// [`Action::AskForEndpoint`](crate::Action::AskForEndpoint).
    AddressUsable {
        /// Where to send from. The port comes from the reserved range and was never used before with any of
        /// these candidates: a segment of an older attempt must not pass for one of this.
        local: Endpoint,
        /// Peer endpoints to try, in this order; normally just the peer's current wire endpoint.
        candidates: Vec<Endpoint>,
        /// The kernel's socket now.
        tcp: TcpSnapshot,
        /// Fresh random bits; they jitter the retransmissions.
        random: u64,
    },
    /// The user or a mobility server names a destination.
    MigrateCommand {
        /// Where to send from; see [`Event::AddressUsable`].
        local: Endpoint,
        /// Where the peer is said to be.
        peer: Endpoint,
        /// The peer is told the same at this moment. The first MSYN only opens the way through our own NAPT, and need not
        /// get far; the next follows soon.
        crossing: bool,
        /// The kernel's socket now.
        tcp: TcpSnapshot,
        /// Fresh random bits; they jitter the retransmissions.
        random: u64,
    },
    /// A mobility server names a symmetric proxy that waits for both ends. It is no place of the peer: other attempts
    /// do not go there.
    RelayNamed {
        /// Where to send from; see [`Event::AddressUsable`].
        local: Endpoint,
        /// The proxy's endpoint for this end.
        proxy: Endpoint,
        /// The kernel's socket now.
        tcp: TcpSnapshot,
        /// Fresh random bits; they jitter the retransmissions.
        random: u64,
    },
    /// A genuine MSYN has arrived.
    MsynHeard {
        /// Its source, as observed.
        from: Endpoint,
        /// Its destination: a local endpoint.
        to: Endpoint,
        /// The peer's attempt.
        req_no: ReqNo,
        /// The number whose token it carries: the peer knows that both ends have committed this.
        token_of: ReqNo,
        /// Its sequence number: the peer's SND.NXT - 1.
        seq: u32,
        /// The peer's RCV.NXT.
        rcv_nxt: u32,
        /// The kernel's socket now.
        tcp: TcpSnapshot,
    },
    /// A genuine MSYN-ACK has arrived.
    MsynAckHeard {
        /// Its source, as observed.
        from: Endpoint,
        /// Its destination: a local endpoint.
        to: Endpoint,
        /// Our attempt, which it answers.
        req_no: ReqNo,
        /// Its sequence number: the peer's SND.NXT - 1.
        seq: u32,
        /// Its acknowledgement number: our MSYN's sequence number + 1.
        ack: u32,
        /// The peer's RCV.NXT.
        rcv_nxt: u32,
    },
    /// A genuine MSYN-ACK of a symmetric proxy has arrived: the proxy knows both ends' MSYNs, and from now on passes
    /// what either sends to the other. It stands for an MSYN of the peer that this end has answered already.
    RelayAnswered {
        /// The proxy's endpoint.
        from: Endpoint,
        /// Its destination: a local endpoint.
        to: Endpoint,
        /// The peer's attempt.
        req_no: ReqNo,
        /// The sequence number of the peer's MSYN.
        seq: u32,
        /// Its acknowledgement number: our MSYN's sequence number + 1.
        ack: u32,
    },
    /// A genuine Migrate-Ack has come through a symmetric proxy that the datapath was not told to commit by: the peer has
    /// knocked there from elsewhere, or answers that we have.
    RelayedAckHeard {
        /// The proxy's endpoint.
        from: Endpoint,
        /// Its destination: a local endpoint.
        to: Endpoint,
        /// The attempt: the peer's own, or ours that it answers.
        req_no: ReqNo,
        /// Its sequence number.
        seq: u32,
        /// Its acknowledgement number.
        ack: u32,
        /// The kernel's socket now.
        tcp: TcpSnapshot,
    },
    /// The datapath has accepted a Migrate-Ack; also when it repeats one of the attempt that is the wire tuple
    /// already, which means that the peer has not heard us there yet.
    Committed {
        /// The peer's attempt.
        req_no: ReqNo,
        /// Where the Migrate-Ack arrived: the wire tuple, unless a higher number is committed.
        wire: Tuple,
    },
    /// An ordinary segment of the peer has arrived on the tuple that this attempt has made the wire tuple.
    /// The datapath may tell only the first one of each attempt.
    PeerSegmentOn {
        /// The attempt.
        req_no: ReqNo,
    },
    /// A SYN-ACK without our option has answered an MSYN: somebody else listens there.
    StrangeSynAck {
        /// Its source.
        from: Endpoint,
        /// Its destination: a local endpoint.
        to: Endpoint,
        /// Its acknowledgement number; only who saw our MSYN knows it.
        ack: u32,
    },
    /// The kernel's retransmission timer ran out. Told every time, at least while the connection is not Suspect:
    /// a late segment can end a suspicion that the next timeout has to raise again.
    RetransmissionTimeout,
    /// A keepalive, a heartbeat or a window probe was not answered.
    ProbeUnanswered,
    /// The peer has acknowledged something new or sent something new.
    Progress,
    /// The datapath holds a plain RST on the wire tuple.
    ResetHeard {
        /// Whether its sequence number is exactly RCV.NXT.
        exact: bool,
    },
    /// The peer's agent has answered [`Action::AskPeerAboutReset`](crate::Action::AskPeerAboutReset).
    ResetAnswer(ResetAnswer),
    /// An authenticated Migrate-Reset has arrived.
    MigrateResetHeard,
    /// The kernel's socket has changed its state.
    LocalClose {
        /// The new state.
        tcp_state: TcpState,
        /// Whether the kernel sends an RST.
        reset: bool,
    },
    /// The connection's keys are lost: nothing can be proved any more.
    KeysGone,
    /// The time of the last [`Action::WakeAt`](crate::Action::WakeAt) has come. Too early or twice does no harm.
    TimerFired,
}
