//! Messages of `mobility.v1` to values of the rules and back. What cannot be a value is malformed, with the reason.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use migration::server::{
    AgentName, BadReport, ConnectionPorts, Destination, DestinationAction, FailureCause, Finding,
    MAX_CONNECTIONS, Mapping, MappingBehaviour, PairId, Relayed, Report, ServerRefusal, Waiting,
    WithdrawReason,
};
use proto::mobility::v1 as pb;
use wire::Endpoint;

/// Why a message is no value; the text goes to the agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// An address of 4 or 16 bytes; IPv4 in IPv6 becomes IPv4.
pub fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let address = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok(),
        _ => None,
    };
    let address = address.ok_or(Malformed("an address has 4 or 16 bytes"))?;
    Ok(address.to_canonical())
}

/// The same, absent when empty.
pub fn optional_address(bytes: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    (!bytes.is_empty()).then(|| address(bytes)).transpose()
}

/// Network order.
pub fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn port(port: u32) -> Result<u16, Malformed> {
    u16::try_from(port).map_err(|_| Malformed("a port is below 65536"))
}

/// An endpoint that must be there.
pub fn endpoint(message: Option<&pb::Endpoint>) -> Result<Endpoint, Malformed> {
    let message = message.ok_or(Malformed("an endpoint is missing"))?;
    Ok(Endpoint::new(address(&message.address)?, port(message.port)?))
}

/// The message of an endpoint.
pub fn endpoint_message(endpoint: Endpoint) -> pb::Endpoint {
    pb::Endpoint {
        address: address_bytes(endpoint.address),
        port: endpoint.port.into(),
    }
}

/// What a socket says.
pub fn socket_endpoint(address: SocketAddr) -> Endpoint {
    Endpoint::new(address.ip(), address.port())
}

/// A pair ID has 16 bytes.
pub fn pair_id(bytes: &[u8]) -> Result<PairId, Malformed> {
    let bytes = bytes
        .try_into()
        .map_err(|_| Malformed("a pair ID has 16 bytes"))?;
    Ok(PairId(bytes))
}

/// A report, not yet checked by the rules.
pub fn report(message: pb::MobilityReport) -> Result<Report, Malformed> {
    if message.connections.len() > MAX_CONNECTIONS {
        return Err(Malformed("too many connections in one report"));
    }
    let relayed = match message.relayed() {
        pb::mobility_report::Relayed::No => Relayed::No,
        pb::mobility_report::Relayed::Moves => Relayed::Moves,
        pb::mobility_report::Relayed::Works => Relayed::Works,
    };
    let mapping = message.mapping.unwrap_or_default();
    let behaviour = match mapping.behaviour() {
        pb::mapping::Behaviour::Unspecified => MappingBehaviour::Unknown,
        pb::mapping::Behaviour::None => MappingBehaviour::None,
        pb::mapping::Behaviour::PortPreserving => MappingBehaviour::PortPreserving,
        pb::mapping::Behaviour::EndpointIndependent => MappingBehaviour::EndpointIndependent,
        pb::mapping::Behaviour::Random => MappingBehaviour::Random,
    };
    let ports = |ports: &pb::ConnectionPorts| {
        Ok(ConnectionPorts {
            source_before: port(ports.source_port_before)?,
            destination_before: port(ports.destination_port_before)?,
            source_after: port(ports.source_port_after)?,
            destination_after: port(ports.destination_port_after)?,
            label: ports.label,
            req_no: ports.req_no,
        })
    };
    Ok(Report {
        pair: pair_id(&message.pair_id)?,
        peer: AgentName(message.peer),
        move_counter: message.move_counter,
        source_before: address(&message.source_before)?,
        destination_before: address(&message.destination_before)?,
        source_after: address(&message.source_after)?,
        connections: message.connections.iter().map(ports).collect::<Result<_, _>>()?,
        confirmed_source: optional_address(&message.confirmed_source)?,
        sealed: message.sealed,
        waiting: message.waiting,
        keep: (message.keep_seconds > 0).then(|| Duration::from_secs(message.keep_seconds.into())),
        mapping: Mapping {
            behaviour,
            outside: optional_address(&mapping.outside_address)?,
        },
        relayed,
    })
}

/// Unknown reasons count as given up: the report goes in any case.
pub fn withdraw_reason(reason: pb::withdraw::Reason) -> WithdrawReason {
    match reason {
        pb::withdraw::Reason::Resumed => WithdrawReason::Resumed,
        pb::withdraw::Reason::Closed => WithdrawReason::Closed,
        pb::withdraw::Reason::GivenUp | pb::withdraw::Reason::Unspecified => WithdrawReason::GivenUp,
    }
}

/// Unknown causes count as no answer.
pub fn failure_cause(cause: pb::try_failed::Cause) -> FailureCause {
    match cause {
        pb::try_failed::Cause::Stranger => FailureCause::Stranger,
        pb::try_failed::Cause::RefusedAddress => FailureCause::RefusedAddress,
        pb::try_failed::Cause::NoAnswer | pb::try_failed::Cause::Unspecified => FailureCause::NoAnswer,
    }
}

/// A finding's number.
pub fn finding(finding: Finding) -> pb::Finding {
    match finding {
        Finding::Unknown => pb::Finding::Unknown,
        Finding::Outside => pb::Finding::Outside,
        Finding::BehindNapt => pb::Finding::BehindNapt,
        Finding::Unreachable => pb::Finding::Unreachable,
        Finding::Proxied => pb::Finding::Proxied,
    }
}

/// A mapping behaviour's number.
pub fn behaviour(behaviour: MappingBehaviour) -> pb::mapping::Behaviour {
    match behaviour {
        MappingBehaviour::Unknown => pb::mapping::Behaviour::Unspecified,
        MappingBehaviour::None => pb::mapping::Behaviour::None,
        MappingBehaviour::PortPreserving => pb::mapping::Behaviour::PortPreserving,
        MappingBehaviour::EndpointIndependent => pb::mapping::Behaviour::EndpointIndependent,
        MappingBehaviour::Random => pb::mapping::Behaviour::Random,
    }
}

/// The message of a destination. `leg_keys`: by label, the receiver's own.
pub fn destination_message(destination: Destination, leg_keys: HashMap<u64, Vec<u8>>) -> pb::ServerMessage {
    let action = match destination.action {
        DestinationAction::SendMsyn => pb::destination::Action::SendMsyn,
        DestinationAction::AwaitMsyn => pb::destination::Action::AwaitMsyn,
        DestinationAction::Simultaneous => pb::destination::Action::Simultaneous,
        DestinationAction::Proxy => pb::destination::Action::Proxy,
        DestinationAction::SameNapt => pb::destination::Action::SameNapt,
        DestinationAction::Open => pb::destination::Action::Open,
    };
    let connections = destination
        .connections
        .iter()
        .map(|connection| pb::ConnectionDestination {
            source_port_before: connection.source_before.into(),
            source_port_after: connection.source_after.into(),
            destination_port: connection.destination.into(),
            label: connection.label,
            peer_req_no: connection.peer_req_no,
        });
    let outside = destination.peer_mapping.outside;
    server_message(pb::server_message::Body::Destination(pb::Destination {
        pair_id: destination.pair.0.to_vec(),
        move_counter: destination.move_counter,
        decision: destination.decision,
        action: action.into(),
        peer_address: address_bytes(destination.peer_address),
        connections: connections.collect(),
        sealed: destination.sealed,
        observed: Some(endpoint_message(destination.observed)),
        self_before: finding(destination.self_before).into(),
        self_after: finding(destination.self_after).into(),
        peer_before: finding(destination.peer_before).into(),
        peer_after: finding(destination.peer_after).into(),
        peer_mapping: Some(pb::Mapping {
            behaviour: behaviour(destination.peer_mapping.behaviour).into(),
            outside_address: outside.map(address_bytes).unwrap_or_default(),
        }),
        leg_keys,
    }))
}

/// The message that a report is stored.
pub fn waiting_message(waiting: Waiting) -> pb::ServerMessage {
    server_message(pb::server_message::Body::Waiting(pb::Waiting {
        pair_id: waiting.pair.0.to_vec(),
        move_counter: waiting.move_counter,
        observed: Some(endpoint_message(waiting.observed)),
        self_after: finding(waiting.self_after).into(),
        peer_present: waiting.peer_present,
    }))
}

/// A refusal, about a pair or about nothing in particular. `newest`: the move counter that one was stale against, or 0.
pub fn refused_message(
    reason: pb::refused::Reason,
    pair: Option<PairId>,
    text: impl Into<String>,
    newest: u64,
) -> pb::ServerMessage {
    server_message(pb::server_message::Body::Refused(pb::Refused {
        reason: reason.into(),
        pair_id: pair.map(|pair| pair.0.to_vec()).unwrap_or_default(),
        text: text.into(),
        newest,
    }))
}

/// What kind of refusal the rules' own is.
pub fn refusal(reason: &ServerRefusal) -> pb::refused::Reason {
    match reason {
        ServerRefusal::Bad(BadReport::Address(_) | BadReport::Families(..)) => pb::refused::Reason::Address,
        ServerRefusal::Bad(_) | ServerRefusal::NotYours => pb::refused::Reason::Malformed,
        ServerRefusal::Stale { .. } => pb::refused::Reason::Stale,
    }
}

/// A peer was revoked.
pub fn revoked_message(uri: &str) -> pb::ServerMessage {
    server_message(pb::server_message::Body::Revoked(pb::Revoked {
        agent: uri.to_owned(),
    }))
}

/// A message of one kind.
pub fn server_message(body: pb::server_message::Body) -> pb::ServerMessage {
    pb::ServerMessage { body: Some(body) }
}
