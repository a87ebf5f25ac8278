//! The relay's life, and its only loop.
//!
//! Order matters at both ends. At the start the rules come last: from then on SYNs are held, and somebody must be there to
//! decide. At the end connections are reset while the rules still deliver their packets here, then the rules go.

use std::time::Duration;

use anyhow::Context;
use mptcp_pm::{Client, Events};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admission::Way;
use crate::config::Config;
use crate::control::{self, Call};
use crate::deployment::{self, Deployment};
use crate::queue::Queue;
use crate::relay::Relay;
use crate::rules::Rules;
use crate::sysctl::{self, Settings};
use crate::{act, metrics, steer, supervisor};

/// How long connections may take to be reset at the end.
const RESETTING: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Something cannot be opened at the start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    metrics::serve(config.metrics)?;
    let socket = operator::control::bind(&config.control_socket, control::RELAY).await?;
    let holder = Rules::probe(&config)?;
    let mut settings = Settings::open(&config.state_dir);
    let no_path = config.timeouts.no_path.ceil().to_string();
    for (name, value) in [
        ("net.mptcp.pm_type", "1"),
        ("net.mptcp.path_manager", "userspace"),
        ("net.mptcp.close_timeout", no_path.as_str()),
        // A terminal may use a port again as soon as its own kernel lets it.
        ("net.ipv4.tcp_tw_reuse", "1"),
    ] {
        settings.set(name, value).with_context(|| {
            format!("cannot set {name} to {value}, or note what it was in `state_dir`; run as root")
        })?;
    }
    let rules = Rules::new(&config, holder).deployed(!deployment::servers_of(&config)?.is_empty());
    let outcome = relay(&config, &rules, socket).await;
    let removed = rules.remove();
    settings.restore();
    let _ = std::fs::remove_file(&config.control_socket);
    tracing::info!(?removed, "stopped");
    outcome
}

async fn relay(config: &Config, rules: &Rules, socket: tokio::net::UnixListener) -> anyhow::Result<()> {
    let client = Client::connect().await?;
    let mut events = Events::subscribe().await?;
    if let Err(error) = supervisor::stand_in().await {
        tracing::warn!(
            "while this relay is restarted, joins to this host's own connections are refused: {error:#}"
        );
    }
    let mut queue = Queue::open(config.queue).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EPERM) => anyhow::anyhow!(
            "another program reads the packet queue {} ({error}), or this one is not root; set another `queue`",
            config.queue
        ),
        _ => anyhow::anyhow!(
            "cannot open the packet queue {}: {error}; the kernel needs CONFIG_NETFILTER_NETLINK_QUEUE",
            config.queue
        ),
    })?;
    let (happening, mut happenings) = mpsc::channel(1024);
    let mut relay = Relay::new(
        config,
        client,
        rules.clone(),
        Deployment::join(config)?,
        happening,
    );
    for ipv6 in [false, true] {
        if ipv6 && !sysctl::has_ipv6() {
            continue;
        }
        let cannot = |address| {
            format!(
                "cannot listen at {address} for connections: set another `listen_port`, or see `mptcp-relay doctor`"
            )
        };
        let address = act::listener_address(ipv6, config.listen_port);
        let listener = act::listen(address, relay.kind).with_context(|| cannot(address))?;
        relay.attend(Way::Up, listener, relay.stop.clone());
        if config.has_downlink() {
            let address = act::listener_address(ipv6, config.listen_port + 1);
            let listener = act::listen_plain(address, relay.kind).with_context(|| cannot(address))?;
            relay.attend(Way::Down, listener, relay.stop.clone());
        }
    }
    for ipv6 in [false, true] {
        if config.anchor.is_empty() || ipv6 && !sysctl::has_ipv6() {
            continue;
        }
        let address = act::listener_address(ipv6, config.listen_port + 2);
        let listener =
            act::listen_plain(address, relay.kind).with_context(|| format!("cannot listen at {address}"))?;
        relay.attend(Way::Up, listener, relay.stop.clone());
    }
    for address in &config.announce {
        let listener = act::listen(*address, relay.kind).with_context(|| {
            format!("cannot listen at {address}: `announce` takes addresses of this host")
        })?;
        relay.attend(Way::Up, listener, relay.stop.clone());
    }
    let (calls, mut asked) = mpsc::channel::<Call>(16);
    tokio::spawn(control::serve(socket, calls));
    rules.install()?;
    tracing::info!("ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    let mut weigh = tokio::time::interval(relay.balancer.interval());
    weigh.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    if !config.balance.relays.is_empty() {
        let interval = relay.balancer.interval();
        tokio::spawn(steer::look_around(
            config.balance.clone(),
            interval,
            relay.happening.clone(),
        ));
    }
    loop {
        tokio::select! {
            held = queue.next() => relay.decide(held.context("the packet queue is gone")?, &queue),
            Some(happening) = happenings.recv() => relay.happened(happening, &queue).await,
            event = events.next() => match event {
                Some(event) => relay.hear(event, &queue).await,
                None => events = resubscribe().await,
            },
            lost = relay.deployment.next() => relay.paths_lost(lost).await,
            Some(call) = asked.recv() => {
                let answer = relay.answer(call.request).await;
                let _ = call.reply.send(answer);
            }
            _ = tick.tick() => {
                relay.review();
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            _ = weigh.tick(), if !relay.balancer.is_empty() => relay.balance().await,
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    relay.stop.cancel();
    let deadline = tokio::time::Instant::now() + RESETTING;
    while !relay.sessions.is_empty() {
        match tokio::time::timeout_at(deadline, happenings.recv()).await {
            Ok(Some(happening)) => relay.happened(happening, &queue).await,
            _ => break,
        }
    }
    relay.deployment.leave().await;
    Ok(())
}

/// While nobody listens to the path manager's events, joins are refused.
async fn resubscribe() -> Events {
    loop {
        match Events::subscribe().await {
            Ok(events) => return events,
            Err(error) => {
                tracing::error!(%error, "cannot listen to the path manager; subflows cannot join meanwhile");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
