//! From one socket to the other, in both directions, until both have said all.
//!
//! A FIN passes as a FIN, so half-closed connections stay half-closed. Whatever ends a socket otherwise (a reset, a
//! peer that is gone) ends the other one by a reset. Each direction holds one buffer, or one pipe, and reads no more before it
//! is written: a slow receiver slows the sender down by its window, and memory per connection is bounded.
//!
//! Linux acknowledges a subflow's bytes at once, but the connection's only with the next segment if the socket was being read
//! when they came. A terminal whose last window was acknowledged like that sends nothing more until it repeats data after
//! 200 ms. So a terminal that pauses after a burst is told once more how far it has been heard (`Pauses`).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio_util::sync::CancellationToken;

use crate::pipe::{Pipe, Received, is_plain};

/// The buffer of a direction that says little ...
const SMALL: usize = 16 * 1024;
/// ... and of one that says much.
const LARGE: usize = 256 * 1024;

/// A terminal that has sent so much ...
const BURST: usize = 64 * 1024;
/// ... and then nothing for so long may wait for an acknowledgement.
const PAUSE: Duration = Duration::from_millis(2);

/// Unanswered questions after which an end is taken for gone ...
const KEEPALIVES: u32 = 4;
/// ... and the shortest time between them that the kernel knows.
const SHORTEST: Duration = Duration::from_secs(1);

/// Bytes so far.
#[derive(Debug, Default)]
pub struct Carried {
    /// From the terminal to the server.
    pub up: AtomicU64,
    /// From the server to the terminal.
    pub down: AtomicU64,
}

/// How a connection has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Both sides have closed.
    Closed,
    /// One side has failed, and the other was reset.
    Reset,
}

/// What is called when a terminal pauses.
pub type Pauses = Box<dyn Fn() + Send + Sync>;

/// Carries everything, or until it is stopped: then both sides are reset. An end that has said nothing for `keepalive` is asked
/// whether it is there; zero: never.
pub async fn carry(
    mut terminal: TcpStream,
    mut server: TcpStream,
    carried: &Carried,
    keepalive: Duration,
    pauses: Option<Pauses>,
    stop: CancellationToken,
) -> Ended {
    for socket in [&terminal, &server] {
        let _ = socket.set_nodelay(true);
        // MPTCP has no urgent data: the byte stays where it is in the stream.
        let _ = SockRef::from(socket).set_out_of_band_inline(true);
        if !keepalive.is_zero() {
            let asks = socket2::TcpKeepalive::new()
                .with_time(keepalive.max(SHORTEST))
                .with_interval((keepalive / KEEPALIVES).max(SHORTEST))
                .with_retries(KEEPALIVES);
            let _ = SockRef::from(socket).set_tcp_keepalive(&asks);
        }
    }
    let outcome = {
        let (from_terminal, to_terminal) = terminal.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                pump(from_terminal, to_server, &carried.up, pauses.as_ref()),
                pump(from_server, to_terminal, &carried.down, None),
            )
        };
        tokio::select! {
            outcome = both => outcome,
            () = stop.cancelled() => Err(io::ErrorKind::Interrupted.into()),
        }
    };
    match outcome {
        Ok(_) => Ended::Closed,
        Err(error) => {
            tracing::debug!(%error, "a side has failed");
            reset(terminal);
            reset(server);
            Ended::Reset
        }
    }
}

/// Closes a socket by a reset.
pub fn reset(socket: TcpStream) {
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

async fn pump(
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    carried: &AtomicU64,
    pauses: Option<&Pauses>,
) -> io::Result<()> {
    let mut buffer = vec![0; SMALL];
    let mut pipe: Option<Pipe> = None;
    let mut burst = 0;
    loop {
        match pauses.filter(|_| burst >= BURST) {
            Some(pauses) => match tokio::time::timeout(PAUSE, from.readable()).await {
                Ok(ready) => ready?,
                Err(_) => {
                    pauses();
                    burst = 0;
                    continue;
                }
            },
            None => from.readable().await?,
        }
        let received = match &pipe {
            Some(pipe) => pipe.fill(from.as_ref(), &mut buffer),
            None => from.try_read(&mut buffer).map(Received::Buffered),
        };
        let received = match received {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        match (received, &pipe) {
            (Received::Buffered(0), _) => return to.shutdown().await,
            (Received::Piped(length), Some(pipe)) => pipe.empty(to.as_ref(), length).await?,
            (received, _) => to.write_all(&buffer[..received.length()]).await?,
        }
        let length = received.length();
        carried.fetch_add(length as u64, Ordering::Relaxed);
        burst += length;
        if pipe.is_none() && length == buffer.len() && length < LARGE {
            // It says much.
            pipe = is_plain(from.as_ref()).then(Pipe::open).and_then(Result::ok);
            if pipe.is_none() {
                buffer.resize(LARGE, 0);
            }
        }
    }
}
