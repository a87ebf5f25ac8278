//! `host-agent cleanup`: takes down everything an agent set up. Moved connections end with that, as TCP ends what nobody
//! answers; those of which the host has the address go on.

use anyhow::{Context, bail};
use datapath::parking::Parking;
use futures_util::{StreamExt, TryStreamExt};

use crate::config::Config;
use crate::control::{self, Request};
use crate::{drive, ports, watch};

/// Removes what is there; says what it was.
pub async fn run(config: &Config) -> anyhow::Result<Vec<String>> {
    if control::ask(&config.control_socket, &Request::Status)
        .await
        .is_ok()
    {
        bail!(
            "an agent is running at {}; stop it first",
            config.control_socket.display()
        );
    }
    let mut removed = Vec::new();
    datapath::kernel::quiet_libbpf();
    let (handle, _messages) = watch::open().context("cannot open netlink")?;
    if config.pin_dir.join("sessions").exists() {
        match drive::let_go(config) {
            Ok(0) => {}
            Ok(count) => removed.push(format!(
                "marks and timeouts on the sockets of {count} connections"
            )),
            // Those of another version, for instance: they can be given up all the same.
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "sockets keep the agent's timeouts; restart programs that wait for a peer that is gone"
            ),
        }
    }
    for message in watch::inventory(&handle).await.context("cannot list links")? {
        if let rtnetlink::packet_route::RouteNetlinkMessage::NewLink(link) = message
            && datapath::attach::detach(link.header.index)
        {
            removed.push(format!("programs on device {}", link.header.index));
            if !has_filters(&handle, link.header.index).await {
                datapath::attach::remove_qdisc(link.header.index);
            }
        }
    }
    removed.extend(Parking::clean_up(&handle, &config.device, config.table, config.rule_priority).await);
    removed.extend(crate::multipath::endpoints::clean_up(config, &handle).await);
    if config.pin_dir.exists() {
        // Unpinning the link detaches the program from its cgroup.
        for entry in std::fs::read_dir(&config.pin_dir).context("cannot read the pin directory")? {
            let path = entry?.path();
            // The kernel's own, in the root of every BPF file system.
            if ["maps.debug", "progs.debug"]
                .iter()
                .any(|own| path.ends_with(own))
            {
                continue;
            }
            std::fs::remove_file(&path).with_context(|| format!("cannot unpin {}", path.display()))?;
        }
        match std::fs::remove_dir(&config.pin_dir) {
            // Something is mounted there.
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
            outcome => outcome.with_context(|| format!("cannot remove {}", config.pin_dir.display()))?,
        }
        removed.push(format!("maps and links pinned in {}", config.pin_dir.display()));
    }
    if ports::unreserve(ports::RESERVED.as_ref(), config.wire_ports).unwrap_or(false) {
        removed.push(format!(
            "reservation of ports {} to {}",
            config.wire_ports.0, config.wire_ports.1
        ));
    }
    if drive::restore_arp(&config.state_dir) {
        removed.push("setting of arp_ignore".into());
    }
    if config.control_socket.exists() {
        std::fs::remove_file(&config.control_socket).context("cannot remove the control socket")?;
        removed.push(format!("control socket {}", config.control_socket.display()));
    }
    Ok(removed)
}

/// Takes back what a start that failed has set up where no agent was before: it would otherwise stay for nobody.
pub async fn take_back(handle: &rtnetlink::Handle, config: &Config) {
    Parking::clean_up(handle, &config.device, config.table, config.rule_priority).await;
    if let Ok(entries) = std::fs::read_dir(&config.pin_dir) {
        entries.flatten().for_each(|entry| {
            let _ = std::fs::remove_file(entry.path());
        });
        let _ = std::fs::remove_dir(&config.pin_dir);
    }
}

/// Whether anybody else's filters are on a device.
async fn has_filters(handle: &rtnetlink::Handle, ifindex: u32) -> bool {
    let filters = || handle.traffic_filter(ifindex as i32).get();
    for mut found in [
        filters().ingress().execute().boxed(),
        filters().egress().execute().boxed(),
    ] {
        if matches!(found.try_next().await, Ok(Some(_))) {
            return true;
        }
    }
    false
}
