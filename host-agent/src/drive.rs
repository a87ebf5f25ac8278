//! The loop: the only place that waits.

mod answers;
mod effects;
mod leading;
mod review;
pub mod servers;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use datapath::attach::Link;
use datapath::parking::{Parking, ParkingOptions};
use datapath::{Datapath, KernelDatapath, Path};
use identity::{Abilities, Credentials, HostIdentity, Local, PairStore, SleepHint, Trust};
use migration::Timestamp;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch as channel};
use wire::tuple::{Endpoint, Tuple};

use crate::agent::{Agent, Effect, WayOut};
use crate::config::{Config, TrustSetting};
use crate::control::{self, Answer, Call, Reply, Request};
use crate::nat64::{self, Nat64Prefix};
use crate::network::NetworkEvent;
use crate::pairs::{self, Pairs, Told};
use crate::ports::{self, WirePorts};
use crate::status::About;
use crate::{metrics, watch};

/// How often new connections get their keys and suspects are looked at.
const TICK: Duration = Duration::from_millis(100);
/// How long the side that accepted a connection waits for the other to dial.
const DIAL_LATER: Duration = Duration::from_secs(3);

struct Clock(Duration);

impl Clock {
    fn start() -> Self {
        Self(boot_time())
    }

    fn now(&self) -> Timestamp {
        Timestamp(boot_time().saturating_sub(self.0))
    }
}

/// Counts suspended time too: a connection that waits ages while the host sleeps.
fn boot_time() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Everything a running agent holds.
pub struct Driver {
    config: Config,
    agent: Agent<KernelDatapath>,
    parking: Parking,
    leading: leading::Leading,
    credentials: channel::Sender<Credentials>,
    facts: channel::Sender<Arc<Local>>,
    pair_events: (mpsc::Sender<Told>, mpsc::Receiver<Told>),
    later: (
        mpsc::Sender<std::net::SocketAddr>,
        mpsc::Receiver<std::net::SocketAddr>,
    ),
    clock: Clock,
    /// What the routes to the parking device say: for IPv4, for IPv6.
    mtu: (u32, u32),
    servers: servers::Servers,
    nat64: Search,
    /// The usable addresses, for who looks after Multipath TCP.
    addresses: channel::Sender<crate::multipath::Addresses>,
    /// Netlink has lost what it said: stock has to be taken.
    overrun: bool,
}

/// The search for the network's NAT64.
struct Search {
    found: (mpsc::Sender<Vec<Nat64Prefix>>, mpsc::Receiver<Vec<Nat64Prefix>>),
    search: Option<tokio::task::JoinHandle<()>>,
}

/// Runs the agent until it is told to stop. Nothing of what it set up is taken down: connections live on, and
/// the next agent adopts them.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let control_listener = control::bind(&config.control_socket).await?;
    let outcome = run_with(config.clone(), control_listener).await;
    let _ = std::fs::remove_file(&config.control_socket);
    outcome
}

async fn run_with(config: Config, control_listener: tokio::net::UnixListener) -> anyhow::Result<()> {
    let (handle, mut netlink) = watch::open().context("cannot open netlink")?;
    let urls = servers::servers_of(&config)?;
    let credentials = credentials(&config)?;
    if let (TrustSetting::Ca(bundle), Err(refusal)) = (&config.trust, credentials.accepts_itself()) {
        tracing::warn!(
            "this host's own certificate is none that `trust.ca` ({}) would accept ({refusal}): peers that trust the \
             same authorities refuse it; run host-agent init with their authority, or correct `trust`",
            bundle.display()
        );
    }
    metrics::serve(config.metrics)?;
    let (store, quarantined) = PairStore::open(&config.state_dir)?;
    if let Some(quarantined) = quarantined {
        tracing::warn!("{quarantined}");
    }
    let listener = listen(config.agent_port).await?;
    let fresh = !config.pin_dir.join("offer_link").exists();
    let parking = Parking::set_up(
        handle.clone(),
        ParkingOptions {
            device: config.device.clone(),
            table: config.table,
            rule_priority: config.rule_priority,
            mark: config.mark,
            agent_mark: config.agent_mark,
        },
    )
    .await?;
    let datapath = open_datapath(&config, &parking).and_then(|datapath| {
        datapath.attach_parking(parking.ifindex)?;
        Ok(datapath)
    });
    let datapath = match datapath {
        Ok(datapath) => datapath,
        Err(error) => {
            if fresh {
                crate::cleanup::take_back(&handle, &config).await;
            }
            return Err(error);
        }
    };
    if let Err(error) = ports::reserve(ports::RESERVED.as_ref(), config.wire_ports) {
        tracing::warn!(%error, "cannot reserve the wire ports: new connections may collide with moved ones");
    }
    quiet_arp(&config.state_dir);

    let event_fd: OwnedFd = datapath.event_fd().context("cannot wait for the data path")?;
    // SAFETY: the descriptor is owned, nobody closes it but `AsyncFd`.
    let event_fd = unsafe { AsyncFd::register(event_fd) }.map_err(|error| error.into_parts().1)?;
    let mut agent = Agent::new(
        datapath,
        config.policy(),
        parking.ifindex,
        Pairs::new(store),
        WirePorts::new(config.wire_ports),
    );
    agent.nat64 = config.nat64()?;
    agent.network.anchor(config.anchors()?);
    agent.heartbeat = config.heartbeat;
    agent.sleeping.bedtime.longest = Duration::from_secs_f64(config.timeouts.sleep);
    agent.reporting = servers::reporting(&config, &urls, credentials.identity().agent_id().clone());
    agent.reporting.list_sessions = config.list_sessions;
    agent.enrolment.word = config.enrol;
    agent.enrolment.prefixes = config.offers()?.1;
    agent.enrolment.agent_port = config.agent_port;
    agent.prefer = config.prefer();
    agent.limits = config.limits();
    let (facts, facts_receiver) = channel::channel(Arc::new(local_facts(&config)));
    let agent_id = credentials.identity().agent_id().to_string();
    let (credentials_sender, credentials) = channel::channel(credentials);
    let (addresses, usable) = channel::channel(Default::default());
    let (multipath_sender, mut multipath) = channel::channel(Default::default());
    let mut driver = Driver {
        addresses,
        parking,
        leading: leading::Leading::default(),
        credentials: credentials_sender,
        facts,
        pair_events: mpsc::channel(64),
        later: mpsc::channel(64),
        clock: Clock::start(),
        mtu: (0, 0),
        servers: servers::Servers::new(),
        nat64: Search {
            found: mpsc::channel(4),
            search: None,
        },
        overrun: false,
        agent,
        config,
    };
    driver.servers.start(&driver.config, &urls, credentials.clone());
    tokio::spawn(pairs::listen(
        listener,
        credentials,
        facts_receiver,
        driver.pair_events.0.clone(),
    ));
    let (calls_sender, mut calls) = mpsc::channel(16);
    tokio::spawn(control::serve(control_listener, calls_sender));

    driver.start(&handle).await?;
    driver.attend();
    tokio::spawn(crate::multipath::run(
        Arc::new(driver.config.clone()),
        handle.clone(),
        usable,
        multipath_sender,
    ));
    metrics::update(&driver.agent);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(agent = agent_id, port = driver.config.agent_port, "ready");

    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks = 0u32;
    loop {
        let alarm = driver.until_alarm();
        tokio::select! {
            biased;
            ready = event_fd.readable() => {
                let mut guard = ready?;
                guard.clear_ready();
                driver.datapath_events();
            }
            Some(heard) = netlink.recv() => driver.network_heard(heard),
            () = tokio::time::sleep(alarm.unwrap_or(Duration::MAX)), if alarm.is_some() => {
                let now = driver.clock.now();
                driver.agent.timers(now);
            }
            Some(told) = driver.pair_events.1.recv() => match told {
                Told::Pair(event) => driver.agent.pair_event(event),
                Told::Line(event) => {
                    let now = driver.clock.now();
                    driver.agent.line_event(event, now);
                }
            },
            Some(event) = driver.servers.events.recv() => {
                let now = driver.clock.now();
                driver.agent.server_event(event, now);
            }
            Ok(()) = multipath.changed() => {
                let wanted = multipath.borrow_and_update().clone();
                driver.agent.reporting.set_multipath(wanted);
            }
            Some(()) = driver.servers.renewed.recv() => driver.reload(),
            Some(found) = driver.nat64.found.1.recv() => {
                let configured = driver.config.nat64().unwrap_or_default();
                driver.agent.nat64_found(found, configured);
            }
            Some(peer) = driver.later.1.recv() => driver.dial_unless_paired(peer),
            Some(call) = calls.recv() => driver.answer(call, &agent_id).await,
            _ = tick.tick() => {
                // The kernel wakes whoever has read all that came before. Who reads at that very moment may be missed, and is
                // then never woken again: so nobody relies on it alone.
                driver.datapath_events();
                let now = driver.clock.now();
                driver.agent.tick(now);
                if driver.overrun {
                    driver.take_stock(&handle).await;
                }
                ticks = ticks.wrapping_add(1);
                if ticks.is_multiple_of(10) {
                    driver.agent.datapath.beat();
                    driver.lead_if_needed(now).await;
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                    metrics::update(&driver.agent);
                }
            }
            _ = hangup.recv() => driver.reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        driver.carry_out().await;
        driver.attend();
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    let kept = driver.agent.sessions.len();
    tracing::info!(
        connections = kept,
        "stopped; connections stay as they are (\"host-agent cleanup\" ends that)"
    );
    Ok(())
}

/// This host's certificate, checked against what it trusts.
pub fn credentials(config: &Config) -> anyhow::Result<Credentials> {
    let identity = HostIdentity::load(&config.identity)?;
    Ok(Credentials::new(identity, &trust(config)?)?)
}

/// The trust setting in the identity crate's terms.
pub fn trust(config: &Config) -> anyhow::Result<Trust> {
    Ok(match &config.trust {
        TrustSetting::Ca(bundle) => Trust::Ca {
            bundle: bundle.clone(),
        },
        TrustSetting::Pinned(pins) => Trust::Pinned {
            fingerprints: pins
                .iter()
                .map(|pin| pin.parse())
                .collect::<Result<_, _>>()
                .context("`trust.pinned`")?,
        },
    })
}

async fn listen(port: u16) -> anyhow::Result<tokio::net::TcpListener> {
    let advice = || format!("cannot listen on the agent port {port}: stop what uses it, or set `agent_port`");
    let any6 = std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    match tokio::net::TcpListener::bind(any6).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error).with_context(advice),
        // A host without IPv6.
        Err(_) => tokio::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, port))
            .await
            .with_context(advice),
    }
}

fn open_datapath(config: &Config, parking: &Parking) -> anyhow::Result<KernelDatapath> {
    let (offer_all, offer) = config.offers()?;
    let options = datapath_options(config, parking.ifindex, parking.mac, offer_all, offer);
    Ok(KernelDatapath::open(&options)?)
}

/// Gives the sockets that an agent had in hand their own marks and timeouts back, for good: without it they would wait for an
/// agent as long as it had told them to. Says how many there were.
pub fn let_go(config: &Config) -> anyhow::Result<usize> {
    let (offer_all, offer) = config.offers()?;
    // Nothing is parked any more, wherever the device is.
    let options = datapath_options(config, 0, [0; 6], offer_all, offer);
    Ok(KernelDatapath::open(&options)?.let_go())
}

/// Longer than any wait that the agent ends itself.
fn raised_timeout(config: &Config) -> Duration {
    const SPARE: Duration = Duration::from_secs(600);
    Duration::from_secs_f64(config.timeouts.mig_wait.max(config.timeouts.sleep)) + SPARE
}

fn datapath_options(
    config: &Config,
    ifindex: u32,
    mac: [u8; 6],
    offer_all: bool,
    offer: Vec<(IpAddr, u8, bool)>,
) -> datapath::Options {
    datapath::Options {
        pin_dir: config.pin_dir.clone(),
        cgroup: config.cgroup_path(),
        mark: config.mark,
        agent_mark: config.agent_mark,
        parking_ifindex: ifindex,
        parking_mac: mac,
        agent_port: config.agent_port,
        offer_all,
        offer,
        heartbeat_limit: Duration::from_secs_f64(config.timeouts.heartbeat),
        raised_timeout: raised_timeout(config),
        max_connections: config.max_connections,
        padding: 0,
    }
}

fn local_facts(config: &Config) -> Local {
    Local {
        agent_port: config.agent_port,
        direct_addresses: Vec::new(),
        peer_observed: None,
        servers: servers::servers_of(config).unwrap_or_default(),
        abilities: Abilities::MIGRATE
            .with(Abilities::RESET_QUESTIONS)
            .with(Abilities::OBSERVED_TUPLES)
            .with(Abilities::ENROL)
            .with(Abilities::SERVER),
        sleep: SleepHint::default(),
        known: Default::default(),
    }
}

const ARP_IGNORE: &str = "/proc/sys/net/ipv4/conf/all/arp_ignore";

/// A host must not answer ARP for addresses that it only keeps. A mark in the state directory says that the
/// setting is ours.
fn quiet_arp(state_dir: &std::path::Path) {
    if std::fs::read_to_string(ARP_IGNORE).is_ok_and(|value| value.trim() == "0") {
        let written = std::fs::write(arp_mark(state_dir), "").and_then(|()| std::fs::write(ARP_IGNORE, "1"));
        if let Err(error) = written {
            tracing::warn!(%error, "cannot set arp_ignore: this host answers ARP for addresses it has lost");
        }
    }
}

/// Gives the setting back if an agent changed it.
pub fn restore_arp(state_dir: &std::path::Path) -> bool {
    let mark = arp_mark(state_dir);
    mark.exists() && std::fs::write(ARP_IGNORE, "0").is_ok() && std::fs::remove_file(mark).is_ok()
}

fn arp_mark(state_dir: &std::path::Path) -> PathBuf {
    state_dir.join("arp_ignore.changed")
}

impl Driver {
    /// Netlink said something.
    fn network_heard(&mut self, heard: watch::Heard) {
        match heard {
            watch::Heard::Changed(message) => {
                let events = self.agent.network.apply(&message);
                self.network_changed(events);
            }
            watch::Heard::Overrun => {
                self.agent.timeline.count("netlink_overrun");
                self.overrun = true;
            }
        }
    }

    /// After an overrun, what is there now. Not at once: the buffer still holds what was said before the loss.
    async fn take_stock(&mut self, handle: &rtnetlink::Handle) {
        match watch::inventory(handle).await {
            Ok(inventory) => {
                self.overrun = false;
                let events = self.agent.network.take_stock(&inventory);
                self.network_changed(events);
            }
            Err(error) => {
                tracing::warn!(%error, "changes of the network were lost, and what is there now cannot be listed; it is tried again");
            }
        }
    }

    fn network_changed(&mut self, events: Vec<NetworkEvent>) {
        let now = self.clock.now();
        events
            .into_iter()
            .for_each(|event| self.agent.network_changed(event, now));
    }

    async fn start(&mut self, handle: &rtnetlink::Handle) -> anyhow::Result<()> {
        let now = self.clock.now();
        let retired = self.parking.retired().await;
        for message in watch::inventory(handle)
            .await
            .context("cannot list links and addresses")?
        {
            let events = self.agent.network.apply(&message);
            events
                .into_iter()
                .for_each(|event| self.agent.network_changed(event, now));
        }
        // Every device has this agent's programs by now.
        let carried = self.agent.datapath.settle();
        if !carried.is_empty() {
            let maps = carried.join(", ");
            tracing::info!(
                maps,
                "maps of another layout were carried over; connections go on"
            );
            self.agent.timeline.note("", "layout_carried_over", maps);
        }
        self.agent.adopt(retired, now);
        // What was lost while no agent ran.
        let lost: Vec<IpAddr> = self
            .agent
            .sessions
            .values()
            .flat_map(|managed| {
                [
                    managed.machine.wire().local.address,
                    managed.identity.local.address,
                ]
            })
            .filter(|address| self.agent.network.device_of(*address).is_none())
            .collect();
        for address in std::collections::BTreeSet::from_iter(lost) {
            self.agent
                .network_changed(crate::network::NetworkEvent::AddressLost { address }, now);
        }
        self.carry_out().await;
        Ok(())
    }

    fn until_alarm(&self) -> Option<Duration> {
        self.agent.next_alarm().map(|at| at.since(self.clock.now()))
    }

    fn datapath_events(&mut self) {
        // What one event causes may bring the next: a handshake is done in one go.
        loop {
            let events = self.agent.datapath.events();
            if events.is_empty() {
                break;
            }
            for event in events {
                let now = self.clock.now();
                self.agent.datapath_event(event, now);
            }
        }
        self.agent.settled();
    }

    fn reload(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Reloading]);
        tracing::info!("reloading the certificate");
        match credentials(&self.config) {
            Ok(credentials) => {
                self.credentials.send_replace(credentials);
            }
            Err(error) => tracing::error!("kept the old certificate: {error:#}"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    }
}
