//! The stream of events.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_core::NetlinkPayload;

use crate::connection::{Link, Message};
use crate::{Error, Event};

/// How much the kernel may have to tell before it is read: some ten thousand events.
const RECEIVE_BUFFER: u32 = 8 << 20;

/// A subscription to everything that happens to connections of one network namespace.
///
/// While one exists, the `userspace` path manager accepts joins; when the last is dropped, it refuses them. Linux counts those of all
/// network namespaces together.
pub struct Events {
    messages: BoxStream<'static, Message>,
    _link: Link,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Events {
    /// Subscribes, in the network namespace of the calling thread. What happens afterwards is told.
    ///
    /// # Errors
    /// [`Error::Socket`] (also without `CAP_NET_ADMIN`), [`Error::NoFamily`], [`Error::NoEvents`].
    pub async fn subscribe() -> Result<Self, Error> {
        let group = Link::events_group().await?;
        let (link, messages) = Link::open(|socket| {
            let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
            socket.bind_auto()?;
            socket.add_membership(group)
        })?;
        Ok(Self {
            messages,
            _link: link,
        })
    }

    /// The next event; None once the socket is gone. After [`Event::Missed`] some are lost.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => {
                    let message = message.payload;
                    match Event::read(message.command, &message.attributes) {
                        Some(event) => return Some(event),
                        None => tracing::debug!(command = message.command, "an event that is not known"),
                    }
                }
                NetlinkPayload::Overrun(_) => return Some(Event::Missed),
                _ => {}
            }
        }
    }
}
