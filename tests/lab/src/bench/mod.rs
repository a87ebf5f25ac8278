//! `lab bench`: how long a move takes, and what translation costs, against the same kernel without agents.
//!
//! 1. Every row takes its own names from the machine ([`Claim`]) and builds [`world`]s: hosts with or without
//!    agents, alike in everything else.
//! 2. [`pair`] starts one program at each end of the connections ([`traffic`], or [`short`] for connections that
//!    come and go) and tells them what to do; they note when bytes reach them, by the machine's monotonic clock.
//! 3. [`moves`] takes addresses away and gives others by [`netlink`], with an eye on the same clock;
//!    [`meeting`] moves both ends in a story of its own, in the open or behind NAPTs with a proxy;
//!    [`throughput`] and [`rate`] measure in turns, with and without agents, and [`relayed`] what can stand between a terminal and a server.
//!    [`notice`] tells stories in which no address changes, and [`footprint`] looks at the agent's memory.
//! 4. [`table`] prints what was found, and [`Outcome`] keeps it as JSON.
pub mod clock;
pub mod command;
pub mod footprint;
pub mod meeting;
pub mod moves;
pub mod netlink;
pub mod notice;
pub mod pair;
pub mod rate;
pub mod relayed;
pub mod short;
pub mod surroundings;
pub mod table;
pub mod throughput;
pub mod traffic;
pub mod world;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use crate::agents::Agents;
use crate::machine::{Claim, sweep};

/// What can be measured, in this order.
pub const ROWS: [&str; 14] = [
    "move",
    "single",
    "many",
    "meeting",
    "proxied",
    "notice",
    "throughput",
    "unprotected",
    "rate",
    "memory",
    "relay",
    "relay-loss",
    "relay-prefer",
    "relay-memory",
];

#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer samples: under two minutes.
    pub quick: bool,
    /// Some of [`ROWS`]; empty: all.
    pub rows: Vec<String>,
    pub agent_binary: Option<PathBuf>,
}

/// Everything a run has found.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    pub surroundings: surroundings::Surroundings,
    pub moves: Vec<moves::Cell>,
    pub single: Vec<moves::Cell>,
    pub many: Vec<moves::Cell>,
    pub notice: Vec<notice::Silence>,
    pub meeting: Vec<meeting::Meeting>,
    pub proxied: Vec<meeting::Meeting>,
    pub throughput: Vec<throughput::Comparison>,
    pub unprotected: Vec<throughput::Comparison>,
    pub rate: Vec<throughput::Comparison>,
    pub memory: Vec<footprint::Footprint>,
    pub relay: Vec<throughput::Comparison>,
    pub relay_loss: Vec<relayed::lost::Stall>,
    pub relay_prefer: Vec<relayed::switch::Switch>,
    pub relay_memory: Vec<relayed::footprint::Footprint>,
}

/// What is being measured now, for whoever has to tidy up.
type Held = Arc<Mutex<Option<Claim>>>;

/// Measures and prints.
///
/// # Errors
/// Not root, no agent to measure, an unknown row, or something that was started has failed.
pub fn run(options: &Options) -> Result<Outcome, String> {
    if let Some(unknown) = options.rows.iter().find(|row| !ROWS.contains(&row.as_str())) {
        return Err(format!("no row `{unknown}`; there are {}", ROWS.join(", ")));
    }
    let agent = Agents::find(options.agent_binary.as_deref())
        .filter(|path| path.is_file())
        .ok_or("host-agent is not beside this program; name it with --agent-binary")?;
    sweep::dead_runs().map_err(|error| error.to_string())?;
    go_ahead_of_others();
    let held = Held::default();
    release_on_signals(&held)?;
    let mut outcome = Outcome {
        surroundings: surroundings::Surroundings::look(),
        ..Outcome::default()
    };
    println!("{}", outcome.surroundings);
    for row in ROWS {
        if !options.rows.is_empty() && !options.rows.iter().any(|asked| asked == row) {
            continue;
        }
        let claim = Claim::take().map_err(|error| error.to_string())?;
        *lock(&held) = Some(claim.clone());
        let bench = Bench {
            claim: claim.clone(),
            agent: agent.clone(),
            quick: options.quick,
        };
        let measured = match row {
            "move" => moves::measure(&bench).map(|cells| outcome.moves = cells),
            "single" => moves::measure_single(&bench).map(|cells| outcome.single = cells),
            "many" => moves::measure_many(&bench).map(|cells| outcome.many = cells),
            "notice" => notice::measure(&bench).map(|rows| outcome.notice = rows),
            "unprotected" => throughput::measure_unprotected(&bench).map(|rows| outcome.unprotected = rows),
            "memory" => footprint::measure(&bench).map(|rows| outcome.memory = rows),
            "meeting" => meeting::measure(&bench).map(|rows| outcome.meeting = rows),
            "proxied" => meeting::measure_proxied(&bench).map(|rows| outcome.proxied = rows),
            "throughput" => throughput::measure(&bench).map(|rows| outcome.throughput = rows),
            "rate" => rate::measure(&bench).map(|rows| outcome.rate = rows),
            "relay-loss" => relayed::lost::measure(&bench).map(|rows| outcome.relay_loss = rows),
            "relay-prefer" => relayed::switch::measure(&bench).map(|rows| outcome.relay_prefer = rows),
            "relay-memory" => relayed::footprint::measure(&bench).map(|rows| outcome.relay_memory = rows),
            _ => relayed::measure(&bench).map(|rows| outcome.relay = rows),
        };
        *lock(&held) = None;
        let released = sweep::release(&claim, true).map_err(|error| format!("cannot tidy up: {error}"));
        measured.map_err(|reason| format!("{row}: {reason}"))?;
        released?;
    }
    outcome.surroundings.finish();
    println!("\n{}", outcome.surroundings.load_line());
    Ok(outcome)
}

/// What a row needs to know.
pub struct Bench {
    pub claim: Claim,
    pub agent: PathBuf,
    pub quick: bool,
}

impl Bench {
    /// Says what is going on, on standard error: tables are on standard output.
    pub fn progress(&self, what: &str) {
        eprintln!("[{:>7.1} s] {what}", clock::since_start().as_secs_f64());
    }
}

fn lock(held: &Held) -> std::sync::MutexGuard<'_, Option<Claim>> {
    held.lock().unwrap_or_else(|held| held.into_inner())
}

/// What else the machine does shows less. Everything that is measured inherits it, so that nothing gains by it.
fn go_ahead_of_others() {
    const NICE: libc::c_int = -19;
    // SAFETY: plain numbers; a refusal changes nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

/// SIGINT and SIGTERM return what is held, then end the process.
fn release_on_signals(held: &Held) -> Result<(), String> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .map_err(|error| format!("cannot block signals: {error}"))?;
    let held = Arc::clone(held);
    std::thread::spawn(move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("interrupted by {signal}");
            if let Some(claim) = lock(&held).take() {
                let _ = sweep::release(&claim, true);
            }
            std::process::exit(130);
        }
    });
    Ok(())
}
