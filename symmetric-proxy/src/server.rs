//! The mobility servers: one stream to each, open as long as the proxy runs.
//!
//! A stream that ends is opened again, ever less often. The loop says hello on each new one, with what it holds.

use std::path::PathBuf;
use std::time::Duration;

use identity::Credentials;
use member::connect::{ConnectError, connect};
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;
use said::relays_client::RelaysClient;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// The wait after the first failure ...
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// ... doubling up to this.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// A stream that has lived so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// Words that wait for a server that does not read.
const BACKLOG: usize = 65_536;

/// What a server is told.
pub type Words = mpsc::Sender<said::RelayMessage>;

/// What has become of a server. Past facts.
pub enum ServerEvent {
    /// Its stream is open: it waits for a hello.
    Opened(usize, Words),
    /// Something to do.
    Said(usize, Hears),
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
    /// Mark of the daemon's own segments.
    pub mark: u32,
    /// Where it is told.
    pub events: mpsc::Sender<ServerEvent>,
    /// Changes when another hello has to be said: a stream has one.
    pub again: watch::Receiver<u64>,
}

impl Attendance {
    /// Attends for ever.
    pub async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        loop {
            let began = Instant::now();
            let (why, asked) = self.session().await;
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
            // Fixed waits would bring all proxies back in the same instant.
            let pause = asked.max(wait).mul_f64(0.75 + 0.5 * rand::random::<f64>());
            tokio::time::sleep(pause).await;
            wait = (wait * 2).min(LAST_WAIT);
        }
    }

    async fn session(&mut self) -> (String, Duration) {
        let gone = |why: String| (why, Duration::ZERO);
        let mut client = match self.open().await {
            Ok(client) => client,
            Err(error) => return gone(error.to_string()),
        };
        self.again.mark_unchanged();
        let (out, words) = mpsc::channel(BACKLOG);
        if self
            .events
            .send(ServerEvent::Opened(self.index, out.clone()))
            .await
            .is_err()
        {
            return gone("the proxy stops".into());
        }
        let mut orders = match client.serve(ReceiverStream::new(words)).await {
            Ok(response) => response.into_inner(),
            Err(status) => return gone(told(&status)),
        };
        loop {
            let message = tokio::select! {
                message = orders.message() => message,
                Ok(()) = self.again.changed() => return gone("other addresses have to be told".into()),
            };
            match message {
                Ok(Some(said::RelayOrder { body: Some(body) })) => match body {
                    Hears::Ping(ping) => {
                        let pong = Says::Pong(said::Pong { number: ping.number });
                        let _ = out.try_send(said::RelayMessage { body: Some(pong) });
                    }
                    Hears::GoAway(away) => {
                        let after = Duration::from_millis(u64::from(away.after_milliseconds));
                        return ("the server asks to connect again".into(), after.min(LAST_WAIT));
                    }
                    body => {
                        let _ = self.events.send(ServerEvent::Said(self.index, body)).await;
                    }
                },
                // A kind of order that is newer than this proxy.
                Ok(Some(_)) => {}
                Ok(None) => return gone("the server ended the stream".into()),
                Err(status) => return gone(told(&status)),
            }
        }
    }

    async fn open(&self) -> Result<RelaysClient<tonic::transport::Channel>, ConnectError> {
        let tls = {
            let credentials = self.credentials.borrow();
            identity::towards_servers(credentials.identity(), &self.authorities)?
        };
        let connected = connect(&self.url, None, self.mark, tls).await?;
        Ok(RelaysClient::new(connected.channel))
    }
}

fn told(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

/// An endpoint in the form of the messages.
pub fn endpoint(endpoint: wire::tuple::Endpoint) -> said::Endpoint {
    said::Endpoint {
        address: address(endpoint.address),
        port: u32::from(endpoint.port),
    }
}

/// An address in the form of the messages.
pub fn address(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
