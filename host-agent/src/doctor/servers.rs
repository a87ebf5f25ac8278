//! The mobility servers, as `doctor` finds them: asked one after the other, whether the agent runs or not.

use std::net::IpAddr;
use std::time::Instant;

use proto::mobility::v1 as said;
use said::agents_client::AgentsClient;
use wire::tuple::Endpoint;

use super::*;
use crate::drive::servers::{authorities, servers_of};
use crate::server::attend::skew;
use crate::server::{connect, endpoint_of, read_endpoint};

/// Clocks that differ by more are worth a word: certificates fail first.
const SKEW: f64 = 30.0;

/// What a server said.
struct Seen {
    local: Endpoint,
    remote: Endpoint,
    observed: Endpoint,
    skew: Option<f64>,
    milliseconds: f64,
}

/// Asks every configured server where it sees this host.
pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let servers = match servers_of(config) {
        Ok(servers) => servers,
        Err(error) => return vec![finding("servers", Verdict::Bad, format!("{error:#}"))],
    };
    if servers.is_empty() {
        let detail = "none: two hosts that move at once do not find each other (see \"host-agent enroll\")";
        return vec![finding("servers", Verdict::Less, detail)];
    }
    let mut findings = Vec::new();
    for server in &servers {
        findings.push(match ask(config, server).await {
            Ok(seen) => verdict(server, &seen),
            Err(why) => finding("server", Verdict::Less, format!("{server}: {why}")),
        });
    }
    findings
}

async fn ask(config: &Config, server: &str) -> Result<Seen, String> {
    let credentials = drive::credentials(config).map_err(|error| format!("{error:#}"))?;
    let tls = identity::towards_servers(credentials.identity(), &authorities(config))
        .map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let connected = connect::connect(server, None, config.agent_mark, tls)
        .await
        .map_err(|error| error.to_string())?;
    let question = said::ObserveRequest {
        local: Some(endpoint_of(connected.local)),
    };
    let answer = AgentsClient::new(connected.channel)
        .observe(question)
        .await
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    Ok(Seen {
        local: connected.local,
        remote: connected.remote,
        observed: read_endpoint(&answer.observed).ok_or("it does not say where it sees this host")?,
        skew: skew(answer.unix_milliseconds).map(|skew| skew as f64 / 1e3),
        milliseconds: begun.elapsed().as_secs_f64() * 1e3,
    })
}

fn verdict(server: &str, seen: &Seen) -> Finding {
    let detail = format!(
        "{server} answers ({:.0} ms) and sees this host at {}",
        seen.milliseconds, seen.observed.address
    );
    let less = |detail: String| finding("server", Verdict::Less, detail);
    if let Some(skew) = seen.skew.filter(|skew| skew.abs() > SKEW) {
        return less(format!(
            "{detail}; its clock differs by {skew:.0} s: certificates fail where clocks differ, set one of them"
        ));
    }
    if rewritten(seen) {
        return less(format!(
            "{detail}, though it is {}: a load balancer there hides the sources, and every host looks as if it were \
             behind a NAPT; let it send PROXY protocol v2, and name it in the server's `fronts`",
            seen.local.address
        ));
    }
    let napt = match seen.observed.address == seen.local.address {
        true => "",
        false => ", behind a NAPT",
    };
    finding("server", Verdict::Good, format!("{detail}{napt}"))
}

/// Whether somebody near the server, and no NAPT of ours, has put its own address in place of ours.
fn rewritten(seen: &Seen) -> bool {
    let changed = seen.observed.address != seen.local.address;
    changed
        && (seen.observed.address == seen.remote.address
            || (is_public(seen.local.address) && !is_public(seen.observed.address)))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        // Carrier-grade NAPTs have 100.64.0.0/10.
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || shared)
        }
        IpAddr::V6(v6) => !(v6.is_unique_local() || v6.is_loopback() || v6.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(local: &str, observed: &str, skew: f64) -> Finding {
        let endpoint = |text: &str| Endpoint::new(text.parse().unwrap(), 4000);
        let seen = Seen {
            local: endpoint(local),
            remote: endpoint("198.51.100.9"),
            observed: endpoint(observed),
            skew: Some(skew),
            milliseconds: 1.0,
        };
        verdict("https://server", &seen)
    }

    #[test]
    fn sources_that_somebody_near_the_server_rewrites_are_told_from_napts() {
        let good = |local, observed| seen(local, observed, 0.0).verdict == Verdict::Good;
        assert!(good("203.0.113.7", "203.0.113.7"), "in the open");
        assert!(good("192.168.1.2", "203.0.113.7"), "behind a NAPT");
        assert!(good("192.168.1.2", "100.64.0.3"), "behind a NAPT in a laboratory");
        assert!(
            !good("203.0.113.7", "10.0.0.5"),
            "a public host cannot be seen at a private address"
        );
        assert!(
            !good("192.168.1.2", "198.51.100.9"),
            "nor any host at the server's own"
        );
        assert!(
            seen("203.0.113.7", "10.0.0.5", 0.0)
                .detail
                .contains("PROXY protocol")
        );
    }

    #[test]
    fn clocks_that_differ_are_told() {
        assert!(seen("203.0.113.7", "203.0.113.7", 31.0).detail.contains("31 s"));
        assert!(seen("203.0.113.7", "203.0.113.7", -31.0).detail.contains("-31 s"));
    }
}
