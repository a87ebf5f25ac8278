//! The server's life: everything is opened, then connections are served until somebody says stop.
//!
//! Order matters at both ends. At the start: store, pairs that an earlier run left, sockets, readiness. At the end:
//! streams are told to go elsewhere, no connection is accepted, open calls have some seconds, the store is closed last.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use identity::{Authority, towards_members};
use session_store::{Memory, Redis, RedisSettings, SharedStore, Sled};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::act::Prober;
use crate::config::{Backend, Config};
use crate::counters::Counters;
use crate::leases::Leases;
use crate::limits::Limiter;
use crate::log::LogHandle;
use crate::members::Members;
use crate::pairs::Pairs;
use crate::registry::Registry;
use crate::service::{Routes, Shared, Tunnels};
use crate::watch::{Connection, Door};
use crate::{control, metrics};

/// Seconds between two looks at what still goes through proxies that are drained.
const LEAVE_EVERY: u64 = 3;

/// Opens the configured store.
///
/// # Errors
/// It cannot be opened; the text says what to do.
pub async fn open_store(config: &Config) -> anyhow::Result<SharedStore> {
    Ok(match config.store.backend {
        Backend::Memory => Arc::new(Memory::new()),
        Backend::Sled => {
            let (state, directory) = (config.state_dir.clone(), config.state_dir.join("store"));
            std::fs::create_dir_all(&state).with_context(|| format!("cannot make {}", state.display()))?;
            let opened = tokio::task::spawn_blocking(move || Sled::open(directory)).await?;
            let store = opened?;
            if let Some(aside) = store.quarantined() {
                tracing::error!(
                    "the store could not be read and was set aside as {}; agents report again",
                    aside.display()
                );
            }
            Arc::new(store)
        }
        Backend::Redis => {
            let settings = RedisSettings {
                nodes: config.store.redis.clone(),
                ..RedisSettings::default()
            };
            Arc::new(Redis::open(settings).await?)
        }
    })
}

/// Binds a listening socket; `[::]` takes IPv4 too.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

/// Runs until SIGTERM or SIGINT. `path`: the configuration file, read again on SIGHUP.
///
/// # Errors
/// Something cannot be opened at the start.
pub async fn run(config: Config, path: Option<std::path::PathBuf>, log: LogHandle) -> anyhow::Result<()> {
    let bundle = config.authority.join("ca.pem");
    let authority = Arc::new(Authority::load(&config.authority)?);
    let tls = towards_members(&config.identity, &bundle)?;
    metrics::serve(config.metrics)?;
    let store = open_store(&config).await?;
    let epoch = store.epoch().await?;
    let limiter = Arc::new(Limiter::new(&config.limits));
    let counters = Arc::new(Counters::default());
    let registry = Arc::new(Registry::default());
    let prober = Arc::new(Prober::new(limiter.clone(), counters.clone()));
    let relays = Arc::new(Leases::new(authority.clone(), counters.clone()));
    let pairs = Pairs::new(
        store.clone(),
        registry.clone(),
        prober,
        relays.clone(),
        counters.clone(),
        config.rules(),
    );
    let recovered = pairs.recover().await?;
    let patience = Config::seconds(config.timeouts.handshake);
    let door = Arc::new(Door::new(
        tls,
        config.front_prefixes()?,
        limiter.clone(),
        counters.clone(),
        patience,
    ));

    let mut ports = Vec::new();
    let mut listening = Vec::new();
    let (accepted, connections) = mpsc::channel::<Connection>(64);
    let mut listeners = Vec::new();
    for address in &config.listen {
        let listener = listen(*address).with_context(|| {
            format!("cannot listen at {address}: is another server running? see `listen`")
        })?;
        let local = listener.local_addr()?;
        ports.push(local.port());
        listening.push(local.to_string());
        listeners.push(listener);
    }
    let control_socket = control::bind(&config.control_socket).await?;
    let shared = Arc::new(Shared {
        members: Members::new(store.clone()),
        relays,
        tunnels: Tunnels::default(),
        reload: tokio::sync::Notify::new(),
        stopping: CancellationToken::new(),
        started: Instant::now(),
        epoch: epoch.0,
        config,
        authority,
        store,
        pairs: pairs.clone(),
        registry,
        limiter,
        counters,
        ports,
        listening: listening.clone(),
    });
    shared.members.refresh().await?;
    let mut accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(door.clone().accept(listener, accepted.clone())))
        .collect();
    drop(accepted);
    accepting.push(tokio::spawn(pairs.watch()));

    let incoming = ReceiverStream::new(connections).map(Ok::<_, std::io::Error>);
    let stopping = shared.stopping.clone();
    let served = tokio::spawn(
        Server::builder()
            .max_concurrent_streams(64)
            .http2_keepalive_interval(Some(Config::seconds(shared.config.timeouts.ping)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .http2_max_header_list_size(16 * 1024)
            .serve_with_incoming_shutdown(
                Routes::public(&shared),
                incoming,
                stopping.clone().cancelled_owned(),
            ),
    );
    let controlled = tokio::spawn(Server::builder().serve_with_incoming_shutdown(
        Routes::control(&shared),
        UnixListenerStream::new(control_socket),
        stopping.clone().cancelled_owned(),
    ));
    tracing::info!(listening = ?listening, store = shared.store.backend(), recovered, epoch = %epoch, "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    attend_signals(&shared, &door, path, &log).await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping");
    shared.stopping.cancel();
    for task in accepting {
        task.abort();
    }
    let drain = Config::seconds(shared.config.timeouts.drain);
    if tokio::time::timeout(drain, served).await.is_err() {
        tracing::info!("some calls were still open");
    }
    controlled.abort();
    let _ = std::fs::remove_file(&shared.config.control_socket);
    Ok(())
}

/// Waits for the end, and does in between what has to be done now and then.
async fn attend_signals(
    shared: &Arc<Shared>,
    door: &Arc<Door>,
    path: Option<std::path::PathBuf>,
    log: &LogHandle,
) -> anyhow::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut beat = tokio::time::interval(Duration::from_secs(1));
    let mut beats: u64 = 0;
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = hangup.recv() => reload(shared, door, path.as_deref(), log),
            () = shared.reload.notified() => reload(shared, door, path.as_deref(), log),
            _ = beat.tick() => {
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                metrics::update(shared);
                beats += 1;
                if beats.is_multiple_of(LEAVE_EVERY) {
                    leave_drained(shared).await;
                }
                if beats.is_multiple_of(30) {
                    shared.limiter.tidy();
                    shared.look_for_revocations().await;
                }
            }
        }
    }
}

/// What works through proxies that are drained is moved to others, until nothing does.
async fn leave_drained(shared: &Arc<Shared>) {
    let addresses = shared.relays.drained();
    if addresses.is_empty() {
        return;
    }
    if let Err(error) = shared.pairs.leave(&addresses).await {
        tracing::warn!(%error, "the pairs that go through a drained proxy could not be read");
    }
}

/// Reads certificates, limits, fronts and log settings again. What cannot be read leaves the old in force.
fn reload(shared: &Arc<Shared>, door: &Arc<Door>, path: Option<&std::path::Path>, log: &LogHandle) {
    let outcome = (|| -> anyhow::Result<()> {
        let config = Config::load(path)?;
        let tls = towards_members(&shared.config.identity, &shared.config.authority.join("ca.pem"))?;
        door.reload(tls, config.front_prefixes()?);
        shared.limiter.reload(&config.limits);
        log.set(&config.log)?;
        Ok(())
    })();
    match outcome {
        Ok(()) => tracing::info!("certificate, limits, fronts and log settings were read again"),
        Err(error) => tracing::error!("nothing was reloaded: {error:#}"),
    }
}
