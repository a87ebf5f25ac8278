//! One exchange after its TLS handshake: who says what, what is checked, and what it yields.

use std::future::Future;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsStream;
use uuid::Uuid;
use wire::Endpoint;
use wire::keys::PairKey;
use wire::tuple::UNSPECIFIED;
use zeroize::Zeroizing;

use crate::agent_id::AgentId;
use crate::certificate::CertificateFacts;
use crate::channel::{Channel, ChannelError};
use crate::error::{ExchangeError, Stage};
use crate::exchange::{Local, Session};
use crate::message::convert::is_url;
use crate::message::{Facts, Frame, MAX_ADDRESSES, MAX_SERVERS, PROTOCOL_VERSION, RefuseReason};
use crate::pair::{Pair, Role};
use crate::transcript::{Party, Transcript, new_pair_id};
use crate::trust::{ALPN, Credentials};
use crate::verify::Verifier;

/// The label under which TLS exports the pair key.
const EXPORTER: &[u8] = b"EXPORTER-mobility-suite-pair-v1";

/// The one limit of an exchange.
#[derive(Clone, Copy)]
pub(crate) struct Clock {
    deadline: Instant,
    limit: Duration,
}

impl Clock {
    pub fn start(limit: Duration) -> Self {
        /// What no exchange reaches; a limit beyond the range of the clock means the same.
        const LONG: Duration = Duration::from_secs(365 * 24 * 3600);
        Self {
            deadline: Instant::now() + limit.min(LONG),
            limit,
        }
    }

    pub async fn within<F: Future>(&self, stage: Stage, future: F) -> Result<F::Output, ExchangeError> {
        let silent = |_| ExchangeError::Silent {
            stage,
            limit: self.limit,
        };
        timeout_at(self.deadline, future).await.map_err(silent)
    }
}

/// An exchange after its TLS handshake.
pub(crate) struct Talk<'a, S> {
    channel: Channel<S>,
    credentials: &'a Credentials,
    peer: CertificateFacts,
    peer_agent: AgentId,
    local: &'a Local,
    key: PairKey,
    clock: Clock,
    role: Role,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Talk<'a, S> {
    pub fn begin(
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

    pub async fn as_dialer(&mut self) -> Result<Pair, ExchangeError> {
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

    pub async fn as_acceptor(&mut self) -> Result<Pair, ExchangeError> {
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
    pub async fn end(mut self, outcome: Result<Pair, ExchangeError>) -> Result<Session<S>, ExchangeError> {
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

    async fn send(&mut self, stage: Stage, frame: Frame) -> Result<Bytes, ExchangeError> {
        let sent = self.clock.within(stage, self.channel.send_frame(frame)).await?;
        sent.map_err(|error| ExchangeError::from_channel(stage, error))
    }

    async fn recv(&mut self, stage: Stage) -> Result<(Bytes, Frame), ExchangeError> {
        let received = match self.clock.within(stage, self.channel.recv_body()).await {
            Ok(received) => received,
            // Time is up: half a message is another finding than none.
            Err(silent) => match self.channel.half() {
                half @ ChannelError::HalfMessage { .. } => Err(half),
                _ => return Err(silent),
            },
        };
        let body = received.map_err(|error| ExchangeError::from_channel(stage, error))?;
        match Frame::decode(&body).map_err(|error| ExchangeError::from_message(stage, error))? {
            Frame::Refuse {
                reason: RefuseReason::Version,
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

pub(crate) fn tls_setup(error: rustls::Error) -> ExchangeError {
    ExchangeError::Tls {
        stage: Stage::Tls,
        detail: error.to_string(),
    }
}
