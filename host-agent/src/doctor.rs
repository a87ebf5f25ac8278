//! `host-agent doctor`: looks at everything the agent needs, changes nothing, says what to do.

use std::net::TcpListener;

mod servers;

use datapath::requirements::{self, Finding, Verdict};

use crate::config::Config;
use crate::control::{self, Request};
use crate::drive;

/// Looks at everything.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = requirements::examine(&config.cgroup_path(), &config.pin_dir);
    findings.push(match drive::credentials(config) {
        Ok(credentials) => finding(
            "certificate",
            Verdict::Good,
            credentials.identity().agent_id().to_string(),
        ),
        Err(error) => finding("certificate", Verdict::Bad, format!("{error:#}")),
    });
    let sockets = datapath::sockets::examine();
    findings.push(match (sockets.verdict, config.mptcp.chooses()) {
        // What the configuration asks for, and cannot have.
        (Verdict::Less, true) => Finding {
            verdict: Verdict::Bad,
            detail: format!(
                "{}, and empty `mptcp.cgroups` and `mptcp.executables`",
                sockets.detail
            ),
            ..sockets
        },
        _ => sockets,
    });
    if config.mptcp.endpoints {
        findings.push(match crate::multipath::endpoints::obstacle() {
            None => finding("MPTCP", Verdict::Good, "the kernel's own path manager"),
            Some(why) => finding("MPTCP", Verdict::Less, format!("no endpoints are made: {why}")),
        });
    }
    let running = control::ask(&config.control_socket, &Request::Status)
        .await
        .is_ok();
    findings.push(if running {
        finding("agent", Verdict::Good, "running")
    } else {
        match TcpListener::bind(("::", config.agent_port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", config.agent_port)))
        {
            Ok(_) => finding("agent", Verdict::Less, "not running"),
            Err(error) => finding(
                "agent port",
                Verdict::Bad,
                format!(
                    "{} cannot be bound ({error}): stop what uses it, or set `agent_port`",
                    config.agent_port
                ),
            ),
        }
    });
    findings.extend(servers::examine(config).await);
    findings
}

fn finding(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding {
        subject,
        verdict,
        detail: detail.into(),
    }
}

/// For people.
pub fn print(findings: &[Finding]) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Less => "note",
            Verdict::Bad => "BAD",
        };
        lines.push(format!("{word:<5} {:<14} {}", finding.subject, finding.detail));
    }
    lines.push(
        match findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Bad)
            .count()
        {
            0 => "the agent can run here".into(),
            1 => "one thing must be mended first".into(),
            count => format!("{count} things must be mended first"),
        },
    );
    lines.join("\n")
}
