//! What is known of all programs. Readers of their output write it, the story waits on it.
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::apps::{Report, Stall};

/// The end of a program's output that is kept for conditions.
const OUTPUT_KEPT: usize = 1024 * 1024;
/// Samples of progress are at least this far apart.
const SAMPLE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Default, Serialize)]
pub struct ProgramState {
    pub host: String,
    /// The command or the line of the story.
    pub what: String,
    /// It is one of the lab's own and tells what it sees.
    pub reports: bool,
    /// It serves until the run ends; its end is a failure.
    pub stands: bool,
    #[serde(skip)]
    pub pid: Option<i32>,
    /// Seconds since the story began.
    pub started: f64,
    pub ended: Option<f64>,
    pub exit: Option<i32>,
    /// The story killed it.
    pub killed: bool,
    /// Its exit is what its line expects, whatever the code.
    pub expected: bool,
    pub report: Report,
    /// Pauses its connections saw.
    pub stalls: Vec<Stall>,
    /// Time, bytes and answers as they grew.
    pub progress: Vec<(f64, u64, u64)>,
    #[serde(skip)]
    pub output: String,
    #[serde(skip)]
    pub last_sample: Option<Instant>,
    /// Connections it opens.
    pub connections: u64,
}

impl ProgramState {
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Ended by itself and well.
    pub fn is_done(&self) -> bool {
        self.has_ended()
            && self.exit == Some(0)
            && self.report.errors.is_empty()
            && self.report.same != Some(false)
    }

    pub fn append_output(&mut self, text: &str) {
        self.output.push_str(text);
        if self.output.len() > OUTPUT_KEPT {
            let cut = self.output.len() - OUTPUT_KEPT / 2;
            let cut = (cut..self.output.len())
                .find(|at| self.output.is_char_boundary(*at))
                .unwrap_or_default();
            self.output.drain(..cut);
        }
    }

    pub fn take_report(&mut self, mut report: Report, time: f64) {
        self.stalls.append(&mut report.stalls);
        let due = self.last_sample.is_none_or(|last| last.elapsed() >= SAMPLE);
        if due || report.done {
            self.progress.push((time, report.bytes, report.answers));
            self.last_sample = Some(Instant::now());
        }
        self.report = report;
    }
}

#[derive(Default)]
pub struct State {
    pub programs: BTreeMap<String, ProgramState>,
    /// The person at the terminal wants the run to end.
    pub interrupted: Option<&'static str>,
}

#[derive(Clone, Default)]
pub struct Board(Arc<(Mutex<State>, Condvar)>);

impl Board {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// Changes something and wakes who waits.
    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.0.1.notify_all();
        value
    }

    pub fn program(&self, name: &str, change: impl FnOnce(&mut ProgramState)) {
        self.change(|state| {
            if let Some(program) = state.programs.get_mut(name) {
                change(program);
            }
        });
    }

    /// Waits until something changed, `until` has passed, or the run was interrupted. Takes the guard that the
    /// decision to wait was made under, so that no change is missed.
    pub fn wait<'a>(&self, guard: MutexGuard<'a, State>, until: Instant) -> MutexGuard<'a, State> {
        let left = until.saturating_duration_since(Instant::now());
        match self.0.1.wait_timeout(guard, left) {
            Ok((guard, _)) => guard,
            Err(held) => held.into_inner().0,
        }
    }
}
