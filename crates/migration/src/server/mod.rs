//! The mobility server's rules, as a pure function: [`step`] takes what is stored of a pair, a [`ServerEvent`] and the
//! time, and gives what to store and the [`ServerAction`]s. No IO, no clock, no randomness, no wire format.
//!
//! # One match
//! 1. An agent has moved, or waits behind a NAPT: [`ServerEvent::ReportHeard`]. What it says is checked
//!    ([`Report::check`]) and kept; when its address may be reachable, a probe is asked for. It is told to wait.
//! 2. The peer reports too, or is only present on an open stream: both [standings](findings) are known, as far as they
//!    can be. [`plan`](plan::plan) lists the tries that make sense, best first, and the first one becomes the
//!    [`Decision`] in force. **Both** ends are told: one to send and the other to await, or both to send.
//! 3. It works: an end says so ([`ServerEvent::WithdrawHeard`]), both reports are forgotten, the peer's decision is
//!    cancelled. It does not ([`ServerEvent::TryFailed`], a probe, or silence): the next try of the plan is decided.
//!    After the last one both wait; a new report begins anew, and so does some time.
//! 4. Reports expire; a record without anything in it is forgotten, after a while in which it refuses reports that come
//!    late.
//!
//! # While a proxy relays
//! - An end that is relayed and moves says so ([`Relayed::Moves`]): its MSYNs go to the proxy's port as before, and the
//!   relay goes on. Only when it can be reached from outside the other end is told to send, and the lease lives until
//!   that has worked; otherwise both wait a moment ([`Try::Relay`]), and then another proxy is asked.
//! - Ends whose connections work through a proxy report that too ([`Relayed::Works`]): whenever one of the two says
//!   something new about itself, and now and then, direct paths are tried beside the relay, which disturbs nothing.
//! - A proxy that is drained has to be left ([`ServerEvent::RelayLeaving`]): another one is asked.
//!
//! # Who belongs to whom
//! A record is stored under its [`PairKey`]: the pair ID **and** both agents' names, as their certificates say them. An
//! agent that names another peer, or guesses a pair ID, gets a record of its own, which nobody else ever reports to:
//! it hears the same "wait" as everybody whose peer has not moved. No address takes part in that, so both ends may
//! own 192.168.1.2, before and after. The address comparisons of the source (3.1.2) only find NAPTs and proxies.
//!
//! # What never matches
//! - A report with a counter that is not above the highest that was withdrawn ([`ServerRefusal::Stale`]).
//! - A report that took part in a resumption, against a later move of the peer: the withdrawal of one end takes the
//!   matched report of the other with it. A withdrawal that crosses a newer decision is void (the peer has moved
//!   again), and its sender hears that decision.
//!
//! # What the driver promises
//! - `agent` in an event is the name in the certificate of the stream, never what a message says.
//! - One record is stepped by one server at a time (compare and swap on the stored record), and `now` is one clock for
//!   all servers of a store: time since the Unix epoch.
//! - It calls with [`ServerEvent::TimerFired`] at [`PairRecord::next_timeout`], or later.
//! - A [`ServerAction::Tell`] that cannot be delivered is dropped: [`ServerEvent::PeerPresent`] tells again.

mod event;
pub mod findings;
pub mod plan;
pub mod ports;
mod record;
mod report;
mod rules;
mod step;
mod tell;

pub use event::{
    ConnectionDestination, Destination, DestinationAction, FailureCause, ProxyGrant, ServerAction,
    ServerActions, ServerEvent, ServerRefusal, Waiting, WithdrawReason,
};
pub use findings::{Finding, Position, Standing};
pub use plan::{Meanwhile, Try};
pub use record::{Decision, End, Held, PairRecord, Presence, Reachability, Side};
pub use report::{
    AgentName, BadReport, ConnectionPorts, MAX_CONNECTIONS, MAX_SEALED, Mapping, MappingBehaviour, PairId,
    PairKey, Relayed, Report,
};
pub use rules::Rules;
pub use step::step;
