//! Commands as bytes: which attributes each one carries.

use std::net::SocketAddr;

use crate::attribute::{self, Attribute};
use crate::endpoint::{Endpoint, EndpointFlags, Limits, end};
use crate::family::{attr, command};
use crate::{Error, Token};

/// One command, ready to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Command {
    pub(crate) number: u8,
    pub(crate) attributes: Vec<Attribute>,
    /// For errors: what it is to do.
    pub(crate) doing: String,
}

impl Command {
    fn new(number: u8, doing: impl Into<String>, attributes: Vec<Attribute>) -> Self {
        Self {
            number,
            attributes,
            doing: doing.into(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        attribute::write(&self.attributes)
    }

    pub(crate) fn add_endpoint(endpoint: &Endpoint) -> Self {
        let doing = format!("adding the endpoint {}", endpoint.address);
        Self::new(command::ADD_ADDR, doing, vec![endpoint.attribute(attr::ADDR)])
    }

    pub(crate) fn remove_endpoint(endpoint: &Endpoint) -> Self {
        let doing = format!("removing the endpoint {} {}", endpoint.id, endpoint.address);
        Self::new(command::DEL_ADDR, doing, vec![endpoint.attribute(attr::ADDR)])
    }

    pub(crate) fn endpoints() -> Self {
        Self::new(command::GET_ADDR, "listing the endpoints", Vec::new())
    }

    pub(crate) fn flush_endpoints() -> Self {
        Self::new(command::FLUSH_ADDRS, "removing all endpoints", Vec::new())
    }

    pub(crate) fn limits() -> Self {
        Self::new(command::GET_LIMITS, "reading the limits", Vec::new())
    }

    pub(crate) fn set_limits(limits: Limits) -> Self {
        let doing = format!(
            "setting the limits to {} subflows and {} addresses",
            limits.subflows, limits.accepted_addresses
        );
        let attributes = vec![
            Attribute::u32(attr::RCV_ADD_ADDRS, limits.accepted_addresses),
            Attribute::u32(attr::SUBFLOWS, limits.subflows),
        ];
        Self::new(command::SET_LIMITS, doing, attributes)
    }

    pub(crate) fn set_endpoint_flags(endpoint: &Endpoint) -> Self {
        let doing = format!(
            "changing the flags of endpoint {} {}",
            endpoint.id, endpoint.address
        );
        Self::new(command::SET_FLAGS, doing, vec![endpoint.attribute(attr::ADDR)])
    }

    pub(crate) fn announce(token: Token, endpoint: &Endpoint) -> Result<Self, Error> {
        if endpoint.id == 0 {
            let text = format!(
                "announcing {}: it needs a number from 1 to 255; set `id`",
                endpoint.address
            );
            return Err(Error::Parameter(text));
        }
        let endpoint = Endpoint {
            flags: endpoint.flags | EndpointFlags::SIGNAL,
            ..*endpoint
        };
        let doing = format!("announcing {} on connection {token}", endpoint.address);
        let attributes = vec![
            Attribute::u32(attr::TOKEN, token.0),
            endpoint.attribute(attr::ADDR),
        ];
        Ok(Self::new(command::ANNOUNCE, doing, attributes))
    }

    pub(crate) fn remove(token: Token, id: u8) -> Self {
        let doing = format!("taking back address {id} on connection {token}");
        let attributes = vec![
            Attribute::u32(attr::TOKEN, token.0),
            Attribute::u8(attr::LOC_ID, id),
        ];
        Self::new(command::REMOVE, doing, attributes)
    }

    pub(crate) fn create_subflow(token: Token, local: &Endpoint, remote: SocketAddr) -> Result<Self, Error> {
        if remote.port() == 0 {
            let text = format!("opening a subflow to {remote}: 0 is no port; name the peer's");
            return Err(Error::Parameter(text));
        }
        let doing = format!(
            "opening a subflow {} -> {remote} of connection {token}",
            local.address
        );
        let attributes = vec![
            Attribute::u32(attr::TOKEN, token.0),
            local.attribute(attr::ADDR),
            end(attr::ADDR_REMOTE, remote, 0, EndpointFlags::empty()),
        ];
        Ok(Self::new(command::SUBFLOW_CREATE, doing, attributes))
    }

    pub(crate) fn destroy_subflow(token: Token, local: SocketAddr, remote: SocketAddr) -> Self {
        let doing = format!("closing the subflow {local} -> {remote} of connection {token}");
        let attributes = vec![
            Attribute::u32(attr::TOKEN, token.0),
            end(attr::ADDR, local, 0, EndpointFlags::empty()),
            end(attr::ADDR_REMOTE, remote, 0, EndpointFlags::empty()),
        ];
        Self::new(command::SUBFLOW_DESTROY, doing, attributes)
    }

    pub(crate) fn set_backup(token: Token, local: SocketAddr, remote: SocketAddr, backup: bool) -> Self {
        let wanted = if backup { "a backup" } else { "active" };
        let doing = format!("making the subflow {local} -> {remote} of connection {token} {wanted}");
        let flags = if backup {
            EndpointFlags::BACKUP
        } else {
            EndpointFlags::empty()
        };
        let attributes = vec![
            Attribute::u32(attr::TOKEN, token.0),
            end(attr::ADDR, local, 0, flags),
            end(attr::ADDR_REMOTE, remote, 0, EndpointFlags::empty()),
        ];
        Self::new(command::SET_FLAGS, doing, attributes)
    }
}
