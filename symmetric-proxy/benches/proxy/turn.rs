//! A client of TURN over TCP (RFC 8656 with RFC 6062): as much of it as takes one connection through a relay that asks
//! nobody who he is.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};

const COOKIE: u32 = 0x2112_a442;
/// Requests, and what is added for their success.
const ALLOCATE: u16 = 0x0003;
const CONNECT: u16 = 0x000a;
const CONNECTION_BIND: u16 = 0x000b;
const SUCCESS: u16 = 0x0100;
/// Attributes.
const LIFETIME: u16 = 0x000d;
const XOR_PEER_ADDRESS: u16 = 0x0012;
const REQUESTED_TRANSPORT: u16 = 0x0019;
const CONNECTION_ID: u16 = 0x002a;

/// A connection to `peer` through the relay, and the one that keeps its allocation. One allocation for each: a second
/// connection to the same peer is refused.
///
/// # Errors
/// The relay refuses or cannot be reached.
pub fn connect(relay: SocketAddrV4, peer: SocketAddrV4) -> io::Result<(TcpStream, TcpStream)> {
    let mut control = TcpStream::connect(relay)?;
    let lifetime = 3600u32.to_be_bytes();
    ask(
        &mut control,
        ALLOCATE,
        &[(REQUESTED_TRANSPORT, &[6, 0, 0, 0]), (LIFETIME, &lifetime)],
    )?;
    let port = (peer.port() ^ (COOKIE >> 16) as u16).to_be_bytes();
    let address = (u32::from(*peer.ip()) ^ COOKIE).to_be_bytes();
    let peer = [&[0, 1], &port[..], &address].concat();
    let answer = ask(&mut control, CONNECT, &[(XOR_PEER_ADDRESS, &peer)])?;
    let id =
        attribute(&answer, CONNECTION_ID).ok_or_else(|| io::Error::other("the relay names no connection"))?;
    let mut data = TcpStream::connect(relay)?;
    ask(&mut data, CONNECTION_BIND, &[(CONNECTION_ID, id)])?;
    Ok((data, control))
}

/// The relay's port; whether it is there can be tried by connecting.
pub fn at(address: Ipv4Addr) -> SocketAddrV4 {
    SocketAddrV4::new(address, 3478)
}

/// A request; the attributes of its answer. All that is sent here has a length that needs no padding.
fn ask(stream: &mut TcpStream, request: u16, attributes: &[(u16, &[u8])]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(*value);
    }
    let mut message = Vec::from(request.to_be_bytes());
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(COOKIE.to_be_bytes());
    message.extend([7; 12]);
    message.extend(body);
    stream.write_all(&message)?;
    let mut head = [0; 20];
    stream.read_exact(&mut head)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
    stream.read_exact(&mut answer)?;
    match u16::from_be_bytes([head[0], head[1]]) == request | SUCCESS {
        true => Ok(answer),
        false => Err(io::Error::other(format!(
            "the relay refuses {request:#06x}: {answer:02x?}"
        ))),
    }
}

fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = attributes.split_at_checked(4)?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if u16::from_be_bytes([head[0], head[1]]) == wanted {
            return Some(value);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
}
