//! What exists now, by `inet_diag`: the subflows of all connections, and the connections.
//!
//! A subflow is a TCP socket with MPTCP as its upper layer protocol; its token says to which connection it belongs. A
//! connection is a socket of protocol 262, which is too much for the 8 bits of the request and stands in an attribute.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable, Nla as _, Parseable,
};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use netlink_proto::new_connection_with_socket;
use netlink_proto::sys::{SocketAddr as NetlinkAddress, TokioSocket, protocols::NETLINK_SOCK_DIAG};

use crate::attribute::{self, Attribute};
use crate::{Error, Token};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_MPTCP: u32 = 262;
/// Attribute of a request: the whole protocol number.
const REQUEST_PROTOCOL: u16 = 3;
/// Attribute of an answer: the upper layer protocol, and within it those of MPTCP.
const ULP_INFO: u16 = 19;
const ULP_MPTCP: u16 = 3;

mod subflow_attr {
    pub(super) const TOKEN_REMOTE: u16 = 1;
    pub(super) const TOKEN_LOCAL: u16 = 2;
    pub(super) const FLAGS: u16 = 8;
    pub(super) const ID_REMOTE: u16 = 9;
    pub(super) const ID_LOCAL: u16 = 10;
}

bitflags::bitflags! {
    /// What a subflow is and how it is used (`MPTCP_SUBFLOW_FLAG_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct SubflowFlags: u32 {
        /// The first one, opened by the peer.
        const FIRST_REMOTE = 1 << 0;
        /// The first one, opened by this host.
        const FIRST_LOCAL = 1 << 1;
        /// Joined by the peer.
        const JOINED_REMOTE = 1 << 2;
        /// Joined by this host.
        const JOINED_LOCAL = 1 << 3;
        /// The peer wants it as a backup.
        const BACKUP_REMOTE = 1 << 4;
        /// This host wants it as a backup.
        const BACKUP_LOCAL = 1 << 5;
        /// MPTCP's own handshake is done.
        const FULLY_ESTABLISHED = 1 << 6;
        /// TCP's handshake is done.
        const CONNECTED = 1 << 7;
        /// It has a mapping of data sequence numbers.
        const MAPPING_VALID = 1 << 8;
        const _ = !0;
    }

    /// What has become of a connection (`MPTCP_INFO_FLAG_*`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct ConnectionFlags: u32 {
        /// It goes on as plain TCP.
        const FALLBACK = 1 << 0;
        /// The peer's key is known.
        const REMOTE_KEY_RECEIVED = 1 << 1;
        const _ = !0;
    }
}

/// One subflow that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subflow {
    /// The connection.
    pub token: Token,
    /// What the peer calls the connection; the kernel tells it of subflows that this host has joined, else 0.
    pub remote_token: u32,
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Number of the local address.
    pub local_id: u8,
    /// Number of the remote address.
    pub remote_id: u8,
    /// What it is.
    pub flags: SubflowFlags,
    /// State of the TCP socket (1: established).
    pub state: u8,
    /// Interface that it is bound to; 0: none.
    pub interface: u32,
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Least round-trip time of late.
    pub min_rtt: Duration,
    /// Congestion window, in segments.
    pub congestion_window: u32,
    /// Segments under way.
    pub unacknowledged: u32,
    /// Segments sent again, ever.
    pub retransmitted: u32,
    /// Retransmission timeouts in a row.
    pub backoff: u8,
    /// Bytes that the peer has acknowledged.
    pub bytes_acknowledged: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Rate of late, in bytes a second.
    pub delivery_rate: u64,
}

impl Subflow {
    /// Whether either end wants it used only while no others work.
    pub fn is_backup(&self) -> bool {
        self.flags
            .intersects(SubflowFlags::BACKUP_LOCAL | SubflowFlags::BACKUP_REMOTE)
    }
}

/// One connection that exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Connection {
    /// What commands call it.
    pub token: Token,
    /// This host's end, as the program knows it.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// State of the socket (1: established).
    pub state: u8,
    /// What has become of it.
    pub flags: ConnectionFlags,
    /// Subflows beside the first.
    pub additional_subflows: u8,
    /// Bytes sent, without repetitions; None on kernels before 6.5.
    pub bytes_sent: Option<u64>,
    /// Bytes sent again on another subflow.
    pub bytes_retransmitted: Option<u64>,
    /// Bytes received.
    pub bytes_received: Option<u64>,
    /// Number of the socket file, as in `/proc/PID/fd`: tells the program.
    pub inode: u32,
}

/// Every subflow of every connection of the calling thread's network namespace.
///
/// # Errors
/// [`Error::Socket`], and [`Error::Refused`] where the kernel has no `inet_diag`.
pub async fn subflows() -> Result<Vec<Subflow>, Error> {
    let sockets = dump(libc::IPPROTO_TCP as u32, "listing the subflows").await?;
    Ok(sockets.iter().filter_map(subflow).collect())
}

/// Every MPTCP connection of the calling thread's network namespace, listeners left out.
///
/// # Errors
/// As [`subflows`]; kernels without `mptcp_diag` refuse.
pub async fn connections() -> Result<Vec<Connection>, Error> {
    let sockets = dump(IPPROTO_MPTCP, "listing the MPTCP connections").await?;
    Ok(sockets.iter().filter_map(connection).collect())
}

/// A request and its answers.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Diag {
    Request {
        request: InetRequest,
        protocol: u32,
    },
    Response(Box<InetResponse>),
    /// What cannot be read is left out, and the rest of the list is not lost with it.
    Unreadable,
}

impl NetlinkSerializable for Diag {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Request { request, protocol } => request.buffer_len() + whole_protocol(*protocol).len(),
            Self::Response(_) | Self::Unreadable => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Request { request, protocol } = self {
            let (head, tail) = buffer.split_at_mut(request.buffer_len());
            request.emit(head);
            tail.copy_from_slice(&whole_protocol(*protocol));
        }
    }
}

impl NetlinkDeserializable for Diag {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        Ok(InetResponse::parse(payload)
            .map_or(Self::Unreadable, |response| Self::Response(Box::new(response))))
    }
}

fn whole_protocol(protocol: u32) -> Vec<u8> {
    attribute::write(&[Attribute::u32(REQUEST_PROTOCOL, protocol)])
}

async fn dump(protocol: u32, doing: &str) -> Result<Vec<InetResponse>, Error> {
    let (connection, handle, _unasked) =
        new_connection_with_socket::<Diag, TokioSocket>(NETLINK_SOCK_DIAG).map_err(Error::Socket)?;
    let task = tokio::spawn(connection);
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let id = if family == libc::AF_INET {
            SocketId::new_v4()
        } else {
            SocketId::new_v6()
        };
        let request = Diag::Request {
            request: InetRequest {
                family: family as u8,
                protocol: u8::try_from(protocol).unwrap_or(u8::MAX),
                extensions: ExtensionFlags::INFO,
                states: StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT,
                socket_id: id,
            },
            protocol,
        };
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        message.finalize();
        let kernel = NetlinkAddress::new(0, 0);
        let mut answers = handle.request(message, kernel).map_err(|_| Error::Closed)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(Diag::Response(response)) => found.push(*response),
                NetlinkPayload::Error(error) => {
                    if let Some(code) = error.code {
                        task.abort();
                        return Err(Error::Refused {
                            doing: doing.to_owned(),
                            error: io::Error::from_raw_os_error(code.get().saturating_abs()),
                            said: None,
                        });
                    }
                }
                _ => {}
            }
        }
    }
    task.abort();
    Ok(found)
}

impl From<Diag> for NetlinkPayload<Diag> {
    fn from(message: Diag) -> Self {
        Self::InnerMessage(message)
    }
}

fn ends(id: &SocketId) -> (SocketAddr, SocketAddr) {
    // IPv4 on an IPv6 socket is shown as what it is on the wire.
    let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    let remote = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
    (local, remote)
}

/// The attribute of this kind, whatever the library makes of it.
fn info(socket: &InetResponse) -> &[u8] {
    let info = socket.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    info.unwrap_or_default()
}

fn subflow(socket: &InetResponse) -> Option<Subflow> {
    let upper = socket.nlas.iter().find_map(|nla| match nla {
        Nla::Other(other) if other.kind() & !netlink_packet_core::NLA_F_NESTED == ULP_INFO => {
            let mut value = vec![0; other.value_len()];
            other.emit_value(&mut value);
            Some(value)
        }
        _ => None,
    })?;
    let (_, mptcp) = attribute::read(&upper).find(|(kind, _)| *kind == ULP_MPTCP)?;
    let (mut token, mut remote_token, mut flags, mut ids) = (None, 0, SubflowFlags::empty(), (0, 0));
    for (kind, value) in attribute::read(mptcp) {
        match kind {
            subflow_attr::TOKEN_LOCAL => token = attribute::to_u32(value).map(Token),
            subflow_attr::TOKEN_REMOTE => remote_token = attribute::to_u32(value).unwrap_or(0),
            subflow_attr::FLAGS => {
                flags = SubflowFlags::from_bits_retain(attribute::to_u32(value).unwrap_or(0))
            }
            subflow_attr::ID_LOCAL => ids.0 = attribute::to_u8(value).unwrap_or(0),
            subflow_attr::ID_REMOTE => ids.1 = attribute::to_u8(value).unwrap_or(0),
            _ => {}
        }
    }
    let (local, remote) = ends(&socket.header.socket_id);
    // struct tcp_info of include/uapi/linux/tcp.h: it only ever grows at its end.
    let info = info(socket);
    let microseconds = |offset| Duration::from_micros(u32_at(info, offset).unwrap_or(0).into());
    Some(Subflow {
        token: token?,
        remote_token,
        local,
        remote,
        local_id: ids.0,
        remote_id: ids.1,
        flags,
        state: socket.header.state,
        interface: socket.header.socket_id.interface_id,
        rtt: microseconds(68),
        min_rtt: microseconds(148),
        congestion_window: u32_at(info, 80).unwrap_or(0),
        unacknowledged: u32_at(info, 24).unwrap_or(0),
        retransmitted: u32_at(info, 100).unwrap_or(0),
        backoff: info.get(4).copied().unwrap_or(0),
        bytes_acknowledged: u64_at(info, 120).unwrap_or(0),
        bytes_received: u64_at(info, 128).unwrap_or(0),
        delivery_rate: u64_at(info, 160).unwrap_or(0),
    })
}

fn connection(socket: &InetResponse) -> Option<Connection> {
    // struct mptcp_info of include/uapi/linux/mptcp.h.
    let info = info(socket);
    let (local, remote) = ends(&socket.header.socket_id);
    Some(Connection {
        token: Token(u32_at(info, 12)?),
        local,
        remote,
        state: socket.header.state,
        flags: ConnectionFlags::from_bits_retain(u32_at(info, 8)?),
        additional_subflows: *info.first()?,
        bytes_retransmitted: u64_at(info, 48),
        bytes_sent: u64_at(info, 56),
        bytes_received: u64_at(info, 64),
        inode: socket.header.inode,
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    attribute::to_u32(bytes.get(offset..offset + 4)?)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    attribute::to_u64(bytes.get(offset..offset + 8)?)
}
