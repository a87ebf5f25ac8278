//! `mobility-server doctor`: what would keep the server from working, or does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use identity::{Authority, server_not_after, towards_members};
use proto::mobility::v1 as pb;
use serde::Serialize;

use crate::config::{Backend, Config};
use crate::{control, convert};

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, and somebody should look at it.
    Doubtful,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen, and what to do.
    pub detail: String,
}

/// Looks at everything.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut found = vec![authority(config), certificate(config), clock(), state(config)];
    match control::connect(&config.control_socket).await {
        Ok(mut client) => {
            let agents = match client.list_agents(pb::ListRequest { limit: 0 }).await {
                Ok(rows) => read(rows.into_inner()).await,
                Err(_) => Vec::new(),
            };
            let status = client.status(pb::StatusRequest {}).await;
            found.push(match status {
                Ok(status) => {
                    let status = status.into_inner();
                    let detail = format!(
                        "a server of version {} runs; {} store, {} agents attend",
                        status.version, status.backend, status.agents
                    );
                    finding("store", Verdict::Good, detail)
                }
                Err(status) => finding(
                    "store",
                    Verdict::Bad,
                    format!("the server says: {}", status.message()),
                ),
            });
            found.push(sources(&agents));
        }
        Err(_) => found.extend(config.listen.iter().map(|address| port(*address))),
    }
    found
}

async fn read(mut rows: tonic::Streaming<pb::AgentRow>) -> Vec<pb::AgentRow> {
    let mut agents = Vec::new();
    while let Ok(Some(row)) = rows.message().await {
        agents.push(row);
    }
    agents
}

fn finding(what: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding {
        what,
        verdict,
        detail: detail.into(),
    }
}

fn authority(config: &Config) -> Finding {
    match Authority::load(&config.authority) {
        Ok(authority) => finding("authority", Verdict::Good, authority.fingerprint().to_string()),
        Err(error) => finding("authority", Verdict::Bad, error.to_string()),
    }
}

fn certificate(config: &Config) -> Finding {
    if let Err(error) = towards_members(&config.identity, &config.authority.join("ca.pem")) {
        return finding("certificate", Verdict::Bad, error.to_string());
    }
    let left = server_not_after(&config.identity).map(|until| {
        until
            .duration_since(SystemTime::now())
            .map_or(0, |left| left.as_secs() / 86_400)
    });
    match left {
        Err(error) => finding("certificate", Verdict::Bad, error.to_string()),
        Ok(0) => finding(
            "certificate",
            Verdict::Bad,
            "it has expired, or does today; see docs/operations.md",
        ),
        Ok(days @ 1..31) => finding(
            "certificate",
            Verdict::Doubtful,
            format!("it expires in {days} days; see docs/operations.md"),
        ),
        Ok(days) => finding("certificate", Verdict::Good, format!("valid for {days} days")),
    }
}

fn clock() -> Finding {
    // Nothing of this program is older; a clock that says so was never set.
    let earliest = SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600);
    match SystemTime::now() > earliest {
        true => finding("clock", Verdict::Good, "set"),
        false => finding(
            "clock",
            Verdict::Bad,
            "this host's clock was never set; certificates cannot be judged",
        ),
    }
}

fn state(config: &Config) -> Finding {
    if config.store.backend == Backend::Memory {
        let detail = "reports are kept in memory: a restart loses them, and agents report again";
        return finding("state", Verdict::Doubtful, detail);
    }
    match writable(&config.state_dir) {
        Ok(()) => finding("state", Verdict::Good, config.state_dir.display().to_string()),
        Err(error) => finding(
            "state",
            Verdict::Bad,
            format!("{}: {error}", config.state_dir.display()),
        ),
    }
}

fn writable(directory: &Path) -> std::io::Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    let probe = directory.join(".doctor");
    std::fs::write(&probe, b"")?;
    std::fs::remove_file(&probe)
}

fn port(address: SocketAddr) -> Finding {
    match std::net::TcpListener::bind(address) {
        Ok(_) => finding(
            "port",
            Verdict::Good,
            format!("{address} is free; no server runs"),
        ),
        Err(error) => finding("port", Verdict::Bad, format!("{address}: {error}; see `listen`")),
    }
}

/// A load balancer that puts its own address in the place of the agents' makes every one of them look as if it were
/// behind the same NAPT.
fn sources(agents: &[pb::AgentRow]) -> Finding {
    let mut observed: Vec<_> = agents
        .iter()
        .filter_map(|row| convert::endpoint(row.observed.as_ref()).ok())
        .map(|endpoint| endpoint.address)
        .collect();
    let count = observed.len();
    observed.sort_unstable();
    observed.dedup();
    match (count, &observed[..]) {
        (0 | 1, _) => finding(
            "sources",
            Verdict::Good,
            "too few agents attend to compare their addresses",
        ),
        (_, [one]) => finding(
            "sources",
            Verdict::Doubtful,
            format!(
                "all {count} agents come from {one}: if that is a load balancer, let it send PROXY protocol v2 and \
                 name it in `fronts`; behind one NAPT it is as it should be"
            ),
        ),
        (_, several) => finding(
            "sources",
            Verdict::Good,
            format!("{count} agents from {} addresses", several.len()),
        ),
    }
}

/// For people.
pub fn print(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let mark = match finding.verdict {
            Verdict::Good => "ok  ",
            Verdict::Doubtful => "look",
            Verdict::Bad => "BAD ",
        };
        format!("{mark}  {:<12} {}", finding.what, finding.detail)
    };
    findings.iter().map(line).collect::<Vec<_>>().join("\n")
}
