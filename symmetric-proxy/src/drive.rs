//! The proxy's life, and its only loop.
//!
//! At the start the data path comes first: what an earlier daemon relayed has gone on meanwhile and is taken over before
//! any server is told of it. At the end nothing is taken down.

mod around;
mod orders;
mod reload;
mod review;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use datapath::relay::{RelayDatapath, RelayEvent, RelayOptions};
use identity::ticket::TicketVerifier;
use identity::{Credentials, MemberRole};
use member::renewal::Renewal;
use member::standing::{self, StandingError};
use migration::proxy::{Event, Leg, Patience};
use operator::log::LogHandle;
use proto::mobility::v1 as said;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch as channel};

use crate::act::{Act, Done};
use crate::config::Config;
use crate::control::{self, Answer, Request};
use crate::hold::Held;
use crate::leases::{Leases, knock};
use crate::metrics::{self, Counters};
use crate::ports::Ports;
use crate::server::{Attendance, Words};
use crate::watch;

use reload::Reloading;
use review::Sweep;

/// Events of the data path that are dealt with before anything else gets its turn.
const AT_ONCE: usize = 256;

/// Who this proxy is.
///
/// # Errors
/// There is no usable identity, or it is not a proxy's.
pub fn credentials(config: &Config) -> Result<Credentials, StandingError> {
    standing::credentials(&config.identity, MemberRole::Proxy, "symmetric-proxy")
}

/// The configured servers, or else those that the enrolment has named.
///
/// # Errors
/// There are none, or one is no URL.
pub fn servers_of(config: &Config) -> anyhow::Result<Vec<String>> {
    let urls = standing::servers(&config.servers, &config.identity).context("`servers`")?;
    if urls.is_empty() {
        anyhow::bail!("no mobility server is known: set `servers`, or enrol (symmetric-proxy enroll)");
    }
    Ok(urls)
}

/// Between two looks at a part of the leases.
const TICK: Duration = Duration::from_millis(200);

/// Runs until SIGTERM or SIGINT. `path`: the configuration file, read again on SIGHUP.
///
/// # Errors
/// Something cannot be opened at the start.
pub async fn run(config: Config, path: Option<PathBuf>, log: LogHandle) -> anyhow::Result<()> {
    let urls = servers_of(&config)?;
    let credentials = credentials(&config)?;
    let verifier = TicketVerifier::load(&config.identity.join("ca.pem"))?;
    metrics::serve(config.metrics)?;
    let socket = operator::control::bind(&config.control_socket, control::PROXY).await?;
    let reloading = Reloading { path, log };
    let outcome = serve(config.clone(), urls, credentials, verifier, socket, reloading).await;
    let _ = std::fs::remove_file(&config.control_socket);
    outcome
}

async fn serve(
    config: Config,
    urls: Vec<String>,
    credentials: Credentials,
    verifier: TicketVerifier,
    socket: tokio::net::UnixListener,
    reloading: Reloading,
) -> anyhow::Result<()> {
    let (handle, mut changes) = watch::subscribe()?;
    let addresses = watch::addresses(&handle, &config).await?;
    let datapath = RelayDatapath::open(&RelayOptions {
        pin_dir: config.pin_dir.clone(),
        addresses: addresses.clone(),
        ports: config.ports,
        mark: config.mark,
    })?;
    let devices = watch::chosen(watch::devices(&handle).await?, &config);
    if devices.is_empty() {
        anyhow::bail!("there is none of the devices in `interfaces`: correct it, or leave it empty");
    }
    let mut held = Held::default();
    for device in &devices {
        around::attach(&datapath, &mut held, device)?;
    }
    let event_fd: OwnedFd = datapath.event_fd().context("cannot wait for the data path")?;
    // SAFETY: the descriptor is owned, nobody closes it but `AsyncFd`.
    let event_fd = unsafe { AsyncFd::register(event_fd) }.map_err(|error| error.into_parts().1)?;
    let me = credentials.identity().uri().to_owned();
    let (credentials_sender, credentials) = channel::channel(credentials);
    let (events_sender, mut events) = mpsc::channel(4096);
    let (again, hello_again) = channel::channel(0);
    for (index, url) in urls.iter().enumerate() {
        let attendance = Attendance {
            index,
            url: url.clone(),
            credentials: credentials.clone(),
            authorities: config.identity.join("ca.pem"),
            mark: config.mark,
            events: events_sender.clone(),
            again: hello_again.clone(),
        };
        tokio::spawn(attendance.run());
    }
    let (renewed_sender, mut renewed) = mpsc::channel(1);
    let renewal = Renewal {
        servers: urls.clone(),
        credentials,
        identity: config.identity.clone(),
        authorities: config.identity.join("ca.pem"),
        mark: config.mark,
        renewed: renewed_sender,
    };
    tokio::spawn(renewal.run());
    let (calls_sender, mut calls) = mpsc::channel(16);
    tokio::spawn(control::serve(socket, calls_sender));
    let ports = Ports::new(addresses, config.ports);
    let mut proxy = Proxy {
        leases: Leases::new(ports, config.limits),
        act: Act::new(datapath, handle, config.mark),
        verifier: Arc::new(verifier),
        me,
        servers: urls.into_iter().map(|url| (url, None)).collect(),
        counters: Counters::default(),
        sweep: Sweep::default(),
        held,
        again,
        began: Instant::now(),
        config,
    };
    proxy.adopt();
    tracing::info!(proxy = proxy.me, relays = proxy.leases.len(), "ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looks = around::Looks::default();
    loop {
        tokio::select! {
            ready = event_fd.readable() => {
                ready.context("cannot wait for the data path")?.clear_ready();
                proxy.hear().await;
            }
            Some(event) = events.recv() => proxy.server(event),
            Some(call) = calls.recv() => {
                let answer = proxy.answer(call.request);
                let _ = call.reply.send(answer);
            }
            Some(()) = renewed.recv() => match self::credentials(&proxy.config) {
                Ok(renewed) => { credentials_sender.send_replace(renewed); }
                Err(error) => tracing::error!("the new certificate cannot be used: {error:#}"),
            },
            Some(()) = changes.recv() => looks.changed(),
            _ = hangup.recv() => {
                if let Some(renewed) = proxy.reload(&reloading) {
                    credentials_sender.send_replace(renewed);
                }
            }
            _ = tick.tick() => {
                // The kernel wakes whoever has read all that came before. Who reads at that very moment may be missed, and is
                // then never woken again: so nobody relies on it alone.
                proxy.hear().await;
                if looks.are_due() {
                    proxy.look_around(looks.take_changed()).await;
                }
                proxy.review().await;
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!(relays = proxy.leases.len(), "stopped; what is relayed goes on");
    Ok(())
}

struct Proxy {
    config: Config,
    leases: Leases,
    act: Act,
    verifier: Arc<TicketVerifier>,
    /// This proxy's URI.
    me: String,
    /// The servers, each with its stream while there is one.
    servers: Vec<(String, Option<Words>)>,
    counters: Counters,
    sweep: Sweep,
    held: Held,
    /// Changes when servers have to be told anew who this is.
    again: channel::Sender<u64>,
    began: Instant,
}

impl Proxy {
    /// Takes over what an earlier daemon has left.
    fn adopt(&mut self) {
        let notes = self.act.datapath.notes();
        for (id, note) in &notes {
            self.leases.adopt(*id, note);
        }
        for (from, seen) in self.act.datapath.all_traffic() {
            let leg = Leg::BOTH[seen.direction.leg & 1];
            match self.leases.get_mut(&seen.direction.lease) {
                // An end that was on the move knocks again.
                Some(lease) if !seen.direction.pending => {
                    lease.installed.insert((from, leg));
                }
                _ => self.act.datapath.uninstall(&from),
            }
        }
        for lease in self.leases.iter() {
            if let Err(error) = self.act.open_doors(lease) {
                tracing::error!(%error, "a port of an earlier run cannot be opened again");
            }
        }
        self.leases.draining = self.act.datapath.is_draining();
        self.narrow();
        if self.act.datapath.adopted() {
            tracing::info!(relays = self.leases.len(), "found what an earlier run has left");
        }
    }

    /// The data path has something to say.
    async fn hear(&mut self) {
        for (at, event) in self.act.datapath.events().into_iter().enumerate() {
            match event {
                RelayEvent::Knocked { lease, leg, knocked } => {
                    let outside = wire::digest(knocked.wire.remote, knocked.seq).0 == knocked.digest;
                    self.knocked(lease, Leg::BOTH[leg & 1], knocked, outside).await;
                }
                RelayEvent::ThirdPassed {
                    lease,
                    leg,
                    from,
                    req_no,
                } => {
                    let leg = Leg::BOTH[leg & 1];
                    self.step(lease, Event::ThirdPassed { leg, from, req_no }).await;
                }
                RelayEvent::TooBig { wire, seq, mtu } => self.act.tell_too_big(wire, seq, mtu),
            }
            if at % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
    }

    async fn knocked(
        &mut self,
        id: datapath::relay::LeaseId,
        leg: Leg,
        knocked: datapath::relay::Knocked,
        outside: bool,
    ) {
        let from = knocked.wire.remote.address;
        let own = self.leases.addresses().contains(&from);
        let Some(lease) = self.leases.get(&id) else {
            return self.counters.refuse("knock_unknown");
        };
        let over = lease.released_ns.is_some() || (!lease.splice.is_spliced() && self.is_over(lease.expires));
        let refusal = match () {
            () if own || self.config.refuses(from) => Some("knock_target"),
            () if over => Some("knock_late"),
            () => None,
        };
        if let Some(why) = refusal {
            return self.counters.refuse(why);
        }
        let Some(knock) = knock(&knocked, outside) else {
            return self.counters.refuse("knock_malformed");
        };
        let committed = self.committed(&id);
        self.step(
            id,
            Event::Knocked {
                leg,
                knock,
                committed,
            },
        )
        .await;
    }

    /// Which legs have sent ordinary segments.
    fn committed(&self, id: &datapath::relay::LeaseId) -> [bool; 2] {
        let Some(lease) = self.leases.get(id) else {
            return [false; 2];
        };
        Leg::BOTH.map(|leg| {
            let own = lease.installed.iter().filter(|(_, sender)| *sender == leg);
            own.filter_map(|(from, _)| self.act.datapath.traffic(from))
                .any(|seen| seen.ordinary)
        })
    }

    async fn step(&mut self, id: datapath::relay::LeaseId, event: Event) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let actions = lease.splice.step(event);
        let done = self.act.perform(lease, actions).await;
        for done in &done {
            match done {
                Done::Spliced => {
                    lease.since_ns = datapath::kernel::monotonic_ns();
                    self.counters.count("spliced");
                    tracing::info!(lease = %hex::encode(id), "both ends are here: relayed from now on");
                }
                Done::Moved(_, to, _) => {
                    self.counters.count("moved");
                    tracing::info!(lease = %hex::encode(id), %to, "an end has moved");
                }
                Done::Answered => self.counters.count("answered"),
                Done::Refused(why) => self.counters.refuse(why),
            }
        }
        if let Err(error) = self.act.datapath.note(&id, &lease.note(false)) {
            tracing::error!(%error, "the next start will not know a lease");
        }
        // An end that has come may come from anywhere.
        if let Err(error) = self.act.open_doors(lease) {
            tracing::error!(%error, "a port cannot be opened");
        }
        for done in done {
            if let Done::Moved(leg, to, outside) = done {
                let moved = said::RelayMoved {
                    lease_id: id.to_vec(),
                    first: leg == Leg::First,
                    observed: Some(crate::server::endpoint(to)),
                    outside,
                };
                self.tell_all(said::relay_message::Body::Moved(moved));
            }
        }
    }

    fn answer(&mut self, request: Request) -> Answer {
        Answer::Done(match request {
            Request::Status => self.status(),
            Request::Relays { limit } => {
                let leases = self.leases.iter().take(limit.unwrap_or(usize::MAX));
                Value::Array(leases.map(|lease| self.row(lease)).collect())
            }
            Request::Drain { on } => {
                if let Err(error) = self.act.datapath.set_draining(on) {
                    return Answer::Refused(format!("cannot note it for the next start: {error}"));
                }
                self.leases.draining = on;
                tracing::info!(
                    draining = on,
                    relays = self.leases.len(),
                    "an operator has said so"
                );
                self.tell_load();
                json!({ "draining": on, "relays": self.leases.len() })
            }
        })
    }
}

impl Proxy {
    fn patience(&self) -> Patience {
        Patience {
            linger: Config::seconds(self.config.timeouts.linger),
            idle: Config::seconds(self.config.timeouts.idle),
        }
    }
}
