//! The MPTCP relays and symmetric proxies of a run: their configuration, readiness, orders and answers.
//!
//! Everything the lab knows about `mptcp-relay` and `symmetric-proxy` is in this file: its command line, the keys of its configuration, and
//! the shape of what `sessions`, `subflows` and `status` print with `--json`.
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agents::{Answer, entries, insert, mount_bpf, read_value, wait_until_ready};
use crate::language::ast::{RelayKind, RelayList};
use crate::machine::{Station, command, netns};
use crate::servers::Servers;
use crate::story::programs::{Launch, Programs};

/// How long a relay may need until it is ready.
const READY: Duration = Duration::from_secs(20);

/// The relays of a run by the name of their node.
#[derive(Default)]
pub struct Relays {
    homes: BTreeMap<String, Home>,
}

/// Where one relay keeps its things.
struct Home {
    kind: RelayKind,
    executable: PathBuf,
    netns: String,
    directory: PathBuf,
    /// How often it was started: every start has a program name of its own.
    starts: u32,
}

impl Home {
    fn config(&self) -> PathBuf {
        self.directory.join("relay.toml")
    }

    fn pins(&self) -> PathBuf {
        self.directory.join("bpf")
    }

    fn control_socket(&self) -> PathBuf {
        self.directory.join("control")
    }
}

impl Relays {
    /// Makes a router ready for a relay: directories and configuration.
    ///
    /// # Errors
    /// The program is not built, its files cannot be written, or no server enrols it.
    pub fn prepare(
        &mut self,
        station: &Station,
        kind: RelayKind,
        settings: &BTreeMap<String, String>,
        servers: &Servers,
    ) -> Result<(), String> {
        let name = program(kind);
        let executable = find(kind).ok_or_else(|| format!("{name} is not built: cargo build -p {name}"))?;
        let home = Home {
            kind,
            executable,
            netns: station.netns.clone(),
            directory: station.directory.join("relay"),
            starts: 0,
        };
        let failed = |error| format!("cannot make a relay's directory: {error}");
        std::fs::create_dir_all(home.directory.join("state")).map_err(failed)?;
        std::fs::write(home.config(), config(&home, settings)).map_err(failed)?;
        if kind == RelayKind::Symmetric {
            std::fs::create_dir_all(home.pins()).map_err(failed)?;
            mount_bpf(&home.pins()).map_err(|error| error.to_string())?;
        }
        let role = match kind {
            RelayKind::Mptcp => "relay",
            RelayKind::Symmetric => "proxy",
        };
        let token = servers
            .token(&station.name, role)
            .map_err(|error| error.to_string())?;
        match (token, kind) {
            (Some((token, url)), _) => enrol(&home, &station.name, url, &token)?,
            (None, RelayKind::Symmetric) => {
                return Err("a proxy needs a mobility server that runs".to_owned());
            }
            (None, RelayKind::Mptcp) => {}
        }
        self.homes.insert(station.name.clone(), home);
        Ok(())
    }

    /// Starts a relay and returns once it says that it is ready.
    ///
    /// # Errors
    /// It ends instead, or takes too long.
    pub fn start(&mut self, station: &Station, programs: &mut Programs, slow: f64) -> Result<(), String> {
        let home = self
            .homes
            .get_mut(&station.name)
            .ok_or_else(|| format!("{} is no relay", station.name))?;
        home.starts += 1;
        let name = program_name(&station.name, home.starts);
        let socket = home.directory.join(format!("ready-{}", home.starts));
        let ready =
            UnixDatagram::bind(&socket).map_err(|error| format!("cannot listen for readiness: {error}"))?;
        let mut command = Command::new(&home.executable);
        command
            .arg("run")
            .arg("--config")
            .arg(home.config())
            .env("NOTIFY_SOCKET", &socket);
        let launch = Launch {
            name: name.clone(),
            what: "relay started".to_owned(),
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
            .note(&station.name, format!("relay is ready ({time:.0} ms)"));
        Ok(())
    }

    /// The program that is the relay of this node now.
    pub fn program(&self, node: &str) -> Option<String> {
        self.homes
            .get(node)
            .filter(|home| home.starts > 0)
            .map(|home| program_name(node, home.starts))
    }

    /// The beginning of a command line for a relay's own program.
    pub fn command(&self, node: &str) -> Option<String> {
        let home = self.homes.get(node)?;
        let executable = &home.executable;
        Some(format!(
            "{} --config {}",
            executable.display(),
            home.config().display()
        ))
    }

    /// Asks a relay for one of its lists.
    ///
    /// # Errors
    /// It does not run.
    pub fn ask(&self, node: &str, list: RelayList) -> Answer {
        let text = self.tell(node, &[list.word(), "--json"])?;
        let parsed: Value =
            serde_json::from_str(&text).map_err(|error| format!("{} is not JSON: {error}", list.word()))?;
        Ok(entries(parsed, list.word()))
    }

    /// Runs a command of a relay in its node, and returns what it says.
    ///
    /// # Errors
    /// What the command says instead.
    pub fn tell(&self, node: &str, words: &[&str]) -> Result<String, String> {
        let home = self
            .homes
            .get(node)
            .ok_or_else(|| format!("{node} is no relay"))?;
        let mut question = Command::new(&home.executable);
        question.arg("--config").arg(home.config()).args(words);
        netns::inside(&home.netns, || command::run(&mut question, "")).map_err(|error| error.to_string())
    }

    /// Has every connection of a relay carry its data on the path with one of these addresses; none: on every path.
    ///
    /// # Errors
    /// It has no connection, or refuses.
    pub fn prefer(&self, node: &str, path: &[std::net::IpAddr]) -> Result<usize, String> {
        let mut told = 0;
        for session in self.ask(node, RelayList::Sessions)? {
            let terminal = session["terminal"].as_str().unwrap_or_default();
            let ipv6 = terminal.starts_with('[');
            let address = path.iter().find(|address| address.is_ipv6() == ipv6);
            let Some(token) = session["token"].as_str() else {
                continue;
            };
            let word = match (address, path.is_empty()) {
                (Some(address), _) => address.to_string(),
                (None, true) => "all".to_owned(),
                (None, false) => continue,
            };
            self.tell(node, &["prefer", token, &word])?;
            told += 1;
        }
        match told {
            0 => Err(format!("{node} relays nothing that has such a path")),
            _ => Ok(told),
        }
    }

    /// Everything relays say about themselves, for the artifacts.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (node, home) in &self.homes {
            let config = std::fs::read_to_string(home.config()).unwrap_or_default();
            all.push((format!("{node}.relay.toml"), config));
            let lists: &[RelayList] = match home.kind {
                RelayKind::Mptcp => &[RelayList::Status, RelayList::Sessions, RelayList::Subflows],
                RelayKind::Symmetric => &[RelayList::Status, RelayList::Relays],
            };
            for list in lists {
                let word = list.word();
                let said = self.tell(node, &[word, "--json"]).unwrap_or_else(|reason| reason);
                all.push((format!("{node}.relay.{word}.json"), said));
            }
        }
        all
    }
}

fn enrol(home: &Home, name: &str, url: &str, token: &str) -> Result<(), String> {
    let mut enrol = Command::new(&home.executable);
    enrol.args([
        "enroll", "--server", url, "--token", token, "--name", name, "--config",
    ]);
    enrol.arg(home.config());
    let done = netns::inside(&home.netns, || command::run(&mut enrol, ""));
    done.map(|_| ()).map_err(|error| error.to_string())
}

fn program_name(node: &str, starts: u32) -> String {
    match starts {
        1 => format!("{node}-relay"),
        _ => format!("{node}-relay-{starts}"),
    }
}

/// The program.
fn program(kind: RelayKind) -> &'static str {
    match kind {
        RelayKind::Mptcp => "mptcp-relay",
        RelayKind::Symmetric => "symmetric-proxy",
    }
}

/// `LAB_RELAY` or `LAB_PROXY`, beside the lab's own executable, on the path.
fn find(kind: RelayKind) -> Option<PathBuf> {
    let name = program(kind);
    let named = std::env::var_os(match kind {
        RelayKind::Mptcp => "LAB_RELAY",
        RelayKind::Symmetric => "LAB_PROXY",
    });
    let named = named.map(PathBuf::from);
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(std::path::Path::parent)
        .map(|directory| directory.join(name));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|directory| directory.join(name));
    named
        .into_iter()
        .chain(beside)
        .chain(installed)
        .find(|candidate| candidate.is_file())
}

/// A relay's configuration file.
fn config(home: &Home, settings: &BTreeMap<String, String>) -> String {
    let path = |path: PathBuf| toml::Value::String(path.display().to_string());
    let mut table = toml::Table::new();
    table.insert("control_socket".into(), path(home.control_socket()));
    match home.kind {
        RelayKind::Mptcp => {
            table.insert("state_dir".into(), path(home.directory.join("state")));
            table.insert("identity".into(), path(home.directory.join("identity")));
            table.insert("log".into(), "mptcp_relay=debug,info".into());
        }
        RelayKind::Symmetric => {
            table.insert("identity".into(), path(home.directory.join("identity")));
            table.insert("pin_dir".into(), path(home.pins()));
            table.insert("log".into(), "symmetric_proxy=debug,info".into());
            // The addresses of stories are those of no public network.
            table.insert("refuse".into(), toml::Value::Array(vec!["127.0.0.0/8".into()]));
        }
    }
    for (key, value) in settings {
        insert(&mut table, key, read_value(value));
    }
    toml::to_string(&table).unwrap_or_default()
}
