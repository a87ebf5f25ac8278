//! Access points and who uses them, as measured: what `balance` decides on, and what comes of it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use mptcp_pm::Token;
use serde_json::{Value, json};

use crate::balance::{self, Eagerness, Flow, Point};
use crate::config::{Balance, Config, Mobility};
use crate::syn::Ends;

/// A connection: by its token, or by its ends where it has fallen back to plain TCP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Who {
    /// It has one or more subflows.
    Multipath(Token),
    /// It has one path for ever.
    Plain(Ends),
}

/// What one path of a connection has carried so far, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Carried {
    /// The connection.
    pub who: Who,
    /// The terminal's address on this path.
    pub terminal: IpAddr,
    /// Bytes.
    pub bytes: u64,
}

/// What others have on an access point.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Others {
    /// Bytes a second of what does not take all that it can get.
    pub steady: f64,
    /// Connections that do.
    pub bulk: f64,
}

/// A connection that is to have its primary path here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The connection.
    pub token: Token,
    /// The terminal's address on the path.
    pub path: IpAddr,
    /// Whether it was elsewhere before.
    pub moved: bool,
}

#[derive(Debug, Default)]
struct Known {
    bytes: HashMap<IpAddr, u64>,
    rate: f64,
    at: Option<usize>,
    since: Duration,
}

/// What is known from round to round. `now` is monotonic time since the process started.
#[derive(Debug)]
pub struct Balancer {
    config: Balance,
    on: bool,
    known: HashMap<Who, Known>,
    /// Where an operator has chosen, nobody else does.
    chosen: HashSet<Token>,
    others: Vec<Others>,
    last: Option<Duration>,
    points: Vec<Point>,
    flows: Vec<Flow>,
    moves: u64,
}

impl Balancer {
    /// Nothing known yet.
    pub fn new(config: &Balance) -> Self {
        Self {
            on: config.enabled,
            known: HashMap::new(),
            chosen: HashSet::new(),
            others: vec![Others::default(); config.points.len()],
            last: None,
            points: config
                .points
                .iter()
                .map(|point| Point::alone(point.capacity))
                .collect(),
            flows: Vec::new(),
            moves: 0,
            config: config.clone(),
        }
    }

    /// Whether there is anything to balance.
    pub fn is_empty(&self) -> bool {
        self.config.points.is_empty()
    }

    /// How long a round takes.
    pub fn interval(&self) -> Duration {
        Config::seconds(self.config.interval)
    }

    /// From now on it chooses, or no more. Switched on, it takes over what operators have chosen before.
    pub fn switch(&mut self, on: bool) {
        self.on = on;
        self.chosen.clear();
    }

    /// An operator chooses the path of a connection, or lets it have all.
    pub fn chosen(&mut self, token: Token, path: Option<IpAddr>) {
        match path {
            Some(_) => self.chosen.insert(token),
            None => self.chosen.remove(&token),
        };
    }

    /// What others have on the access points, by index.
    pub fn hear(&mut self, others: Vec<Others>) {
        if others.len() == self.others.len() {
            self.others = others;
        }
    }

    fn point(&self, address: IpAddr) -> Option<usize> {
        let points = &self.config.points;
        points
            .iter()
            .position(|point| point.addresses.iter().any(|prefix| prefix.contains(address)))
    }

    /// Measures once more, and chooses: at most one connection changes its access point in a round.
    pub fn round(
        &mut self,
        carried: &[Carried],
        primary: impl Fn(Token) -> Option<IpAddr>,
        now: Duration,
    ) -> Vec<Choice> {
        let span = self.last.map(|last| now.saturating_sub(last).as_secs_f64());
        self.last = Some(now);
        let mut paths: HashMap<Who, Vec<Carried>> = HashMap::new();
        for one in carried {
            paths.entry(one.who).or_default().push(*one);
        }
        self.known.retain(|who, _| paths.contains_key(who));
        self.chosen
            .retain(|token| paths.contains_key(&Who::Multipath(*token)));
        let mut all: Vec<(Who, Vec<Carried>)> = paths.into_iter().collect();
        all.sort_by_key(|(_, paths)| paths.iter().map(|path| path.terminal).min());
        let (mut whose, mut flows, mut choices) = (Vec::new(), Vec::new(), Vec::new());
        for (who, paths) in all {
            let place = |path: &Carried| self.point(path.terminal);
            let mut sees: Vec<usize> = paths.iter().filter_map(place).collect();
            sees.sort_unstable();
            sees.dedup();
            let token = match who {
                Who::Multipath(token) => Some(token),
                Who::Plain(_) => None,
            };
            let chosen = token.and_then(&primary);
            let known = self.known.get(&who);
            let grown = |path: &Carried| {
                let before = known.and_then(|known| known.bytes.get(&path.terminal));
                path.bytes - before.copied().unwrap_or(path.bytes).min(path.bytes)
            };
            let busiest = paths
                .iter()
                .max_by_key(|path| grown(path))
                .map(|path| path.terminal);
            let at = chosen.or(busiest).and_then(|address| self.point(address));
            let total: u64 = paths.iter().map(grown).sum();
            let rate = match span.filter(|span| *span > 0.0 && known.is_some()) {
                // Half of it is what was before: one quiet moment makes no download interactive.
                Some(span) => total as f64 / span / 2.0 + known.map_or(0.0, |known| known.rate) / 2.0,
                None => 0.0,
            };
            let since = match known {
                Some(known) if known.at == at => known.since,
                _ => now,
            };
            let bulk = rate >= self.config.bulk;
            let known = self.known.entry(who).or_default();
            known.bytes = paths.iter().map(|path| (path.terminal, path.bytes)).collect();
            (known.rate, known.at, known.since) = (rate, at, since);
            let Some(at) = at else { continue };
            let held = token.is_none_or(|token| self.chosen.contains(&token));
            let may_move = !held
                && match self.mobility(&paths) {
                    Mobility::Stay => false,
                    Mobility::Bulk => bulk,
                    Mobility::Any => true,
                };
            if let (true, true, None, Some(token), Some(path)) =
                (self.on && may_move, sees.len() > 1, chosen, token, busiest)
            {
                choices.push(Choice {
                    token,
                    path,
                    moved: false,
                });
            }
            whose.push((token, paths));
            flows.push(Flow {
                rate,
                bulk,
                at,
                sees,
                may_move,
                stayed: now.saturating_sub(since),
            });
        }
        for (point, others) in self.points.iter_mut().zip(&self.others) {
            (point.steady, point.others) = (others.steady, others.bulk);
        }
        let eagerness = Eagerness {
            hysteresis: self.config.hysteresis,
            stay: Config::seconds(self.config.stay),
        };
        let next = balance::next(&self.points, &flows, eagerness).filter(|_| self.on);
        if let Some(next) = next {
            let (token, paths) = &whose[next.flow];
            let there = paths
                .iter()
                .find(|path| self.point(path.terminal) == Some(next.to));
            if let (Some(token), Some(there)) = (token, there) {
                choices.retain(|choice| choice.token != *token);
                choices.push(Choice {
                    token: *token,
                    path: there.terminal,
                    moved: true,
                });
                self.moves += 1;
            }
        }
        self.flows = flows;
        choices
    }

    fn mobility(&self, paths: &[Carried]) -> Mobility {
        let own = self.config.terminals.iter().find(|terminal| {
            paths.iter().any(|path| {
                terminal
                    .addresses
                    .iter()
                    .any(|prefix| prefix.contains(path.terminal))
            })
        });
        own.map_or(self.config.policy, |terminal| terminal.policy)
    }

    /// What this relay has on each access point: others may want to know.
    pub fn own(&self) -> Vec<(&str, Others)> {
        let names = self.config.points.iter().map(|point| point.name.as_str());
        names
            .enumerate()
            .map(|(index, name)| {
                let here = self.flows.iter().filter(|flow| flow.at == index);
                let (bulk, rest): (Vec<_>, Vec<_>) = here.partition(|flow| flow.bulk);
                let steady = rest.iter().map(|flow| flow.rate).sum();
                let bulk = bulk.len() as f64;
                (name, Others { steady, bulk })
            })
            .collect()
    }

    /// Bytes a second that this relay's connections carry on an access point.
    pub fn carried(&self, index: usize) -> f64 {
        self.flows
            .iter()
            .filter(|flow| flow.at == index)
            .map(|flow| flow.rate)
            .sum()
    }

    /// For an operator.
    pub fn show(&self) -> Value {
        let loads = balance::loads(&self.points, &self.flows);
        let own = self.own();
        let points = self.points.iter().zip(&own).zip(&loads).enumerate();
        let points: Vec<Value> = points
            .map(|(index, ((point, (name, own)), load))| {
                json!({
                    "point": name,
                    "capacity": point.capacity,
                    "carries": self.carried(index).round(),
                    "bulk": own.bulk,
                    "others_bulk": point.others,
                    "others_steady": point.steady.round(),
                    "asked": (load * 1e3).round() / 1e3,
                })
            })
            .collect();
        let bulk = self.flows.iter().filter(|flow| flow.bulk).map(|flow| flow.rate);
        let bulk: Vec<f64> = bulk.collect();
        json!({
            "on": self.on,
            "moves": self.moves,
            "fairness": (balance::fairness(&bulk) * 1e3).round() / 1e3,
            "points": points,
        })
    }
}
