//! Sending what the agent composes: raw IP out of the host, and packets into its own stack.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::interface::DatapathError;

/// Raw sockets for both families; what they send carries the agent's mark and is not translated.
pub struct Sender {
    v4: Socket,
    v6: Option<Socket>,
}

impl Sender {
    /// # Errors
    /// Without CAP_NET_RAW. Hosts without IPv6 get a sender for IPv4.
    pub fn new(mark: u32) -> io::Result<Self> {
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        v4.set_header_included_v4(true)?;
        v4.set_mark(mark)?;
        v4.set_nonblocking(true)?;
        let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
            .and_then(|socket| {
                socket.set_header_included_v6(true)?;
                socket.set_mark(mark)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            })
            .ok();
        Ok(Self { v4, v6 })
    }

    /// Sends a complete IP packet, out of the given device if one is named.
    pub fn send(&self, packet: &[u8], ifindex: Option<u32>) -> Result<(), DatapathError> {
        let Some(to) = destination(packet) else {
            return Err(DatapathError::Kernel {
                what: "cannot send".into(),
                error: "not an IP packet".into(),
            });
        };
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or_else(|| DatapathError::Send {
                to,
                error: io::Error::new(io::ErrorKind::Unsupported, "this host has no IPv6"),
            })?,
        };
        let address = SockAddr::from(SocketAddr::new(to, 0));
        send_by(socket, packet, &address, to, ifindex).map_err(|error| DatapathError::Send { to, error })
    }
}

/// `sendmsg` with the device as ancillary data, so that routing follows the caller's decision.
fn send_by(
    socket: &Socket,
    packet: &[u8],
    address: &SockAddr,
    to: IpAddr,
    ifindex: Option<u32>,
) -> io::Result<()> {
    let Some(ifindex) = ifindex else {
        return socket.send_to(packet, address).map(drop);
    };
    let buffers = [io::IoSlice::new(packet)];
    let v4;
    let v6;
    let control = match to {
        IpAddr::V4(_) => {
            v4 = libc::in_pktinfo {
                ipi_ifindex: ifindex as libc::c_int,
                ipi_spec_dst: libc::in_addr { s_addr: 0 },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            nix::sys::socket::ControlMessage::Ipv4PacketInfo(&v4)
        }
        IpAddr::V6(_) => {
            v6 = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: [0; 16] },
                ipi6_ifindex: ifindex,
            };
            nix::sys::socket::ControlMessage::Ipv6PacketInfo(&v6)
        }
    };
    let address = address.as_socket().map(nix::sys::socket::SockaddrStorage::from);
    nix::sys::socket::sendmsg(
        socket.as_raw_fd(),
        &buffers,
        &[control],
        nix::sys::socket::MsgFlags::empty(),
        address.as_ref(),
    )?;
    Ok(())
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet
            .get(16..20)?
            .try_into()
            .ok()
            .map(|octets: [u8; 4]| IpAddr::V4(Ipv4Addr::from(octets))),
        6 => packet
            .get(24..40)?
            .try_into()
            .ok()
            .map(|octets: [u8; 16]| IpAddr::V6(Ipv6Addr::from(octets))),
        _ => None,
    }
}

/// A packet socket on the parking device: what it sends turns round there and enters the local stack.
pub struct Injector {
    socket: Socket,
    ifindex: u32,
    mac: [u8; 6],
}

impl Injector {
    /// # Errors
    /// Without CAP_NET_RAW, or when the device does not exist.
    pub fn new(ifindex: u32, mac: [u8; 6], mark: u32) -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_mark(mark)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, ifindex, mac })
    }

    /// Hands an IP packet to the local stack.
    pub fn deliver(&self, packet: &[u8]) -> Result<(), DatapathError> {
        let Some(to) = destination(packet) else {
            return Err(DatapathError::Kernel {
                what: "cannot deliver".into(),
                error: "not an IP packet".into(),
            });
        };
        let protocol: u16 = if to.is_ipv4() { 0x0800 } else { 0x86dd };
        let mut frame = Vec::with_capacity(14 + packet.len());
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&protocol.to_be_bytes());
        frame.extend_from_slice(packet);
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol.to_be(),
            sll_ifindex: self.ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: the buffers and the address live through the call and their lengths are right.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        if sent < 0 {
            return Err(DatapathError::Send {
                to,
                error: io::Error::last_os_error(),
            });
        }
        Ok(())
    }
}
