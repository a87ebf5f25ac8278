//! What an agent says after a move (3.1.1 of the source), and what a server refuses to believe.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Connections in one report, at most.
pub const MAX_CONNECTIONS: usize = 16_384;
/// Bytes that are passed on sealed, at most.
pub const MAX_SEALED: usize = 4096;

/// Names a pair; agreed between the two agents before a move.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PairId(pub [u8; 16]);

impl fmt::Display for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PairId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The URI in an agent's certificate.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct AgentName(pub String);

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for AgentName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

/// Under what a pair is stored: who guesses the pair ID of others does not guess their names into it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PairKey {
    /// The pair ID.
    pub pair: PairId,
    /// Both agents, the smaller name first.
    pub names: [AgentName; 2],
}

impl PairKey {
    /// The key for what `agent` says of its pair with `peer`; the same for both ends. None for an agent that names
    /// itself or nobody.
    pub fn new(pair: PairId, agent: &AgentName, peer: &AgentName) -> Option<Self> {
        if agent == peer || agent.0.is_empty() || peer.0.is_empty() {
            return None;
        }
        let mut names = [agent.clone(), peer.clone()];
        names.sort();
        Some(Self { pair, names })
    }
}

/// How a NAPT maps ports (RFC 4787, RFC 5382).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum MappingBehaviour {
    /// Nobody has looked.
    #[default]
    Unknown,
    /// There is no NAPT.
    None,
    /// The port outside equals the port inside.
    PortPreserving,
    /// The same inside endpoint has the same outside endpoint towards everybody.
    EndpointIndependent,
    /// Another port for every destination, not to be foreseen.
    Random,
}

/// What probes have said about the NAPT in front of a host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Mapping {
    /// How it maps.
    pub behaviour: MappingBehaviour,
    /// Its outside address, as observed.
    pub outside: Option<IpAddr>,
}

impl Mapping {
    /// Whether the peer can know beforehand to which port it has to send.
    pub fn is_predictable(&self) -> bool {
        matches!(
            self.behaviour,
            MappingBehaviour::None | MappingBehaviour::PortPreserving | MappingBehaviour::EndpointIndependent
        )
    }
}

/// How the connections of a report stand to a symmetric proxy.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Relayed {
    /// They do not go through one, or it is of no use any more.
    #[default]
    No,
    /// They went through one until the host moved, and its MSYNs go there again.
    Moves,
    /// They go through one and nothing is wrong with them; a direct path would be better.
    Works,
}

/// The ports of one connection as the reporting host sees them on the wire (3.1.1, 3.1.5 of the source).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ConnectionPorts {
    /// Own port before the move, before any NAPT.
    pub source_before: u16,
    /// The peer's direct port; towards a proxy, the proxy's.
    pub destination_before: u16,
    /// Own port after the move; 0: unchanged.
    pub source_after: u16,
    /// The peer's port after the move, as far as it is known; 0: unchanged.
    pub destination_after: u16,
    /// The same at both ends, derived from the pair key; 0: none.
    pub label: u64,
    /// Highest ReqNo that this end has committed.
    pub req_no: u32,
}

impl ConnectionPorts {
    /// Own port now.
    pub fn source_now(&self) -> u16 {
        match self.source_after {
            0 => self.source_before,
            port => port,
        }
    }

    /// Whether both describe one connection of one and the same end.
    pub(super) fn is_same_as(&self, other: &ConnectionPorts) -> bool {
        match (self.label, other.label) {
            (0, _) | (_, 0) => {
                self.destination_before == other.destination_before
                    && self.source_before == other.source_before
            }
            (one, another) => one == another,
        }
    }
}

/// What an agent says after a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The pair.
    pub pair: PairId,
    /// Who the peer is.
    pub peer: AgentName,
    /// Grows with every report of this agent for this pair; from 1.
    pub move_counter: u64,
    /// Own address before the move, as this host's sockets know it.
    pub source_before: IpAddr,
    /// The peer's address before the move, as this host's segments named it.
    pub destination_before: IpAddr,
    /// Own address now.
    pub source_after: IpAddr,
    /// All connections of the pair between the addresses before.
    pub connections: Vec<ConnectionPorts>,
    /// The own address that the peer last confirmed, when it is another than `source_before`.
    pub confirmed_source: Option<IpAddr>,
    /// For the peer only; sealed under the pair key.
    pub sealed: Vec<u8>,
    /// The end has not moved and cannot be reached.
    pub waiting: bool,
    /// How long it is worth keeping; none: the server's own limit.
    pub keep: Option<Duration>,
    /// The NAPT in front of this host now.
    pub mapping: Mapping,
    /// How they stand to a symmetric proxy; `destination_before` is its address then.
    pub relayed: Relayed,
}

/// Why a report is not believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadReport {
    /// Counters begin at 1.
    #[error("a move counter of 0; count from 1")]
    NoCounter,
    /// An address that no connection and no host can have.
    #[error("{0} cannot be the address of a host; report an address of an interface")]
    Address(IpAddr),
    /// Addresses of two families between which no connection can have been.
    #[error("{0} and {1} are of different families")]
    Families(IpAddr, IpAddr),
    /// There is nothing to resume.
    #[error("the report names no connection")]
    NoConnections,
    /// Too many connections.
    #[error("{got} connections; at most {MAX_CONNECTIONS} fit into a report")]
    TooManyConnections {
        /// How many.
        got: usize,
    },
    /// A port that cannot be.
    #[error("a connection with port 0 before the move")]
    NoPort,
    /// Too much to pass on.
    #[error("{got} sealed bytes; at most {MAX_SEALED} are passed on")]
    SealedTooLong {
        /// How many.
        got: usize,
    },
}

impl Report {
    /// Whether it can be true.
    ///
    /// # Errors
    /// [`BadReport`] with what is wrong with it.
    pub fn check(&self) -> Result<(), BadReport> {
        if self.move_counter == 0 {
            return Err(BadReport::NoCounter);
        }
        let confirmed = self.confirmed_source;
        for address in [self.source_before, self.destination_before]
            .into_iter()
            .chain(confirmed)
        {
            if !can_be_a_host(address) {
                return Err(BadReport::Address(address));
            }
        }
        if !can_be_a_host(self.source_after) || is_link_local(self.source_after) {
            return Err(BadReport::Address(self.source_after));
        }
        if self.source_before.is_ipv4() != self.destination_before.is_ipv4() {
            return Err(BadReport::Families(self.source_before, self.destination_before));
        }
        if self.connections.is_empty() {
            return Err(BadReport::NoConnections);
        }
        if self.connections.len() > MAX_CONNECTIONS {
            let got = self.connections.len();
            return Err(BadReport::TooManyConnections { got });
        }
        if self
            .connections
            .iter()
            .any(|ports| ports.source_before == 0 || ports.destination_before == 0)
        {
            return Err(BadReport::NoPort);
        }
        if self.sealed.len() > MAX_SEALED {
            let got = self.sealed.len();
            return Err(BadReport::SealedTooLong { got });
        }
        Ok(())
    }

    /// Own address before the move as the peer knows it, NAPTs apart.
    pub fn source_confirmed(&self) -> IpAddr {
        self.confirmed_source.unwrap_or(self.source_before)
    }

    /// What is kept when this end has moved on without having been resumed (3.1.5 of the source): the new address
    /// and ports of `newer`, and the old ones by which the peer knows the connections. The end is known by its name,
    /// never by an address. A connection whose ReqNo has grown was resumed meanwhile, and the peer knows it anew.
    pub(super) fn moved_on(&self, mut newer: Report) -> Report {
        if [self.relayed, newer.relayed].contains(&Relayed::Works) {
            // Nothing was wrong in between: the peer knows it where it was last.
            return newer;
        }
        let other_group = newer.source_after == self.source_after
            && newer.source_confirmed() != self.source_confirmed()
            && !newer
                .connections
                .iter()
                .any(|ports| self.connections.iter().any(|known| known.is_same_as(ports)));
        if other_group {
            // One move of a host whose connections with the peer began at several addresses.
            newer.connections.extend_from_slice(&self.connections);
            newer.connections.truncate(MAX_CONNECTIONS);
            return newer;
        }
        let mut resumed = false;
        for ports in &mut newer.connections {
            let known = self.connections.iter().find(|known| known.is_same_as(ports));
            let Some(known) = known else { continue };
            if ports.req_no > known.req_no {
                resumed = true;
                continue;
            }
            let now = ports.source_now();
            let peer_now = match ports.destination_after {
                0 => ports.destination_before,
                port => port,
            };
            let changed = |before: u16, after: u16| if before == after { 0 } else { after };
            *ports = ConnectionPorts {
                source_before: known.source_before,
                destination_before: known.destination_before,
                source_after: changed(known.source_before, now),
                destination_after: changed(known.destination_before, peer_now),
                ..*ports
            };
        }
        if !resumed && newer.confirmed_source.is_none() {
            newer.source_before = self.source_before;
            newer.destination_before = self.destination_before;
            newer.confirmed_source = self.confirmed_source;
        }
        newer
    }
}

fn can_be_a_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240);
    !(address.is_multicast() || address.is_loopback() || address.is_unspecified() || broadcast)
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
