//! The world becomes events: links, addresses and routes by netlink.
//!
//! The kernel keeps what it has to say in a buffer of bounded size. A host whose routes come by the hundred thousand,
//! or whose agent was not given the processor for a while, overruns it; then the kernel says so ([`Heard::Overrun`]),
//! and what there is now has to be asked for.

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::{Handle, MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;

/// What netlink said.
#[derive(Debug)]
pub enum Heard {
    /// Something changed.
    Changed(RouteNetlinkMessage),
    /// More changed than the buffer holds; nobody knows what.
    Overrun,
}

/// Opens netlink and subscribes. Every message arrives in the order in which the kernel sent it.
///
/// # Errors
/// The kernel refuses the socket.
pub fn open() -> std::io::Result<(Handle, mpsc::UnboundedReceiver<Heard>)> {
    let (connection, handle, mut messages) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])?;
    tokio::spawn(connection);
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            let heard = match message.payload {
                NetlinkPayload::InnerMessage(message) => Heard::Changed(message),
                NetlinkPayload::Overrun(_) => Heard::Overrun,
                _ => continue,
            };
            if sender.send(heard).is_err() {
                return;
            }
        }
    });
    Ok((handle, receiver))
}

/// What is there now, as if it had just appeared.
pub async fn inventory(handle: &Handle) -> Result<Vec<RouteNetlinkMessage>, rtnetlink::Error> {
    let mut found = Vec::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await? {
        found.push(RouteNetlinkMessage::NewLink(link));
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await? {
        found.push(RouteNetlinkMessage::NewAddress(address));
    }
    let mut neighbours = handle.neighbours().get().execute();
    while let Some(neighbour) = neighbours.try_next().await? {
        found.push(RouteNetlinkMessage::NewNeighbour(neighbour));
    }
    Ok(found)
}
