//! Connections as they come: accepted, told their true source, through TLS, and who it is.
//!
//! Nothing of a caller is believed but its socket and its certificate. A connection from a configured front begins
//! with a PROXY protocol header, which then names the source; from anywhere else such a header is no TLS and ends it.

mod proxy_protocol;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use identity::Member;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use wire::Endpoint;

use crate::config::Front;
use crate::convert::socket_endpoint;
use crate::counters::Counters;
use crate::limits::Limiter;

/// Who calls, on every request of a connection.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its source as the server sees it, or as a front says.
    pub observed: Endpoint,
    /// The member whose certificate it has shown; none: it has shown none.
    pub member: Option<Arc<Member>>,
    /// It came through a front that named the source.
    pub fronted: bool,
}

/// One connection after its handshake.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _seat: Seat,
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How many connections there are, in all and from each address.
#[derive(Default)]
struct Seats {
    all: AtomicUsize,
    from: Mutex<HashMap<IpAddr, usize>>,
}

struct Seat {
    seats: Arc<Seats>,
    from: IpAddr,
}

impl Seats {
    fn take(self: &Arc<Self>, from: IpAddr, most: usize, most_from: usize) -> Option<Seat> {
        let mut counts = self.from.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(from).or_default();
        if self.all.load(Ordering::Relaxed) >= most || *count >= most_from {
            return None;
        }
        *count += 1;
        self.all.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            seats: self.clone(),
            from,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.all.fetch_sub(1, Ordering::Relaxed);
        let mut counts = self.seats.from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.from);
            }
        }
    }
}

/// What connections are accepted with.
pub struct Door {
    tls: RwLock<Arc<ServerConfig>>,
    fronts: RwLock<Vec<Front>>,
    limiter: Arc<Limiter>,
    counters: Arc<Counters>,
    seats: Arc<Seats>,
    patience: Duration,
}

impl Door {
    /// `patience`: how long a header and a handshake may take together.
    pub fn new(
        tls: ServerConfig,
        fronts: Vec<Front>,
        limiter: Arc<Limiter>,
        counters: Arc<Counters>,
        patience: Duration,
    ) -> Self {
        Self {
            tls: RwLock::new(Arc::new(tls)),
            fronts: RwLock::new(fronts),
            limiter,
            counters,
            seats: Arc::default(),
            patience,
        }
    }

    /// Another certificate and other fronts for the connections to come.
    pub fn reload(&self, tls: ServerConfig, fronts: Vec<Front>) {
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tls);
        *self.fronts.write().unwrap_or_else(PoisonError::into_inner) = fronts;
    }

    /// Accepts for ever.
    pub async fn accept(self: Arc<Self>, listener: TcpListener, out: mpsc::Sender<Connection>) {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (door, out) = (self.clone(), out.clone());
                    tokio::spawn(async move {
                        match tokio::time::timeout(door.patience, door.welcome(stream, from)).await {
                            Ok(Ok(connection)) => {
                                let _ = out.send(connection).await;
                            }
                            Ok(Err((why, detail))) => {
                                tracing::debug!(%from, why, detail, "connection refused");
                                door.counters.refuse(why);
                            }
                            Err(_) => door.counters.refuse("handshake_slow"),
                        }
                    });
                }
                // Out of descriptors, most likely: those that are open come to an end some time.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn welcome(
        &self,
        mut stream: TcpStream,
        from: SocketAddr,
    ) -> Result<Connection, (&'static str, String)> {
        let socket = socket_endpoint(from);
        let fronts = self.fronts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fronted = fronts.iter().any(|front| contains(*front, socket.address));
        let observed = match fronted {
            true => proxy_protocol::read(&mut stream)
                .await
                .map_err(|error| ("proxy_header", error.to_string()))?
                .unwrap_or(socket),
            false => socket,
        };
        if !self.limiter.allows_handshake(observed.address) {
            return Err(("handshake_limit", String::new()));
        }
        let limits = self.limiter.limits();
        let seat = self
            .seats
            .take(
                observed.address,
                limits.connections,
                limits.connections_from_address,
            )
            .ok_or(("connection_limit", String::new()))?;
        let _ = stream.set_nodelay(true);
        let tls = self.tls.read().unwrap_or_else(PoisonError::into_inner).clone();
        let stream = TlsAcceptor::from(tls)
            .accept(stream)
            .await
            .map_err(|error| ("handshake", error.to_string()))?;
        let shown = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first());
        let member = match shown {
            // A server's certificate for instance: of this deployment, and nobody who calls.
            Some(der) => Some(Arc::new(Member::read(der).ok_or(("no_member", String::new()))?)),
            None => None,
        };
        Ok(Connection {
            stream,
            caller: Caller {
                observed,
                member,
                fronted,
            },
            _seat: seat,
        })
    }
}

fn contains((prefix, length): Front, address: IpAddr) -> bool {
    match (prefix.to_canonical(), address) {
        (IpAddr::V4(prefix), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(length.min(32));
            (prefix.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(prefix), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(length.min(128));
            (prefix.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}
