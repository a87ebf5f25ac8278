//! The mobility servers: one stream to each, open as long as the relay runs, and the sessions that it has to hear of.
//!
//! A stream that ends is opened again, ever less often. The data path knows nothing of all this.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use identity::Credentials;
use member::connect::{ConnectError, connect};
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;
use said::relays_client::RelaysClient;
use said::sessions_client::SessionsClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::registry::Registry;

/// The wait after the first failure ...
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// ... doubling up to this.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A stream that has lived so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// Sessions in one request.
const BATCH: usize = 128;
/// How often everything is said anew ...
const RENEWAL: Duration = Duration::from_secs(60);
/// ... and how long a server keeps what is not.
pub const LEASE: Duration = Duration::from_secs(180);
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has become of a server. Past facts.
#[derive(Debug)]
pub enum ServerEvent {
    /// Its stream is open.
    Attended(usize),
    /// An agent says that paths of its host are lost.
    PathsLost(said::LostPathsOf),
    /// There is no stream.
    Closed(usize, String),
}

/// How to attend one server.
pub struct Attendance {
    /// Its place in the list.
    pub index: usize,
    /// Its URL.
    pub url: String,
    /// Who we are.
    pub credentials: watch::Receiver<Credentials>,
    /// Whom servers must be vouched for by (PEM).
    pub authorities: PathBuf,
    /// Where other relays find this one.
    pub addresses: Vec<IpAddr>,
    /// Connections that may be relayed.
    pub capacity: u64,
    /// The sessions.
    pub registry: Arc<Registry>,
    /// How many connections there are.
    pub connections: watch::Receiver<u64>,
    /// For questions to it, while it is attended.
    pub client: Arc<Mutex<Option<SessionsClient<Channel>>>>,
    /// Where it is told.
    pub events: mpsc::Sender<ServerEvent>,
}

impl Attendance {
    /// Attends for ever.
    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let (why, asked) = self.session().await;
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if began.elapsed() > GOOD {
                wait = FIRST_WAIT;
            }
            if self
                .events
                .send(ServerEvent::Closed(self.index, why))
                .await
                .is_err()
            {
                return;
            }
            // Fixed waits would bring all relays back in the same instant.
            let pause = asked.max(wait).mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn session(&mut self) -> (String, Duration) {
        let gone = |why: String| (why, Duration::ZERO);
        let channel = match self.open().await {
            Ok(channel) => channel,
            Err(error) => return gone(error.to_string()),
        };
        let (out, words) = mpsc::channel(64);
        let say = |body| out.try_send(said::RelayMessage { body: Some(body) });
        let _ = say(Says::Hello(self.hello()));
        let mut orders = match RelaysClient::new(channel.clone())
            .serve(ReceiverStream::new(words))
            .await
        {
            Ok(response) => response.into_inner(),
            Err(status) => return gone(told(&status)),
        };
        let mut sessions = SessionsClient::new(channel);
        let mut attended = false;
        let mut renewal = tokio::time::interval_at(Instant::now() + RENEWAL, RENEWAL);
        let registry = self.registry.clone();
        loop {
            let changed = registry.changed.notified();
            if attended && let Err(status) = self.tell(&mut sessions).await {
                return gone(told(&status));
            }
            tokio::select! {
                order = orders.message() => match order {
                    Ok(Some(said::RelayOrder { body: Some(body) })) => match body {
                        Hears::Welcome(welcome) => {
                            registry.attended(self.index, &welcome.epoch);
                            attended = true;
                            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(sessions.clone());
                            let _ = self.events.send(ServerEvent::Attended(self.index)).await;
                        }
                        Hears::Ping(ping) => {
                            let _ = say(Says::Pong(said::Pong { number: ping.number }));
                        }
                        Hears::PathsLost(lost) => {
                            // The loop that hears it may be busy with connections: it is worth nothing later.
                            let _ = self.events.try_send(ServerEvent::PathsLost(lost));
                        }
                        Hears::GoAway(away) => {
                            let after = Duration::from_millis(u64::from(away.after_milliseconds));
                            return ("the server asks to connect again".into(), after.min(LAST_WAIT));
                        }
                        Hears::Lease(_) | Hears::Renewal(_) | Hears::Release(_) => {}
                    },
                    // A kind of order that is newer than this relay.
                    Ok(Some(_)) => {}
                    Ok(None) => return gone("the server ended the stream".into()),
                    Err(status) => return gone(told(&status)),
                },
                () = changed, if attended => {
                    // Those that follow at once come with it.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                _ = renewal.tick() => registry.renew(self.index),
                Ok(()) = self.connections.changed() => {
                    let connections = *self.connections.borrow_and_update();
                    let load = said::RelayLoad { connections, ..said::RelayLoad::default() };
                    let _ = say(Says::Load(load));
                }
            }
        }
    }

    fn hello(&self) -> said::RelayHello {
        said::RelayHello {
            version: 1,
            kind: said::relay_hello::Kind::MptcpRelay.into(),
            addresses: self.addresses.iter().map(|one| bytes(*one)).collect(),
            capacity: self.capacity,
            ..said::RelayHello::default()
        }
    }

    /// Says everything that the server has to hear.
    async fn tell(&self, client: &mut SessionsClient<Channel>) -> Result<(), tonic::Status> {
        loop {
            let changes = self.registry.take(self.index, BATCH);
            if changes.is_empty() {
                return Ok(());
            }
            let request = said::ChangeSessionsRequest {
                put: changes.put.clone(),
                remove: changes.gone.iter().map(|id| id.to_vec()).collect(),
            };
            let answer = tokio::time::timeout(PATIENCE, client.change(request)).await;
            let answer = answer
                .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the server does not answer")));
            match answer {
                Ok(answer) => self
                    .registry
                    .told(self.index, &changes, &answer.into_inner().results),
                Err(status) if status.code() == tonic::Code::ResourceExhausted => {
                    self.registry.untold(self.index, &changes);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(status) => {
                    self.registry.untold(self.index, &changes);
                    return Err(status);
                }
            }
        }
    }

    async fn open(&self) -> Result<Channel, ConnectError> {
        let tls = {
            let credentials = self.credentials.borrow();
            identity::towards_servers(credentials.identity(), &self.authorities)?
        };
        Ok(connect(&self.url, None, 0, tls).await?.channel)
    }
}

fn told(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An address in the form of the messages.
pub fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address of a message; none when it has a length that no address has.
pub fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::from(octets).to_canonical())
}
