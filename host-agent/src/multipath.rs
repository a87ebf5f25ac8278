//! This host's Multipath TCP connections: where the kernel speaks MPTCP, they use several networks without this agent,
//! which helps in three ways.
//!
//! 1. A path of such a connection is lost with its address or its link, and the far end learns nothing of it: it goes on
//!    sending there until its timers run out. [`Losses`] says which paths that are, and the agent tells its mobility
//!    servers, which tell the relays ([`Multipath`] is what is wanted of them).
//! 2. If `mptcp.endpoints` says so, every address that comes is made an endpoint of the kernel's own path manager, with
//!    a routing table of its own, and is taken back when it goes ([`endpoints`]).
//! 3. Programs that `mptcp.cgroups` or `mptcp.executables` choose get MPTCP sockets when they ask for TCP, where the kernel lets
//!    a BPF program do that ([`chosen`]).
//!
//! The loop in `drive` knows of all this only what is wanted of servers; a task of its own does the rest.

pub mod endpoints;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datapath::sockets::Sockets;
use mptcp_pm::{Event, Events, Subflow, Token};
use proto::mobility::v1 as said;
use tokio::sync::watch;

use crate::config::Config;
use endpoints::Endpoints;

/// A loss is said as long as this, in case a server is not reached at once.
const SAID_FOR: Duration = Duration::from_secs(30);
/// Losses that are remembered, at most.
const MOST: usize = 1024;

/// The addresses that can be used now, with their devices.
pub type Addresses = BTreeMap<IpAddr, u32>;

/// What is wanted of the servers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Multipath {
    /// Whether there are connections for which they may be needed.
    pub live: bool,
    /// Paths that were lost of late, numbered.
    pub lost: BTreeMap<u64, said::LostPath>,
}

impl Multipath {
    /// What a server has to be told that knows of `before`.
    pub fn changes(&self, before: &Self) -> Option<said::PathsLost> {
        let fresh = self
            .lost
            .iter()
            .filter(|(number, _)| !before.lost.contains_key(*number));
        let paths: Vec<said::LostPath> = fresh.map(|(_, path)| *path).collect();
        (!paths.is_empty()).then_some(said::PathsLost { paths })
    }
}

/// Which paths are lost. No IO.
#[derive(Debug, Default)]
pub struct Losses {
    /// What the far ends call the connections; the kernel tells it of subflows that this host has joined.
    names: HashMap<Token, u32>,
    /// Lost paths of connections whose name is not known yet.
    unnamed: Vec<(Token, u8, Instant)>,
    lost: BTreeMap<u64, (said::LostPath, Instant)>,
    next: u64,
}

impl Losses {
    /// What there is now.
    pub fn look(&mut self, flows: &[Subflow], now: Instant) {
        self.names
            .retain(|token, _| flows.iter().any(|flow| flow.token == *token));
        for flow in flows.iter().filter(|flow| flow.remote_token != 0) {
            self.names.insert(flow.token, flow.remote_token);
        }
        self.unnamed
            .retain(|(_, _, since)| now.duration_since(*since) < SAID_FOR);
        for (token, id, since) in std::mem::take(&mut self.unnamed) {
            self.say(token, id, since, now);
        }
        self.lost
            .retain(|_, (_, since)| now.duration_since(*since) < SAID_FOR);
    }

    /// These addresses cannot be used any more, and there were these subflows.
    pub fn lose(&mut self, addresses: &[IpAddr], flows: &[Subflow], now: Instant) {
        for flow in flows {
            if addresses.contains(&flow.local.ip().to_canonical()) {
                self.say(flow.token, flow.local_id, now, now);
            }
        }
    }

    fn say(&mut self, token: Token, id: u8, since: Instant, now: Instant) {
        let Some(name) = self.names.get(&token) else {
            if self.unnamed.len() < MOST {
                self.unnamed.push((token, id, since));
            }
            return;
        };
        let path = said::LostPath {
            token: *name,
            address_id: id.into(),
        };
        if self.lost.len() >= MOST {
            self.lost.pop_first();
        }
        self.lost.insert(self.next, (path, now));
        self.next += 1;
    }

    /// What servers are told.
    pub fn wanted(&self, live: bool) -> Multipath {
        Multipath {
            live,
            lost: self
                .lost
                .iter()
                .map(|(number, (path, _))| (*number, *path))
                .collect(),
        }
    }
}

/// Has the programs that the configuration chooses get MPTCP sockets, for as long as the value lives. Where the kernel refuses, the
/// agent goes on without, and says so.
pub fn chosen(config: &Config) -> Option<Sockets> {
    if !config.mptcp.chooses() {
        return None;
    }
    match Sockets::open(&config.mptcp.cgroups, &config.mptcp.executables) {
        Ok(sockets) => {
            tracing::info!("chosen programs get MPTCP sockets");
            Some(sockets)
        }
        Err(error) => {
            tracing::error!("chosen programs get TCP sockets: {error}");
            None
        }
    }
}

/// Watches the connections, and tends the endpoints if the configuration says so. Ends where the kernel has no MPTCP.
pub async fn run(
    config: Arc<Config>,
    handle: rtnetlink::Handle,
    mut addresses: watch::Receiver<Addresses>,
    wanted: watch::Sender<Multipath>,
) {
    let mut events = match Events::subscribe().await {
        Ok(events) => events,
        Err(error) => {
            tracing::debug!(%error, "no MPTCP here");
            return;
        }
    };
    let mut endpoints = match config.mptcp.endpoints {
        true => Endpoints::open(&config, handle).await,
        false => None,
    };
    let mut losses = Losses::default();
    let mut before = addresses.borrow_and_update().clone();
    if let Some(endpoints) = &mut endpoints {
        endpoints.follow(&before).await;
    }
    let mut flows = subflows().await;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        losses.look(&flows, Instant::now());
        let now_wanted = losses.wanted(config.mptcp.report && !flows.is_empty());
        wanted.send_if_modified(|wanted| {
            let differs = *wanted != now_wanted;
            *wanted = now_wanted;
            differs
        });
        tokio::select! {
            changed = addresses.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = addresses.borrow_and_update().clone();
                let lost: Vec<IpAddr> = before.keys().filter(|address| !now.contains_key(*address)).copied().collect();
                if !lost.is_empty() {
                    flows = subflows().await;
                    losses.look(&flows, Instant::now());
                    if config.mptcp.report {
                        losses.lose(&lost, &flows, Instant::now());
                    }
                }
                before = now;
                if let Some(endpoints) = &mut endpoints {
                    endpoints.follow(&before).await;
                }
            }
            event = events.next() => match event {
                Some(Event::SubflowEstablished(_) | Event::Established(_) | Event::Closed(_) | Event::Missed) => {
                    flows = subflows().await;
                }
                Some(_) => {}
                None => return,
            },
            _ = tick.tick() => {
                if let Some(endpoints) = &mut endpoints {
                    // Routes come after addresses.
                    endpoints.follow(&before).await;
                }
            }
        }
    }
}

async fn subflows() -> Vec<Subflow> {
    let flows = mptcp_pm::subflows().await;
    flows.unwrap_or_else(|error| {
        tracing::debug!(%error, "cannot list subflows");
        Vec::new()
    })
}
