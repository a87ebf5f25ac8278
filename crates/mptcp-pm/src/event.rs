//! What the kernel tells about connections and their subflows.

use std::io;
use std::net::{IpAddr, SocketAddr};

use crate::Token;
use crate::attribute::{self, to_address, to_port, to_u8, to_u16, to_u32};
use crate::family::{event, event_attr as attr, event_flag};

/// Something that has happened to a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A connection exists: MP_CAPABLE was exchanged. Subflows can be added once it is established.
    Created(Created),
    /// Its first subflow is fully established; from now on others may join.
    Established(Created),
    /// It has ended.
    Closed(Token),
    /// The peer has announced an address (ADD_ADDR).
    AddressAnnounced(Announced),
    /// The peer takes an address back (REMOVE_ADDR).
    AddressRemoved {
        /// The connection.
        token: Token,
        /// The address's number.
        id: u8,
    },
    /// A subflow has joined.
    SubflowEstablished(SubflowEvent),
    /// A subflow has ended.
    SubflowClosed(SubflowEvent),
    /// The peer has said how it wants a subflow used (MP_PRIO).
    SubflowPriority(SubflowEvent),
    /// A listener for joins exists on an announced address.
    ListenerCreated(SocketAddr),
    /// It is gone.
    ListenerClosed(SocketAddr),
    /// The kernel had more to tell than was read in time: what exists has to be looked up again.
    Missed,
}

/// A connection that has come to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Created {
    /// What commands call it.
    pub token: Token,
    /// This host's end of the first subflow.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// Whether the peer has opened it.
    pub accepted: bool,
    /// Whether the peer refuses joins to this very address.
    pub deny_join_id0: bool,
}

/// An address of the peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Announced {
    /// The connection.
    pub token: Token,
    /// The address's number.
    pub id: u8,
    /// The address.
    pub address: IpAddr,
    /// Its port, where that is not the connection's.
    pub port: Option<u16>,
}

/// One subflow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SubflowEvent {
    /// The connection.
    pub token: Token,
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
    /// Number of the local address; 0: that of the first subflow.
    pub local_id: u8,
    /// Number of the remote address.
    pub remote_id: u8,
    /// Whether either side wants it used only while no others work.
    pub backup: bool,
    /// Index of the interface that it is bound to.
    pub interface: Option<u32>,
    /// Why it has ended, if not in peace.
    pub error: Option<i32>,
    /// The reason of an MP_TCPRST (RFC 8684, 3.6).
    pub reset_reason: Option<u32>,
}

impl SubflowEvent {
    /// [`SubflowEvent::error`] in words.
    pub fn io_error(&self) -> Option<io::Error> {
        self.error.map(io::Error::from_raw_os_error)
    }
}

/// Everything an event may say.
#[derive(Default)]
struct Said {
    token: Option<Token>,
    source: Option<IpAddr>,
    destination: Option<IpAddr>,
    source_port: u16,
    destination_port: Option<u16>,
    local_id: u8,
    remote_id: Option<u8>,
    backup: bool,
    error: Option<i32>,
    flags: u16,
    server_side: bool,
    interface: Option<u32>,
    reset_reason: Option<u32>,
}

impl Event {
    /// Reads one message of the events group: its command and its attributes. None for kinds of events that this crate
    /// does not know, and for those that lack what they are about.
    pub fn read(command: u8, bytes: &[u8]) -> Option<Self> {
        let said = Said::read(bytes);
        Some(match command {
            event::CREATED => Self::Created(said.created()?),
            event::ESTABLISHED => Self::Established(said.created()?),
            event::CLOSED => Self::Closed(said.token?),
            event::ANNOUNCED => Self::AddressAnnounced(Announced {
                token: said.token?,
                id: said.remote_id?,
                address: said.destination?,
                port: said.destination_port.filter(|port| *port != 0),
            }),
            event::REMOVED => Self::AddressRemoved {
                token: said.token?,
                id: said.remote_id?,
            },
            event::SUB_ESTABLISHED => Self::SubflowEstablished(said.subflow()?),
            event::SUB_CLOSED => Self::SubflowClosed(said.subflow()?),
            event::SUB_PRIORITY => Self::SubflowPriority(said.subflow()?),
            event::LISTENER_CREATED => Self::ListenerCreated(said.local()?),
            event::LISTENER_CLOSED => Self::ListenerClosed(said.local()?),
            _ => return None,
        })
    }

    /// The connection it is about.
    pub fn token(&self) -> Option<Token> {
        match self {
            Self::Created(created) | Self::Established(created) => Some(created.token),
            Self::Closed(token) | Self::AddressRemoved { token, .. } => Some(*token),
            Self::AddressAnnounced(announced) => Some(announced.token),
            Self::SubflowEstablished(subflow)
            | Self::SubflowClosed(subflow)
            | Self::SubflowPriority(subflow) => Some(subflow.token),
            Self::ListenerCreated(_) | Self::ListenerClosed(_) | Self::Missed => None,
        }
    }
}

impl Said {
    fn read(bytes: &[u8]) -> Self {
        let mut said = Self::default();
        for (kind, value) in attribute::read(bytes) {
            match kind {
                attr::TOKEN => said.token = to_u32(value).map(Token),
                attr::SADDR4 | attr::SADDR6 => said.source = to_address(value),
                attr::DADDR4 | attr::DADDR6 => said.destination = to_address(value),
                attr::SPORT => said.source_port = to_port(value).unwrap_or(0),
                attr::DPORT => said.destination_port = to_port(value),
                attr::LOC_ID => said.local_id = to_u8(value).unwrap_or(0),
                attr::REM_ID => said.remote_id = to_u8(value),
                attr::BACKUP => said.backup = to_u8(value).is_some_and(|backup| backup != 0),
                attr::ERROR => said.error = to_u8(value).map(i32::from).filter(|error| *error != 0),
                attr::FLAGS => said.flags = to_u16(value).unwrap_or(0),
                attr::SERVER_SIDE => said.server_side = to_u8(value).is_some_and(|side| side != 0),
                attr::IF_IDX => said.interface = to_u32(value).filter(|index| *index != 0),
                attr::RESET_REASON => said.reset_reason = to_u32(value),
                _ => {}
            }
        }
        said
    }

    fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.source?, self.source_port))
    }

    fn remote(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(
            self.destination?,
            self.destination_port.unwrap_or(0),
        ))
    }

    fn created(&self) -> Option<Created> {
        Some(Created {
            token: self.token?,
            local: self.local()?,
            remote: self.remote()?,
            accepted: self.server_side || self.flags & event_flag::SERVER_SIDE != 0,
            deny_join_id0: self.flags & event_flag::DENY_JOIN_ID0 != 0,
        })
    }

    fn subflow(&self) -> Option<SubflowEvent> {
        Some(SubflowEvent {
            token: self.token?,
            local: self.local()?,
            remote: self.remote()?,
            local_id: self.local_id,
            remote_id: self.remote_id.unwrap_or(0),
            backup: self.backup,
            interface: self.interface,
            error: self.error,
            reset_reason: self.reset_reason,
        })
    }
}
