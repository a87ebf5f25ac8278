//! One server's stream: opened while something is wanted of it, from the address that is reported, and opened anew
//! from another address as soon as the host has moved.
//!
//! Whatever goes wrong is tried again, ever less often, at once after a move. A server that is not there costs one
//! small packet now and then.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use identity::Credentials;
use proto::mobility::v1 as said;
use said::agent_message::Body;
use said::agents_client::AgentsClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use wire::tuple::Endpoint;

use super::connect::{ConnectError, connect};
use super::mapping::{self, Stream};
use super::wanted::Wanted;
use super::{ServerEvent, read_endpoint};

/// The wait after the first failure ...
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// ... doubling up to this.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A stream of which nothing is wanted is kept so long: needs come in bursts.
const IDLE: Duration = Duration::from_secs(5);
/// The largest message of a server.
const MAX_MESSAGE: usize = 4 << 20;

/// How to attend one server.
pub struct Attendance {
    /// Its URL.
    pub server: String,
    /// What is wanted of all servers.
    pub wanted: watch::Receiver<Arc<Wanted>>,
    /// Who we are.
    pub credentials: watch::Receiver<Credentials>,
    /// Whom servers must be vouched for by (PEM).
    pub authorities: PathBuf,
    /// Mark of the agent's own segments.
    pub mark: u32,
    /// What failed, for this server.
    pub failed: mpsc::Receiver<said::TryFailed>,
    /// Where it is told.
    pub events: mpsc::Sender<ServerEvent>,
}

/// A connection to the server.
struct Opened {
    client: AgentsClient<Channel>,
    channel: Channel,
    local: Endpoint,
    remote: Endpoint,
}

/// A server that has answered our hello.
struct Greeted {
    opened: Opened,
    out: mpsc::UnboundedSender<said::AgentMessage>,
    inbound: tonic::Streaming<said::ServerMessage>,
    /// What it was told is wanted.
    said: Arc<Wanted>,
}

/// Why a stream ended.
enum End {
    /// Nothing is wanted of the server.
    NotNeeded,
    /// The host has moved, or more has to be said in a hello.
    Anew,
    /// It is gone; the server asks to wait so long.
    Gone(String, Duration),
    /// The agent stops.
    Over,
}

impl Attendance {
    /// Attends for ever.
    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if !wanted.needs(&self.server) || wanted.from.is_none() {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let began = Instant::now();
            let end = self.session(wanted.clone()).await;
            if began.elapsed() > LAST_WAIT {
                wait = FIRST_WAIT;
            }
            let (why, pause) = match end {
                End::Over => return,
                End::NotNeeded => (String::new(), None),
                End::Anew => {
                    wait = FIRST_WAIT;
                    continue;
                }
                End::Gone(why, asked) => (why, Some(asked.max(wait))),
            };
            self.tell(ServerEvent::Closed {
                server: self.server.clone(),
                why,
            })
            .await;
            let Some(pause) = pause else { continue };
            wait = (wait * 2).min(LAST_WAIT);
            // Fixed waits would bring all agents back in the same instant.
            let pause = pause.mul_f64(0.75 + 0.5 * rand::random::<f64>());
            let until = Instant::now() + pause;
            loop {
                tokio::select! {
                    () = tokio::time::sleep_until(until) => break,
                    changed = self.wanted.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        if self.wanted.borrow_and_update().from != wanted.from {
                            wait = FIRST_WAIT;
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn tell(&self, event: ServerEvent) {
        let _ = self.events.send(event).await;
    }

    async fn session(&mut self, mut wanted: Arc<Wanted>) -> End {
        let greeted = {
            let greeting = self.greet(&wanted);
            tokio::pin!(greeting);
            let mut watching = self.wanted.clone();
            loop {
                tokio::select! {
                    greeted = &mut greeting => break greeted,
                    // The way may be gone before the server has said a word.
                    changed = watching.changed() => {
                        if changed.is_err() {
                            return End::Over;
                        }
                        let now = watching.borrow_and_update().clone();
                        if !now.needs(&self.server) {
                            return End::NotNeeded;
                        }
                        if now.from != wanted.from {
                            return End::Anew;
                        }
                    }
                }
            }
        };
        let Greeted {
            opened:
                Opened {
                    channel,
                    local,
                    remote,
                    ..
                },
            out,
            mut inbound,
            said,
        } = match greeted {
            Ok(greeted) => greeted,
            Err(why) => return End::Gone(why, Duration::ZERO),
        };
        wanted = said;
        let say = |body: Body| out.send(said::AgentMessage { body: Some(body) }).is_ok();
        // What failed on an earlier stream is known there, or matters no more.
        while self.failed.try_recv().is_ok() {}
        let mut idle_since: Option<Instant> = None;
        loop {
            let idle = idle_since.map(|since| since + IDLE);
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(said::ServerMessage { body: Some(body) })) => match body {
                        said::server_message::Body::Ping(ping) => {
                            say(Body::Pong(said::Pong { number: ping.number }));
                        }
                        said::server_message::Body::GoAway(away) => {
                            let after = Duration::from_millis(u64::from(away.after_milliseconds));
                            return End::Gone("the server asks to connect again".into(), after.min(LAST_WAIT));
                        }
                        said::server_message::Body::Hello(hello) => {
                            let observed = read_endpoint(&hello.observed).unwrap_or(local);
                            self.tell(ServerEvent::Opened {
                                server: self.server.clone(),
                                local,
                                observed,
                                skew: skew(hello.unix_milliseconds),
                                epoch: hello.epoch,
                            })
                            .await;
                            self.probe(Stream {
                                server: self.server.clone(),
                                channel: channel.clone(),
                                local,
                                remote,
                                observed,
                                mark: self.mark,
                            });
                        }
                        body => {
                            self.tell(ServerEvent::Said { server: self.server.clone(), body }).await;
                        }
                    },
                    // A kind of message that is newer than this agent.
                    Ok(Some(_)) => {}
                    Ok(None) => return End::Gone("the server ended the stream".into(), Duration::ZERO),
                    Err(status) => return End::Gone(told(&status), Duration::ZERO),
                },
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return End::Over;
                    }
                    let now = self.wanted.borrow_and_update().clone();
                    if now.from != wanted.from || now.round != wanted.round {
                        return End::Anew;
                    }
                    let needed = now.needs(&self.server);
                    for body in now.changes(&wanted, &self.server) {
                        say(body);
                    }
                    if needed && !now.greets_like(&wanted) {
                        say(Body::Hello(now.hello(&self.server, local)));
                    }
                    idle_since = match needed {
                        true => None,
                        false => idle_since.or(Some(Instant::now())),
                    };
                    wanted = now;
                }
                Some(failed) = self.failed.recv() => {
                    say(Body::TryFailed(failed));
                }
                () = tokio::time::sleep_until(idle.unwrap_or_else(Instant::now)), if idle.is_some() => {
                    return End::NotNeeded;
                }
            }
        }
    }

    /// Connects and says hello, with what is wanted by then; why it cannot.
    async fn greet(&self, wanted: &Wanted) -> Result<Greeted, String> {
        let mut opened = self.open(wanted).await.map_err(|error| error.to_string())?;
        let wanted = self.wanted.borrow().clone();
        let (out, words) = mpsc::unbounded_channel();
        let say = |body: Body| out.send(said::AgentMessage { body: Some(body) }).is_ok();
        say(Body::Hello(wanted.hello(&self.server, opened.local)));
        for body in wanted.changes(&Wanted::default(), &self.server) {
            say(body);
        }
        let attended = opened.client.attend(UnboundedReceiverStream::new(words)).await;
        Ok(Greeted {
            inbound: attended.map_err(|status| told(&status))?.into_inner(),
            opened,
            out,
            said: wanted,
        })
    }

    /// Finds out how the NAPT maps, beside the stream.
    fn probe(&self, stream: Stream) {
        let credentials = self.credentials.borrow().clone();
        let (authorities, events) = (self.authorities.clone(), self.events.clone());
        let inside = stream.local.address;
        tokio::spawn(async move {
            if let Some(mapping) = mapping::probe(stream, &credentials, &authorities).await {
                let _ = events.send(ServerEvent::Mapped { inside, mapping }).await;
            }
        });
    }

    async fn open(&self, wanted: &Wanted) -> Result<Opened, ConnectError> {
        let tls = {
            let credentials = self.credentials.borrow();
            identity::towards_servers(credentials.identity(), &self.authorities)?
        };
        let connected = connect(&self.server, wanted.from, self.mark, tls).await?;
        let client = AgentsClient::new(connected.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        Ok(Opened {
            client,
            channel: connected.channel,
            local: connected.local,
            remote: connected.remote,
        })
    }
}

/// A server's clock less ours, in milliseconds.
pub fn skew(unix_milliseconds: u64) -> Option<i64> {
    let own = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    let theirs = i64::try_from(unix_milliseconds).ok().filter(|said| *said != 0)?;
    Some(theirs.saturating_sub(i64::try_from(own.as_millis()).ok()?))
}

/// What a person should read of a refusal.
fn told(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
