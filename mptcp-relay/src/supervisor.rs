//! What the supervisor keeps while no relay runs: a subscription to the path manager's events.
//!
//! A connection of this host that was made under the `userspace` path manager keeps it for life, and the kernel refuses whatever joins
//! such a connection while nobody is subscribed. So that a relay that is killed does no harm to programs which it does not even
//! relay for, systemd's store of descriptors (`FileDescriptorStoreMax`) has a subscription that nobody reads.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use socket2::{Domain, MsgHdr, SockAddr, Socket, Type};

/// How the supervisor calls it.
const NAME: &str = "path-manager";

/// Gives the supervisor a subscription, unless it has one from an earlier relay. Without a supervisor there is nobody to keep it.
///
/// # Errors
/// The kernel gives no subscription, or the supervisor does not take it.
pub async fn stand_in() -> anyhow::Result<()> {
    let Some(supervisor) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    if sd_notify::listen_fds().is_ok_and(|kept| kept.len() > 0) {
        return Ok(());
    }
    let subscription = mptcp_pm::stand_in().await?;
    store(supervisor.as_ref(), subscription.as_fd())?;
    Ok(())
}

/// A message of sd_notify(3) with a descriptor.
fn store(supervisor: &Path, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    socket.connect(&SockAddr::unix(supervisor)?)?;
    let text = format!("FDSTORE=1\nFDNAME={NAME}\n");
    let control = rights(descriptor);
    let buffers = [IoSlice::new(text.as_bytes())];
    let message = MsgHdr::new().with_buffers(&buffers).with_control(&control);
    socket.sendmsg(&message, libc::MSG_NOSIGNAL).map(|_| ())
}

/// A control message with one descriptor (SCM_RIGHTS): length, level, kind, descriptor, and nothing up to the next word.
fn rights(descriptor: BorrowedFd<'_>) -> Vec<u8> {
    let length = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(libc::SOL_SOCKET.to_ne_bytes());
    bytes.extend(libc::SCM_RIGHTS.to_ne_bytes());
    bytes.extend(descriptor.as_raw_fd().to_ne_bytes());
    bytes.resize(length.next_multiple_of(size_of::<usize>()), 0);
    bytes
}
