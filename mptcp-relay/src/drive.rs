//! The relay's life, and its only loop.
//!
//! Order matters at both ends. At the start the rules come last: from then on SYNs are held, and somebody must be there to
//! decide. At the end connections are reset while the rules still deliver their packets here, then the rules go.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use mptcp_pm::{Client, Endpoint, EndpointFlags, Event, Events};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::{Admission, Admitted};
use crate::config::Config;
use crate::control::{self, Answer, Call, Request};
use crate::metrics::Counters;
use crate::paths::{Command, Policy};
use crate::queue::{Held, Queue, Verdict};
use crate::rules::{Marks, Rules};
use crate::sessions::{Session, Sessions};
use crate::syn::{Ends, Syn};
use crate::sysctl::{self, Settings};
use crate::transfer::{self, Carried, Ended};
use crate::{act, metrics, status};

/// Listeners on services' own ports; beyond, the one for all serves.
const MOST_LISTENERS: usize = 1024;
/// How long connections may take to be reset at the end.
const RESETTING: Duration = Duration::from_secs(2);

/// What the loop's tasks report.
enum Happening {
    /// A server was asked.
    Asked(Ends, io::Result<TcpStream>),
    /// A terminal's handshake is complete.
    Accepted(Ends, TcpStream),
    /// A connection has ended.
    Ended(u64, Ended),
}

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
    let rules = Rules::new(&config, holder);
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
    let mut relay = Relay::new(config, client, happening);
    for ipv6 in [false, true] {
        if ipv6 && !sysctl::has_ipv6() {
            continue;
        }
        let address = act::listener_address(ipv6, config.listen_port);
        let listener = act::listen(address, relay.marks.own).with_context(|| {
            format!(
                "cannot listen at {address} for MPTCP: set another `listen_port`, or see `mptcp-relay doctor`"
            )
        })?;
        relay.attend(listener);
    }
    for address in &config.announce {
        let listener = act::listen(*address, relay.marks.own).with_context(|| {
            format!("cannot listen at {address}: `announce` takes addresses of this host")
        })?;
        relay.attend(listener);
    }
    let (calls, mut asked) = mpsc::channel::<Call>(16);
    tokio::spawn(control::serve(socket, calls));
    rules.install()?;
    tracing::info!("ready");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            held = queue.next() => relay.decide(held.context("the packet queue is gone")?, &queue),
            Some(happening) = happenings.recv() => relay.happened(happening, &queue),
            event = events.next() => match event {
                Some(event) => relay.hear(event).await,
                None => events = resubscribe().await,
            },
            Some(call) = asked.recv() => {
                let answer = relay.answer(call.request).await;
                let _ = call.reply.send(answer);
            }
            _ = tick.tick() => {
                relay.review();
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    relay.stop.cancel();
    let deadline = tokio::time::Instant::now() + RESETTING;
    while !relay.sessions.is_empty() {
        match tokio::time::timeout_at(deadline, happenings.recv()).await {
            Ok(Some(happening)) => relay.happened(happening, &queue),
            _ => break,
        }
    }
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

struct Relay {
    marks: Marks,
    patience: Duration,
    began: Instant,
    admission: Admission,
    /// SYNs whose servers are asked.
    held: HashMap<Ends, Held>,
    /// Servers that have answered, until their terminals do.
    answered: HashMap<Ends, TcpStream>,
    sessions: Sessions,
    policy: Policy,
    client: Client,
    /// Families and ports that have a listener of their own; false: it could not be had.
    ports: HashMap<(bool, u16), bool>,
    counters: Counters,
    happening: mpsc::Sender<Happening>,
    stop: CancellationToken,
}

impl Relay {
    fn new(config: &Config, client: Client, happening: mpsc::Sender<Happening>) -> Self {
        Self {
            marks: Marks::from(config.mark),
            patience: Config::seconds(config.timeouts.server),
            began: Instant::now(),
            admission: Admission::new(config),
            held: HashMap::new(),
            answered: HashMap::new(),
            sessions: Sessions::default(),
            policy: Policy::new(config.announce.clone()).at_most(config.limits.subflows),
            client,
            ports: HashMap::new(),
            counters: Counters::default(),
            happening,
            stop: CancellationToken::new(),
        }
    }

    /// A SYN is held: it is decided about, or its server asked first.
    fn decide(&mut self, held: Held, queue: &Queue) {
        let Some(syn) = Syn::read(&held.head) else {
            self.counters.count("passed_unreadable");
            return self.let_go(&held, 0, queue);
        };
        match self.admission.syn(&syn, self.began.elapsed()) {
            Admitted::Ask => {
                self.counters.count("asked");
                self.held.insert(syn.ends, held);
                let (happening, mark, patience) = (self.happening.clone(), self.marks.own, self.patience);
                tokio::spawn(async move {
                    let outcome = act::reach(syn.ends, mark, patience).await;
                    let _ = happening.send(Happening::Asked(syn.ends, outcome)).await;
                });
            }
            Admitted::Release => {
                self.counters.count("released");
                self.let_go(&held, self.marks.released, queue);
            }
            Admitted::Pass(why) => {
                tracing::debug!(ends = %syn.ends, why = why.name(), "not relayed");
                self.counters.count(match why.name() {
                    "plain" => "passed_plain",
                    "stranger" => "passed_stranger",
                    "given_up" => "passed_given_up",
                    "half_open" => "passed_half_open",
                    _ => "passed_sessions",
                });
                self.let_go(&held, 0, queue);
            }
            Admitted::Drop => {
                self.counters.count("repeated");
                let _ = queue.decide(held.id, Verdict::Drop);
            }
        }
    }

    fn let_go(&self, held: &Held, mark: u32, queue: &Queue) {
        let mark = held.mark & !self.marks.held | mark;
        if let Err(error) = queue.decide(held.id, Verdict::Accept { mark }) {
            tracing::debug!(%error, "a held packet is gone");
        }
    }

    fn happened(&mut self, happening: Happening, queue: &Queue) {
        match happening {
            Happening::Asked(ends, Ok(stream)) => {
                self.counters.count("answered");
                self.admission.answered(ends, self.began.elapsed());
                self.answered.insert(ends, stream);
                self.listen_for(ends.server);
                if let Some(held) = self.held.remove(&ends) {
                    self.let_go(&held, self.marks.released, queue);
                }
            }
            Happening::Asked(ends, Err(error)) => {
                tracing::debug!(%ends, %error, "the server does not answer; its terminal asks it directly");
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.counters.count("refused");
                    // The server will say so again, and may think better of it the next time.
                    self.admission.ended(ends);
                } else {
                    self.counters.count("silent");
                    self.admission.give_up(ends, self.began.elapsed());
                }
                if let Some(held) = self.held.remove(&ends) {
                    self.let_go(&held, 0, queue);
                }
            }
            Happening::Accepted(ends, terminal) => self.accepted(ends, terminal),
            Happening::Ended(number, how) => {
                self.counters.count(match how {
                    Ended::Closed => "closed",
                    Ended::Reset => "reset",
                });
                if let Some(session) = self.sessions.remove(number) {
                    tracing::debug!(ends = %session.ends, ?how, "ended");
                    self.admission.ended(session.ends);
                }
            }
        }
    }

    fn accepted(&mut self, ends: Ends, terminal: TcpStream) {
        let server = self.answered.remove(&ends);
        let (true, Some(server)) = (self.admission.accepted(ends), server) else {
            self.counters.count("accepted_unasked");
            return transfer::reset(terminal);
        };
        let token = act::token(&terminal);
        self.counters.count(match token {
            Some(_) => "multipath",
            None => "fallback",
        });
        if let Some(token) = token {
            self.admission.name(ends, token);
        }
        let carried = Arc::new(Carried::default());
        let stop = self.stop.child_token();
        tracing::debug!(%ends, ?token, "relayed");
        let number = self.sessions.add(Session {
            ends,
            token,
            since: Instant::now(),
            carried: carried.clone(),
            stop: stop.clone(),
        });
        let happening = self.happening.clone();
        tokio::spawn(async move {
            let ended = transfer::carry(terminal, server, &carried, stop).await;
            let _ = happening.send(Happening::Ended(number, ended)).await;
        });
    }

    /// A listener on the service's own port, so that subflows may join under the server's address.
    fn listen_for(&mut self, server: SocketAddr) {
        let key = (server.is_ipv6(), server.port());
        if self.ports.contains_key(&key) || self.ports.len() >= MOST_LISTENERS {
            return;
        }
        let listener = act::listen(act::listener_address(key.0, key.1), self.marks.own);
        if let Err(error) = &listener {
            tracing::warn!(
                port = key.1, %error,
                "no listener on this service's port: its subflows can only join at an address of `announce`"
            );
        }
        self.ports.insert(key, listener.is_ok());
        if let Ok(listener) = listener {
            self.attend(listener);
        }
    }

    fn attend(&self, listener: TcpListener) {
        let (happening, stop) = (self.happening.clone(), self.stop.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let ends = accepted.and_then(|(stream, terminal)| {
                    let ends = Ends {
                        terminal: act::canonical(terminal),
                        server: act::canonical(stream.local_addr()?),
                    };
                    Ok((ends, stream))
                });
                match ends {
                    Ok((ends, stream)) => {
                        if happening.send(Happening::Accepted(ends, stream)).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        });
    }

    /// The path manager tells something.
    async fn hear(&mut self, event: Event) {
        tracing::trace!(?event, "path manager");
        match &event {
            Event::SubflowEstablished(_) => self.counters.count("subflows_joined"),
            Event::SubflowClosed(_) => self.counters.count("subflows_closed"),
            Event::Missed => {
                if let Ok(all) = mptcp_pm::connections().await {
                    self.policy
                        .keep(|token| all.iter().any(|connection| connection.token == token));
                }
            }
            _ => {}
        }
        let commands = self.policy.hear(&event);
        self.order(commands).await;
    }

    async fn order(&mut self, commands: Vec<Command>) {
        for command in commands {
            let done = match command {
                Command::SetBackup {
                    token,
                    local,
                    remote,
                    backup,
                } => self.client.set_backup(token, local, remote, backup).await,
                Command::End { token, local, remote } => {
                    self.counters.count("subflows_too_many");
                    self.client.destroy_subflow(token, local, remote).await
                }
                Command::Announce { token, id, address } => {
                    let endpoint = Endpoint {
                        id,
                        port: Some(address.port()),
                        ..Endpoint::new(address.ip(), EndpointFlags::SIGNAL)
                    };
                    self.client.announce(token, &endpoint).await
                }
            };
            match done {
                Ok(()) => self.counters.count("path_commands"),
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    self.counters.count("path_commands_refused");
                    tracing::warn!(%error, "the kernel refuses");
                }
            }
        }
    }

    /// Once a second: who has not come is given up.
    fn review(&mut self) {
        for ends in self.admission.overdue(self.began.elapsed()) {
            self.counters.count("never_completed");
            if let Some(server) = self.answered.remove(&ends) {
                transfer::reset(server);
            }
        }
        metrics::update(self.sessions.len(), self.admission.half_open());
    }

    async fn answer(&mut self, request: Request) -> Answer {
        let subflows = match request {
            Request::Sessions | Request::Subflows => mptcp_pm::subflows().await.unwrap_or_default(),
            _ => Vec::new(),
        };
        match request {
            Request::Status => Answer::Done(self.status()),
            Request::Sessions => Answer::Done(
                self.sessions
                    .iter()
                    .map(|session| status::session(session, &self.policy, &subflows))
                    .collect(),
            ),
            Request::Subflows => Answer::Done(
                subflows
                    .iter()
                    .filter_map(|flow| status::subflow(flow, &self.sessions))
                    .collect(),
            ),
            Request::Prefer { connection, path } => {
                let token = self.sessions.find(&connection).map(|session| session.token);
                let token = match token {
                    Some(Some(token)) => token,
                    Some(None) => {
                        return Answer::Refused(format!(
                            "{connection} has fallen back to plain TCP: it has one path"
                        ));
                    }
                    None => match u32::from_str_radix(&connection, 16) {
                        Ok(token) => mptcp_pm::Token(token),
                        Err(_) => {
                            return Answer::Refused(format!(
                                "there is no connection {connection}; see `mptcp-relay sessions`"
                            ));
                        }
                    },
                };
                match self.policy.prefer(token, path) {
                    Ok(commands) => {
                        let changed = commands.len();
                        let begun = Instant::now();
                        self.order(commands).await;
                        let took = begun.elapsed().as_secs_f64() * 1e3;
                        Answer::Done(
                            json!({ "token": token.to_string(), "changed": changed, "took_ms": took }),
                        )
                    }
                    Err(no) => Answer::Refused(no.to_string()),
                }
            }
        }
    }

    fn status(&self) -> Value {
        let (up, down) = self.sessions.carried();
        let own: Vec<u16> = self
            .ports
            .iter()
            .filter(|(_, listens)| **listens)
            .map(|((_, port), _)| *port)
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": self.began.elapsed().as_secs(),
            "sessions": self.sessions.len(),
            "half_open": self.admission.half_open(),
            "up": up,
            "down": down,
            "ports": own,
            "counters": self.counters.all(),
            "kernel": metrics::kernel(),
        })
    }
}
