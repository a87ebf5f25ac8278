//! The agent's side of the mobility servers.
//!
//! 1. A host joins a deployment once ([`enrolment`]); its certificate is renewed while the agent runs ([`renewal`]).
//! 2. `agent::reporting` says what is [`wanted`]: pairs that the servers may push for, and one report for each pair
//!    with connections in trouble. It is a state, not a sequence: whoever connects anew sends all of it.
//! 3. For each configured server one task ([`attend`]) keeps a stream while something is wanted of it, from the
//!    address that is reported ([`connect`]), and tells what the server says as [`ServerEvent`]s.
//! 4. Behind a NAPT each new stream is followed by a probe of how it maps ([`mapping`]), which goes into the reports.
//! 5. `agent::destinations` checks what was said and turns it into attempts of the connections' machines.
//! 6. Whether peers with keys were revoked is asked now and then ([`standing`]).
//! 7. When two agents cannot reach each other's ports, their pair exchange runs through a blind [`tunnel`].

pub mod attend;
pub mod counter;
pub mod mapping;
pub mod standing;
pub mod tunnel;
pub mod wanted;

pub use member::{connect, enrolment, renewal};

use proto::mobility::v1 as said;
use wire::tuple::Endpoint;

/// What a server has said, or what became of its stream. Past facts.
#[derive(Clone, Debug, PartialEq)]
// One at a time goes through a channel; none is kept.
#[allow(clippy::large_enum_variant)]
pub enum ServerEvent {
    /// The stream is open.
    Opened {
        /// Its URL.
        server: String,
        /// Our end of the stream.
        local: Endpoint,
        /// The same as the server sees it.
        observed: Endpoint,
        /// Changes when the server has lost what it had stored.
        epoch: Vec<u8>,
        /// The server's clock less ours, in milliseconds; none: it does not say.
        skew: Option<i64>,
    },
    /// How the NAPT in front of this host maps, as a probe beside the stream has shown.
    Mapped {
        /// Our address, inside.
        inside: std::net::IpAddr,
        /// What was found.
        mapping: said::Mapping,
    },
    /// There is no stream.
    Closed {
        /// The server's URL.
        server: String,
        /// Why; empty: it is not needed.
        why: String,
    },
    /// Something to do, or to know.
    Said {
        /// The server's URL.
        server: String,
        /// Its words, unchecked.
        body: said::server_message::Body,
    },
}

/// What the agent tells one server beside what it wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// The server's URL.
    pub server: String,
    /// What it proposed, and why that led to nothing.
    pub what: said::TryFailed,
}

/// An address in the form of the messages.
pub fn bytes_of(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address of a message; none when it has a length that no address has.
pub fn address_of(bytes: &[u8]) -> Option<std::net::IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::IpAddr::from(octets).to_canonical())
}

/// An endpoint in the form of the messages.
pub fn endpoint_of(endpoint: Endpoint) -> said::Endpoint {
    said::Endpoint {
        address: bytes_of(endpoint.address),
        port: u32::from(endpoint.port),
    }
}

/// An endpoint of a message; none when it cannot be one.
pub fn read_endpoint(endpoint: &Option<said::Endpoint>) -> Option<Endpoint> {
    let endpoint = endpoint.as_ref()?;
    Some(Endpoint {
        address: address_of(&endpoint.address)?,
        port: u16::try_from(endpoint.port).ok()?,
    })
}
