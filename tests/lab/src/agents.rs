//! The agents of a run: their certificates, configuration files, readiness and answers.
//!
//! Everything the lab knows about `host-agent` is in this file: its command line, the keys of its configuration,
//! and the shape of what `status`, `connections` and `pairs` print with `--json`.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::language::ast::AgentList;
use crate::machine::{MachineError, Station, command};
use crate::servers::Servers;
use crate::story::programs::{Launch, Programs};
use crate::story::timeline::Timeline;

/// The port on which agents talk to each other.
pub const AGENT_PORT: u16 = 7801;
/// How long an agent may need until it is ready.
const READY: Duration = Duration::from_secs(20);

/// Entries of a list, or why there is none.
pub type Answer = Result<Vec<Value>, String>;

pub struct Agents {
    executable: Option<PathBuf>,
    /// The authority that all agents of the run trust.
    ca: PathBuf,
    homes: BTreeMap<String, Home>,
    /// What agents tell while they run goes on the timeline.
    pub events: bool,
}

/// Where one agent keeps its things.
#[derive(Clone, Debug)]
struct Home {
    directory: PathBuf,
    settings: BTreeMap<String, String>,
    /// How often it was started: every start has a program name of its own.
    starts: u32,
}

impl Home {
    fn control_socket(&self) -> PathBuf {
        self.directory.join("control")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("agent.toml")
    }
}

impl Agents {
    /// The beginning of a command line for an agent's own program.
    pub fn command(&self, host: &str) -> Option<String> {
        let home = self.homes.get(host)?;
        let executable = self.executable.as_ref()?;
        Some(format!(
            "{} --config {}",
            executable.display(),
            home.config().display()
        ))
    }

    /// `executable` none: the run has no agents.
    pub fn new(directory: &Path, executable: Option<PathBuf>) -> Agents {
        Agents {
            executable,
            ca: directory.join("ca"),
            homes: BTreeMap::new(),
            events: false,
        }
    }

    pub fn exist(&self) -> bool {
        self.executable.is_some()
    }

    /// The agent's program.
    pub fn executable(&self) -> Option<&Path> {
        self.executable.as_deref()
    }

    /// Finds `host-agent`: what was asked for, `LAB_AGENT`, beside the lab's own executable, on the path.
    pub fn find(asked: Option<&Path>) -> Option<PathBuf> {
        if let Some(asked) = asked {
            // Programs start in directories of their own.
            return Some(asked.canonicalize().unwrap_or_else(|_| asked.to_owned()));
        }
        let named = std::env::var_os("LAB_AGENT").map(PathBuf::from);
        let own = std::env::current_exe().ok();
        let beside = own
            .as_deref()
            .and_then(Path::parent)
            .map(|directory| directory.join("host-agent"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path).map(|directory| directory.join("host-agent"));
        named
            .into_iter()
            .chain(beside)
            .chain(installed)
            .find(|candidate| candidate.is_file())
    }

    /// Makes a host ready for an agent: certificate, directories, configuration.
    pub fn prepare(
        &mut self,
        station: &Station,
        settings: &BTreeMap<String, String>,
        servers: &Servers,
    ) -> Result<(), MachineError> {
        let Some(executable) = &self.executable else {
            return Ok(());
        };
        let home = Home {
            directory: station.directory.join("agent"),
            settings: settings.clone(),
            starts: 0,
        };
        let bpf = home.directory.join("bpf");
        for directory in [&self.ca, &home.directory, &home.directory.join("state"), &bpf] {
            std::fs::create_dir_all(directory)
                .map_err(MachineError::io(format!("create {}", directory.display())))?;
        }
        mount_bpf(&bpf)?;
        let identity = home.directory.join("identity");
        let ca = if servers.are_none() {
            let mut init = Command::new(executable);
            init.arg("init")
                .arg("--ca")
                .arg(&self.ca)
                .arg("--identity")
                .arg(&identity)
                .arg("--name")
                .arg(&station.name);
            command::run(&mut init, "")?;
            self.ca.clone()
        } else {
            servers.enrol(station, executable, &identity)?;
            identity.clone()
        };
        let mut text = config(station, &home, &ca, &identity);
        if !servers.are_none() && !settings.contains_key("servers") {
            // In front of the first table.
            text = format!("servers = {:?}\n{text}", servers.urls());
        }
        std::fs::write(home.config(), text).map_err(MachineError::io("write an agent's configuration"))?;
        self.homes.insert(station.name.clone(), home);
        Ok(())
    }

    /// Starts the agent of a host and returns once it says that it is ready.
    pub fn start(&mut self, station: &Station, programs: &mut Programs, slow: f64) -> Result<(), String> {
        let Some(executable) = self.executable.clone() else {
            return Ok(());
        };
        let home = self
            .homes
            .get_mut(&station.name)
            .ok_or_else(|| format!("{} has no agent", station.name))?;
        home.starts += 1;
        let name = program_name(&station.name, home.starts);
        let socket = home.directory.join(format!("ready-{}", home.starts));
        let ready =
            UnixDatagram::bind(&socket).map_err(|error| format!("cannot listen for readiness: {error}"))?;
        let mut command = Command::new(executable);
        command
            .arg("run")
            .arg("--config")
            .arg(home.config())
            .env("NOTIFY_SOCKET", &socket);
        let what = "agent started".to_owned();
        let launch = Launch {
            name: name.clone(),
            what,
            command,
            reports: false,
            stands: true,
            connections: 0,
        };
        let begun = Instant::now();
        programs.launch(station, launch)?;
        wait_until_ready(&ready, programs, &name, begun + READY.mul_f64(slow))?;
        let time = begun.elapsed().as_secs_f64() * 1e3;
        programs
            .timeline
            .note(&station.name, format!("agent is ready ({time:.0} ms)"));
        if self.events {
            self.follow(station, &name, &programs.timeline)?;
        }
        Ok(())
    }

    /// Puts what an agent tells on the timeline until it ends.
    fn follow(&self, station: &Station, name: &str, timeline: &Timeline) -> Result<(), String> {
        let (Some(executable), Some(home)) = (&self.executable, self.homes.get(&station.name)) else {
            return Ok(());
        };
        let mut question = Command::new(executable);
        question
            .args(["events", "--follow", "--json", "--control-socket"])
            .arg(home.control_socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = question
            .spawn()
            .map_err(|error| format!("cannot ask {name} for events: {error}"))?;
        let (name, timeline) = (name.to_owned(), timeline.clone());
        std::thread::spawn(move || {
            let out = child.stdout.take().into_iter();
            let lines = out
                .flat_map(|out| BufReader::new(out).lines())
                .map_while(Result::ok);
            let parsed = lines.filter_map(|line| serde_json::from_str::<Value>(&line).ok());
            for event in parsed {
                let field = |key: &str| event[key].as_str().unwrap_or_default();
                let said = format!("{}  {}  {}", field("what"), field("detail"), field("connection"));
                timeline.note(&name, said.trim_end());
            }
            let _ = child.wait();
        });
        Ok(())
    }

    /// The program that is the agent of this host now.
    pub fn program(&self, host: &str) -> Option<String> {
        self.homes
            .get(host)
            .filter(|home| home.starts > 0)
            .map(|home| program_name(host, home.starts))
    }

    /// Runs a command of the agent's program at the agent of a host.
    pub fn tell(&self, host: &str, words: &[String]) -> Result<String, String> {
        let executable = self.executable.as_ref().ok_or("this run has no agents")?;
        let home = self
            .homes
            .get(host)
            .ok_or_else(|| format!("{host} has no agent"))?;
        let mut command = Command::new(executable);
        command
            .args(words)
            .arg("--control-socket")
            .arg(home.control_socket());
        command::run(&mut command, "").map_err(|error| error.to_string())
    }

    /// Asks an agent for one of its lists.
    pub fn ask(&self, host: &str, list: AgentList) -> Answer {
        let executable = self.executable.as_ref().ok_or("this run has no agents")?;
        let home = self
            .homes
            .get(host)
            .ok_or_else(|| format!("{host} has no agent"))?;
        let word = match list {
            AgentList::Connections => "connections",
            AgentList::Pairs => "pairs",
            AgentList::Status => "status",
        };
        let mut question = Command::new(executable);
        question
            .arg(word)
            .arg("--json")
            .arg("--control-socket")
            .arg(home.control_socket());
        let text = command::run(&mut question, "").map_err(|error| error.to_string())?;
        let parsed: Value =
            serde_json::from_str(&text).map_err(|error| format!("{word} is not JSON: {error}"))?;
        Ok(entries(parsed, word))
    }

    /// Everything the agents can say about themselves, for the artifacts.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (host, home) in &self.homes {
            all.push((
                format!("{host}.toml"),
                std::fs::read_to_string(home.config()).unwrap_or_default(),
            ));
            for (list, word) in [
                (AgentList::Status, "status"),
                (AgentList::Connections, "connections"),
                (AgentList::Pairs, "pairs"),
            ] {
                let text = match self.ask(host, list) {
                    Ok(entries) => serde_json::to_string_pretty(&entries).unwrap_or_default(),
                    Err(reason) => reason,
                };
                all.push((format!("{host}.{word}.json"), text));
            }
        }
        all
    }
}

/// A list, the list inside an object, or the object as the only entry.
pub fn entries(parsed: Value, word: &str) -> Vec<Value> {
    match parsed {
        Value::Array(entries) => entries,
        Value::Object(mut object) => match object.remove(word) {
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                object.insert(word.to_owned(), other);
                vec![Value::Object(object)]
            }
            None => vec![Value::Object(object)],
        },
        other => vec![other],
    }
}

fn program_name(host: &str, starts: u32) -> String {
    if starts == 1 {
        format!("{host}-agent")
    } else {
        format!("{host}-agent-{starts}")
    }
}

/// sd_notify: waits for `READY=1`, or until the agent has ended or the time is over.
pub fn wait_until_ready(
    ready: &UnixDatagram,
    programs: &Programs,
    name: &str,
    deadline: Instant,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot listen for readiness: {error}");
    // Wakes now and then to see whether the agent still runs.
    ready
        .set_read_timeout(Some(Duration::from_millis(50)))
        .map_err(failed)?;
    let mut buffer = [0; 4096];
    loop {
        if let Ok(length) = ready.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            if text.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
        let state = programs.board.lock();
        if let Some(signal) = state.interrupted {
            return Err(format!("interrupted by {signal}"));
        }
        let Some(program) = state.programs.get(name) else {
            continue;
        };
        if program.has_ended() {
            return Err(format!(
                "{name} ended before it was ready; it said:\n{}",
                program.output.trim_end()
            ));
        }
        if Instant::now() > deadline {
            return Err(format!(
                "{name} is not ready in time; it said:\n{}",
                program.output.trim_end()
            ));
        }
    }
}

/// The agent's configuration file.
fn config(station: &Station, home: &Home, ca: &Path, identity: &Path) -> String {
    let path = |path: &Path| toml::Value::String(path.display().to_string());
    let mut table = toml::Table::new();
    table.insert("cgroup".into(), path(&station.cgroup));
    table.insert("state_dir".into(), path(&home.directory.join("state")));
    table.insert("pin_dir".into(), path(&home.directory.join("bpf")));
    table.insert("control_socket".into(), path(&home.control_socket()));
    table.insert("agent_port".into(), toml::Value::Integer(i64::from(AGENT_PORT)));
    table.insert("identity".into(), path(identity));
    table.insert("resolv_conf".into(), path(&station.resolv_conf()));
    table.insert("log".into(), toml::Value::String("info".into()));
    let trust = toml::Table::from_iter([("ca".to_owned(), path(&ca.join("ca.pem")))]);
    table.insert("trust".into(), toml::Value::Table(trust));
    for (key, value) in &home.settings {
        insert(&mut table, key, read_value(value));
    }
    toml::to_string(&table).unwrap_or_default()
}

/// `a.b=1` goes into the table `a`.
pub fn insert(table: &mut toml::Table, key: &str, value: toml::Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_owned(), value);
        }
        Some((first, rest)) => {
            let inner = table
                .entry(first)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            if let toml::Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// What reads as TOML is TOML (numbers, lists, tables); everything else is a string.
pub fn read_value(text: &str) -> toml::Value {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"));
    parsed
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

/// A BPF file system of the agent's own: pins vanish with the run.
pub(crate) fn mount_bpf(directory: &Path) -> Result<(), MachineError> {
    nix::mount::mount(
        Some("bpf"),
        directory,
        Some("bpf"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .map_err(MachineError::io(format!(
        "mount a BPF file system at {}",
        directory.display()
    )))
}
