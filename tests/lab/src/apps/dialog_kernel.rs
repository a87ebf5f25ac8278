//! What a dialog asks of the kernel that the standard library has no words for.
use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

const TCP_REPAIR: libc::c_int = 19;
const TCP_REPAIR_QUEUE: libc::c_int = 20;
const TCP_QUEUE_SEQ: libc::c_int = 21;
const TCP_SEND_QUEUE: libc::c_int = 2;
const TCP_FASTOPEN_CONNECT: libc::c_int = 30;
const TCP_MD5SIG: libc::c_int = 14;
const TCP_ULP: libc::c_int = 31;
const SOL_TLS: libc::c_int = 282;
const TLS_TX: libc::c_int = 1;
const TLS_RX: libc::c_int = 2;

/// The states of a TCP socket, as the kernel counts them from 1.
const STATES: [&str; 11] = [
    "Established",
    "SynSent",
    "SynRecv",
    "FinWait1",
    "FinWait2",
    "TimeWait",
    "Close",
    "CloseWait",
    "LastAck",
    "Listen",
    "Closing",
];

pub fn state_number(name: &str) -> Option<u8> {
    let at = STATES.iter().position(|state| *state == name)?;
    Some(at as u8 + 1)
}

fn set<T>(socket: RawFd, option: libc::c_int, value: &T) -> io::Result<()> {
    set_at(socket, libc::IPPROTO_TCP, option, value)
}

fn set_at<T>(socket: RawFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a value that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub fn cork(stream: &TcpStream, on: bool) -> io::Result<()> {
    set(stream.as_raw_fd(), libc::TCP_CORK, &libc::c_int::from(on))
}

pub fn clamp(socket: &Socket, bytes: u32) -> io::Result<()> {
    set(socket.as_raw_fd(), libc::TCP_WINDOW_CLAMP, &bytes)
}

pub fn fast_open(socket: &Socket) -> io::Result<()> {
    set(socket.as_raw_fd(), TCP_FASTOPEN_CONNECT, &1)
}

/// The next connection of this socket begins with this number, as one in four thousand million does by chance.
pub fn set_isn(socket: &Socket, isn: u32) -> io::Result<()> {
    let fd = socket.as_raw_fd();
    set(fd, TCP_REPAIR, &1)?;
    set(fd, TCP_REPAIR_QUEUE, &TCP_SEND_QUEUE)?;
    set(fd, TCP_QUEUE_SEQ, &isn)?;
    set(fd, TCP_REPAIR, &0)
}

/// RFC 2385: segments from and to this address are signed with this key.
pub fn sign(socket: &Socket, address: IpAddr, key: &str) -> io::Result<()> {
    #[repr(C)]
    struct Md5Signature {
        address: libc::sockaddr_storage,
        flags: u8,
        prefix_length: u8,
        key_length: u16,
        ifindex: libc::c_int,
        key: [u8; 80],
    }
    // SAFETY: all of it are plain numbers.
    let mut signature: Md5Signature = unsafe { zeroed() };
    copy_address(&mut signature.address, &peer_as_seen_by(socket, address)?);
    let length = key.len().min(signature.key.len());
    signature.key[..length].copy_from_slice(&key.as_bytes()[..length]);
    signature.key_length = length as u16;
    set(socket.as_raw_fd(), TCP_MD5SIG, &signature)
}

/// A socket of both families knows an IPv4 peer by its mapped address.
fn peer_as_seen_by(socket: &Socket, address: IpAddr) -> io::Result<socket2::SockAddr> {
    let mapped = match (address, socket.domain()?) {
        (IpAddr::V4(v4), socket2::Domain::IPV6) => IpAddr::V6(v4.to_ipv6_mapped()),
        (other, _) => other,
    };
    Ok(std::net::SocketAddr::new(mapped, 0).into())
}

fn copy_address(to: &mut libc::sockaddr_storage, address: &socket2::SockAddr) {
    // SAFETY: both are at least as long as the address says.
    unsafe {
        std::ptr::copy_nonoverlapping(
            address.as_ptr().cast::<u8>(),
            std::ptr::from_mut(to).cast::<u8>(),
            address.len() as usize,
        );
    }
}

/// From here on the kernel speaks TLS 1.2 with AES-128-GCM, under a key for each of the two streams, as if they had
/// been agreed on.
pub fn encrypt(stream: &TcpStream, sends: u8, receives: u8) -> io::Result<()> {
    #[repr(C)]
    struct Aes128Gcm {
        version: u16,
        cipher: u16,
        iv: [u8; 8],
        key: [u8; 16],
        salt: [u8; 4],
        record: [u8; 8],
    }
    let keyed = |of: u8| Aes128Gcm {
        version: 0x0303,
        cipher: 51,
        iv: [of; 8],
        key: [of; 16],
        salt: [of; 4],
        record: [0; 8],
    };
    let fd = stream.as_raw_fd();
    set(fd, TCP_ULP, b"tls")?;
    set_at(fd, SOL_TLS, TLS_TX, &keyed(sends))?;
    set_at(fd, SOL_TLS, TLS_RX, &keyed(receives))
}

pub fn send_urgent(stream: &TcpStream, byte: u8) -> io::Result<()> {
    // SAFETY: one byte that lives through the call.
    let sent = unsafe {
        libc::send(
            stream.as_raw_fd(),
            std::ptr::from_ref(&byte).cast(),
            1,
            libc::MSG_OOB | libc::MSG_NOSIGNAL,
        )
    };
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Waits for urgent data and takes it.
pub fn receive_urgent(stream: &TcpStream) -> io::Result<u8> {
    let mut wanted = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    let mut byte = 0_u8;
    // SAFETY: one pollfd, and one byte to write to.
    let received = unsafe {
        if libc::poll(&mut wanted, 1, -1) < 0 {
            return Err(io::Error::last_os_error());
        }
        libc::recv(wanted.fd, std::ptr::from_mut(&mut byte).cast(), 1, libc::MSG_OOB)
    };
    if received == 1 {
        Ok(byte)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What ended the connection. An error on the way that TCP got over (an unreachable host, for a while) is none.
pub fn hard_error(stream: &TcpStream) -> io::Result<Option<io::Error>> {
    let mut asked = libc::pollfd {
        fd: stream.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one pollfd.
    if unsafe { libc::poll(&mut asked, 1, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    if asked.revents & libc::POLLERR == 0 {
        return Ok(None);
    }
    stream.take_error()
}

pub fn info(stream: &TcpStream) -> io::Result<libc::tcp_info> {
    // SAFETY: plain numbers, which the kernel fills as far as it knows them.
    unsafe {
        let mut info: libc::tcp_info = zeroed();
        let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
        let result = libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            std::ptr::from_mut(&mut info).cast(),
            &mut length,
        );
        if result == 0 {
            Ok(info)
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// What both kernels agreed on: options by name, and both window scales, the peer's first.
pub fn agreed(info: &libc::tcp_info) -> Vec<String> {
    let names = [
        (1, "timestamps"),
        (2, "sack"),
        (4, "scaling"),
        (8, "ecn"),
        (32, "fastopen"),
    ];
    let options = names.iter().filter(|(bit, _)| info.tcpi_options & bit != 0);
    let mut agreed: Vec<String> = options.map(|(_, name)| (*name).to_owned()).collect();
    let scales = info.tcpi_snd_rcv_wscale;
    agreed.push(format!("scale={}/{}", scales & 15, scales >> 4));
    agreed
}
