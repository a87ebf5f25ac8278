//! Sockets: the connection to a server under a terminal's address, and the listeners under servers' addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use mptcp_pm::Token;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::rules::{LISTENERS_V4, LISTENERS_V6};
use crate::syn::Ends;

const IPPROTO_MPTCP: i32 = 262;
const SOL_MPTCP: i32 = 284;
const MPTCP_INFO: i32 = 1;
/// Of `struct mptcp_info`: the flags, and the token behind them.
const INFO_FLAGS: usize = 8;
const INFO_TOKEN: usize = 12;
const INFO_FALLBACK: u32 = 1;

/// What all sockets of the relay are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kind {
    /// The mark of what they send.
    pub mark: u32,
    /// Bytes that they may have received before they are passed on; 0: as many as the kernel thinks fit.
    pub receive_buffer: u32,
}

impl Kind {
    /// The same with another mark.
    pub fn marked(self, mark: u32) -> Self {
        Self { mark, ..self }
    }
}

fn set(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the pointer is to an int that lives longer than the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets a socket have addresses that are not this host's.
fn transparent(socket: &Socket, ipv6: bool) -> io::Result<()> {
    match ipv6 {
        true => set(socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1),
        false => set(socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1),
    }
}

fn socket(ipv6: bool, protocol: i32, kind: Kind) -> io::Result<Socket> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_mark(kind.mark)?;
    if kind.receive_buffer > 0 {
        let bytes = libc::c_int::try_from(kind.receive_buffer).unwrap_or(libc::c_int::MAX);
        set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes)?;
    }
    transparent(&socket, ipv6)?;
    Ok(socket)
}

/// Connects to a server by plain TCP under the terminal's own address and port.
///
/// # Errors
/// What the server or the network answers; `TimedOut` after `patience`.
pub async fn reach(ends: Ends, kind: Kind, patience: Duration) -> io::Result<TcpStream> {
    let connected = connect(libc::IPPROTO_TCP, ends.terminal, ends.server, kind);
    match tokio::time::timeout(patience, connected).await {
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
        Ok(outcome) => outcome,
    }
}

/// Connects to a terminal by MPTCP under the server's own address and port. Given up before it is connected, the socket is
/// closed without a word.
///
/// # Errors
/// What the terminal or the network answers.
pub async fn probe(ends: Ends, kind: Kind) -> io::Result<TcpStream> {
    connect(IPPROTO_MPTCP, ends.server, ends.terminal, kind).await
}

async fn connect(protocol: i32, from: SocketAddr, to: SocketAddr, kind: Kind) -> io::Result<TcpStream> {
    let socket = socket(to.is_ipv6(), protocol, kind)?;
    socket.bind(&from.into())?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

/// Where a listener for servers' ports is, by family.
pub fn listener_address(ipv6: bool, port: u16) -> SocketAddr {
    let address = if ipv6 {
        IpAddr::V6(LISTENERS_V6)
    } else {
        IpAddr::V4(LISTENERS_V4)
    };
    SocketAddr::new(address, port)
}

/// Listens for MPTCP, and for what is diverted to this address whatever its own destination.
///
/// # Errors
/// The port is taken (`AddrInUse`); the kernel has no MPTCP (`ProtocolNotSupported`).
pub fn listen(address: SocketAddr, kind: Kind) -> io::Result<TcpListener> {
    listen_by(IPPROTO_MPTCP, address, kind)
}

/// Listens for plain TCP that is diverted to this address.
///
/// # Errors
/// The port is taken (`AddrInUse`).
pub fn listen_plain(address: SocketAddr, kind: Kind) -> io::Result<TcpListener> {
    listen_by(libc::IPPROTO_TCP, address, kind)
}

fn listen_by(protocol: i32, address: SocketAddr, kind: Kind) -> io::Result<TcpListener> {
    let socket = socket(address.is_ipv6(), protocol, kind)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// What the kernel calls a connection; None: it goes on as plain TCP.
pub fn token(stream: &TcpStream) -> Option<Token> {
    let mut info = [0_u8; 256];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer, which lives longer than the call.
    let done = unsafe {
        libc::getsockopt(
            SockRef::from(stream).as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let word = |at: usize| {
        let bytes: [u8; 4] = info.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_ne_bytes(bytes))
    };
    if done != 0 || (length as usize) < INFO_TOKEN + 4 || word(INFO_FLAGS)? & INFO_FALLBACK != 0 {
        return None;
    }
    word(INFO_TOKEN).filter(|token| *token != 0).map(Token)
}

/// Addresses of IPv4 in IPv6 clothes are IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
