//! The pair exchange: TLS, Hello, Welcome, a Confirm each way.
//!
//! [`dial`] and [`accept`] run over any stream: a TCP connection to the agent port, or a tunnel through a mobility
//! server that cannot read it. Both return a confirmed [`Pair`] and the [`Channel`] it was agreed on, or the one
//! reason why not; all of it within one limit of time.
//!
//! The order of confirming: the dialer sends its Confirm once it has checked the Welcome; the acceptor may use the
//! epoch when that has arrived, and confirms in turn; the dialer uses it when *that* has arrived. A dialer whose last
//! message is lost gets an error and dials again: the acceptor's number is then higher, so that both agree anew.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use uuid::Uuid;
use wire::Endpoint;
use wire::keys::PairKey;
use wire::tuple::UNSPECIFIED;
use zeroize::Zeroizing;

use crate::channel::Channel;
use crate::error::{ExchangeError, Stage};
use crate::message::convert::is_url;
use crate::message::{Facts, Frame, MAX_ADDRESSES, MAX_SERVERS, PROTOCOL_VERSION};
use crate::pair::{Abilities, Known, Pair, Role, SleepHint};
use crate::transcript::{Party, Transcript, new_pair_id};
use crate::trust::{ALPN, Credentials};
use crate::verify::{CertificateFacts, Verifier};

/// How long an exchange may take unless the caller says otherwise.
pub const DEFAULT_LIMIT: Duration = Duration::from_secs(5);

/// The label under which TLS exports the pair key.
const EXPORTER: &[u8] = b"EXPORTER-mobility-suite-pair-v1";

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
    let clock = Clock {
        deadline: Instant::now() + limit,
        limit,
    };
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
    let clock = Clock {
        deadline: Instant::now() + limit,
        limit,
    };
    let (config, verifier) = credentials.server().map_err(tls_setup)?;
    let handshake = TlsAcceptor::from(Arc::new(config)).accept(stream);
    let tls = clock.within(Stage::Tls, handshake).await?;
    let tls = tls.map_err(|error| ExchangeError::from_io(Stage::Tls, error, Some(&verifier)))?;
    let mut talk = Talk::begin(tls.into(), &verifier, credentials, local, clock, Role::Acceptor)?;
    let outcome = talk.as_acceptor().await;
    talk.end(outcome).await
}

fn tls_setup(error: rustls::Error) -> ExchangeError {
    ExchangeError::Tls {
        stage: Stage::Tls,
        detail: error.to_string(),
    }
}

/// The one limit of an exchange.
#[derive(Clone, Copy)]
struct Clock {
    deadline: Instant,
    limit: Duration,
}

impl Clock {
    async fn within<F: Future>(&self, stage: Stage, future: F) -> Result<F::Output, ExchangeError> {
        let silent = |_| ExchangeError::Silent {
            stage,
            limit: self.limit,
        };
        timeout_at(self.deadline, future).await.map_err(silent)
    }
}

/// An exchange after its TLS handshake.
struct Talk<'a, S> {
    channel: Channel<S>,
    credentials: &'a Credentials,
    peer: CertificateFacts,
    peer_agent: crate::AgentId,
    local: &'a Local,
    key: PairKey,
    clock: Clock,
    role: Role,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Talk<'a, S> {
    fn begin(
        tls: TlsStream<S>,
        verifier: &Verifier,
        credentials: &'a Credentials,
        local: &'a Local,
        clock: Clock,
        role: Role,
    ) -> Result<Self, ExchangeError> {
        let channel = Channel::new(tls);
        let (_, session) = channel.tls().get_ref();
        if session.alpn_protocol() != Some(ALPN) {
            let detail = "it does not name the protocol of the pair exchange".into();
            return Err(ExchangeError::IncompatibleTls { detail });
        }
        let Some(Ok(peer)) = verifier.outcome().cloned() else {
            return Err(ExchangeError::NoCertificate);
        };
        let Some(peer_agent) = peer.agent.clone() else {
            return Err(ExchangeError::NoCertificate);
        };
        let mut key = Zeroizing::new([0; 32]);
        let exported = match channel.tls() {
            TlsStream::Client(stream) => stream
                .get_ref()
                .1
                .export_keying_material(&mut key[..], EXPORTER, Some(&[]))
                .map(|_| ()),
            TlsStream::Server(stream) => stream
                .get_ref()
                .1
                .export_keying_material(&mut key[..], EXPORTER, Some(&[]))
                .map(|_| ()),
        };
        exported.map_err(tls_setup)?;
        let key = PairKey::new(*key);
        Ok(Self {
            channel,
            credentials,
            peer,
            peer_agent,
            local,
            key,
            clock,
            role,
        })
    }

    async fn as_dialer(&mut self) -> Result<Pair, ExchangeError> {
        self.not_myself()?;
        let mine = self.facts(self.lowest_epoch()?);
        let hello = self.send(Stage::Hello, Frame::Hello(mine.clone())).await?;
        let (welcome, frame) = self.recv(Stage::Welcome).await?;
        let Frame::Welcome {
            facts: theirs,
            pair_id,
        } = frame
        else {
            return Err(ExchangeError::Unexpected {
                stage: Stage::Welcome,
            });
        };
        if theirs.epoch < mine.epoch {
            return Err(ExchangeError::Epoch {
                chosen: theirs.epoch,
                lowest: mine.epoch,
            });
        }
        if pair_id != agreed_pair_id(&mine, &theirs) {
            return Err(ExchangeError::PairId);
        }
        let transcript = self.transcript(&hello, &welcome);
        self.send_confirm(&transcript).await?;
        self.recv_confirm(&transcript).await?;
        let epoch = theirs.epoch;
        Ok(self.pair(mine, theirs, pair_id, epoch, &transcript))
    }

    async fn as_acceptor(&mut self) -> Result<Pair, ExchangeError> {
        self.not_myself()?;
        let (hello, frame) = self.recv(Stage::Hello).await?;
        let Frame::Hello(theirs) = frame else {
            return Err(ExchangeError::Unexpected { stage: Stage::Hello });
        };
        let epoch = self.lowest_epoch()?.max(theirs.epoch);
        let mine = self.facts(epoch);
        let pair_id = agreed_pair_id(&theirs, &mine);
        let welcome = self
            .send(
                Stage::Welcome,
                Frame::Welcome {
                    facts: mine.clone(),
                    pair_id,
                },
            )
            .await?;
        let transcript = self.transcript(&hello, &welcome);
        self.recv_confirm(&transcript).await?;
        self.send_confirm(&transcript).await?;
        Ok(self.pair(mine, theirs, pair_id, epoch, &transcript))
    }

    /// Hands out what came of it, or tells the peer why nothing did.
    async fn end(mut self, outcome: Result<Pair, ExchangeError>) -> Result<Session<S>, ExchangeError> {
        let error = match outcome {
            Ok(pair) => {
                return Ok(Session {
                    pair,
                    channel: self.channel,
                });
            }
            Err(error) => error,
        };
        if let Some(reason) = error.refusal() {
            let refuse = self.channel.refuse(Frame::Refuse {
                reason,
                version: PROTOCOL_VERSION,
            });
            // The reason for the end stays the same whether the peer hears it or not.
            let _ = timeout_at(self.clock.deadline, refuse).await;
        }
        Err(error)
    }

    fn not_myself(&self) -> Result<(), ExchangeError> {
        match self.peer_agent == *self.credentials.identity().agent_id() {
            true => Err(ExchangeError::Myself {
                agent: self.peer_agent.clone(),
            }),
            false => Ok(()),
        }
    }

    fn lowest_epoch(&self) -> Result<u32, ExchangeError> {
        let highest = self
            .local
            .known
            .get(&self.peer_agent)
            .map_or(0, |known| known.highest_epoch);
        highest.checked_add(1).ok_or_else(|| ExchangeError::NoEpochLeft {
            agent: self.peer_agent.clone(),
        })
    }

    fn facts(&self, epoch: u32) -> Facts {
        let mut direct_addresses: Vec<_> = self
            .local
            .direct_addresses
            .iter()
            .map(IpAddr::to_canonical)
            .filter(|address| !address.is_unspecified() && !address.is_multicast())
            .collect();
        direct_addresses.truncate(MAX_ADDRESSES);
        Facts {
            agent_port: self.local.agent_port,
            direct_addresses,
            observed: self.local.peer_observed,
            servers: self
                .local
                .servers
                .iter()
                .filter(|url| is_url(url))
                .take(MAX_SERVERS)
                .cloned()
                .collect(),
            abilities: self.local.abilities,
            random: rand::random(),
            epoch,
            known_pair_id: self.local.known.get(&self.peer_agent).map(|known| known.pair_id),
            sleep: self.local.sleep,
        }
    }

    async fn send(&mut self, stage: Stage, frame: Frame) -> Result<bytes::Bytes, ExchangeError> {
        let sent = self.clock.within(stage, self.channel.send_frame(frame)).await?;
        sent.map_err(|error| ExchangeError::from_channel(stage, error))
    }

    async fn recv(&mut self, stage: Stage) -> Result<(bytes::Bytes, Frame), ExchangeError> {
        let received = match self.clock.within(stage, self.channel.recv_body()).await {
            Ok(received) => received,
            // Time is up: half a message is another finding than none.
            Err(silent) => match self.channel.half() {
                half @ crate::ChannelError::HalfMessage { .. } => Err(half),
                _ => return Err(silent),
            },
        };
        let body = received.map_err(|error| ExchangeError::from_channel(stage, error))?;
        match Frame::decode(&body).map_err(|error| ExchangeError::from_message(stage, error))? {
            Frame::Refuse {
                reason: crate::message::RefuseReason::Version,
                version,
            } => Err(ExchangeError::Version { theirs: version }),
            Frame::Refuse { reason, .. } => Err(ExchangeError::Refused { reason }),
            frame => Ok((body, frame)),
        }
    }

    fn transcript(&self, hello: &[u8], welcome: &[u8]) -> Transcript {
        let own = self.credentials.identity();
        let fingerprint = own.fingerprint();
        let me = Party {
            agent: own.agent_id(),
            key: &fingerprint,
        };
        let peer = Party {
            agent: &self.peer_agent,
            key: &self.peer.fingerprint,
        };
        match self.role {
            Role::Dialer => Transcript::new(&me, &peer, hello, welcome),
            Role::Acceptor => Transcript::new(&peer, &me, hello, welcome),
        }
    }

    async fn send_confirm(&mut self, transcript: &Transcript) -> Result<(), ExchangeError> {
        let mac = transcript.confirmation(&self.key, self.role);
        self.send(Stage::Confirm, Frame::Confirm { mac })
            .await
            .map(|_| ())
    }

    async fn recv_confirm(&mut self, transcript: &Transcript) -> Result<(), ExchangeError> {
        let (_, frame) = self.recv(Stage::Confirm).await?;
        let Frame::Confirm { mac } = frame else {
            return Err(ExchangeError::Unexpected {
                stage: Stage::Confirm,
            });
        };
        let peer = match self.role {
            Role::Dialer => Role::Acceptor,
            Role::Acceptor => Role::Dialer,
        };
        match transcript.is_confirmed_by(&self.key, peer, &mac) {
            true => Ok(()),
            false => Err(ExchangeError::Confirmation),
        }
    }

    fn pair(&self, mine: Facts, theirs: Facts, pair_id: Uuid, epoch: u32, transcript: &Transcript) -> Pair {
        let (dialer_servers, acceptor_servers) = match self.role {
            Role::Dialer => (&mine.servers, &theirs.servers),
            Role::Acceptor => (&theirs.servers, &mine.servers),
        };
        let common_servers = common(dialer_servers, acceptor_servers);
        let i_am_smaller = *self.credentials.identity().agent_id() < self.peer_agent;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Pair {
            pair_id,
            exchange_id: transcript.exchange_id(),
            peer: self.peer_agent.clone(),
            peer_name: self.peer.name.clone(),
            peer_fingerprint: self.peer.fingerprint,
            key: self.key.clone(),
            epoch,
            peer_agent_port: theirs.agent_port,
            peer_observed: mine.observed.unwrap_or(UNSPECIFIED),
            self_observed: theirs.observed.unwrap_or(UNSPECIFIED),
            peer_behind_napt: behind_napt(mine.observed, &theirs.direct_addresses),
            self_behind_napt: behind_napt(theirs.observed, &mine.direct_addresses),
            peer_direct_addresses: theirs.direct_addresses,
            no_common_server: common_servers.is_empty(),
            common_servers,
            abilities: mine.abilities.common(theirs.abilities),
            peer_sleep: theirs.sleep,
            established_by: self.role,
            dialled_by_smaller: i_am_smaller == (self.role == Role::Dialer),
            established_at: UNIX_EPOCH + Duration::from_secs(now.as_secs()),
        }
    }
}

/// The old pair ID when both still know it, otherwise a new one.
fn agreed_pair_id(dialer: &Facts, acceptor: &Facts) -> Uuid {
    match (dialer.known_pair_id, acceptor.known_pair_id) {
        (Some(one), Some(other)) if one == other => one,
        _ => new_pair_id(
            (&dialer.direct_addresses, &dialer.random),
            (&acceptor.direct_addresses, &acceptor.random),
        ),
    }
}

/// A host is behind a NAPT when it is seen under an address that it does not have. Not seen: no finding.
fn behind_napt(observed: Option<Endpoint>, direct: &[IpAddr]) -> bool {
    observed.is_some_and(|seen| !seen.address.is_unspecified() && !direct.contains(&seen.address))
}

/// The servers in both lists, in the dialer's order; a slash at the end makes no difference.
fn common(dialer: &[String], acceptor: &[String]) -> Vec<String> {
    let plain = |url: &str| url.trim_end_matches('/').to_ascii_lowercase();
    let mut seen = Vec::new();
    let mut both = Vec::new();
    for url in dialer {
        let plain_url = plain(url);
        if acceptor.iter().any(|other| plain(other) == plain_url) && !seen.contains(&plain_url) {
            seen.push(plain_url);
            both.push(url.clone());
        }
    }
    both
}
