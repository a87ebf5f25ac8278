//! A subscription that is only there.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use netlink_sys::{Socket, protocols::NETLINK_GENERIC};

use crate::Error;
use crate::connection::Link;

/// The kernel makes it what it needs at least.
const RECEIVE_BUFFER: u32 = 1;

/// Subscribes to the events of the network namespace of the calling thread, for nobody to read them.
///
/// As long as the descriptor is open, in whatever process, the `userspace` path manager accepts joins. A path manager that gives it to
/// its supervisor before it takes its first connection may be killed, and no join is refused until it is back. What nobody reads takes
/// one small buffer.
///
/// # Errors
/// [`Error::Socket`] (also without `CAP_NET_ADMIN`), [`Error::NoFamily`], [`Error::NoEvents`].
pub async fn stand_in() -> Result<OwnedFd, Error> {
    let group = Link::events_group().await?;
    let subscribed = || -> std::io::Result<OwnedFd> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
        socket.set_no_enobufs(true)?;
        socket.bind_auto()?;
        socket.add_membership(group)?;
        // SAFETY: the socket gives its descriptor away, and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(socket.into_raw_fd()) })
    };
    subscribed().map_err(Error::Socket)
}
