//! An established connection out of nothing (TCP_REPAIR): a relayed connection was set up elsewhere, before its ends came
//! to the relay.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

const REPAIR: libc::c_int = 19;
const REPAIR_QUEUE: libc::c_int = 20;
const QUEUE_SEQ: libc::c_int = 21;
const REPAIR_OPTIONS: libc::c_int = 22;
const RECEIVED: u32 = 1;
const SENT: u32 = 2;
/// Codes of options, and the scale of both windows.
const MSS: u32 = 2;
const WINDOW_SCALE: u32 = 3;
const SACK_PERMITTED: u32 = 4;
const TIMESTAMPS: u32 = 8;
const SCALE: u32 = 10;

fn set<T>(socket: &Socket, option: libc::c_int, value: &[T]) -> io::Result<()> {
    // SAFETY: the buffer outlives the call and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value.as_ptr().cast(),
            size_of_val(value) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One end whose next byte has the number `sent`, and that expects `received`. It says nothing until [`open`]: the other
/// end's kernel would answer by a reset as long as it has no such connection.
pub fn prepared(local: SocketAddr, remote: SocketAddr, sent: u32, received: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_congestion(b"cubic")?;
    set(&socket, REPAIR, &[1u32])?;
    for (queue, number) in [(SENT, sent), (RECEIVED, received)] {
        set(&socket, REPAIR_QUEUE, &[queue])?;
        set(&socket, QUEUE_SEQ, &[number])?;
    }
    socket.bind(&local.into())?;
    socket.connect(&remote.into())?;
    set(
        &socket,
        REPAIR_OPTIONS,
        &[
            [MSS, 1460],
            [WINDOW_SCALE, SCALE | SCALE << 16],
            [SACK_PERMITTED, 0],
            [TIMESTAMPS, 0],
        ],
    )?;
    Ok(socket)
}

/// The end of repair asks the other end for its window.
pub fn open(socket: Socket) -> io::Result<TcpStream> {
    set(&socket, REPAIR, &[0u32])?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}
