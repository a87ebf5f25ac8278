//! Connections to a server: past the parking device, from the address that matters, over TLS 1.3.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint as GrpcEndpoint, Uri};
use wire::tuple::Endpoint;

/// TCP and TLS together may take this long.
const LIMIT: Duration = Duration::from_secs(5);
/// An open stream is asked for a sign of life this often ...
const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// ... and is dead when none comes for so long.
const ALIVE_WITHIN: Duration = Duration::from_secs(5);

/// Why a server is not reached.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConnectError {
    #[error("`{0}` is no URL of a mobility server; write https://HOST:PORT")]
    Url(String),
    #[error("{host} has no address: {error}")]
    Name { host: String, error: io::Error },
    #[error("{host}:{port} does not answer: {error}")]
    Tcp {
        host: String,
        port: u16,
        error: io::Error,
    },
    #[error("{host}:{port}: {error}; check its certificate and this host's; `doctor` says how they are")]
    Tls {
        host: String,
        port: u16,
        error: io::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Trust(#[from] identity::TrustError),
    #[error("{0}")]
    Grpc(#[from] tonic::transport::Error),
}

/// Host and port of a URL. The scheme must be https; the port may be left out (7800).
pub fn host_and_port(url: &str) -> Result<(String, u16), ConnectError> {
    let wrong = || ConnectError::Url(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    if uri.scheme_str() != Some("https") || !matches!(uri.path(), "" | "/") {
        return Err(wrong());
    }
    let host = uri.host().ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok((host, uri.port_u16().unwrap_or(DEFAULT_PORT)))
}

/// Where a server listens when its URL names no port.
pub const DEFAULT_PORT: u16 = 7800;

/// An open connection, not yet used.
pub struct Connected {
    /// For gRPC.
    pub channel: Channel,
    /// Our end of it.
    pub local: Endpoint,
    /// The server's end of it.
    pub remote: Endpoint,
}

/// Connects to the server at `url`.
///
/// # Units
/// `from`: our address; none: as the routing table says. `mark`: of the agent's own segments.
/// # Errors
/// The URL is none, the server is not there, or is not who it should be.
pub async fn connect(
    url: &str,
    from: Option<IpAddr>,
    mark: u32,
    tls: ClientConfig,
) -> Result<Connected, ConnectError> {
    let (host, port) = host_and_port(url)?;
    let stream = tokio::time::timeout(LIMIT, reach(&host, port, from, mark)).await;
    let stream = stream.unwrap_or_else(|_| {
        Err(ConnectError::Tcp {
            host: host.clone(),
            port,
            error: late(),
        })
    })?;
    secure(stream, &host, port, tls).await
}

/// Connects once more to a server that is connected to: from the same source port, to another port of it.
///
/// # Errors
/// As for [`connect`]; a port that does not answer, or a source port that the kernel does not give twice.
pub async fn connect_beside(
    url: &str,
    known: (Endpoint, Endpoint),
    port: u16,
    mark: u32,
    tls: ClientConfig,
) -> Result<Connected, ConnectError> {
    let (host, _) = host_and_port(url)?;
    let (local, remote) = known;
    let to = SocketAddr::new(remote.address, port);
    let from = SocketAddr::new(local.address, local.port);
    let opened = tokio::time::timeout(LIMIT, open(to, Some(from), mark)).await;
    let stream = opened
        .unwrap_or_else(|_| Err(late()))
        .map_err(|error| ConnectError::Tcp {
            host: host.clone(),
            port,
            error,
        })?;
    secure(stream, &host, port, tls).await
}

fn late() -> io::Error {
    io::Error::from(io::ErrorKind::TimedOut)
}

/// TLS over an open connection, and gRPC over that.
async fn secure(
    stream: TcpStream,
    host: &str,
    port: u16,
    tls: ClientConfig,
) -> Result<Connected, ConnectError> {
    let endpoint_of = |found: io::Result<SocketAddr>| {
        found
            .map(|address| Endpoint::from(SocketAddr::new(address.ip().to_canonical(), address.port())))
            .map_err(|error| ConnectError::Tcp {
                host: host.to_owned(),
                port,
                error,
            })
    };
    let local = endpoint_of(stream.local_addr())?;
    let remote = endpoint_of(stream.peer_addr())?;
    let failed = |error| ConnectError::Tls {
        host: host.to_owned(),
        port,
        error,
    };
    let name = ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Url(host.to_owned()))?;
    let handshake = TlsConnector::from(Arc::new(tls)).connect(name, stream);
    let stream = tokio::time::timeout(LIMIT, handshake)
        .await
        .unwrap_or_else(|_| Err(late()))
        .map_err(failed)?;
    // The one connection is made: it is handed out once.
    let once = Arc::new(std::sync::Mutex::new(Some(TokioIo::new(stream))));
    let shown = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    let endpoint = GrpcEndpoint::from_shared(format!("http://{shown}:{port}"))?
        .http2_keep_alive_interval(ALIVE_EVERY)
        .keep_alive_timeout(ALIVE_WITHIN)
        .keep_alive_while_idle(true);
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once.lock().ok().and_then(|mut stream| stream.take());
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(Connected {
        channel,
        local,
        remote,
    })
}

async fn reach(host: &str, port: u16, from: Option<IpAddr>, mark: u32) -> Result<TcpStream, ConnectError> {
    let no_name = |error| ConnectError::Name {
        host: host.to_owned(),
        error,
    };
    let all: Vec<SocketAddr> = match host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => lookup_host((host, port)).await.map_err(no_name)?.collect(),
    };
    // What comes from another family than is reported says nothing of it; better than nothing.
    let (alike, other): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|to| from.is_none_or(|from| from.is_ipv4() == to.is_ipv4()));
    let mut last = no_name(io::Error::from(io::ErrorKind::NotFound));
    for to in alike.into_iter().chain(other) {
        let from = from.filter(|from| from.is_ipv4() == to.is_ipv4());
        match open(to, from.map(|from| SocketAddr::new(from, 0)), mark).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last = ConnectError::Tcp {
                    host: host.to_owned(),
                    port,
                    error,
                };
            }
        }
    }
    Err(last)
}

async fn open(to: SocketAddr, from: Option<SocketAddr>, mark: u32) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if mark != 0 {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    // So that a probe can go out from the very same port.
    socket.set_reuseaddr(true)?;
    if let Some(from) = from {
        socket.bind(from)?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
