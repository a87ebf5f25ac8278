//! Socket options as scenarios name them, and errors as scenarios expect them.
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Durations in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Options {
    pub user_timeout: Option<u64>,
    /// Idle time, interval, count.
    pub keepalive: Option<(u64, u64, u32)>,
    pub nodelay: bool,
    /// Sockets speak MPTCP.
    #[serde(default)]
    pub mptcp: bool,
}

impl Options {
    pub fn set(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        if let Some(timeout) = self.user_timeout {
            socket.set_tcp_user_timeout(Some(Duration::from_millis(timeout)))?;
        }
        if let Some((idle, interval, count)) = self.keepalive {
            let keepalive = TcpKeepalive::new()
                .with_time(Duration::from_millis(idle))
                .with_interval(Duration::from_millis(interval))
                .with_retries(count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if self.nodelay {
            stream.set_nodelay(true)?;
        }
        Ok(())
    }
}

/// The protocol of a socket; none: the kernel's usual one.
fn protocol(mptcp: bool) -> Option<Protocol> {
    mptcp.then_some(Protocol::from(libc::IPPROTO_MPTCP))
}

/// Connects, by MPTCP if asked.
pub fn connect(to: SocketAddr, mptcp: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, protocol(mptcp))?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Listens on a port of both families.
pub fn listen(port: u16, mptcp: bool) -> Result<TcpListener, String> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV6, Type::STREAM, protocol(mptcp))?;
        socket.set_only_v6(false)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from(([0_u16; 8], port)).into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    open().map_err(|error| format!("cannot listen on port {port}: {error}"))
}

/// The errno name of a failure without its leading E; `CLOSED` for a peer that ended too early.
pub fn name(error: &io::Error) -> String {
    let named = match error.raw_os_error() {
        Some(libc::ECONNRESET) => "RESET",
        Some(libc::ETIMEDOUT) => "TIMEDOUT",
        Some(libc::EPIPE) => "PIPE",
        Some(libc::ECONNREFUSED) => "REFUSED",
        Some(libc::ECONNABORTED) => "ABORTED",
        Some(libc::EHOSTUNREACH) => "HOSTUNREACH",
        Some(libc::ENETUNREACH) => "NETUNREACH",
        Some(libc::EADDRNOTAVAIL) => "ADDRNOTAVAIL",
        Some(number) => return format!("ERRNO{number}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => "CLOSED",
        None => "OTHER",
    };
    named.to_owned()
}

/// How many bytes of what was written the peer has acknowledged, RFC 4898's tcpEStatsAppHCThruOctetsAcked, also when the
/// connection is over.
pub fn acknowledged(stream: &TcpStream) -> Option<u64> {
    const BYTES_ACKED: usize = 120;
    let mut info = [0_u8; BYTES_ACKED + 8];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes of its struct tcp_info.
    let answer = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let whole = answer == 0 && length as usize == info.len();
    let bytes = info[BYTES_ACKED..].try_into().ok()?;
    whole.then(|| u64::from_ne_bytes(bytes))
}
