//! What an application tells the runner: one JSON line after every change, at most a hundred a second.
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// A pause between two portions of data is a stall from this length on.
const STALL: Duration = Duration::from_millis(50);
const INTERVAL: Duration = Duration::from_millis(10);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Payload received (fetch, serve) or sent and confirmed (push).
    pub bytes: u64,
    pub answers: u64,
    /// Connections established so far, and those that still are.
    pub connected: u64,
    pub open: u64,
    /// Connections that ended, well or not.
    pub ended: u64,
    /// Failures by errno name, and the connections that ended by a reset among them.
    pub errors: BTreeMap<String, u64>,
    pub resets: u64,
    /// Clients that went before they had acknowledged a byte.
    #[serde(default)]
    pub given_up: u64,
    /// Longest pause between answers, or between portions of data, in milliseconds.
    pub gap: f64,
    /// Time from question to answer.
    #[serde(default)]
    pub rtt: Rtt,
    /// Whether every byte that arrived was the one that was sent; unknown until a transfer ends.
    pub same: Option<bool>,
    /// Of the last transfer that ended.
    pub sha256: Option<String>,
    /// The application has nothing more to do.
    pub done: bool,
    /// Pauses that ended since the last line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stalls: Vec<Stall>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rtt {
    pub min: f64,
    pub median: f64,
    pub p99: f64,
    pub max: f64,
}

/// How often each time was met, in steps of 10 microseconds.
#[derive(Debug, Default)]
struct Histogram {
    counts: BTreeMap<u32, u64>,
    total: u64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        *self.counts.entry((time.as_micros() / 10) as u32).or_default() += 1;
        self.total += 1;
    }

    fn rtt(&self) -> Rtt {
        let quantile = |share: f64| {
            let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
            let mut met = 0;
            let found = self.counts.iter().find(|(_, count)| {
                met += **count;
                met >= wanted
            });
            found.map_or(0.0, |(step, _)| f64::from(*step) / 100.0)
        };
        Rtt {
            min: quantile(0.0),
            median: quantile(0.5),
            p99: quantile(0.99),
            max: quantile(1.0),
        }
    }
}

/// One pause on one connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    pub connection: u64,
    /// Microseconds since 1970: the last data before, and the first after it.
    pub from: u64,
    pub until: u64,
}

impl Report {
    pub fn fail(&mut self, name: &str) {
        *self.errors.entry(name.to_owned()).or_default() += 1;
        self.resets += u64::from(name == "RESET");
    }
}

/// Shared by all connections of an application; prints on its own thread.
#[derive(Clone)]
pub struct Reporter(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    report: Report,
    times: Histogram,
    fresh: bool,
    printed_last: bool,
}

impl Reporter {
    pub fn start() -> Reporter {
        let reporter = Reporter(Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
        }));
        let printer = reporter.clone();
        std::thread::spawn(move || printer.print_changes());
        reporter
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        let mut state = self.0.state.lock().unwrap_or_else(|held| held.into_inner());
        let value = change(&mut state.report);
        if !state.fresh {
            state.fresh = true;
            self.0.changed.notify_all();
        }
        value
    }

    /// Notes how long an answer took.
    pub fn time(&self, time: Duration) {
        self.0
            .state
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .times
            .add(time);
    }

    /// Says that all is done, waits until that is printed, and returns the last report.
    pub fn finish(&self) -> Report {
        self.change(|report| report.done = true);
        let mut state = self.0.state.lock().unwrap_or_else(|held| held.into_inner());
        while !state.printed_last {
            state = self
                .0
                .changed
                .wait(state)
                .unwrap_or_else(|held| held.into_inner());
        }
        state.report.clone()
    }

    fn print_changes(&self) {
        loop {
            let mut state = self.0.state.lock().unwrap_or_else(|held| held.into_inner());
            while !state.fresh {
                state = self
                    .0
                    .changed
                    .wait(state)
                    .unwrap_or_else(|held| held.into_inner());
            }
            state.fresh = false;
            state.report.rtt = state.times.rtt();
            let report = state.report.clone();
            state.report.stalls.clear();
            drop(state);
            let line = serde_json::to_string(&report).unwrap_or_default();
            let mut out = std::io::stdout().lock();
            // Nobody listens any more: nothing is left to do.
            if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                std::process::exit(1);
            }
            drop(out);
            if report.done {
                let mut state = self.0.state.lock().unwrap_or_else(|held| held.into_inner());
                state.printed_last = true;
                self.0.changed.notify_all();
                return;
            }
            // Changes of this interval share a line.
            std::thread::sleep(INTERVAL);
        }
    }
}

/// Times the arrivals on one connection.
pub struct Pulse {
    connection: u64,
    last: Instant,
    last_wall: u64,
}

impl Pulse {
    pub fn start(connection: u64) -> Pulse {
        Pulse {
            connection,
            last: Instant::now(),
            last_wall: wall(),
        }
    }

    /// Something arrived now: notes the pause before it.
    pub fn beat(&mut self, report: &mut Report) {
        let now = Instant::now();
        let pause = now - self.last;
        report.gap = report.gap.max(pause.as_secs_f64() * 1e3);
        let until = wall();
        if pause >= STALL {
            report.stalls.push(Stall {
                connection: self.connection,
                from: self.last_wall,
                until,
            });
        }
        (self.last, self.last_wall) = (now, until);
    }
}

fn wall() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
