//! Which SYN is relayed: a pure table of everything between a SYN and an established connection.
//!
//! ```text
//!            SYN                 server answers            terminal's ACK
//!   (none) ──────► Asked ─────────────────────► Answered ───────────────► Live ──► (none)
//!                    │ refuses, or is silent        │ never comes
//!                    ▼                              ▼
//!                  Direct ◄─────────────────────────┘      for a while; then (none)
//! ```
//!
//! A terminal repeats its SYN while it waits; a repetition never opens a second connection to the server.
//!
//! A connection that a server opens to a terminal lives by the same table with the two changed over: the terminal is
//! asked, its answer held, the server's handshake awaited.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mptcp_pm::Token;

use crate::answers::{Answers, Said};
use crate::config::{Config, Limits};
use crate::syn::{Asks, Ends, Syn};

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admitted {
    /// It is held until the server has answered: ask it.
    Ask,
    /// It goes to the listener here.
    Release,
    /// It goes to the server itself.
    Pass(Why),
    /// It is a repetition of one that is held.
    Drop,
}

/// Why a SYN is not relayed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Why {
    /// It asks for no MPTCP, or cannot be read.
    Plain,
    /// Its subflow belongs to no connection of this relay.
    Stranger,
    /// Between these ends the relay has been given up.
    GivenUp,
    /// Its terminal has too many connections that are not established.
    HalfOpen,
    /// There are too many connections.
    Sessions,
    /// Its terminal is known to speak no MPTCP.
    KnownPlain,
    /// Its terminal did not answer the last time that it was asked for MPTCP.
    KnownSilent,
}

/// Who opens a connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Way {
    /// The terminal.
    Up,
    /// The server.
    Down,
}

impl Why {
    /// For counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Stranger => "stranger",
            Self::GivenUp => "given_up",
            Self::HalfOpen => "half_open",
            Self::Sessions => "sessions",
            Self::KnownPlain => "known_plain",
            Self::KnownSilent => "known_silent",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Asked,
    Answered { until: Duration },
    Live,
    Direct { until: Duration },
}

/// The table. `now` is monotonic time since the process started, everywhere.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    terminal: Duration,
    direct: Duration,
    phases: HashMap<Ends, (Way, Phase)>,
    half_open: HashMap<(Way, IpAddr), usize>,
    /// Connections that are answered or live, by server: a SYN that joins may be quicker than the news of its token.
    towards: HashMap<SocketAddr, usize>,
    tokens: HashMap<Token, Ends>,
    busy: usize,
    answers: Answers,
    known: Duration,
}

impl Admission {
    /// Empty.
    pub fn new(config: &Config) -> Self {
        Self {
            limits: config.limits,
            terminal: Config::seconds(config.timeouts.terminal),
            direct: Config::seconds(config.timeouts.direct),
            phases: HashMap::new(),
            half_open: HashMap::new(),
            towards: HashMap::new(),
            tokens: HashMap::new(),
            busy: 0,
            answers: Answers::default(),
            known: Config::seconds(config.timeouts.known),
        }
    }

    /// A SYN has come.
    pub fn syn(&mut self, syn: &Syn, now: Duration) -> Admitted {
        match syn.asks {
            Asks::Plain => Admitted::Pass(Why::Plain),
            Asks::Join(token) => {
                let known = self.tokens.contains_key(&token) || self.towards.contains_key(&syn.ends.server);
                match known {
                    true => Admitted::Release,
                    false => Admitted::Pass(Why::Stranger),
                }
            }
            Asks::Capable | Asks::Migrate => self.ask(Way::Up, syn.ends, now),
        }
    }

    /// A SYN has come from a server.
    pub fn syn_down(&mut self, ends: Ends, now: Duration) -> Admitted {
        match self.answers.get(ends.terminal, now) {
            Some(Said::Plain) => Admitted::Pass(Why::KnownPlain),
            Some(Said::Nothing) => Admitted::Pass(Why::KnownSilent),
            Some(Said::Multipath) | None => self.ask(Way::Down, ends, now),
        }
    }

    /// A terminal that was asked for MPTCP has answered, or not in time.
    pub fn learn(&mut self, terminal: SocketAddr, said: Said, now: Duration) {
        let lifetime = match said {
            Said::Multipath | Said::Plain => self.known,
            // It may have been out of reach.
            Said::Nothing => self.direct,
        };
        self.answers.learn(terminal, said, now + lifetime);
    }

    /// How many terminals' answers are known.
    pub fn known(&self) -> usize {
        self.answers.len()
    }

    fn ask(&mut self, way: Way, ends: Ends, now: Duration) -> Admitted {
        match self.phases.get(&ends).map(|(_, phase)| phase) {
            Some(Phase::Asked) => return Admitted::Drop,
            // The answer was lost, or the terminal's port is used again.
            Some(Phase::Answered { .. } | Phase::Live) => return Admitted::Release,
            Some(Phase::Direct { until }) if now < *until => return Admitted::Pass(Why::GivenUp),
            Some(Phase::Direct { .. }) | None => {}
        }
        let open = self
            .half_open
            .get(&(way, ends.terminal.ip()))
            .copied()
            .unwrap_or(0);
        if open >= self.limits.half_open {
            return Admitted::Pass(Why::HalfOpen);
        }
        if self.busy >= self.limits.sessions {
            return Admitted::Pass(Why::Sessions);
        }
        self.put(way, ends, Some(Phase::Asked));
        Admitted::Ask
    }

    /// The server has answered; what waits for the terminal does so for so long.
    pub fn answered(&mut self, ends: Ends, now: Duration) {
        let until = now + self.terminal;
        self.put(self.way(ends), ends, Some(Phase::Answered { until }));
    }

    /// The terminal's handshake is complete. False: nobody has answered for this one.
    pub fn accepted(&mut self, ends: Ends) -> bool {
        let expected = matches!(self.phases.get(&ends), Some((_, Phase::Answered { .. })));
        if expected {
            self.put(self.way(ends), ends, Some(Phase::Live));
        }
        expected
    }

    /// The relay leaves these ends to themselves for a while.
    pub fn give_up(&mut self, ends: Ends, now: Duration) {
        let until = now + self.direct;
        self.put(self.way(ends), ends, Some(Phase::Direct { until }));
    }

    /// A connection has ended, or was never to be.
    pub fn ended(&mut self, ends: Ends) {
        self.put(self.way(ends), ends, None);
        self.tokens.retain(|_, of| *of != ends);
    }

    /// A connection's token is known.
    pub fn name(&mut self, ends: Ends, token: Token) {
        self.tokens.insert(token, ends);
    }

    /// Whose handshakes have not come to an end in time; they are given up. Forgets what is over.
    pub fn overdue(&mut self, now: Duration) -> Vec<Ends> {
        let mut late = Vec::new();
        let mut over = Vec::new();
        self.answers.forget(now);
        for (ends, (_, phase)) in &self.phases {
            match phase {
                Phase::Answered { until } if *until <= now => late.push(*ends),
                Phase::Direct { until } if *until <= now => over.push(*ends),
                _ => {}
            }
        }
        for ends in over {
            self.put(self.way(ends), ends, None);
        }
        for ends in &late {
            self.give_up(*ends, now);
        }
        late
    }

    /// Connections that are not established yet, of all terminals.
    pub fn half_open(&self) -> usize {
        self.half_open.values().sum()
    }

    fn way(&self, ends: Ends) -> Way {
        self.phases.get(&ends).map_or(Way::Up, |(way, _)| *way)
    }

    fn put(&mut self, way: Way, ends: Ends, phase: Option<Phase>) {
        let before = match phase {
            Some(phase) => self.phases.insert(ends, (way, phase)),
            None => self.phases.remove(&ends),
        };
        let before = before.map(|(_, phase)| phase);
        let half = |phase: Option<Phase>| matches!(phase, Some(Phase::Asked | Phase::Answered { .. }));
        let here = |phase: Option<Phase>| matches!(phase, Some(Phase::Answered { .. } | Phase::Live));
        let busy = |phase: Option<Phase>| half(phase) || here(phase);
        let whose = (way, ends.terminal.ip());
        adjust(&mut self.half_open, whose, half(before), half(phase));
        adjust(&mut self.towards, ends.server, here(before), here(phase));
        self.busy = self.busy + usize::from(busy(phase)) - usize::from(busy(before));
    }
}

fn adjust<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, before: bool, after: bool) {
    match (before, after) {
        (false, true) => *counts.entry(key).or_insert(0) += 1,
        (true, false) => {
            let left = counts.get_mut(&key).map(|count| {
                *count -= 1;
                *count
            });
            if left == Some(0) {
                counts.remove(&key);
            }
        }
        _ => {}
    }
}
