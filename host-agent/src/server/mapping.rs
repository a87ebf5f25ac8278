//! How the NAPT in front of this host maps: one source port seen by two ports of a server.
//!
//! The stream is one example of what the NAPT makes of a port, and the server has said how it looks outside. A second
//! connection from that very port to another port of the server is the other example. Equal to the port inside both
//! times: preserved. Equal to each other: the same towards everybody. Otherwise nobody can foresee it.

use std::path::Path;

use identity::Credentials;
use proto::mobility::v1 as said;
use said::agents_client::AgentsClient;
use said::mapping::Behaviour;
use tonic::transport::Channel;
use wire::tuple::Endpoint;

use super::connect::connect_beside;
use super::{bytes_of, endpoint_of, read_endpoint};

/// An open stream, from which the second connection is made.
pub struct Stream {
    /// The server's URL.
    pub server: String,
    /// Over which the server is asked for its other ports.
    pub channel: Channel,
    /// Our end.
    pub local: Endpoint,
    /// The server's end.
    pub remote: Endpoint,
    /// Our end as the server sees it.
    pub observed: Endpoint,
    /// Mark of the agent's own segments.
    pub mark: u32,
}

/// Finds out how the NAPT maps. None: the server has no other port, or it does not answer.
pub async fn probe(stream: Stream, credentials: &Credentials, authorities: &Path) -> Option<said::Mapping> {
    let question = || said::ObserveRequest {
        local: Some(endpoint_of(stream.local)),
    };
    if stream.observed.address == stream.local.address {
        return Some(mapping(stream.local, [stream.observed; 2]));
    }
    let mut here = AgentsClient::new(stream.channel.clone());
    let known = here.observe(question()).await.ok()?.into_inner();
    let ports = known
        .other_ports
        .iter()
        .filter_map(|port| u16::try_from(*port).ok());
    for port in ports.filter(|port| *port != stream.remote.port).take(2) {
        let tls = identity::towards_servers(credentials.identity(), authorities).ok()?;
        let ends = (stream.local, stream.remote);
        let Ok(beside) = connect_beside(&stream.server, ends, port, stream.mark, tls).await else {
            continue;
        };
        let answer = AgentsClient::new(beside.channel).observe(question()).await.ok()?;
        let other = read_endpoint(&answer.into_inner().observed)?;
        return Some(mapping(stream.local, [stream.observed, other]));
    }
    None
}

/// What two observations of one source port say.
pub fn mapping(inside: Endpoint, seen: [Endpoint; 2]) -> said::Mapping {
    let [one, other] = seen;
    let behaviour = match one == other {
        true if one.address == inside.address => Behaviour::None,
        true if one.port == inside.port => Behaviour::PortPreserving,
        true => Behaviour::EndpointIndependent,
        false => Behaviour::Random,
    };
    said::Mapping {
        behaviour: behaviour.into(),
        outside_address: bytes_of(one.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(inside: &str, one: &str, other: &str) -> Behaviour {
        let endpoint = |text: &str| Endpoint::from(text.parse::<std::net::SocketAddr>().unwrap());
        mapping(endpoint(inside), [endpoint(one), endpoint(other)]).behaviour()
    }

    #[test]
    fn two_observations_of_one_port_say_how_a_napt_maps() {
        let inside = "192.168.1.2:4000";
        assert_eq!(
            seen("10.0.0.1:4000", "10.0.0.1:4000", "10.0.0.1:4000"),
            Behaviour::None
        );
        assert_eq!(
            seen(inside, "10.0.0.1:4000", "10.0.0.1:4000"),
            Behaviour::PortPreserving
        );
        assert_eq!(
            seen(inside, "10.0.0.1:5000", "10.0.0.1:5000"),
            Behaviour::EndpointIndependent
        );
        assert_eq!(seen(inside, "10.0.0.1:5000", "10.0.0.1:5001"), Behaviour::Random);
        assert_eq!(
            seen(inside, "10.0.0.1:4000", "10.0.0.2:4000"),
            Behaviour::Random,
            "two addresses"
        );
    }
}
