//! The mobility servers of a run: one deployment, whose first server made the authority.
//!
//! Everything the lab knows about `mobility-server` is in this file: its command line and the keys of its
//! configuration.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::agents::{Answer, entries, insert, read_value, wait_until_ready};
use crate::language::ast::{ServerList, ServerStart};
use crate::machine::{MachineError, Station, command, spawn};
use crate::story::programs::{Launch, Programs};

/// Where servers listen.
pub const SERVER_PORT: u16 = 7800;
/// Its second port, on which agents see what their NAPT makes of a port.
const OTHER_PORT: u16 = 7802;
/// How long a server may need until it is ready.
const READY: Duration = Duration::from_secs(20);

/// The servers of a run, in the order of the file.
pub struct Servers {
    executable: Option<PathBuf>,
    authority: PathBuf,
    homes: Vec<Home>,
}

/// Where one server keeps its things.
struct Home {
    name: String,
    host: String,
    directory: PathBuf,
    url: String,
    dead: bool,
    /// Where it sends the agents, in place of the server.
    lies: Option<IpAddr>,
    /// How often it was started: every start has a program name of its own.
    starts: u32,
}

impl Home {
    fn config(&self) -> PathBuf {
        self.directory.join("server.toml")
    }
}

impl Servers {
    /// `agent`: the agents' program, beside which the server's is; none: the run has neither.
    pub fn new(directory: &Path, agent: Option<&Path>) -> Servers {
        Servers {
            executable: agent.and_then(find),
            authority: directory.join("ca"),
            homes: Vec::new(),
        }
    }

    /// For runs that have none.
    pub fn none() -> Servers {
        Servers::new(Path::new(""), None)
    }

    /// Whether the run has none.
    pub fn are_none(&self) -> bool {
        self.homes.is_empty()
    }

    /// Where agents find them.
    pub fn urls(&self) -> Vec<&str> {
        self.homes.iter().map(|home| home.url.as_str()).collect()
    }

    /// The host of a server.
    pub fn host_of(&self, server: &str) -> Option<String> {
        self.home(server).map(|home| home.host.clone())
    }

    /// The program that is this server now.
    pub fn program(&self, server: &str) -> Option<String> {
        self.home(server)
            .filter(|home| home.starts > 0)
            .map(|home| program_name(server, home.starts))
    }

    fn home(&self, server: &str) -> Option<&Home> {
        self.homes.iter().find(|home| home.name == server)
    }
}

fn program_name(server: &str, starts: u32) -> String {
    match starts {
        1 => server.to_owned(),
        _ => format!("{server}-{starts}"),
    }
}

/// The server that lies is an example of the server's crate: `cargo test` builds it, and `cargo build --examples`.
fn liar(server: &Path) -> Result<PathBuf, String> {
    let path = server.with_file_name("examples").join("lying_server");
    match path.is_file() {
        true => Ok(path),
        false => Err(format!(
            "{} is not built: cargo build -p mobility-server --examples",
            path.display()
        )),
    }
}

/// `LAB_SERVER`, beside the agent, beside the lab's own executable, on the path.
fn find(agent: &Path) -> Option<PathBuf> {
    const NAME: &str = "mobility-server";
    let named = std::env::var_os("LAB_SERVER").map(PathBuf::from);
    let beside = agent.parent().map(|directory| directory.join(NAME));
    let own = std::env::current_exe().ok();
    let own = own
        .as_deref()
        .and_then(Path::parent)
        .map(|directory| directory.join(NAME));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).map(|directory| directory.join(NAME));
    named
        .into_iter()
        .chain(beside)
        .chain(own)
        .chain(installed)
        .find(|candidate| candidate.is_file())
}

impl Servers {
    /// Makes a host ready for a server: the deployment's authority if it is the first, a certificate with the host's
    /// addresses, directories, configuration.
    pub fn prepare(
        &mut self,
        server: &ServerStart,
        station: &Station,
        addresses: &[IpAddr],
        redis: &[String],
    ) -> Result<(), String> {
        let Some(executable) = &self.executable else {
            return Err("mobility-server is not built: build it, or run with --no-agents".to_owned());
        };
        let Some(first) = addresses.first() else {
            return Err(format!("{} has no address for {}", server.host, server.name));
        };
        let url = match first {
            IpAddr::V4(v4) => format!("https://{v4}:{SERVER_PORT}"),
            IpAddr::V6(v6) => format!("https://[{v6}]:{SERVER_PORT}"),
        };
        let home = Home {
            name: server.name.text.clone(),
            host: server.host.text.clone(),
            directory: station.directory.join(format!("server-{}", server.name)),
            url,
            dead: server.dead,
            lies: server.lies,
            starts: 0,
        };
        std::fs::create_dir_all(&home.directory)
            .map_err(|error| format!("cannot create {}: {error}", home.directory.display()))?;
        std::fs::write(
            home.config(),
            config(&home, &self.authority, &server.settings, redis),
        )
        .map_err(|error| format!("cannot write a server's configuration: {error}"))?;
        let mut init = Command::new(executable);
        init.arg("init").arg("--config").arg(home.config());
        if !self.homes.is_empty() {
            init.arg("--join");
        }
        for address in addresses {
            init.arg("--name").arg(address.to_string());
        }
        // In the host's network: the store of the first token may be a cluster there.
        spawn::run(station, &mut init).map_err(|error| error.to_string())?;
        self.homes.push(home);
        Ok(())
    }

    /// Starts a server and returns once it says that it is ready.
    pub fn start(
        &mut self,
        server: &str,
        station: &Station,
        programs: &mut Programs,
        slow: f64,
    ) -> Result<(), String> {
        let executable = self.executable.clone().ok_or("mobility-server is not built")?;
        let home = self
            .homes
            .iter_mut()
            .find(|home| home.name == server)
            .ok_or_else(|| format!("there is no server {server}"))?;
        home.starts += 1;
        let name = program_name(server, home.starts);
        let socket = home.directory.join(format!("ready-{}", home.starts));
        let ready =
            UnixDatagram::bind(&socket).map_err(|error| format!("cannot listen for readiness: {error}"))?;
        let mut command = match home.lies {
            None => {
                let mut command = Command::new(executable);
                command.arg("run").arg("--config").arg(home.config());
                command
            }
            Some(victim) => {
                let mut command = Command::new(liar(&executable)?);
                command.arg(home.config()).arg(victim.to_string());
                command
            }
        };
        command.env("NOTIFY_SOCKET", &socket);
        let launch = Launch {
            name: name.clone(),
            what: match home.lies {
                None => "mobility server started".to_owned(),
                Some(victim) => format!("a server that sends everybody to {victim} started"),
            },
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
            .note(&station.name, format!("{server} is ready ({time:.0} ms)"));
        Ok(())
    }

    /// A token for a member in this role, and the URL of the server that takes it; none: no server runs.
    pub fn token(&self, name: &str, role: &str) -> Result<Option<(String, &str)>, MachineError> {
        let running = self.homes.iter().find(|home| !home.dead && home.lies.is_none());
        let (Some(executable), Some(home)) = (&self.executable, running) else {
            return Ok(None);
        };
        let mut token = Command::new(executable);
        token
            .args([
                "enroll-token",
                "--json",
                "--name",
                name,
                "--role",
                role,
                "--config",
            ])
            .arg(home.config());
        let told = command::run(&mut token, "")?;
        let parsed = serde_json::from_str::<serde_json::Value>(&told).ok();
        let token = parsed
            .as_ref()
            .and_then(|told| told["token"].as_str().or(told.as_str()))
            .unwrap_or(told.trim());
        Ok(Some((token.to_owned(), home.url.as_str())))
    }

    /// Enrols a host at the first server that runs, with a token of its own.
    pub fn enrol(&self, station: &Station, agent: &Path, identity: &Path) -> Result<(), MachineError> {
        let Some((token, url)) = self.token(&station.name, "agent")? else {
            return Ok(());
        };
        let mut enrol = Command::new(agent);
        enrol
            .args(["enroll", "--server", url, "--token", &token])
            .args(["--name", &station.name, "--identity"])
            .arg(identity);
        spawn::run(station, &mut enrol).map(drop)
    }

    /// Asks a running server: `revoke`, for instance.
    pub fn tell(&self, server: &str, words: &[String]) -> Result<String, String> {
        let (Some(executable), Some(home)) = (&self.executable, self.home(server)) else {
            return Err(format!("there is no server {server}"));
        };
        let mut command = Command::new(executable);
        command.args(words).arg("--config").arg(home.config());
        command::run(&mut command, "").map_err(|error| error.to_string())
    }

    /// Asks a server for one of its lists.
    ///
    /// # Errors
    /// It does not run.
    pub fn ask(&self, server: &str, list: ServerList) -> Answer {
        let text = self.tell(server, &[list.word().to_owned(), "--json".to_owned()])?;
        let parsed =
            serde_json::from_str(&text).map_err(|error| format!("{} is not JSON: {error}", list.word()))?;
        Ok(entries(parsed, list.word()))
    }

    /// What the servers say about themselves, for the artifacts.
    pub fn describe(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for home in &self.homes {
            let config = std::fs::read_to_string(home.config()).unwrap_or_default();
            all.push((format!("{}.toml", home.name), config));
            for word in ["status", "agents", "pairs", "relays", "sessions"] {
                let words = [word.to_owned(), "--json".to_owned()];
                let said = self.tell(&home.name, &words).unwrap_or_else(|reason| reason);
                all.push((format!("{}.{word}.json", home.name), said));
            }
        }
        all
    }
}

/// A server's configuration file.
fn config(home: &Home, authority: &Path, settings: &BTreeMap<String, String>, redis: &[String]) -> String {
    let path = |path: PathBuf| toml::Value::String(path.display().to_string());
    let mut table = toml::Table::new();
    // Both families.
    let listen = [SERVER_PORT, OTHER_PORT].map(|port| toml::Value::String(format!("[::]:{port}")));
    table.insert("listen".into(), toml::Value::Array(listen.to_vec()));
    table.insert(
        "servers".into(),
        toml::Value::Array(vec![home.url.clone().into()]),
    );
    table.insert("authority".into(), path(authority.to_owned()));
    table.insert("identity".into(), path(home.directory.join("identity")));
    table.insert("state_dir".into(), path(home.directory.join("state")));
    table.insert("control_socket".into(), path(home.directory.join("control")));
    table.insert("log".into(), "info".into());
    for (key, value) in settings {
        insert(&mut table, key, read_value(value));
    }
    if settings
        .get("store.backend")
        .is_some_and(|backend| backend == "redis")
        && !settings.contains_key("store.redis")
    {
        let nodes = redis.iter().cloned().map(toml::Value::String).collect();
        insert(&mut table, "store.redis", toml::Value::Array(nodes));
    }
    toml::to_string(&table).unwrap_or_default()
}
