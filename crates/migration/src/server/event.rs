//! What a server hears of a pair, and what it does about it.

use std::net::IpAddr;

use wire::Endpoint;

use super::findings::Finding;
use super::report::{AgentName, BadReport, Mapping, PairId, Report};

/// Something that has happened. `agent` is always the name in the certificate of who says it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerEvent {
    /// A report has come.
    ReportHeard {
        /// Who says it.
        agent: AgentName,
        /// What it says.
        report: Report,
        /// The local endpoint of the stream as the agent knows it.
        local: Endpoint,
        /// The source of the stream as the server sees it.
        observed: Endpoint,
    },
    /// A report is not needed any more.
    WithdrawHeard {
        /// Who says it.
        agent: AgentName,
        /// Which report.
        move_counter: u64,
        /// Why.
        reason: WithdrawReason,
        /// The last decision that the agent had heard for it; 0: none.
        decision: u64,
    },
    /// What was decided did not work.
    TryFailed {
        /// Who says it.
        agent: AgentName,
        /// Which decision.
        decision: u64,
        /// What happened.
        cause: FailureCause,
        /// Labels of the connections that it concerns; empty: all.
        labels: Vec<u64>,
    },
    /// An end of the pair has an open stream.
    PeerPresent {
        /// Which end.
        agent: AgentName,
        /// The local endpoint of the stream as the agent knows it.
        local: Endpoint,
        /// The source of the stream as the server sees it.
        observed: Endpoint,
    },
    /// An end's stream has ended.
    PeerGone {
        /// Which end.
        agent: AgentName,
        /// The source that the stream had: another one may have taken its place.
        observed: Endpoint,
    },
    /// An inbound probe has ended.
    Reachability {
        /// Whose address was probed.
        agent: AgentName,
        /// The address.
        address: IpAddr,
        /// Whether a connection could be made to it.
        reachable: bool,
    },
    /// The proxy has answered [`ServerAction::AskProxy`].
    ProxyAnswered {
        /// The decision it was asked for.
        decision: u64,
        /// What it has granted; empty: no proxy is available.
        grants: Vec<ProxyGrant>,
    },
    /// The proxy through which the pair's connections go wants to be rid of them.
    RelayLeaving {
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// The time of [`PairRecord::next_timeout`](super::PairRecord::next_timeout) has come.
    TimerFired,
}

/// Why a report is withdrawn.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum WithdrawReason {
    /// The connections were resumed, by whatever path.
    Resumed,
    /// The agent has given them up.
    GivenUp,
    /// They were closed.
    Closed,
}

/// Why a try has failed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureCause {
    /// Nobody answered.
    NoAnswer,
    /// Somebody else answered.
    Stranger,
    /// The agent does not send to such an address.
    RefusedAddress,
}

/// One relayed connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyGrant {
    /// The connection's label.
    pub label: u64,
    /// Where each end sends to, in the order of the record's ends.
    pub legs: [Endpoint; 2],
    /// Names the lease at the proxy.
    pub lease: [u8; 16],
}

/// Something the server must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerAction {
    /// Push a destination to an agent, if it has a stream.
    Tell {
        /// To whom.
        agent: AgentName,
        /// What.
        destination: Box<Destination>,
    },
    /// Tell an agent that its report is stored and nothing can be done yet.
    TellWaiting {
        /// To whom.
        agent: AgentName,
        /// What.
        waiting: Waiting,
    },
    /// Tell an agent that a decision no longer holds.
    Cancel {
        /// To whom.
        agent: AgentName,
        /// Which, and every one before it.
        decision: u64,
        /// Whether the agent's report is forgotten too: the peer says that everything is resumed, or the report has
        /// expired. An agent that still waits reports anew.
        forgotten: bool,
    },
    /// See whether the agent's port can be reached from outside; the answer is [`ServerEvent::Reachability`].
    ProbeReachability {
        /// Whose.
        agent: AgentName,
        /// At which address; it is one the server has observed this agent at.
        address: IpAddr,
    },
    /// Ask a symmetric proxy for ports; the answer is [`ServerEvent::ProxyAnswered`]. Without a proxy it is given
    /// at once, with no grants.
    AskProxy {
        /// For which decision.
        decision: u64,
        /// Labels of the connections.
        labels: Vec<u64>,
        /// From where each end's MSYN will come, in the order of the record's ends.
        from: [IpAddr; 2],
        /// Addresses of proxies that are not to be asked: nothing came about there.
        avoid: Vec<IpAddr>,
    },
    /// Every try was made; both ends wait. For the log and a counter.
    NoWay,
    /// Drop the record.
    Forget,
    /// Answer an agent that what it said is not done.
    Refuse {
        /// Whom.
        agent: AgentName,
        /// Why.
        reason: ServerRefusal,
    },
}

/// What to do, in order.
pub type ServerActions = Vec<ServerAction>;

/// Why an agent's message changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ServerRefusal {
    /// The report cannot be true.
    #[error("{0}")]
    Bad(#[from] BadReport),
    /// A later report, or its withdrawal, was heard before.
    #[error("report {got} is older than {newest}")]
    Stale {
        /// Its counter.
        got: u64,
        /// The highest counter heard.
        newest: u64,
    },
    /// The record is not of this agent. Says nothing about whether there is such a pair.
    #[error("not a pair of this agent")]
    NotYours,
}

/// What a destination asks its receiver to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DestinationAction {
    /// Send MSYNs to the peer.
    SendMsyn,
    /// The peer sends: wait for its MSYNs.
    AwaitMsyn,
    /// Both send at once.
    Simultaneous,
    /// Send MSYNs to the proxy.
    Proxy,
    /// Both are behind one NAPT: try the sealed private candidates.
    SameNapt,
    /// Send what opens the own NAPT and does not reach the peer; the peer sends MSYNs.
    Open,
}

/// The mobility destination (3.1.5 of the source).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The pair.
    pub pair: PairId,
    /// The receiver's report that it answers; 0: it has not reported, it is only present.
    pub move_counter: u64,
    /// Numbers the decision; what fails or is withdrawn names it.
    pub decision: u64,
    /// What to do.
    pub action: DestinationAction,
    /// Where the peer is now, or the proxy.
    pub peer_address: IpAddr,
    /// For each connection, from which port and to which.
    pub connections: Vec<ConnectionDestination>,
    /// What the peer has sealed for the receiver.
    pub sealed: Vec<u8>,
    /// Where the server observed the receiver.
    pub observed: Endpoint,
    /// What was found out about either end.
    pub self_before: Finding,
    /// The receiver now.
    pub self_after: Finding,
    /// The peer before the move.
    pub peer_before: Finding,
    /// The peer now.
    pub peer_after: Finding,
    /// The NAPT in front of the peer.
    pub peer_mapping: Mapping,
}

/// One connection of a [`Destination`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionDestination {
    /// The receiver's port before the move.
    pub source_before: u16,
    /// The receiver's port after the move; 0: unchanged.
    pub source_after: u16,
    /// Where to send: the peer's port or the proxy's.
    pub destination: u16,
    /// The connection's label; 0: none.
    pub label: u64,
    /// At a proxy: the lease, from which the receiver's leg key follows.
    pub lease: Option<[u8; 16]>,
    /// What the peer had committed when it reported; none: it has not named this connection.
    pub peer_req_no: Option<u32>,
}

/// A report is stored and its peer has not been matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waiting {
    /// The pair.
    pub pair: PairId,
    /// The report.
    pub move_counter: u64,
    /// Where the server observed its agent.
    pub observed: Endpoint,
    /// What was found out about it.
    pub self_after: Finding,
    /// Whether the peer has an open stream.
    pub peer_present: bool,
}
