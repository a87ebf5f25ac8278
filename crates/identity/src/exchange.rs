//! The pair exchange: TLS, Hello, Welcome, a Confirm each way.
//!
//! [`dial`] and [`accept`] run over any stream: a TCP connection to the agent port, or a tunnel through a mobility
//! server that cannot read it. Both return a confirmed [`Pair`] and the [`Channel`] it was agreed on, or the one
//! reason why not; all of it within one limit of time.
//!
//! Set TCP_NODELAY on a TCP stream first, at the dialer above all: its Hello follows its last TLS flight at once, and
//! Nagle's algorithm would hold it back for the other's delayed acknowledgement (44 ms instead of 0.6 ms on loopback).
//!
//! The order of confirming: the dialer sends its Confirm once it has checked the Welcome; the acceptor may use the
//! epoch when that has arrived, and confirms in turn; the dialer uses it when *that* has arrived. A dialer whose last
//! message is lost gets an error and dials again: the acceptor's number is then higher, so that both agree anew.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wire::Endpoint;
use wire::tuple::UNSPECIFIED;

use crate::channel::Channel;
use crate::error::{ExchangeError, Stage};
use crate::pair::{Abilities, Known, Pair, Role, SleepHint};
use crate::talk::{Clock, Talk, tls_setup};
use crate::trust::Credentials;

/// How long an exchange may take unless the caller says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(5);

/// What this side tells the other.
#[derive(Debug, Clone)]
pub struct Local {
    /// The TCP port of this agent; 0: it accepts no exchanges.
    pub agent_port: u16,
    /// All addresses of this host; the first 64 are told.
    pub direct_addresses: Vec<IpAddr>,
    /// Where this side sees the peer on this stream; `None` when a tunnel hides it.
    pub peer_observed: Option<Endpoint>,
    /// URLs of the mobility servers that this agent may use, best first; 16 at most, others are left out.
    pub servers: Vec<String>,
    /// What this agent can do.
    pub abilities: Abilities,
    /// Whether this host may sleep.
    pub sleep: SleepHint,
    /// What is remembered of earlier exchanges; see [`crate::PairStore::known`].
    pub known: Known,
}

/// A finished exchange.
#[derive(Debug)]
pub struct Session<S> {
    /// What was agreed.
    pub pair: Pair,
    /// The session it was agreed on, for further messages; may be dropped or closed.
    pub channel: Channel<S>,
}

/// Runs the exchange as the side that opened `stream`.
///
/// # Units
/// `limit`: from the call to the result, everything included.
/// # Errors
/// The peer is no agent, not trusted, silent, or breaks the protocol; the stream fails.
/// # Source
/// docs/protocol.md, pair exchange; Shimizu 2002, 3.1.3.
pub async fn dial<S>(
    stream: S,
    credentials: &Credentials,
    local: &Local,
    limit: Duration,
) -> Result<Session<S>, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let clock = Clock::start(limit);
    let (config, verifier) = credentials.client().map_err(tls_setup)?;
    let name = ServerName::from(UNSPECIFIED.address);
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let tls = clock.within(Stage::Tls, handshake).await?;
    let tls = tls.map_err(|error| ExchangeError::from_io(Stage::Tls, error, Some(&verifier)))?;
    let mut talk = Talk::begin(tls.into(), &verifier, credentials, local, clock, Role::Dialer)?;
    let outcome = talk.as_dialer().await;
    talk.end(outcome).await
}

/// Runs the exchange as the side that accepted `stream`.
///
/// # Units
/// `limit`: from the call to the result, everything included.
/// # Errors
/// As [`dial`].
/// # Source
/// docs/protocol.md, pair exchange; Shimizu 2002, 3.1.3.
pub async fn accept<S>(
    stream: S,
    credentials: &Credentials,
    local: &Local,
    limit: Duration,
) -> Result<Session<S>, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let clock = Clock::start(limit);
    let (config, verifier) = credentials.server().map_err(tls_setup)?;
    let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let tls = clock.within(Stage::Tls, handshake).await?;
    let tls = tls.map_err(|error| ExchangeError::from_io(Stage::Tls, error, Some(&verifier)))?;
    let mut talk = Talk::begin(tls.into(), &verifier, credentials, local, clock, Role::Acceptor)?;
    let outcome = talk.as_acceptor().await;
    talk.end(outcome).await
}
