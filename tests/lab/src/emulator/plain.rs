//! Watching a bare pair of devices through a packet socket.
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, LinkAddr, MsgFlags, recvmsg};

use super::capture::{SNAP, Way};
use super::segment::Packet;
use super::watch::Watch;
use crate::machine::{MachineError, Station, netns};

/// The socket's buffer: what may wait while the thread is not scheduled.
const BUFFER: libc::c_int = 16 * 1024 * 1024;

/// The watcher of a plain link. Dropping it ends the capture.
pub struct PlainLink {
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl PlainLink {
    /// Watches `device` in the namespace of `stations[0]`; what it receives was sent by the other end.
    pub fn start(
        name: &str,
        station: &Station,
        device: &str,
        watch: Watch,
    ) -> Result<PlainLink, MachineError> {
        let socket = netns::inside(&station.netns, || {
            open(device).map_err(MachineError::io(format!("watch {device}")))
        })?;
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(MachineError::io("create an eventfd"))?;
        let bell = Arc::new(bell);
        let stop = Arc::clone(&bell);
        let thread = std::thread::Builder::new()
            .name(format!("watch {name}"))
            .spawn(move || run(&socket, &stop, watch))
            .map_err(MachineError::io("start the thread of a link"))?;
        Ok(PlainLink {
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for PlainLink {
    fn drop(&mut self) {
        let _ = self.bell.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(socket: &std::fs::File, stop: &EventFd, mut watch: Watch) {
    let mut buffer = [0; SNAP];
    loop {
        let mut ready = [
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        let _ = poll(&mut ready, PollTimeout::NONE);
        let stopping = ready[1].any() == Some(true);
        while let Some(glance) = receive(socket, &mut buffer) {
            let frame = &buffer[..glance.length.min(SNAP)];
            let packet = Packet::read(frame);
            let times = (Instant::now(), glance.time);
            // One look serves both devices: a plain pair has no inside.
            let far = match glance.way {
                Way::Out => Way::In,
                Way::In => Way::Out,
            };
            watch.passed(0, glance.way, frame, glance.length, packet.as_ref(), times);
            watch.passed(1, far, frame, glance.length, packet.as_ref(), times);
        }
        if stopping {
            return;
        }
    }
}

/// What the kernel tells about a frame; its beginning is in the buffer.
struct Glance {
    length: usize,
    way: Way,
    /// When the kernel saw it: this thread may come much later.
    time: SystemTime,
}

fn receive(socket: &std::fs::File, buffer: &mut [u8]) -> Option<Glance> {
    let mut stamps = nix::cmsg_space!(nix::sys::time::TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut stamps), flags).ok()?;
    let outgoing = message
        .address
        .is_some_and(|from| from.pkttype() == libc::PACKET_OUTGOING);
    let stamp = message.cmsgs().ok()?.find_map(|said| match said {
        ControlMessageOwned::ScmTimestampns(stamp) => Some(UNIX_EPOCH + Duration::from(stamp)),
        _ => None,
    });
    Some(Glance {
        length: message.bytes,
        way: if outgoing { Way::Out } else { Way::In },
        time: stamp.unwrap_or_else(SystemTime::now),
    })
}

fn open(device: &str) -> std::io::Result<std::fs::File> {
    let everything = i32::from((libc::ETH_P_ALL as u16).to_be());
    // SAFETY: plain numbers; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let fd = socket.as_raw_fd();
    // SAFETY: the option and the address outlive the calls and their sizes are given.
    unsafe {
        let buffer = BUFFER;
        let size = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const buffer).cast(),
            size,
        );
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = everything as u16;
        let name = std::ffi::CString::new(device)?;
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        if libc::bind(fd, (&raw const address).cast(), size) < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    nix::sys::socket::setsockopt(&socket, ReceiveTimestampns, &true)?;
    Ok(std::fs::File::from(socket))
}
