//! Watching a bare pair of devices through a packet socket.
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

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
        while let Some((kept, length, way)) = receive(socket, &mut buffer) {
            let frame = &buffer[..kept];
            let packet = Packet::read(frame);
            let now = Instant::now();
            // One look serves both devices: a plain pair has no inside.
            let far = match way {
                Way::Out => Way::In,
                Way::In => Way::Out,
            };
            watch.passes(0, way, frame, length, packet.as_ref(), now);
            watch.passes(1, far, frame, length, packet.as_ref(), now);
        }
        if stopping {
            return;
        }
    }
}

fn receive(socket: &std::fs::File, buffer: &mut [u8]) -> Option<(usize, usize, Way)> {
    // SAFETY: all zeros is a valid address.
    let mut from: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    let mut size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: buffer and address outlive the call and their sizes are given.
    let length = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            libc::MSG_TRUNC | libc::MSG_DONTWAIT,
            (&raw mut from).cast(),
            &raw mut size,
        )
    };
    let length = usize::try_from(length).ok()?;
    let way = if from.sll_pkttype == libc::PACKET_OUTGOING {
        Way::Out
    } else {
        Way::In
    };
    Some((length.min(buffer.len()), length, way))
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
    Ok(std::fs::File::from(socket))
}
