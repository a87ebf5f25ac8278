//! Agents: one stream each while their hosts have connections that need the server.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream as Messages, StreamExt};
use identity::{Member, MemberRole};
use migration::server::{AgentName, Finding, PairKey, Relayed, ServerEvent, Waiting};
use prost::Message;
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::server_message::Body as Hears;
use proto::stored::v1::{Note, note};
use session_store::{Notes, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use wire::Endpoint;

use super::held::Held;
use super::{Shared, caller, first};
use crate::config::Config;
use crate::convert;
use crate::registry::{BACKLOG, Said, Stream};
use crate::watch::Caller;

/// Pairs in one Hello, at most.
const MAX_PAIRS: usize = 4096;
/// Paths in one message, at most.
const MAX_PATHS: usize = 1024;

pub(super) struct AgentsService(pub(super) Arc<Shared>);

type Outgoing<T> = Pin<Box<dyn Messages<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl pb::agents_server::Agents for AgentsService {
    type AttendStream = Outgoing<pb::ServerMessage>;
    type TunnelStream = Outgoing<pb::TunnelFrame>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (caller, member) = self.0.member(&request, &[MemberRole::Agent])?;
        let (out, messages) = mpsc::channel(BACKLOG);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let ended = attend(&shared, caller, member, request.into_inner(), out.clone()).await;
            if let Err(status) = ended {
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<pb::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let (_, member) = self.0.member(&request, &[MemberRole::Agent])?;
        let output = super::tunnel::carry(&self.0, &member.uri, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(output))))
    }

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<pb::ObserveResponse>, Status> {
        self.0.member(&request, &[MemberRole::Agent])?;
        let observed = caller(&request)?.observed;
        Ok(Response::new(pb::ObserveResponse {
            observed: Some(convert::endpoint_message(observed)),
            other_ports: self.0.ports.iter().map(|port| u32::from(*port)).collect(),
            unix_milliseconds: unix_milliseconds(),
        }))
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        let (_, member) = self.0.member(&request, &MemberRole::ALL)?;
        let answer = self.0.renew(&member, request.get_ref()).await?;
        Ok(Response::new(answer))
    }

    async fn standing(
        &self,
        request: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        self.0.member(&request, &[MemberRole::Agent])?;
        let answer = self.0.standing(request.into_inner())?;
        Ok(Response::new(answer))
    }
}

/// One stream from Hello to its end.
async fn attend(
    shared: &Arc<Shared>,
    caller: Caller,
    member: Arc<Member>,
    mut incoming: Streaming<pb::AgentMessage>,
    out: mpsc::Sender<Result<pb::ServerMessage, Status>>,
) -> Result<(), Status> {
    let patience = Config::seconds(shared.config.timeouts.handshake);
    let Some(Says::Hello(hello)) = first(&mut incoming, patience).await?.body else {
        return Err(Status::invalid_argument("the first message must be Hello"));
    };
    if hello.version == 0 {
        return Err(Status::failed_precondition("version 0 is none; update the agent"));
    }
    let agent = AgentName(member.uri.clone());
    let said = said(&agent, hello).map_err(|error| Status::invalid_argument(error.0))?;
    let topic = shared.store.subscribe(agent.0.as_bytes()).await;
    let mut notes = topic.map_err(|error| shared.store_failed(&error))?;
    let limit = shared.config.limits.streams;
    let Some(stream) = shared
        .registry
        .enter(member, caller.observed, said, out.clone(), limit)
    else {
        return Err(Status::resource_exhausted("too many streams"));
    };
    shared.counters.count("attended");
    tracing::info!(agent = %stream.agent, observed = %stream.observed, "attends");
    stream.push(convert::server_message(Hears::Hello(pb::ServerHello {
        version: 1,
        observed: Some(convert::endpoint_message(stream.observed)),
        epoch: shared.epoch.to_vec(),
        ping_seconds: Config::seconds(shared.config.timeouts.ping).as_secs().max(1) as u32,
        unix_milliseconds: unix_milliseconds(),
    })));
    let mut talk = Talk {
        shared,
        stream: &stream,
        touched: HashSet::new(),
        held: Held::start(shared, &stream.agent),
    };
    let ended = talk.go(&mut incoming, &mut notes).await;
    shared.registry.leave(&stream);
    talk.gone().await;
    shared.tunnels.unwant(&stream.agent);
    tracing::info!(agent = %stream.agent, observed = %stream.observed, "is gone");
    ended
}

fn unix_milliseconds() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn said(agent: &AgentName, hello: pb::AgentHello) -> Result<Said, convert::Malformed> {
    if hello.pairs.len() > MAX_PAIRS {
        return Err(convert::Malformed("more than 4096 pairs in one Hello"));
    }
    if hello.direct_addresses.len() > 64 {
        return Err(convert::Malformed("more than 64 direct addresses in one Hello"));
    }
    let mut pairs = HashSet::new();
    for presence in &hello.pairs {
        let pair = convert::pair_id(&presence.pair_id)?;
        let peer = AgentName(presence.peer.clone());
        pairs.insert(
            PairKey::new(pair, agent, &peer).ok_or(convert::Malformed("a pair with oneself or nobody"))?,
        );
    }
    let agent_port = u16::try_from(hello.agent_port);
    Ok(Said {
        local: convert::endpoint(hello.local.as_ref())?,
        agent_port: agent_port.map_err(|_| convert::Malformed("a port is below 65536"))?,
        pairs,
    })
}

struct Talk<'a> {
    shared: &'a Arc<Shared>,
    stream: &'a Arc<Stream>,
    /// Pairs whose record may say that this stream is there.
    touched: HashSet<PairKey>,
    /// Writes the sessions of this stream.
    held: Held,
}

impl Talk<'_> {
    async fn go(
        &mut self,
        incoming: &mut Streaming<pb::AgentMessage>,
        notes: &mut Notes,
    ) -> Result<(), Status> {
        self.tell_revoked();
        self.tell_present().await;
        let every = Config::seconds(self.shared.config.timeouts.ping);
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        let mut number = 0;
        let mut unanswered = 0;
        let stream = self.stream.clone();
        loop {
            tokio::select! {
                message = async { stream.room().await; incoming.message().await } => {
                    unanswered = 0;
                    match message? {
                        Some(message) => self.hear(message).await,
                        None => return Ok(()),
                    }
                }
                note = notes.next() => match note {
                    Some(session_store::Note::Said(bytes)) => self.noted(&bytes).await,
                    Some(session_store::Note::Gap) => self.tell_present().await,
                    None => return Err(Status::unavailable("the store is gone")),
                },
                _ = pings.tick() => {
                    if unanswered == 3 {
                        return Err(Status::deadline_exceeded("nothing was heard of the agent"));
                    }
                    unanswered += 1;
                    number += 1;
                    self.stream.push(convert::server_message(Hears::Ping(pb::Ping { number })));
                }
                () = self.stream.stop.cancelled() => {
                    return Err(Status::aborted("another stream has taken the place of this one, or it was not read"));
                }
                () = self.shared.stopping.cancelled() => {
                    let after_milliseconds = rand::random_range(100..1000);
                    self.stream.push(convert::server_message(Hears::GoAway(pb::GoAway { after_milliseconds })));
                    return Err(Status::unavailable("the server stops; connect again"));
                }
            }
        }
    }

    async fn hear(&mut self, message: pb::AgentMessage) {
        let told = match message.body {
            Some(Says::Hello(hello)) => self.hello_again(hello).await,
            Some(Says::Report(report)) => self.report(report).await,
            Some(Says::Withdraw(withdraw)) => self.withdraw(withdraw).await,
            Some(Says::TryFailed(failed)) => self.try_failed(failed).await,
            Some(Says::PairWanted(wanted)) => self.pair_wanted(wanted),
            Some(Says::PairSettled(settled)) => {
                self.shared.tunnels.settle(&self.stream.agent, settled.connection);
                Ok(())
            }
            Some(Says::Sessions(said)) => self.sessions(said),
            Some(Says::PathsLost(lost)) => self.paths_lost(lost),
            // What a newer agent says besides is no reason to part.
            Some(Says::Pong(_)) | None => Ok(()),
        };
        if let Err((reason, pair, text)) = told {
            self.shared.counters.refused(reason);
            let pair = convert::pair_id(&pair).ok();
            self.stream.push(convert::refused_message(reason, pair, text, 0));
        }
    }

    async fn hello_again(&mut self, hello: pb::AgentHello) -> Told {
        self.within_requests(&[])?;
        let said = said(&self.stream.agent, hello).map_err(|error| malformed(&[], &error))?;
        *self.stream.said() = said;
        self.tell_revoked();
        self.tell_present().await;
        Ok(())
    }

    async fn report(&mut self, message: pb::MobilityReport) -> Told {
        let id = message.pair_id.clone();
        let observed = self.stream.observed;
        if !self
            .shared
            .limiter
            .allows_report(&self.stream.agent.0, observed.address)
        {
            return Err(limit(&id));
        }
        let mut report = convert::report(message).map_err(|error| malformed(&id, &error))?;
        if report.relayed == Relayed::Moves && !self.shared.relays.serves(report.destination_before) {
            // Whoever relayed there answers nobody now, or is to be left.
            report.relayed = Relayed::No;
        }
        let peer = report.peer.clone();
        let key = PairKey::new(report.pair, &self.stream.agent, &peer)
            .ok_or_else(|| malformed(&id, &convert::Malformed("a pair with oneself or nobody")))?;
        let keep = report
            .keep
            .unwrap_or(Config::seconds(self.shared.config.timeouts.report));
        let keep = keep.min(Config::seconds(self.shared.config.timeouts.report_max));
        if !self.shared.limiter.allows_pair(&self.stream.agent, &key, keep) {
            return Err(limit(&id));
        }
        self.shared.counters.count("reports");
        if self.shared.members.is_revoked(&peer.0) {
            // As if the peer had not moved: what it may have reported before it was revoked matches nothing.
            let waiting = Waiting {
                pair: report.pair,
                move_counter: report.move_counter,
                observed,
                self_after: Finding::Unknown,
                peer_present: false,
            };
            self.stream.push(convert::waiting_message(waiting));
            self.stream.push(convert::revoked_message(&peer.0));
            return Ok(());
        }
        if report.relayed == Relayed::Works {
            for ports in &report.connections {
                let at = Endpoint::new(report.destination_before, ports.destination_before);
                self.shared.relays.release_before(&key.pair.0, ports.label, at);
            }
        }
        self.stream.said().pairs.insert(key.clone());
        self.touched.insert(key.clone());
        tracing::info!(
            pair = %key.pair, agent = %self.stream.agent, counter = report.move_counter,
            connections = report.connections.len(), relayed = ?report.relayed, "report"
        );
        let event = ServerEvent::ReportHeard {
            agent: self.stream.agent.clone(),
            report,
            local: self.stream.said().local,
            observed,
        };
        let done = self.shared.pairs.report(&key, event, &peer).await;
        done.map_err(|error| self.unavailable(&id, &error))
    }

    async fn withdraw(&mut self, message: pb::Withdraw) -> Told {
        let Some(key) = self.key(&message.pair_id)? else {
            return Ok(());
        };
        self.shared.limiter.frees_pair(&self.stream.agent, &key);
        self.shared.counters.count("withdrawals");
        let event = ServerEvent::WithdrawHeard {
            agent: self.stream.agent.clone(),
            move_counter: message.move_counter,
            reason: convert::withdraw_reason(message.reason()),
            decision: message.decision,
        };
        if message.direct {
            self.shared.relays.release_all(&key.pair.0);
        }
        let done = self.shared.pairs.apply(&key, event, true).await;
        done.map_err(|error| self.unavailable(&message.pair_id, &error))
    }

    async fn try_failed(&mut self, message: pb::TryFailed) -> Told {
        self.shared.counters.count("tries_failed");
        let Some(key) = self.key(&message.pair_id)? else {
            return Ok(());
        };
        let cause = convert::failure_cause(message.cause());
        let event = ServerEvent::TryFailed {
            agent: self.stream.agent.clone(),
            decision: message.decision,
            cause,
            labels: message.labels,
        };
        let done = self.shared.pairs.apply(&key, event, true).await;
        done.map_err(|error| self.unavailable(&message.pair_id, &error))
    }

    fn pair_wanted(&mut self, message: pb::PairWanted) -> Told {
        self.within_requests(&[])?;
        let local = convert::endpoint(message.local.as_ref()).map_err(|error| malformed(&[], &error))?;
        let remote = convert::endpoint(message.remote.as_ref()).map_err(|error| malformed(&[], &error))?;
        let limit_each = self.shared.config.limits.tunnels;
        match self
            .shared
            .tunnels
            .want(self.stream, local, remote, message.connection, limit_each)
        {
            true => Ok(()),
            false => Err(limit(&[])),
        }
    }

    fn sessions(&mut self, message: pb::SessionsHeld) -> Told {
        self.within_requests(&[])?;
        self.held.hear(message).map_err(|error| malformed(&[], &error))
    }

    fn paths_lost(&mut self, message: pb::PathsLost) -> Told {
        self.within_requests(&[])?;
        if message.paths.len() > MAX_PATHS {
            return Err(malformed(
                &[],
                &convert::Malformed("more than 1024 paths in one message"),
            ));
        }
        self.shared.counters.count("paths_lost");
        self.shared.relays.tell_of_lost_paths(&pb::LostPathsOf {
            agent: self.stream.agent.0.clone(),
            observed: Some(convert::endpoint_message(self.stream.observed)),
            paths: message.paths,
        });
        Ok(())
    }

    /// The pair that this stream has named; the same silence for every other.
    fn key(&self, pair_id: &[u8]) -> Result<Option<PairKey>, Refusal> {
        self.within_requests(pair_id)?;
        let pair = convert::pair_id(pair_id).map_err(|error| malformed(pair_id, &error))?;
        let said = self.stream.said();
        Ok(said.pairs.iter().find(|key| key.pair == pair).cloned())
    }

    fn within_requests(&self, pair: &[u8]) -> Told {
        match self.shared.limiter.allows_request(&self.stream.agent.0) {
            true => Ok(()),
            false => Err(limit(pair)),
        }
    }

    /// The peers that this stream has named and that were revoked.
    fn tell_revoked(&self) {
        let said = self.stream.said();
        let peers: HashSet<&AgentName> = said.pairs.iter().flat_map(|key| &key.names).collect();
        for peer in peers {
            if self.shared.members.is_revoked(&peer.0) {
                self.stream.push(convert::revoked_message(&peer.0));
            }
        }
    }

    /// To every stored pair of this stream: its agent is here, and hears what was decided meanwhile.
    async fn tell_present(&mut self) {
        let pairs: Vec<PairKey> = self.stream.said().pairs.iter().cloned().collect();
        for key in pairs {
            self.touched.insert(key.clone());
            if let Err(error) = self.shared.pairs.apply(&key, self.stream.presence(), true).await {
                self.unavailable(&key.pair.0, &error);
            }
        }
    }

    async fn noted(&mut self, bytes: &[u8]) {
        let Ok(note) = Note::decode(bytes) else { return };
        if note.instance == self.shared.pairs.instance() {
            return;
        }
        match note.body {
            Some(note::Body::Touched(touched)) => {
                let (first, second) = (AgentName(touched.first), AgentName(touched.second));
                let pair = convert::pair_id(&touched.pair_id).ok();
                let key = pair.and_then(|pair| PairKey::new(pair, &first, &second));
                let Some(key) = key.filter(|key| key.names.contains(&self.stream.agent)) else {
                    return;
                };
                self.touched.insert(key.clone());
                if let Err(error) = self.shared.pairs.touched(&self.stream.agent, &key).await {
                    self.unavailable(&key.pair.0, &error);
                }
            }
            Some(note::Body::Message(bytes)) => {
                if let Ok(message) = pb::ServerMessage::decode(&bytes[..]) {
                    self.stream.push(message);
                }
            }
            Some(note::Body::Revoked(_)) => self.shared.look_for_revocations().await,
            None => {}
        }
    }

    /// The stream has ended.
    async fn gone(&self) {
        for key in &self.touched {
            let event = ServerEvent::PeerGone {
                agent: self.stream.agent.clone(),
                observed: self.stream.observed,
            };
            let done =
                tokio::time::timeout(Duration::from_secs(5), self.shared.pairs.apply(key, event, true));
            if done.await.is_err() {
                return;
            }
        }
    }

    fn unavailable(&self, pair: &[u8], error: &StoreError) -> Refusal {
        let status = self.shared.store_failed(error);
        (
            pb::refused::Reason::Unavailable,
            pair.to_vec(),
            status.message().to_owned(),
        )
    }
}

type Refusal = (pb::refused::Reason, Vec<u8>, String);
type Told = Result<(), Refusal>;

fn limit(pair: &[u8]) -> Refusal {
    (
        pb::refused::Reason::Limit,
        pair.to_vec(),
        "more than this agent may ask; wait and try again".into(),
    )
}

fn malformed(pair: &[u8], error: &convert::Malformed) -> Refusal {
    (pb::refused::Reason::Malformed, pair.to_vec(), error.to_string())
}
