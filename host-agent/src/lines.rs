//! Lines: the channels to peers' agents that stay open after the pair exchange.
//!
//! A task of its own carries each line: what the agent says goes out, what the peer says comes in as
//! [`LineEvent::Said`], and the end of it, whoever's, as [`LineEvent::Ended`]. What a line is good for is in
//! `agent/heartbeat.rs` and `agent/talking.rs`; nothing here decides.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use identity::{Channel, ChannelError, Message};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

/// What a line holds that has not been sent yet; what exceeds it is dropped.
const WAITING: usize = 256;
/// What a peer may say in a second; it waits when it says more.
const MOST_A_SECOND: u32 = 1000;
/// TCP_REPAIR_ON of linux/tcp.h: a connection in repair sends nothing, and closing it neither.
const REPAIR_ON: u32 = 1;

/// How a line ended. Past facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The peer's agent closed it in good order: it stops, or needs it no more.
    Closed,
    /// A reset: somebody on the way, or the peer's host, does not know it any more.
    Reset,
    /// Nothing is heard any more, or what is heard makes no sense.
    Silent,
}

/// One end of an open line.
#[derive(Debug)]
pub struct Line {
    /// Tells this line from earlier ones with the same peer.
    pub serial: u64,
    /// Whether this end opened it.
    pub dialled: bool,
    /// Our address on it.
    pub local: IpAddr,
    /// The peer's endpoint as this end sees it.
    pub peer: SocketAddr,
    /// The connection it runs over, to be left without a word.
    socket: Option<OwnedFd>,
    sender: mpsc::Sender<Message>,
}

impl Line {
    /// A line whose messages go where the receiver is.
    pub fn new(dialled: bool, local: IpAddr, peer: SocketAddr) -> (Self, mpsc::Receiver<Message>) {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let (sender, receiver) = mpsc::channel(WAITING);
        let line = Self {
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            dialled,
            local,
            peer,
            socket: None,
            sender,
        };
        (line, receiver)
    }

    /// The same line over a connection that can be left without a word.
    pub fn over(self, socket: Option<OwnedFd>) -> Self {
        Self { socket, ..self }
    }

    /// Says something; whether there was room for it. A peer that does not read is told nothing more.
    pub fn say(&self, message: Message) -> bool {
        self.sender.try_send(message).is_ok()
    }

    /// Ends the line when its address is not this host's any more: whatever the connection sent now, a farewell or
    /// what it repeats, would leave through another network under a source that is foreign there.
    pub fn forsake(self) {
        if let Some(socket) = &self.socket
            && let Err(error) = setsockopt(socket, sockopt::TcpRepair, &REPAIR_ON)
        {
            tracing::debug!(peer = %self.peer, %error, "the line to a peer's agent ends with a farewell");
        }
    }
}

/// What happened on lines. Past facts.
#[derive(Debug)]
pub enum LineEvent {
    /// An exchange is done and its channel stays open.
    Opened {
        /// The pair.
        pair_id: Uuid,
        /// Our end; dropping it closes the line.
        line: Line,
    },
    /// The peer said something.
    Said {
        /// The pair.
        pair_id: Uuid,
        /// The line.
        serial: u64,
        /// What.
        message: Message,
    },
    /// It is over.
    Ended {
        /// The pair.
        pair_id: Uuid,
        /// The line.
        serial: u64,
        /// How.
        how: Ending,
    },
}

/// Carries one line until either end drops it.
pub async fn carry<S, E>(
    mut channel: Channel<S>,
    pair_id: Uuid,
    line: Line,
    mut outgoing: mpsc::Receiver<Message>,
    events: mpsc::Sender<E>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    E: From<LineEvent>,
{
    let serial = line.serial;
    if events
        .send(LineEvent::Opened { pair_id, line }.into())
        .await
        .is_err()
    {
        return;
    }
    let (mut began, mut heard) = (Instant::now(), 0);
    let how = loop {
        tokio::select! {
            biased;
            said = outgoing.recv() => match said {
                Some(message) => {
                    if let Err(error) = channel.send(message).await {
                        break ending(&error);
                    }
                }
                None => {
                    let _ = tokio::time::timeout(Duration::from_secs(1), channel.close()).await;
                    return;
                }
            },
            heard_now = channel.recv() => match heard_now {
                Ok(Message::Bye) => break Ending::Closed,
                Ok(message) => {
                    heard += 1;
                    if events.send(LineEvent::Said { pair_id, serial, message }.into()).await.is_err() {
                        return;
                    }
                    if began.elapsed() >= Duration::from_secs(1) {
                        (began, heard) = (Instant::now(), 0);
                    } else if heard >= MOST_A_SECOND {
                        tokio::time::sleep_until(began + Duration::from_secs(1)).await;
                    }
                }
                Err(error) => break ending(&error),
            },
        }
    };
    let _ = events
        .send(LineEvent::Ended { pair_id, serial, how }.into())
        .await;
}

fn ending(error: &ChannelError) -> Ending {
    match error {
        ChannelError::Closed => Ending::Closed,
        ChannelError::Reset => Ending::Reset,
        _ => Ending::Silent,
    }
}
