//! The walk through a scenario.
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::artifacts;
use super::board::{Board, ProgramState};
use super::facts::Gathered;
use super::judge::{Judgement, judge};
use super::programs::Programs;
use super::timeline::{Entry, Timeline};
use crate::agents::Agents;
use crate::apps::{App, sockets};
use crate::language::Scenario;
use crate::language::ast::*;
use crate::language::units::show_duration;
use crate::machine::{Claim, sweep};
use crate::network::{Network, napt};
use crate::redis::RedisCluster;
use crate::relays::Relays;
use crate::servers::Servers;

/// How often facts are asked for that nobody announces (agents' lists, counters).
const POLL: Duration = Duration::from_millis(20);
const AFTER: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(1800);

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub seed: u64,
    /// Keep the artifacts although the run succeeds.
    pub keep: bool,
    /// Where artifacts go, always.
    pub artifacts: Option<PathBuf>,
    pub agent_binary: Option<PathBuf>,
    pub no_agents: bool,
    /// What the agents tell is on the timeline too.
    pub events: bool,
    /// Print the timeline as it happens.
    pub print: bool,
    /// All waits are this much longer; at least 1.
    pub slow: f64,
}

/// How a run ended.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub scenario: String,
    pub title: Option<String>,
    pub passed: bool,
    /// What went wrong, and at which line.
    pub reason: Option<String>,
    pub line: Option<usize>,
    pub step: Option<String>,
    pub seed: u64,
    /// Seconds from the beginning of the story.
    pub duration: f64,
    /// Seconds since 1970 when the story began: captures carry the same clock.
    pub began: f64,
    pub run: String,
    pub again: String,
    pub artifacts: Option<PathBuf>,
    pub leaks: u64,
    pub invalid: HashMap<String, u64>,
    pub programs: std::collections::BTreeMap<String, ProgramState>,
    pub timeline: Vec<Entry>,
}

/// Everything a running story touches.
pub struct Stage {
    pub network: Network,
    pub programs: Programs,
    pub agents: Agents,
    pub servers: Servers,
    pub redis: RedisCluster,
    pub relays: Relays,
    pub board: Board,
    pub timeline: Timeline,
    pub seed: u64,
    pub slow: f64,
    /// The run's own directory.
    pub directory: PathBuf,
    deadline: Instant,
}

/// A step that did not succeed.
struct Failure {
    line: Option<usize>,
    step: Option<String>,
    reason: String,
}

/// Runs a scenario. The verdict says how it ended; whatever was created is gone then.
///
/// # Errors
/// The run could not begin: not root, no cgroup2.
pub fn run(scenario: Scenario, options: &Options) -> Result<Verdict, String> {
    let swept = sweep::dead_runs().map_err(|error| error.to_string())?;
    let claim = Claim::take().map_err(|error| error.to_string())?;
    let board = Board::default();
    watch_signals(&board)?;
    let timeline = Timeline::new(options.print);
    for name in swept {
        timeline.note("lab", format!("swept {name}, whose runner is gone"));
    }
    let scenario = Arc::new(scenario);
    let outcome = perform(&scenario, options, &claim, &board, &timeline);
    let released = sweep::release(&claim, true);
    let mut verdict = outcome?;
    if let Err(error) = released {
        verdict.passed = false;
        verdict.reason.get_or_insert(format!("cannot tidy up: {error}"));
    }
    Ok(verdict)
}

fn perform(
    scenario: &Arc<Scenario>,
    options: &Options,
    claim: &Claim,
    board: &Board,
    timeline: &Timeline,
) -> Result<Verdict, String> {
    timeline.note(
        "lab",
        format!("{} seed={} {}", scenario.file, options.seed, claim.name()),
    );
    let mut stage = None;
    let failure = tell(scenario, options, claim, board, timeline, &mut stage).err();
    let mut verdict = Verdict {
        scenario: scenario.file.clone(),
        title: scenario.title.clone(),
        passed: failure.is_none(),
        reason: failure.as_ref().map(|failure| failure.reason.clone()),
        line: failure.as_ref().and_then(|failure| failure.line),
        step: failure.and_then(|failure| failure.step),
        seed: options.seed,
        duration: timeline.now().as_secs_f64(),
        began: timeline.beginning_wall(),
        run: claim.name(),
        again: again(scenario, options),
        artifacts: None,
        leaks: 0,
        invalid: HashMap::new(),
        programs: board.lock().programs.clone(),
        timeline: Vec::new(),
    };
    if let Some(stage) = &stage {
        verdict.leaks = stage.network.leaks().0;
        for name in stage.napts() {
            verdict
                .invalid
                .insert(name.to_owned(), stage.invalid(name).unwrap_or_default());
        }
    }
    let said = if verdict.passed {
        "passed".to_owned()
    } else {
        "FAILED".to_owned()
    };
    timeline.note("lab", said);
    timeline.close();
    verdict.timeline = timeline.entries();
    let wanted = options.artifacts.is_some() || options.keep || scenario.capture || !verdict.passed;
    if wanted {
        verdict.artifacts = artifacts::keep(&verdict, stage, options, claim, timeline);
    }
    Ok(verdict)
}

fn again(scenario: &Scenario, options: &Options) -> String {
    let mut command = format!("lab run {} --seed {}", scenario.file, options.seed);
    if options.no_agents {
        command += " --no-agents";
    }
    if let Some(agent) = &options.agent_binary {
        command += &format!(" --agent-binary {}", agent.display());
    }
    command
}

fn tell(
    scenario: &Arc<Scenario>,
    options: &Options,
    claim: &Claim,
    board: &Board,
    timeline: &Timeline,
    stage: &mut Option<Stage>,
) -> Result<(), Failure> {
    let outside = |reason: String| Failure {
        line: None,
        step: None,
        reason,
    };
    let captures = claim.directory.join("links");
    std::fs::create_dir_all(&captures)
        .map_err(|error| outside(format!("cannot create a directory: {error}")))?;
    let teller = |link: &str| {
        let (timeline, link) = (timeline.clone(), link.to_owned());
        Arc::new(move |said: String| timeline.note(&link, said)) as crate::emulator::link::Teller
    };
    let network = Network::build(Arc::clone(scenario), claim, &captures, options.seed, teller);
    let network = network.map_err(|error| outside(error.to_string()))?;
    let programs =
        Programs::new(board.clone(), timeline.clone(), claim.directory.join("programs")).map_err(outside)?;
    let executable = if options.no_agents || scenario.agents.is_empty() {
        None
    } else {
        let found = Agents::find(options.agent_binary.as_deref());
        let missing = "host-agent is not built: build it, name it by --agent-binary, or run with --no-agents";
        Some(found.ok_or_else(|| outside(missing.to_owned()))?)
    };
    let slow = options.slow.max(1.0);
    let mut agents = Agents::new(&claim.directory.join("agents"), executable);
    agents.events = options.events;
    let servers = Servers::new(&claim.directory.join("servers"), agents.executable());
    let stage = stage.insert(Stage {
        network,
        programs,
        agents,
        servers,
        redis: RedisCluster::default(),
        relays: Relays::default(),
        board: board.clone(),
        timeline: timeline.clone(),
        seed: options.seed,
        slow,
        directory: claim.directory.clone(),
        deadline: Instant::now() + scenario.limit.unwrap_or(LIMIT).mul_f64(slow),
    });
    stage.prepare().map_err(outside)?;
    stage.walk()
}

impl Stage {
    /// Agents, relays, and the servers that no line starts.
    fn prepare(&mut self) -> Result<(), String> {
        let scenario = Arc::clone(&self.network.scenario);
        let servers = if self.agents.exist() {
            &scenario.servers[..]
        } else {
            &[]
        };
        for redis in &scenario.redis {
            if !servers.is_empty() {
                let station = self.network.station(&redis.host.text)?.clone();
                let address = self.network.scenario.address_of(&redis.host.text, false);
                let address = address.ok_or_else(|| format!("{} has no IPv4 address", redis.host))?;
                self.redis
                    .start(&redis.name.text, address, &station, &mut self.programs, self.slow)?;
            }
        }
        for server in servers {
            let station = self.network.station(&server.host.text)?.clone();
            let addresses: Vec<IpAddr> = [false, true]
                .into_iter()
                .filter_map(|ipv6| self.network.scenario.address_of(&server.host.text, ipv6))
                .collect();
            let redis = self.redis.urls();
            self.servers.prepare(server, &station, &addresses, &redis)?;
            if !server.dead {
                self.server_change(&server.name.text, AgentChange::Start)?;
            }
        }
        for agent in &scenario.agents {
            let station = self.network.station(&agent.host.text)?.clone();
            let mut settings = agent.settings.clone();
            let later = settings.remove("start").is_some_and(|when| when == "later");
            self.agents
                .prepare(&station, &settings, &self.servers)
                .map_err(|error| error.to_string())?;
            if !later {
                self.agent_change(&agent.host.text, AgentChange::Start)?;
            }
        }
        for relay in &scenario.relays {
            let station = self.network.station(&relay.node.text)?.clone();
            let mut settings = relay.settings.clone();
            let later = settings.remove("start").is_some_and(|when| when == "later");
            self.relays
                .prepare(&station, relay.kind, &settings, &self.servers)?;
            if !later {
                let change = RelayChange::Process(AgentChange::Start);
                self.relay_change(&relay.node.text, &change)?;
            }
        }
        for (host, port) in implied_servers(&scenario) {
            let station = self.network.station(&host)?.clone();
            let name = format!("{host}-serve-{port}");
            let app = App::Serve {
                port,
                options: sockets::Options::default(),
            };
            let launch = self
                .programs
                .application(&name, format!("serve port={port}"), &app)?;
            self.programs.launch(&station, launch)?;
            self.listening(&station, &name, port)?;
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<(), Failure> {
        let scenario = Arc::clone(&self.network.scenario);
        for step in &scenario.steps {
            let prepares = matches!((&step.when, &step.what), (When::Next, What::Do(_)));
            if !prepares {
                self.timeline.begin();
            }
            self.step(step).map_err(|reason| Failure {
                line: Some(step.line),
                step: Some(step.text.clone()),
                reason,
            })?;
        }
        self.timeline.begin();
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.when {
            When::Next => {}
            When::At(time) => {
                let left = time.saturating_sub(self.timeline.now());
                self.pause(Instant::now() + left)?;
            }
            When::After { condition, limit } => self.within(limit.unwrap_or(AFTER), condition)?,
        }
        match &step.what {
            What::Do(action) => self.perform(action),
            What::Within(limit, condition) => self.within(*limit, condition),
            What::Expect(conditions) => self.expect(conditions),
        }
    }

    /// Lets time pass; ends early only when the run is to end.
    pub fn pause(&self, until: Instant) -> Result<(), String> {
        let mut state = self.board.lock();
        loop {
            if let Some(signal) = state.interrupted {
                return Err(format!("interrupted by {signal}"));
            }
            self.in_time()?;
            if Instant::now() >= until {
                return Ok(());
            }
            state = self.board.wait(state, until.min(self.deadline));
        }
    }

    fn in_time(&self) -> Result<(), String> {
        if Instant::now() < self.deadline {
            Ok(())
        } else {
            Err("the run takes longer than its limit".to_owned())
        }
    }

    /// Waits for a condition.
    fn within(&self, limit: Duration, condition: &Condition) -> Result<(), String> {
        if self.is_skipped(condition) {
            return Ok(());
        }
        let begun = Instant::now();
        let deadline = (begun + limit.mul_f64(self.slow)).min(self.deadline);
        loop {
            let gathered = Gathered::gather(self, condition);
            let state = self.board.lock();
            if let Some(signal) = state.interrupted {
                return Err(format!("interrupted by {signal}"));
            }
            match judge(condition, &state, &gathered) {
                Judgement::Holds => {
                    drop(state);
                    let took = begun.elapsed().as_secs_f64();
                    self.timeline
                        .note("lab", format!("{} (after {took:.3} s)", condition.text));
                    return Ok(());
                }
                Judgement::Never(instead) => {
                    return Err(format!("`{}` cannot come true: {instead}", condition.text));
                }
                Judgement::NotYet(instead) if Instant::now() >= deadline => {
                    let limit = show_duration(limit);
                    return Err(format!(
                        "`{}` has not come true within {limit}: {instead}",
                        condition.text
                    ));
                }
                Judgement::NotYet(_) => {
                    let until = if gathered.announced {
                        deadline
                    } else {
                        deadline.min(Instant::now() + POLL)
                    };
                    drop(self.board.wait(state, until));
                }
            }
        }
    }

    fn expect(&self, conditions: &[Condition]) -> Result<(), String> {
        for condition in conditions.iter().filter(|condition| !self.is_skipped(condition)) {
            let gathered = Gathered::gather(self, condition);
            match judge(condition, &self.board.lock(), &gathered) {
                Judgement::Holds => {}
                Judgement::NotYet(instead) | Judgement::Never(instead) => {
                    return Err(format!("`{}` does not hold: {instead}", condition.text));
                }
            }
        }
        let all: Vec<&str> = conditions
            .iter()
            .map(|condition| condition.text.as_str())
            .collect();
        self.timeline.note("lab", all.join(" "));
        Ok(())
    }

    /// Without agents nobody can be asked about them.
    fn is_skipped(&self, condition: &Condition) -> bool {
        let skipped = matches!(condition.subject, Subject::Agent { .. } | Subject::Server { .. })
            && !self.agents.exist();
        if skipped {
            self.timeline
                .note("lab", format!("skipped without agents: {}", condition.text));
        }
        skipped
    }

    pub fn napts(&self) -> impl Iterator<Item = &str> {
        let napts = self
            .network
            .scenario
            .nodes
            .iter()
            .filter(|node| matches!(node.kind, Kind::Napt(_)));
        napts.map(|node| node.name.text.as_str())
    }

    pub fn invalid(&self, name: &str) -> Result<u64, String> {
        napt::invalid(self.network.station(name)?).map_err(|error| error.to_string())
    }
}

/// Servers for clients whose host no line makes serve.
fn implied_servers(scenario: &Scenario) -> std::collections::BTreeSet<(String, u16)> {
    let starts = || {
        scenario.steps.iter().filter_map(|step| match &step.what {
            What::Do(Action::Start(start)) => Some(start),
            _ => None,
        })
    };
    let explicit = |host: &str, port: u16| {
        starts().any(|start| {
            start.host.text == host
                && matches!(start.program, Program::Serve { port: own, .. } if own == port)
        })
    };
    let asked = starts().filter_map(|start| match &start.program {
        Program::Talk(talk) => Some((talk.to.text.clone(), talk.port)),
        _ => None,
    });
    asked.filter(|(host, port)| !explicit(host, *port)).collect()
}

/// SIGINT and SIGTERM end the story, not the process: what the run holds is returned first.
fn watch_signals(board: &Board) -> Result<(), String> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals
        .thread_block()
        .map_err(|error| format!("cannot block signals: {error}"))?;
    static WATCHED: Mutex<Option<Board>> = Mutex::new(None);
    let current = || WATCHED.lock().unwrap_or_else(|held| held.into_inner());
    // A process may tell one story after the other: a signal is for the latest.
    let first = current().replace(board.clone()).is_none();
    if first {
        std::thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                let board = current().clone();
                board.inspect(|board| board.change(|state| state.interrupted = Some(signal.as_str())));
            }
        });
    }
    Ok(())
}
