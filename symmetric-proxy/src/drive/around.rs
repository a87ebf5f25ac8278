//! What changes around the proxy: devices that come, addresses that come and go, routes that turn elsewhere.

use std::time::{Duration, Instant};

use anyhow::Context;
use datapath::relay::RelayDatapath;

use super::Proxy;
use crate::hold::Held;
use crate::watch::{self, Device};

/// Without any word of a change one looks all the same: netlink may lose words.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Routes of a busy router change all the time.
const LOOK_AT_MOST_EVERY: Duration = Duration::from_millis(500);

/// When to look.
#[derive(Default)]
pub(super) struct Looks {
    last: Option<Instant>,
    changed: bool,
}

impl Looks {
    /// Something is other than it was.
    pub(super) fn changed(&mut self) {
        self.changed = true;
    }

    /// Whether it is time.
    pub(super) fn are_due(&self) -> bool {
        let since = self.last.map_or(LOOK_AT_MOST_EVERY, |last| last.elapsed());
        since >= LOOK_EVERY || (self.changed && since >= LOOK_AT_MOST_EVERY)
    }

    /// One looks now; says whether there was a word of a change.
    pub(super) fn take_changed(&mut self) -> bool {
        self.last = Some(Instant::now());
        std::mem::take(&mut self.changed)
    }
}

/// Holds a device and puts the program on it.
pub(super) fn attach(datapath: &RelayDatapath, held: &mut Held, device: &Device) -> anyhow::Result<()> {
    let mine = held.take(device.index).context("cannot hold a device")?;
    if !mine {
        anyhow::bail!(
            "another symmetric-proxy relays on device {}: stop it, or give each its own `interfaces`",
            device.name
        );
    }
    datapath
        .attach_device(device.index, device.link)
        .with_context(|| format!("device {}", device.name))
}

impl Proxy {
    /// Looks at devices and addresses. `changed`: the ways of all connections are looked at, too.
    pub(super) async fn look_around(&mut self, changed: bool) {
        if changed {
            self.act.forget_ways();
            self.sweep.look_at_ways(self.leases.len());
        }
        match watch::devices(self.act.handle()).await {
            Ok(devices) => {
                self.held
                    .keep_only(|ifindex| devices.iter().any(|device| device.index == ifindex));
                for device in watch::chosen(devices, &self.config) {
                    if let Err(error) = attach(&self.act.datapath, &mut self.held, &device) {
                        tracing::warn!("nobody is heard there: {error:#}");
                    }
                }
            }
            Err(error) => tracing::warn!("{error:#}"),
        }
        let mut addresses = match watch::addresses(self.act.handle(), &self.config).await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::debug!("{error:#}");
                Vec::new()
            }
        };
        let known = self.leases.addresses();
        if addresses.len() == known.len() && addresses.iter().all(|one| known.contains(one)) {
            return;
        }
        if let Err(error) = self.act.datapath.own(&addresses) {
            tracing::error!(%error, "new addresses cannot be used");
            addresses.retain(|address| known.contains(address));
        }
        tracing::info!(?addresses, "relays at these addresses from now on");
        self.counters.count("addresses_changed");
        self.leases.ports.move_to(addresses);
        self.narrow();
        self.again.send_modify(|times| *times += 1);
    }

    /// The data path owns what there are connections for, and what new ones can have; nothing else of an earlier time.
    pub(super) fn narrow(&mut self) {
        let ports = &self.leases.ports;
        self.act.datapath.disown_others(&ports.all_addresses());
        let others = ports.has_others();
        if let Err(error) = self.act.datapath.own_ports(self.config.ports, others) {
            tracing::error!(%error, "the ports cannot be told to the data path");
        }
    }
}
