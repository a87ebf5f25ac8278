//! The kernel's queue of held packets (nfnetlink_queue): what it holds is read here, and told what becomes of it.
//!
//! The queue fails open twice. While no socket is bound to it, the rules' `bypass` lets packets pass; when it is full, or
//! its reader too slow, the kernel accepts what it cannot hold.

use std::io;
use std::os::fd::AsRawFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use tokio::io::unix::AsyncFd;

const SUBSYSTEM: u16 = 3 << 8;
const PACKET: u16 = SUBSYSTEM;
const VERDICT: u16 = SUBSYSTEM | 1;
const CONFIG: u16 = SUBSYSTEM | 2;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;

const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
const CONFIG_LENGTH: u16 = 3;
const CONFIG_MASK: u16 = 4;
const CONFIG_FLAGS: u16 = 5;
const FAIL_OPEN: u32 = 1;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;

const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;
const PAYLOAD: u16 = 10;

/// Headers of IPv6 and TCP with all options, and room to spare.
const COPIED: u32 = 160;
/// Packets that may be held at once; more pass.
const LONGEST: u32 = 16_384;
/// For packets that are not read yet.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A packet that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// What the kernel calls it.
    pub id: u32,
    /// Its mark.
    pub mark: u32,
    /// Its first bytes, from the IP header on.
    pub head: Vec<u8>,
}

/// What becomes of a held packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes its way, with this mark.
    Accept {
        /// The mark from now on.
        mark: u32,
    },
    /// It never was.
    Drop,
}

/// A queue that this program reads.
#[derive(Debug)]
pub struct Queue {
    socket: AsyncFd<Socket>,
    number: u16,
    read: std::collections::VecDeque<Held>,
    buffer: Vec<u8>,
}

impl Queue {
    /// Takes the queue with this number, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink socket; the kernel has no queues; another program reads this one (`EBUSY`).
    pub fn open(number: u16) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let _ = socket.set_rx_buf_sz(RECEIVE_BUFFER);
        let mut parameters = COPIED.to_be_bytes().to_vec();
        parameters.push(COPY_PACKET);
        let requests = [
            vec![(CONFIG_COMMAND, vec![BIND, 0, 0, 0])],
            vec![
                (CONFIG_PARAMETERS, parameters),
                (CONFIG_LENGTH, LONGEST.to_be_bytes().to_vec()),
                (CONFIG_MASK, FAIL_OPEN.to_be_bytes().to_vec()),
                (CONFIG_FLAGS, FAIL_OPEN.to_be_bytes().to_vec()),
            ],
        ];
        for attributes in requests {
            let request = message(CONFIG, REQUEST | ACKNOWLEDGE, number, &attributes);
            socket.send(&request, 0)?;
            acknowledged(&socket)?;
        }
        socket.set_non_blocking(true)?;
        // SAFETY: the socket owns its descriptor, never gives out another, and lives as long as the registration.
        let socket = unsafe { AsyncFd::register(socket)? };
        Ok(Self {
            socket,
            number,
            read: Default::default(),
            buffer: vec![0; 64 * 1024],
        })
    }

    /// The next packet. Dropped before it is ready, nothing is lost.
    ///
    /// # Errors
    /// The socket is gone.
    pub async fn next(&mut self) -> io::Result<Held> {
        loop {
            if let Some(held) = self.read.pop_front() {
                return Ok(held);
            }
            let mut ready = self.socket.readable().await?;
            let buffer = &mut self.buffer;
            let received = ready.try_io(|socket| {
                // SAFETY: the buffer is valid for its length, and lives longer than the call.
                let length = unsafe {
                    libc::recv(
                        socket.as_raw_fd(),
                        buffer.as_mut_ptr().cast(),
                        buffer.len(),
                        libc::MSG_DONTWAIT,
                    )
                };
                usize::try_from(length).map_err(|_| io::Error::last_os_error())
            });
            match received {
                Ok(Ok(length)) => self.read.extend(packets(&self.buffer[..length])),
                // Some were not held for want of room here: they have passed.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }

    /// Decides about a packet.
    ///
    /// # Errors
    /// The kernel holds no such packet.
    pub fn decide(&self, id: u32, verdict: Verdict) -> io::Result<()> {
        let (word, mark) = match verdict {
            Verdict::Drop => (0_u32, None),
            Verdict::Accept { mark } => (1, Some(mark)),
        };
        let header = [word.to_be_bytes(), id.to_be_bytes()].concat();
        let mut attributes = vec![(VERDICT_HEADER, header)];
        attributes.extend(mark.map(|mark| (MARK, mark.to_be_bytes().to_vec())));
        let request = message(VERDICT, REQUEST, self.number, &attributes);
        self.socket.get_ref().send(&request, 0).map(|_| ())
    }
}

fn message(kind: u16, flags: u16, queue: u16, attributes: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; 16];
    bytes.extend([libc::AF_UNSPEC as u8, 0]);
    bytes.extend(queue.to_be_bytes());
    for (kind, value) in attributes {
        bytes.extend((value.len() as u16 + 4).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let length = (bytes.len() as u32).to_ne_bytes();
    bytes[0..4].copy_from_slice(&length);
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

fn acknowledged(socket: &Socket) -> io::Result<()> {
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer
        .get(4..6)
        .map(|kind| u16::from_ne_bytes([kind[0], kind[1]]));
    match (kind, number(&answer, 16)) {
        (Some(ERROR), Some(0)) => Ok(()),
        (Some(ERROR), Some(error)) => Err(io::Error::from_raw_os_error((error as i32).wrapping_neg())),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer of the packet queue makes no sense",
        )),
    }
}

/// The packets in what the kernel has sent.
fn packets(mut bytes: &[u8]) -> Vec<Held> {
    let mut found = Vec::new();
    while let Some(length) = number(bytes, 0).map(|length| length as usize) {
        let Some(message) = bytes.get(..length).filter(|message| message.len() >= 20) else {
            break;
        };
        if message[4..6] == PACKET.to_ne_bytes() {
            found.extend(packet(&message[20..]));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn packet(mut attributes: &[u8]) -> Option<Held> {
    let (mut id, mut mark, mut head) = (None, 0, Vec::new());
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = attributes.get(4..length) else {
            break;
        };
        let big = |value: &[u8]| {
            let bytes: [u8; 4] = value.get(..4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        match u16::from_ne_bytes([c, d]) & 0x3fff {
            PACKET_HEADER => id = big(value),
            MARK => mark = big(value).unwrap_or(0),
            PAYLOAD => head = value.to_vec(),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Held { id: id?, mark, head })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_of_the_queue_is_read_with_its_number_mark_and_head() {
        let bytes = message(
            PACKET,
            0,
            7,
            &[
                (PACKET_HEADER, vec![0, 0, 0, 9, 8, 0, 1]),
                (MARK, vec![0, 0, 1, 2]),
                (PAYLOAD, vec![0x45, 1, 2]),
            ],
        );
        let expected = Held {
            id: 9,
            mark: 0x102,
            head: vec![0x45, 1, 2],
        };
        assert_eq!(packets(&bytes), std::slice::from_ref(&expected));
        assert_eq!(
            packets(&[bytes.clone(), bytes].concat()),
            [expected.clone(), expected]
        );
    }

    #[test]
    fn what_is_cut_off_anywhere_is_no_packet_and_no_panic() {
        let attributes = [(PAYLOAD, vec![1; 40]), (PACKET_HEADER, vec![0, 0, 0, 9, 8, 0, 1])];
        let bytes = message(PACKET, 0, 7, &attributes);
        for end in 0..bytes.len() {
            assert!(packets(&bytes[..end]).is_empty());
        }
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            packets(&broken);
        }
    }
}
