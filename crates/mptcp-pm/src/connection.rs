//! Generic netlink requests and answers: the family's number is looked up, a command goes out, what the kernel
//! answers comes back as commands and attributes, its refusals as errors with what it says about them.

use std::io;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use netlink_packet_core::{
    DecodeError, Emitable, ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_proto::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_GENERIC};
use netlink_proto::{ConnectionHandle, new_connection_with_socket};
use tokio::task::JoinHandle;

use crate::Error;
use crate::attribute::{self, Attribute};
use crate::family;

/// The family that knows all families.
const CONTROL: u16 = 0x10;
const CONTROL_GET_FAMILY: u8 = 3;
const CONTROL_FAMILY_ID: u16 = 1;
const CONTROL_FAMILY_NAME: u16 = 2;
const CONTROL_GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;

/// A generic netlink message whose attributes nobody has looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) command: u8,
    version: u8,
    pub(crate) attributes: Vec<u8>,
}

impl GenlFamily for Raw {
    fn family_name() -> &'static str {
        family::NAME
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        self.version
    }
}

impl Emitable for Raw {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.attributes);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Raw {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            version: header.version,
            attributes: bytes.to_vec(),
        })
    }
}

pub(crate) type Message = NetlinkMessage<GenlMessage<Raw>>;

/// What the family is called in this kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Family {
    id: u16,
    pub(crate) events: Option<u32>,
}

/// A socket to the kernel, and the task that serves it.
#[derive(Debug)]
pub(crate) struct Link {
    handle: ConnectionHandle<GenlMessage<Raw>>,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// Opens the socket, in the network namespace of the calling thread, and lets `prepare` set it up. The stream is of what the
    /// kernel says unasked.
    pub(crate) fn open(
        prepare: impl FnOnce(&mut netlink_sys::Socket) -> io::Result<()>,
    ) -> Result<(Self, BoxStream<'static, Message>), Error> {
        let (mut connection, handle, unasked) =
            new_connection_with_socket::<GenlMessage<Raw>, TokioSocket>(NETLINK_GENERIC)
                .map_err(Error::Socket)?;
        let socket = connection.socket_mut().socket_mut();
        // With these, refusals say why, and do not quote the request.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        prepare(socket).map_err(Error::Socket)?;
        let task = tokio::spawn(connection);
        Ok((Self { handle, task }, unasked.map(|(message, _)| message).boxed()))
    }

    /// The number of the family `mptcp_pm` and of its events.
    pub(crate) async fn family(&self) -> Result<Family, Error> {
        let mut name = family::NAME.as_bytes().to_vec();
        name.push(0);
        let attributes = attribute::write(&[Attribute::bytes(CONTROL_FAMILY_NAME, &name)]);
        let doing = "looking for the family mptcp_pm";
        let answers = self
            .ask(CONTROL, CONTROL_GET_FAMILY, 2, attributes, NLM_F_ACK, doing)
            .await;
        let answers = match answers {
            Err(Error::Refused { error, .. }) if error.raw_os_error() == Some(libc::ENOENT) => {
                return Err(Error::NoFamily);
            }
            answers => answers?,
        };
        let answer = answers.first().ok_or(Error::NoFamily)?;
        let mut family = Family { id: 0, events: None };
        for (kind, value) in attribute::read(&answer.attributes) {
            match kind {
                CONTROL_FAMILY_ID => family.id = attribute::to_u16(value).unwrap_or(0),
                CONTROL_GROUPS => family.events = group_of_events(value),
                _ => {}
            }
        }
        if family.id == 0 {
            return Err(Error::NoFamily);
        }
        Ok(family)
    }

    /// The number of the group that is told events.
    pub(crate) async fn events_group() -> Result<u32, Error> {
        let (link, _) = Self::open(|_| Ok(()))?;
        link.family().await?.events.ok_or(Error::NoEvents)
    }

    pub(crate) async fn command(
        &self,
        family: Family,
        command: &crate::command::Command,
    ) -> Result<Vec<Raw>, Error> {
        let flags = match command.number {
            family::command::GET_ADDR => NLM_F_DUMP,
            _ => NLM_F_ACK,
        };
        let bytes = command.bytes();
        self.ask(
            family.id,
            command.number,
            family::VERSION,
            bytes,
            flags,
            &command.doing,
        )
        .await
    }

    async fn ask(
        &self,
        family: u16,
        command: u8,
        version: u8,
        attributes: Vec<u8>,
        flags: u16,
        doing: &str,
    ) -> Result<Vec<Raw>, Error> {
        let mut message = GenlMessage::from_payload(Raw {
            command,
            version,
            attributes,
        });
        message.set_resolved_family_id(family);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let kernel = SocketAddr::new(0, 0);
        let mut answers = self.handle.request(request, kernel).map_err(|_| Error::Closed)?;
        let mut received = Vec::new();
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(message) => received.push(message.payload),
                NetlinkPayload::Error(error) => {
                    if let Some(code) = error.code {
                        return Err(Error::Refused {
                            doing: doing.to_owned(),
                            error: io::Error::from_raw_os_error(code.get().saturating_abs()),
                            said: said(&error),
                        });
                    }
                }
                _ => {}
            }
        }
        if self.task.is_finished() {
            return Err(Error::Closed);
        }
        Ok(received)
    }
}

fn group_of_events(groups: &[u8]) -> Option<u32> {
    attribute::read(groups).find_map(|(_, group)| {
        let (mut name, mut id) = (None, None);
        for (kind, value) in attribute::read(group) {
            match kind {
                GROUP_NAME => name = value.strip_suffix(&[0]).map(<[u8]>::to_vec),
                GROUP_ID => id = attribute::to_u32(value),
                _ => {}
            }
        }
        id.filter(|_| name.as_deref() == Some(family::EVENTS_GROUP.as_bytes()))
    })
}

/// The kernel's own words, behind the header of the refused request (NLMSGERR_ATTR_MSG).
fn said(error: &ErrorMessage) -> Option<String> {
    const HEADER: usize = 16;
    const TEXT: u16 = 1;
    let (_, text) = attribute::read(error.header.get(HEADER..)?).find(|(kind, _)| *kind == TEXT)?;
    let text = String::from_utf8_lossy(text.strip_suffix(&[0]).unwrap_or(text));
    Some(text.into_owned())
}
