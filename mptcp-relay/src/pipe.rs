//! From a socket of plain TCP to another without a copy into this program: what was received is handed to a pipe page by page,
//! and leaves it into the other socket.
//!
//! Linux does so for what it receives by plain TCP only. What comes by MPTCP would be copied into pages of the pipe's own, and
//! costs what a buffer costs.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe may hold, in bytes.
const ROOM: usize = 1024 * 1024;

/// An empty pipe between two sockets.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Where the bytes are that were received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// So many in the pipe.
    Piped(usize),
    /// So many in the buffer; 0: the sender has said all.
    Buffered(usize),
}

impl Received {
    /// In bytes.
    pub fn length(self) -> usize {
        match self {
            Self::Piped(length) | Self::Buffered(length) => length,
        }
    }
}

/// Whether what comes by this socket comes by plain TCP.
pub fn is_plain(socket: &TcpStream) -> bool {
    matches!(SockRef::from(socket).protocol(), Ok(Some(socket2::Protocol::TCP)))
}

impl Pipe {
    /// A new one with room for [`ROOM`] bytes.
    ///
    /// # Errors
    /// There are too many descriptors, or the kernel gives no more room to pipes.
    pub fn open() -> io::Result<Self> {
        let mut ends: [RawFd; 2] = [-1; 2];
        // SAFETY: the array has room for both descriptors.
        checked(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } as isize)?;
        // SAFETY: the kernel has just made these descriptors, and nobody else knows them.
        let [read, write] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
        // SAFETY: plain numbers.
        checked(unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, ROOM as libc::c_int) } as isize)?;
        Ok(Self { read, write })
    }

    /// Takes what there is. Before urgent data a pipe gets nothing, as if there were nothing or no more: the buffer gets what there is.
    ///
    /// # Errors
    /// `WouldBlock`: nothing is there. What the socket has failed with.
    pub fn fill(&self, from: &TcpStream, buffer: &mut [u8]) -> io::Result<Received> {
        from.try_io(Interest::READABLE, || {
            match splice(from.as_raw_fd(), self.write.as_raw_fd(), ROOM) {
                Ok(length) if length > 0 => Ok(Received::Piped(length)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                _ => (&*SockRef::from(from)).read(buffer).map(Received::Buffered),
            }
        })
    }

    /// Passes on so many bytes, which the pipe holds.
    ///
    /// # Errors
    /// What the socket has failed with.
    pub async fn empty(&self, to: &TcpStream, mut length: usize) -> io::Result<()> {
        while length > 0 {
            to.writable().await?;
            let passed = to.try_io(Interest::WRITABLE, || {
                splice(self.read.as_raw_fd(), to.as_raw_fd(), length)
            });
            match passed {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(passed) => length -= passed,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn splice(from: RawFd, to: RawFd, length: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: no offsets are given, and the descriptors are only numbers to the kernel.
    let passed = unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            length,
            flags,
        )
    };
    checked(passed)
}

fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
