//! Segments that no kernel would send, and what comes back for them.
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A TCP segment without payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// A multiple of four bytes.
    pub options: &'a [u8],
}

/// What has come.
#[derive(Clone, Debug)]
pub struct Heard {
    pub seq: u32,
    pub flags: u8,
    pub options: Vec<u8>,
}

/// A raw socket of the host it was made on.
pub struct Raw {
    socket: Socket,
}

impl Raw {
    pub fn open() -> Raw {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).expect("root");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("a timeout");
        Raw { socket }
    }

    pub fn send(&self, segment: &Segment<'_>) {
        let mut bytes = Vec::new();
        bytes.extend(segment.from.port().to_be_bytes());
        bytes.extend(segment.to.port().to_be_bytes());
        bytes.extend(segment.seq.to_be_bytes());
        bytes.extend(segment.ack.to_be_bytes());
        bytes.push(((20 + segment.options.len()) as u8 / 4) << 4);
        bytes.push(segment.flags);
        bytes.extend(64_000_u16.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(segment.options);
        let sum = checksum(*segment.from.ip(), *segment.to.ip(), &bytes);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
        self.socket
            .bind(&SockAddr::from(SocketAddrV4::new(*segment.from.ip(), 0)))
            .expect("an address of this host");
        let to = SockAddr::from(SocketAddrV4::new(*segment.to.ip(), 0));
        self.socket.send_to(&bytes, &to).expect("sent");
    }

    /// The next segment to one of this host's ports.
    pub fn hear(&mut self, port: u16) -> Heard {
        let begun = Instant::now();
        let mut buffer = [0; 2048];
        loop {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "nothing came to port {port}"
            );
            let Ok(length) = self.socket.read(&mut buffer) else {
                continue;
            };
            let header = usize::from(buffer[0] & 15) * 4;
            let tcp = &buffer[header..length];
            if tcp[2..4] != port.to_be_bytes() {
                continue;
            }
            return Heard {
                seq: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
                flags: tcp[13],
                options: tcp[20..usize::from(tcp[12] >> 4) * 4].to_vec(),
            };
        }
    }
}

fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let pseudo = [
        &from.octets()[..],
        &to.octets()[..],
        &[0, 6],
        &(segment.len() as u16).to_be_bytes(),
    ]
    .concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u32 = words
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
