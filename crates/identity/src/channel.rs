//! The authenticated session between two agents: framed messages over TLS.
//!
//! The exchange runs over it first; afterwards both sides [`Channel::send`] and [`Channel::recv`] when they like, and
//! either may [`Channel::close`] it. A frame is a 32-bit big-endian length and a body of at most [`MAX_FRAME`] bytes.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsStream;

use crate::message::{Frame, Message, MessageError};

/// The longest body of a frame, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

const PREFIX: usize = 4;
/// How long a peer may take from the first byte of a frame to its last, and to take a frame in.
pub(crate) const FRAME_LIMIT: Duration = Duration::from_secs(5);
/// How long to look for the alert that says why the peer does not read.
const ALERT_LIMIT: Duration = Duration::from_millis(200);

/// Why a channel came to its end. All of them are final.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum ChannelError {
    #[error("the peer closed the channel")]
    Closed,
    #[error("a reset arrived: the peer, or something on the path, does not know the channel any more")]
    Reset,
    #[error("the peer sent {got} of {expected} bytes of a message and no more")]
    HalfMessage { got: usize, expected: usize },
    #[error("the peer announced a message of {length} bytes; at most {MAX_FRAME} are accepted")]
    Oversize { length: usize },
    #[error("the peer sent a message that cannot be read: {0}")]
    Malformed(#[from] MessageError),
    #[error("the peer has not read anything for {FRAME_LIMIT:?}")]
    NotReading,
    #[error("the channel broke: {0}")]
    Io(io::Error),
}

impl ChannelError {
    /// The stable name under which it is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::HalfMessage { .. } => "half_message",
            Self::Oversize { .. } => "oversize",
            Self::Malformed(_) => "malformed",
            Self::NotReading => "not_reading",
            Self::Io(_) => "io",
        }
    }
}

/// An authenticated session with the peer of a [`crate::Pair`].
#[derive(Debug)]
pub struct Channel<S> {
    stream: TlsStream<S>,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// When the first byte of the frame that is arriving came.
    began: Option<Instant>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Channel<S> {
    pub(crate) fn new(stream: TlsStream<S>) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            began: None,
        }
    }

    /// Sends a message.
    ///
    /// Cancel safe: a message that was begun is completed by the next send.
    ///
    /// # Errors
    /// The peer is gone, or does not read.
    pub async fn send(&mut self, message: Message) -> Result<(), ChannelError> {
        self.send_frame(Frame::Message(message)).await.map(|_| ())
    }

    /// Waits for the next message, for ever if need be.
    ///
    /// Cancel safe: what has arrived stays for the next call.
    ///
    /// # Errors
    /// The peer closed, broke the protocol, or stalled within a message.
    pub async fn recv(&mut self) -> Result<Message, ChannelError> {
        let body = self.recv_body().await?;
        Ok(Message::decode(&body)?)
    }

    /// Says [`Message::Bye`] and closes. The pair stays valid.
    ///
    /// # Errors
    /// The peer was gone already.
    pub async fn close(mut self) -> Result<(), ChannelError> {
        self.send(Message::Bye).await?;
        self.stream.shutdown().await.map_err(ChannelError::Io)
    }

    /// Sends a frame and returns its body.
    pub(crate) async fn send_frame(&mut self, frame: Frame) -> Result<Bytes, ChannelError> {
        let mut body = BytesMut::new();
        frame.encode(&mut body);
        let length = u32::try_from(body.len())
            .ok()
            .filter(|length| *length as usize <= MAX_FRAME);
        let Some(length) = length else {
            return Err(ChannelError::Oversize { length: body.len() });
        };
        self.outgoing.put_u32(length);
        self.outgoing.put_slice(&body);
        match timeout(FRAME_LIMIT, self.flush()).await {
            Ok(Ok(())) => Ok(body.freeze()),
            Err(_) => Err(ChannelError::NotReading),
            Ok(Err(error)) => Err(ChannelError::Io(self.alert().await.unwrap_or(error))),
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            self.stream.write_buf(&mut self.outgoing).await?;
        }
        self.stream.flush().await
    }

    /// What the peer said before it stopped reading, if it said why.
    async fn alert(&mut self) -> Option<io::Error> {
        let read = timeout(ALERT_LIMIT, self.stream.read_buf(&mut self.incoming)).await;
        read.ok()?.err().filter(|error| tls_error(error).is_some())
    }

    /// The body of the next frame.
    pub(crate) async fn recv_body(&mut self) -> Result<Bytes, ChannelError> {
        loop {
            if let Some(body) = self.take_frame()? {
                return Ok(body);
            }
            self.incoming
                .reserve(self.expected().saturating_sub(self.incoming.len()).max(1024));
            let read = self.stream.read_buf(&mut self.incoming);
            let read = match self.began {
                None => read.await,
                Some(began) => match timeout_at(began + FRAME_LIMIT, read).await {
                    Ok(read) => read,
                    Err(_) => return Err(self.half()),
                },
            };
            match read {
                Ok(0) => return Err(self.half()),
                Ok(_) => {
                    self.began.get_or_insert_with(Instant::now);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && self.incoming.is_empty() => {
                    return Err(ChannelError::Reset);
                }
                // An end without TLS's goodbye; data that was cut off shows as half a message.
                Err(error) if is_gone(&error) => return Err(self.half()),
                Err(error) => return Err(ChannelError::Io(error)),
            }
        }
    }

    /// How much of a frame has arrived, for the message about one that stalled.
    pub(crate) fn half(&self) -> ChannelError {
        match self.incoming.len() {
            0 => ChannelError::Closed,
            got => ChannelError::HalfMessage {
                got,
                expected: self.expected(),
            },
        }
    }

    /// The length of the frame that is arriving, as far as it is known.
    fn expected(&self) -> usize {
        match self.incoming.first_chunk::<PREFIX>() {
            Some(prefix) => PREFIX + (u32::from_be_bytes(*prefix) as usize).min(MAX_FRAME),
            None => PREFIX,
        }
    }

    fn take_frame(&mut self) -> Result<Option<Bytes>, ChannelError> {
        let Some(prefix) = self.incoming.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(ChannelError::Oversize { length });
        }
        if self.incoming.len() < PREFIX + length {
            return Ok(None);
        }
        self.incoming.advance(PREFIX);
        let body = self.incoming.split_to(length).freeze();
        self.began = if self.incoming.is_empty() {
            None
        } else {
            Some(Instant::now())
        };
        Ok(Some(body))
    }

    pub(crate) fn tls(&self) -> &TlsStream<S> {
        &self.stream
    }

    /// Tells the peer why this side ends the exchange, as far as that is still possible.
    pub(crate) async fn refuse(&mut self, frame: Frame) {
        if self.send_frame(frame).await.is_ok() {
            let _ = self.stream.shutdown().await;
        }
    }
}

/// The TLS error within an IO error.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the error says no more than that the peer is gone.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}
