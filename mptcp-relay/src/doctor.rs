//! `mptcp-relay doctor`: looks at everything the relay needs, leaves nothing changed, says what to do.

use operator::finding::{Finding, Verdict};

use crate::act;
use crate::config::Config;
use crate::control::{self, Request};
use crate::deployment;
use crate::rules::{Holder, Rules};
use crate::sysctl;

fn finding(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding::new(subject, verdict, detail)
}

/// Looks at everything.
pub async fn examine(config: &Config) -> Vec<Finding> {
    let running = control::ask(&config.control_socket, &Request::Status)
        .await
        .is_ok();
    let mut findings = vec![mptcp(), path_manager(), scheduler(), forwarding(), member(config)];
    findings.push(match mptcp_pm::Client::connect().await {
        Ok(_) => finding("netlink", Verdict::Good, "the path manager answers"),
        Err(error) => finding("netlink", Verdict::Bad, format!("no relay starts here: {error}")),
    });
    if running {
        findings.push(finding("relay", Verdict::Good, "running"));
        return findings;
    }
    findings.push(finding("relay", Verdict::Less, "not running"));
    findings.push(match Rules::probe(config) {
        Ok(Holder::Nft) => finding("queue", Verdict::Good, "by nft"),
        Ok(Holder::Xtables) => finding(
            "queue",
            Verdict::Good,
            "by the NFQUEUE target of iptables; this kernel's nft has none (CONFIG_NFT_QUEUE)",
        ),
        Err(error) => finding(
            "queue",
            Verdict::Bad,
            format!("no SYN can be held, so no relay starts here: {error}"),
        ),
    });
    findings.push(
        match act::listen(
            act::listener_address(false, config.listen_port),
            act::Kind::default(),
        ) {
            Ok(_) => finding(
                "listener",
                Verdict::Good,
                format!("port {} is free", config.listen_port),
            ),
            Err(error) => finding(
                "listener",
                Verdict::Bad,
                format!(
                    "cannot listen on port {}, so no relay starts here: {error}; stop what uses it, or set `listen_port`; run as root",
                    config.listen_port
                ),
            ),
        },
    );
    findings
}

fn member(config: &Config) -> Finding {
    let said = |verdict, detail: String| finding("deployment", verdict, detail);
    match deployment::servers_of(config) {
        Err(error) => said(Verdict::Bad, format!("{error:#}")),
        Ok(urls) if urls.is_empty() => said(
            Verdict::Good,
            "none: its connections are no sessions elsewhere".into(),
        ),
        Ok(urls) => match deployment::credentials(config) {
            Ok(credentials) => said(
                Verdict::Good,
                format!("{} at {}", credentials.identity().uri(), urls.join(", ")),
            ),
            Err(error) => said(Verdict::Less, format!("it relays, but is in none: {error:#}")),
        },
    }
}

fn mptcp() -> Finding {
    match sysctl::read("net.mptcp.enabled").as_deref() {
        Some("1") => finding("mptcp", Verdict::Good, "enabled"),
        Some(_) => finding(
            "mptcp",
            Verdict::Bad,
            "switched off, so nothing can be relayed: sysctl -w net.mptcp.enabled=1",
        ),
        None => finding(
            "mptcp",
            Verdict::Bad,
            "this kernel has none (CONFIG_MPTCP), so nothing can be relayed",
        ),
    }
}

fn path_manager() -> Finding {
    let offered = sysctl::read("net.mptcp.available_path_managers");
    let named = sysctl::read("net.mptcp.path_manager").or_else(|| sysctl::read("net.mptcp.pm_type"));
    match (named, offered) {
        (None, _) => finding(
            "path manager",
            Verdict::Bad,
            "it cannot be chosen (Linux 5.19 or later can): no path can be preferred",
        ),
        (Some(now), Some(all)) if !all.split(' ').any(|name| name == "userspace") => finding(
            "path manager",
            Verdict::Bad,
            format!(
                "it is {now}, and there is no `userspace` among {all}: no path can be preferred, no subflow ended"
            ),
        ),
        (Some(now), _) => finding(
            "path manager",
            Verdict::Good,
            format!("it is {now}; while the relay runs, it is userspace"),
        ),
    }
}

fn scheduler() -> Finding {
    let now = sysctl::read("net.mptcp.scheduler");
    let all = sysctl::read("net.mptcp.available_schedulers");
    match (now, all) {
        (Some(now), Some(all)) => finding("scheduler", Verdict::Good, format!("{now}; there are: {all}")),
        (Some(now), None) => finding("scheduler", Verdict::Good, now),
        (None, _) => finding(
            "scheduler",
            Verdict::Less,
            "it cannot be chosen on this kernel; the default serves",
        ),
    }
}

fn forwarding() -> Finding {
    let on = |name: &str| sysctl::read(name).as_deref() == Some("1");
    match (on("net.ipv4.ip_forward"), on("net.ipv6.conf.all.forwarding")) {
        (true, true) => finding("forwarding", Verdict::Good, "IPv4 and IPv6"),
        (true, false) => finding(
            "forwarding",
            Verdict::Less,
            "IPv4 only; for IPv6: sysctl -w net.ipv6.conf.all.forwarding=1",
        ),
        (false, true) => finding(
            "forwarding",
            Verdict::Less,
            "IPv6 only; for IPv4: sysctl -w net.ipv4.ip_forward=1",
        ),
        (false, false) => finding(
            "forwarding",
            Verdict::Bad,
            "this host forwards nothing, so no terminal's SYN comes by: sysctl -w net.ipv4.ip_forward=1",
        ),
    }
}
