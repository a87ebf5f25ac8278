//! Where the ends are: NAPTs, firewalls and proxies, before the move and after it (3.1.2 of the source).

use std::net::IpAddr;

use wire::Endpoint;

use super::ports::{self, Matched};
use super::record::{End, Reachability};
use super::report::{Mapping, MappingBehaviour, Report};

/// What was found out about an end, for the agents.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Finding {
    /// The comparison could not be made, or nobody has probed.
    #[default]
    Unknown,
    /// Connections from outside get in.
    Outside,
    /// Somebody translates its address.
    BehindNapt,
    /// Its address is its own, and nothing gets in from outside.
    Unreachable,
    /// Before the move it spoke through a proxy.
    Proxied,
}

/// Where an end is now, as far as it decides who sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Position {
    /// Connections from outside get in.
    Outside,
    /// Its address is its own; the probe has not ended.
    Unprobed,
    /// Nothing could be compared: the stream does not come from the address that is reported.
    Unknown,
    /// Its address is its own, and nothing gets in: a stateful firewall.
    Unreachable,
    /// Behind a NAPT.
    Napt,
}

impl Position {
    /// What agents are told of it.
    pub fn finding(self) -> Finding {
        match self {
            Position::Outside => Finding::Outside,
            Position::Unprobed | Position::Unknown => Finding::Unknown,
            Position::Unreachable => Finding::Unreachable,
            Position::Napt => Finding::BehindNapt,
        }
    }
}

/// How an end stands in a match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Where it is.
    pub position: Position,
    /// Where to reach it, if it can be reached.
    pub address: IpAddr,
    /// Where the server has observed it.
    pub observed: Endpoint,
    /// The NAPT in front of it.
    pub mapping: Mapping,
    /// Whether the peer can know its port: it has said it, or the peer's own report names a port at this very address.
    /// One that is behind a proxy for the peer, or has moved and not said so, shows none.
    pub port_known: bool,
    /// When its report came, in the order of all reports; 0: it is only present, and reported before everybody.
    pub arrival: u64,
}

/// Where a host is that says it has the address `claimed`, over a stream between `local` (as it says) and `observed`.
///
/// Only a stream from that very address, in that family, says anything: a NAPT on the way of another interface is
/// none on the way of this one.
pub fn position(claimed: IpAddr, local: IpAddr, observed: IpAddr, probe: Option<Reachability>) -> Position {
    let [claimed, local, observed] = [claimed, local, observed].map(|address| address.to_canonical());
    if claimed != local || claimed.is_ipv4() != observed.is_ipv4() {
        return Position::Unknown;
    }
    if claimed != observed {
        return Position::Napt;
    }
    match probe
        .filter(|probe| probe.address == claimed)
        .and_then(|probe| probe.reachable)
    {
        Some(true) => Position::Outside,
        Some(false) => Position::Unreachable,
        None => Position::Unprobed,
    }
}

/// How an end stands by its own report, or else by its stream.
///
/// An end that is only present takes part when it cannot be reached: then it is the one to send. When it can, or
/// when its stream says nothing about the address that its peer knows, the peer's own MSYN is the try, and its
/// agent reports if need be.
pub fn standing(end: &End, peer: Option<&Report>) -> Option<Standing> {
    if let Some(held) = &end.held {
        let claimed = held.report.source_after;
        let position = position(
            claimed,
            held.local.address,
            held.observed.address,
            end.reachability,
        );
        return Some(Standing {
            position,
            address: if position == Position::Napt {
                held.observed.address
            } else {
                claimed
            },
            observed: held.observed,
            mapping: mapping(held.report.mapping, position, held.local, held.observed),
            port_known: true,
            arrival: held.arrival,
        });
    }
    let (stream, peer) = (end.present?, peer?);
    let own = stream.local.address;
    let position = position(own, own, stream.observed.address, end.reachability);
    let cannot_be_reached = match position {
        Position::Napt => own.is_ipv4() == peer.destination_before.is_ipv4(),
        Position::Unreachable => own == peer.destination_before,
        Position::Outside | Position::Unprobed | Position::Unknown => false,
    };
    cannot_be_reached.then_some(Standing {
        position,
        address: stream.observed.address,
        observed: stream.observed,
        mapping: mapping(Mapping::default(), position, stream.local, stream.observed),
        port_known: peer.destination_before.to_canonical() == stream.observed.address.to_canonical(),
        arrival: 0,
    })
}

/// How the NAPT in front of an end maps: as its probes have said, or else as its own stream shows. A stream that kept its
/// port through a NAPT is one example only; when it misleads, the try fails and the next one follows.
fn mapping(reported: Mapping, position: Position, local: Endpoint, observed: Endpoint) -> Mapping {
    if reported.behaviour != MappingBehaviour::Unknown || position != Position::Napt {
        return reported;
    }
    let behaviour = match local.port == observed.port {
        true => MappingBehaviour::PortPreserving,
        false => MappingBehaviour::Unknown,
    };
    Mapping {
        behaviour,
        outside: Some(observed.address),
    }
}

/// Where both ends were before the move, by the three comparisons of 3.1.2.
///
/// 1. A's own address is not the one B knew A by: A was behind a NAPT.
/// 2. The same the other way round.
/// 3. Both sent to one address, and to one port of it: that was a proxy. (To one address but not to one port: two
///    hosts behind one NAPT that knew each other by its outside address.)
///
/// In the source a match for which none holds is accidental, which would reject two hosts in the open; here a match
/// is one by name, and none holding means that both were outside.
pub fn before(a: &Report, b: &Report, matched: &[Matched]) -> (Finding, Finding) {
    if ports::through_proxy(a, b, matched) {
        return (Finding::Proxied, Finding::Proxied);
    }
    let found = |own: &Report, other: &Report| match own.source_confirmed() == other.destination_before {
        true => Finding::Outside,
        false => Finding::BehindNapt,
    };
    (found(a, b), found(b, a))
}
