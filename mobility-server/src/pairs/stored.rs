//! A pair's record as bytes and back.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use migration::Timestamp;
use migration::server::{
    AgentName, ConnectionPorts, Decision, End, Held, Mapping, MappingBehaviour, PairKey, PairRecord,
    Presence, ProxyGrant, Reachability, Relayed, Report, Side, Try,
};
use prost::Message;
use proto::stored::v1 as stored;
use sha2::{Digest, Sha256};
use wire::Endpoint;

use crate::convert;

/// Under what a pair is stored: nobody but its two ends comes to this name, whatever pair ID he guesses.
pub fn name(key: &PairKey) -> Vec<u8> {
    let [first, second] = &key.names;
    let ends = Sha256::new()
        .chain_update(first.0.as_bytes())
        .chain_update([0])
        .chain_update(second.0.as_bytes())
        .finalize();
    [&key.pair.0[..], &ends[..16]].concat()
}

/// The record as it is stored.
pub fn encode(record: &PairRecord, now: Timestamp) -> Bytes {
    let [first, second] = &record.key.names;
    let message = stored::PairRecord {
        pair_id: record.key.pair.0.to_vec(),
        first: first.0.clone(),
        second: second.0.clone(),
        ends: record.ends.iter().map(end_message).collect(),
        arrivals: record.arrivals,
        decisions: record.decisions,
        decision: record.decision.as_ref().map(decision_message),
        tried: record.tried.iter().map(|what| try_number(*what).into()).collect(),
        tried_for: record.tried_for.to_vec(),
        narrowed: record.narrowed.clone(),
        rests_until: record.rests_until.map(nanos),
        empty_since: record.empty_since.map(nanos),
        updated: nanos(now),
        leaving: address_list(&record.leaving),
        avoided: address_list(&record.avoided),
    };
    message.encode_to_vec().into()
}

/// The record and when it was written. None: it cannot be read, and counts as absent.
pub fn decode(bytes: &[u8]) -> Option<(PairRecord, Timestamp)> {
    let message = stored::PairRecord::decode(bytes).ok()?;
    let pair = convert::pair_id(&message.pair_id).ok()?;
    let key = PairKey::new(pair, &AgentName(message.first), &AgentName(message.second))?;
    let ends = message.ends.into_iter().map(end).collect::<Option<Vec<_>>>()?;
    let decision = match message.decision {
        Some(decision) => Some(decision_value(decision)?),
        None => None,
    };
    let tried = message
        .tried
        .iter()
        .map(|number| try_value(*number))
        .collect::<Option<_>>()?;
    let record = PairRecord {
        key,
        ends: ends.try_into().ok()?,
        arrivals: message.arrivals,
        decisions: message.decisions,
        decision,
        tried,
        tried_for: message.tried_for.try_into().ok()?,
        narrowed: message.narrowed,
        rests_until: message.rests_until.map(timestamp),
        empty_since: message.empty_since.map(timestamp),
        leaving: message.leaving.iter().filter_map(|one| address(one)).collect(),
        avoided: message.avoided.iter().filter_map(|one| address(one)).collect(),
    };
    Some((record, timestamp(message.updated)))
}

fn nanos(time: Timestamp) -> u64 {
    duration_nanos(time.0)
}

fn duration_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn timestamp(nanos: u64) -> Timestamp {
    Timestamp(Duration::from_nanos(nanos))
}

fn endpoint_message(endpoint: Endpoint) -> stored::Endpoint {
    stored::Endpoint {
        address: convert::address_bytes(endpoint.address),
        port: endpoint.port.into(),
    }
}

fn endpoint(message: Option<stored::Endpoint>) -> Option<Endpoint> {
    let message = message?;
    Some(Endpoint::new(address(&message.address)?, port(message.port)?))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    convert::address(bytes).ok()
}

fn address_list(addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    addresses.iter().map(|one| convert::address_bytes(*one)).collect()
}

fn port(port: u32) -> Option<u16> {
    u16::try_from(port).ok()
}

fn end_message(end: &End) -> stored::End {
    stored::End {
        held: end.held.as_ref().map(|held| stored::Held {
            report: Some(report_message(&held.report)),
            local: Some(endpoint_message(held.local)),
            observed: Some(endpoint_message(held.observed)),
            arrival: held.arrival,
            expires: nanos(held.expires),
        }),
        present: end.present.map(|present| stored::Presence {
            local: Some(endpoint_message(present.local)),
            observed: Some(endpoint_message(present.observed)),
        }),
        reachability: end.reachability.map(|reachability| stored::Reachability {
            address: convert::address_bytes(reachability.address),
            reachable: reachability.reachable,
        }),
        settled: end.settled,
    }
}

fn end(message: stored::End) -> Option<End> {
    let held = match message.held {
        None => None,
        Some(held) => Some(Held {
            report: report(held.report?)?,
            local: endpoint(held.local)?,
            observed: endpoint(held.observed)?,
            arrival: held.arrival,
            expires: timestamp(held.expires),
        }),
    };
    let present = match message.present {
        None => None,
        Some(present) => Some(Presence {
            local: endpoint(present.local)?,
            observed: endpoint(present.observed)?,
        }),
    };
    let reachability = match message.reachability {
        None => None,
        Some(found) => Some(Reachability {
            address: address(&found.address)?,
            reachable: found.reachable,
        }),
    };
    Some(End {
        held,
        present,
        reachability,
        settled: message.settled,
    })
}

fn report_message(report: &Report) -> stored::Report {
    let optional = |address: Option<IpAddr>| address.map(convert::address_bytes).unwrap_or_default();
    stored::Report {
        pair_id: report.pair.0.to_vec(),
        peer: report.peer.0.clone(),
        move_counter: report.move_counter,
        source_before: convert::address_bytes(report.source_before),
        destination_before: convert::address_bytes(report.destination_before),
        source_after: convert::address_bytes(report.source_after),
        connections: report
            .connections
            .iter()
            .map(|ports| stored::Ports {
                source_before: ports.source_before.into(),
                destination_before: ports.destination_before.into(),
                source_after: ports.source_after.into(),
                destination_after: ports.destination_after.into(),
                label: ports.label,
                req_no: ports.req_no,
            })
            .collect(),
        confirmed_source: optional(report.confirmed_source),
        sealed: report.sealed.clone(),
        waiting: report.waiting,
        keep: report.keep.map(duration_nanos),
        mapping_behaviour: i32::from(convert::behaviour(report.mapping.behaviour)).unsigned_abs(),
        mapping_outside: optional(report.mapping.outside),
        relayed: match report.relayed {
            Relayed::No => 0,
            Relayed::Moves => 1,
            Relayed::Works => 2,
        },
    }
}

fn report(message: stored::Report) -> Option<Report> {
    let ports = |ports: &stored::Ports| {
        Some(ConnectionPorts {
            source_before: port(ports.source_before)?,
            destination_before: port(ports.destination_before)?,
            source_after: port(ports.source_after)?,
            destination_after: port(ports.destination_after)?,
            label: ports.label,
            req_no: ports.req_no,
        })
    };
    Some(Report {
        pair: convert::pair_id(&message.pair_id).ok()?,
        peer: AgentName(message.peer),
        move_counter: message.move_counter,
        source_before: address(&message.source_before)?,
        destination_before: address(&message.destination_before)?,
        source_after: address(&message.source_after)?,
        connections: message.connections.iter().map(ports).collect::<Option<_>>()?,
        confirmed_source: convert::optional_address(&message.confirmed_source).ok()?,
        sealed: message.sealed,
        waiting: message.waiting,
        keep: message.keep.map(Duration::from_nanos),
        mapping: Mapping {
            behaviour: match message.mapping_behaviour {
                1 => MappingBehaviour::None,
                2 => MappingBehaviour::PortPreserving,
                3 => MappingBehaviour::EndpointIndependent,
                4 => MappingBehaviour::Random,
                _ => MappingBehaviour::Unknown,
            },
            outside: convert::optional_address(&message.mapping_outside).ok()?,
        },
        relayed: match message.relayed {
            1 => Relayed::Moves,
            2 => Relayed::Works,
            _ => Relayed::No,
        },
    })
}

fn decision_message(decision: &Decision) -> stored::Decision {
    stored::Decision {
        number: decision.number,
        made: nanos(decision.made),
        what: try_number(decision.what).into(),
        counters: decision.counters.to_vec(),
        labels: decision.labels.clone(),
        grants: decision
            .grants
            .iter()
            .map(|grant| stored::Grant {
                label: grant.label,
                first: Some(endpoint_message(grant.legs[0])),
                second: Some(endpoint_message(grant.legs[1])),
                lease_id: grant.lease.to_vec(),
            })
            .collect(),
        asked_for: decision
            .asked_for
            .iter()
            .flatten()
            .map(|address| convert::address_bytes(*address))
            .collect(),
        asked: decision.asked.clone(),
    }
}

fn decision_value(message: stored::Decision) -> Option<Decision> {
    let grant = |grant: stored::Grant| {
        Some(ProxyGrant {
            label: grant.label,
            legs: [endpoint(grant.first)?, endpoint(grant.second)?],
            lease: grant.lease_id.try_into().ok()?,
        })
    };
    Some(Decision {
        number: message.number,
        made: timestamp(message.made),
        what: try_value(message.what)?,
        counters: message.counters.try_into().ok()?,
        labels: message.labels,
        grants: message.grants.into_iter().map(grant).collect::<Option<_>>()?,
        asked_for: match &message.asked_for[..] {
            [] => None,
            [first, second] => Some([address(first)?, address(second)?]),
            _ => return None,
        },
        asked: message.asked,
    })
}

fn try_number(what: Try) -> stored::Try {
    match what {
        Try::Send(Side::First) => stored::Try::FirstSends,
        Try::Send(Side::Second) => stored::Try::SecondSends,
        Try::Simultaneous => stored::Try::Simultaneous,
        Try::SameNapt => stored::Try::SameNapt,
        Try::Proxy => stored::Try::Proxy,
        Try::Relay => stored::Try::Relay,
        Try::Open(Side::First) => stored::Try::FirstOpens,
        Try::Open(Side::Second) => stored::Try::SecondOpens,
    }
}

fn try_value(number: i32) -> Option<Try> {
    match stored::Try::try_from(number).ok()? {
        stored::Try::Unspecified => None,
        stored::Try::FirstSends => Some(Try::Send(Side::First)),
        stored::Try::SecondSends => Some(Try::Send(Side::Second)),
        stored::Try::Simultaneous => Some(Try::Simultaneous),
        stored::Try::SameNapt => Some(Try::SameNapt),
        stored::Try::Proxy => Some(Try::Proxy),
        stored::Try::Relay => Some(Try::Relay),
        stored::Try::FirstOpens => Some(Try::Open(Side::First)),
        stored::Try::SecondOpens => Some(Try::Open(Side::Second)),
    }
}
