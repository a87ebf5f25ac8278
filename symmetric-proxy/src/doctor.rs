//! `symmetric-proxy doctor`: looks at everything the proxy needs, changes nothing, says what to do.

use datapath::requirements;
use operator::finding::{Finding, Verdict};

use crate::config::Config;
use crate::control::{self, Request};
use crate::{drive, watch};

/// Looks at everything.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings: Vec<Finding> = requirements::examine_relay(&config.pin_dir)
        .into_iter()
        .map(|found| Finding {
            subject: found.subject,
            verdict: match found.verdict {
                requirements::Verdict::Good => Verdict::Good,
                requirements::Verdict::Less => Verdict::Less,
                requirements::Verdict::Bad => Verdict::Bad,
            },
            detail: found.detail,
        })
        .collect();
    findings.push(match drive::credentials(config) {
        Ok(credentials) => Finding::new("certificate", Verdict::Good, credentials.identity().uri()),
        Err(error) => Finding::new("certificate", Verdict::Bad, format!("{error:#}")),
    });
    findings.push(match drive::servers_of(config) {
        Ok(servers) => Finding::new("servers", Verdict::Good, servers.join(" ")),
        Err(error) => Finding::new("servers", Verdict::Bad, format!("{error:#}")),
    });
    findings.push(addresses(config).await);
    findings.push(ports(config.ports));
    let running = control::ask(&config.control_socket, &Request::Status).await;
    findings.push(match running {
        Ok(_) => Finding::new("proxy", Verdict::Good, "running"),
        Err(_) => Finding::new("proxy", Verdict::Less, "not running"),
    });
    findings
}

async fn addresses(config: &Config) -> Finding {
    let found = match watch::open() {
        Ok(handle) => watch::addresses(&handle, config).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(addresses) => {
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            Finding::new("addresses", Verdict::Good, shown.join(" "))
        }
        Err(error) => Finding::new("addresses", Verdict::Bad, format!("{error:#}")),
    }
}

/// What this host itself sends from the proxy's ports is never answered.
fn ports(range: (u16, u16)) -> Finding {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let numbers: Vec<u16> = text
        .split_whitespace()
        .filter_map(|number| number.parse().ok())
        .collect();
    match numbers[..] {
        [low, high] if range.0 <= high && low <= range.1 => Finding::new(
            "ports",
            Verdict::Less,
            format!(
                "{} to {} overlap those of this host's own connections ({low} to {high}): set other `ports`, or \
                 net.ipv4.ip_local_reserved_ports",
                range.0, range.1
            ),
        ),
        _ => Finding::new("ports", Verdict::Good, format!("{} to {}", range.0, range.1)),
    }
}
