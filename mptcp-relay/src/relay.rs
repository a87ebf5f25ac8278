//! What the relay knows, and what becomes of a connection from its SYN to its end.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mptcp_pm::{Client, Token};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::act::Kind;
use crate::admission::{Admission, Admitted, Way, Why};
use crate::config::Config;
use crate::deployment::Deployment;
use crate::downlink::Probe;
use crate::early::Early;
use crate::joined::Handing;
use crate::losses::Losses;
use crate::metrics::Counters;
use crate::paths::Policy;
use crate::points::{Balancer, Others};
use crate::queue::{Held, Queue, Verdict};
use crate::rules::{Marks, Rules};
use crate::sessions::{Session, Sessions};
use crate::syn::{Asks, Ends, Syn};
use crate::transfer::{self, Carried, Ended};
use crate::{act, metrics};

/// Listeners on services' own ports; beyond, the one for all serves.
const MOST_LISTENERS: usize = 1024;

/// What the loop's tasks report.
pub(crate) enum Happening {
    /// A server was asked.
    Asked(Ends, io::Result<TcpStream>),
    /// A handshake is complete: of a terminal, or of a server that connects to one.
    Accepted(Way, Ends, TcpStream),
    /// A terminal was asked whether it speaks MPTCP.
    Probed(Ends, io::Result<TcpStream>),
    /// The probe with this number has had its time.
    ProbeLate(Ends, u64),
    /// A join has been held for as long as it may be, since then.
    JoinLate(Ends, Duration),
    /// What others have on the access points.
    Others(Vec<Others>),
    /// The terminal of this connection has sent much, and then nothing for a moment.
    Paused(Token),
    /// A connection has ended.
    Ended(u64, Ended),
    /// Whether a join that is none of ours was handed to the relay that has its connection.
    Sought(Ends, bool),
}

/// A server that has answered.
pub(crate) struct Answered {
    server: TcpStream,
    /// Its terminal has an agent, and no MPTCP.
    anchored: bool,
}

/// All of it. `steer` and `answer` have more of its functions.
pub(crate) struct Relay {
    pub(crate) marks: Marks,
    pub(crate) kind: Kind,
    pub(crate) patience: Duration,
    pub(crate) keepalive: Duration,
    pub(crate) began: Instant,
    pub(crate) admission: Admission,
    /// SYNs whose servers are asked.
    pub(crate) held: HashMap<Ends, Held>,
    /// Servers that have answered, until their terminals do.
    pub(crate) answered: HashMap<Ends, Answered>,
    /// Terminals that are asked.
    pub(crate) probes: HashMap<Ends, Probe>,
    pub(crate) probes_begun: u64,
    pub(crate) probe_patience: Duration,
    /// Subflows of connections that are not ready for them.
    pub(crate) early: Early,
    pub(crate) sessions: Sessions,
    pub(crate) policy: Policy,
    pub(crate) balancer: Balancer,
    pub(crate) client: Client,
    pub(crate) rules: Rules,
    pub(crate) deployment: Deployment,
    pub(crate) handing: Handing,
    pub(crate) losses: Losses,
    /// Families and ports that have a listener of their own; false: it could not be had.
    pub(crate) ports: HashMap<(bool, u16), bool>,
    pub(crate) counters: Counters,
    pub(crate) happening: mpsc::Sender<Happening>,
    pub(crate) stop: CancellationToken,
}

impl Relay {
    pub(crate) fn new(
        config: &Config,
        client: Client,
        rules: Rules,
        deployment: Deployment,
        happening: mpsc::Sender<Happening>,
    ) -> Self {
        Self {
            marks: Marks::from(config.mark),
            kind: Kind {
                mark: Marks::from(config.mark).own,
                receive_buffer: config.receive_buffer,
            },
            patience: Config::seconds(config.timeouts.server),
            keepalive: Config::seconds(config.timeouts.keepalive),
            began: Instant::now(),
            admission: Admission::new(config),
            held: HashMap::new(),
            answered: HashMap::new(),
            probes: HashMap::new(),
            probes_begun: 0,
            probe_patience: Config::seconds(config.timeouts.probe),
            early: Early::default(),
            sessions: Sessions::default(),
            balancer: Balancer::new(&config.balance),
            policy: Policy::new(config.announce.clone())
                .at_most(config.limits.subflows)
                .by(config.mode()),
            client,
            rules,
            deployment,
            handing: Handing::default(),
            losses: Losses::default(),
            ports: HashMap::new(),
            counters: Counters::default(),
            happening,
            stop: CancellationToken::new(),
        }
    }

    /// A SYN is held: it is decided about, or its server asked first.
    pub(crate) fn decide(&mut self, held: Held, queue: &Queue) {
        if held.mark & self.marks.down() == self.marks.down() {
            return self.decide_down(held, queue);
        }
        let Some(syn) = Syn::read(&held.head) else {
            self.counters.count("passed_unreadable");
            return self.let_go(&held, 0, queue);
        };
        match self.admission.syn(&syn, self.began.elapsed()) {
            Admitted::Ask => {
                self.counters.count("asked");
                self.held.insert(syn.ends, held);
                let (happening, kind, patience) = (self.happening.clone(), self.kind, self.patience);
                tokio::spawn(async move {
                    let outcome = act::reach(syn.ends, kind, patience).await;
                    let _ = happening.send(Happening::Asked(syn.ends, outcome)).await;
                });
            }
            Admitted::Release => match self.joins_early(&syn) {
                Some(token) => self.hold_join(syn.ends, held, token, queue),
                None => {
                    self.counters.count("released");
                    let mark = match syn.asks {
                        Asks::Migrate => self.marks.anchored(),
                        _ => self.marks.released,
                    };
                    self.let_go(&held, mark, queue);
                }
            },
            Admitted::Pass(Why::Stranger) if self.seeks(&syn) => self.seek(syn, held, queue),
            Admitted::Pass(why) => self.pass(syn.ends, &held, why, queue),
            Admitted::Drop => {
                self.counters.count("repeated");
                let _ = queue.decide(held.id, Verdict::Drop);
            }
        }
    }

    pub(crate) fn pass(&mut self, ends: Ends, held: &Held, why: Why, queue: &Queue) {
        tracing::debug!(%ends, why = why.name(), "not relayed");
        self.counters.count(match why {
            Why::Plain => "passed_plain",
            Why::Stranger => "passed_stranger",
            Why::GivenUp => "passed_given_up",
            Why::HalfOpen => "passed_half_open",
            Why::Sessions => "passed_sessions",
            Why::KnownPlain => "passed_known_plain",
            Why::KnownSilent => "passed_known_silent",
        });
        self.let_go(held, 0, queue);
    }

    pub(crate) fn let_go(&self, held: &Held, mark: u32, queue: &Queue) {
        let mark = held.mark & !self.marks.all() | mark;
        if let Err(error) = queue.decide(held.id, Verdict::Accept { mark }) {
            tracing::debug!(%error, "a held packet is gone");
        }
    }

    pub(crate) async fn happened(&mut self, happening: Happening, queue: &Queue) {
        match happening {
            Happening::Paused(token) => self.acknowledge(token).await,
            Happening::Asked(ends, Ok(stream)) => {
                self.counters.count("answered");
                self.admission.answered(ends, self.began.elapsed());
                let held = self.held.remove(&ends);
                let syn = held.as_ref().and_then(|held| Syn::read(&held.head));
                let anchored = syn.is_some_and(|syn| syn.asks == Asks::Migrate);
                let answered = Answered {
                    server: stream,
                    anchored,
                };
                self.answered.insert(ends, answered);
                if !anchored {
                    self.listen_for(ends.server);
                }
                if let Some(held) = held {
                    let mark = match anchored {
                        true => self.marks.anchored(),
                        false => self.marks.released,
                    };
                    self.let_go(&held, mark, queue);
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
            Happening::Accepted(Way::Up, ends, terminal) => self.accepted(ends, terminal),
            Happening::Accepted(Way::Down, ends, server) => self.accepted_down(ends, server, queue),
            Happening::Probed(ends, outcome) => self.probed(ends, outcome, queue),
            Happening::ProbeLate(ends, number) => self.probe_late(ends, number),
            Happening::JoinLate(ends, since) => self.join_late(ends, since, queue),
            Happening::Sought(ends, handed) => self.sought(ends, handed, queue),
            Happening::Others(others) => self.balancer.hear(others),
            Happening::Ended(number, how) => {
                self.counters.count(match how {
                    Ended::Closed => "closed",
                    Ended::Reset => "reset",
                });
                if let Some(session) = self.sessions.remove(number) {
                    tracing::debug!(ends = %session.ends, ?how, "ended");
                    self.admission.ended(session.ends);
                }
                self.deployment.ended(number);
            }
        }
    }

    fn accepted(&mut self, ends: Ends, terminal: TcpStream) {
        let answered = self.answered.remove(&ends);
        let (true, Some(answered)) = (self.admission.accepted(ends), answered) else {
            self.counters.count("accepted_unasked");
            return transfer::reset(terminal);
        };
        self.begin(Way::Up, ends, terminal, answered.server, None, answered.anchored);
    }

    /// Both sides stand.
    pub(crate) fn begin(
        &mut self,
        way: Way,
        ends: Ends,
        terminal: TcpStream,
        server: TcpStream,
        joins: Option<DropGuard>,
        anchored: bool,
    ) {
        let token = act::token(&terminal);
        self.counters.count(match token {
            Some(_) => "multipath",
            None if anchored => "anchored",
            None => "fallback",
        });
        if let Some(token) = token {
            self.admission.name(ends, token);
        }
        let carried = Arc::new(Carried::default());
        let stop = self.stop.child_token();
        tracing::debug!(%ends, ?token, "relayed");
        let number = self.sessions.add(Session {
            way,
            ends,
            token,
            since: Instant::now(),
            carried: carried.clone(),
            anchored,
            stop: stop.clone(),
            _joins: joins,
        });
        self.deployment.opened(number, ends, token);
        if let Some(token) = token {
            // Others may have joined meanwhile.
            self.tell_paths(token);
        }
        let happening = self.happening.clone();
        let pauses = token.map(|token| {
            let happening = happening.clone();
            // Lost when the loop is busy: the terminal's own clock is the remedy then.
            let tell = move || drop(happening.try_send(Happening::Paused(token)));
            Box::new(tell) as transfer::Pauses
        });
        let keepalive = self.keepalive;
        tokio::spawn(async move {
            let ended = transfer::carry(terminal, server, &carried, keepalive, pauses, stop).await;
            let _ = happening.send(Happening::Ended(number, ended)).await;
        });
    }

    /// A listener on the service's own port, so that subflows may join under the server's address.
    fn listen_for(&mut self, server: SocketAddr) {
        let key = (server.is_ipv6(), server.port());
        if self.ports.contains_key(&key) || self.ports.len() >= MOST_LISTENERS {
            return;
        }
        let listener = act::listen(act::listener_address(key.0, key.1), self.kind);
        if let Err(error) = &listener {
            tracing::warn!(
                port = key.1, %error,
                "no listener on this service's port: its subflows can only join at an address of `announce`"
            );
        }
        self.ports.insert(key, listener.is_ok());
        if let Ok(listener) = listener {
            self.attend(Way::Up, listener, self.stop.clone());
        }
    }

    /// Takes what a listener accepts, until it is stopped.
    pub(crate) fn attend(&self, way: Way, listener: TcpListener, stop: CancellationToken) {
        let happening = self.happening.clone();
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.cancelled() => return,
                };
                let ends = accepted.and_then(|(stream, peer)| {
                    let (peer, named) = (act::canonical(peer), act::canonical(stream.local_addr()?));
                    let (terminal, server) = match way {
                        Way::Up => (peer, named),
                        Way::Down => (named, peer),
                    };
                    Ok((Ends { terminal, server }, stream))
                });
                match ends {
                    Ok((ends, stream)) => {
                        if happening
                            .send(Happening::Accepted(way, ends, stream))
                            .await
                            .is_err()
                        {
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

    /// Once a second: who has not come is given up.
    pub(crate) fn review(&mut self) {
        for ends in self.admission.overdue(self.began.elapsed()) {
            self.counters.count("never_completed");
            if let Some(answered) = self.answered.remove(&ends) {
                transfer::reset(answered.server);
            }
            self.overdue_down(ends);
        }
        metrics::update(self.sessions.len(), self.admission.half_open());
    }
}
