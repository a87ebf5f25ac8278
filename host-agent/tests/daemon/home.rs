//! An agent's files, and the agent itself while it runs.

use std::fs::File;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::place::{Host, run, until_within};

/// How long an agent may need until it is ready or has given up.
const START: Duration = Duration::from_secs(20);

/// Where an agent keeps its things.
pub struct Home {
    directory: TempDir,
    cgroup: PathBuf,
    pin_dir: PathBuf,
}

impl Home {
    /// On a host with nothing but its loopback device and an address on it that is no loopback address.
    pub fn on(host: &Host) -> Home {
        host.enter();
        run("ip link set lo up");
        let home = Home {
            directory: tempfile::tempdir().expect("a directory"),
            cgroup: host.cgroup.clone(),
            pin_dir: host.pin_dir.clone(),
        };
        identity::init_host(&home.path("ca"), &home.path("identity"), "agent").expect("a certificate");
        home.configure("");
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the configuration; `more` comes first and may hold any key that is not about places.
    pub fn configure(&self, more: &str) {
        let trust = match more.contains("trust") {
            true => String::new(),
            false => format!("[trust]\nca = {:?}\n", self.path("ca/ca.pem")),
        };
        let places = [
            ("state_dir", self.path("state")),
            ("pin_dir", self.pin_dir.clone()),
            ("control_socket", self.path("control.sock")),
        ];
        let places: String = places
            .iter()
            .map(|(key, path)| format!("{key} = {path:?}\n"))
            .collect();
        let mut optional = String::new();
        for (key, path) in [
            ("cgroup", self.cgroup.clone()),
            ("identity", self.path("identity")),
        ] {
            if !more.lines().any(|line| line.starts_with(key)) {
                optional.push_str(&format!("{key} = {path:?}\n"));
            }
        }
        std::fs::write(
            self.path("agent.toml"),
            format!("{places}{optional}{more}\n{trust}"),
        )
        .expect("a file");
    }

    /// One of the program's commands with this configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_host-agent"));
        command
            .arg("--config")
            .arg(self.path("agent.toml"))
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub fn ask(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }

    /// Runs an agent that cannot start; what it says about it.
    ///
    /// # Panics
    /// When it starts, or does neither.
    pub fn fails_to_start(&self) -> String {
        self.fails(self.command(&["run"]))
    }

    pub fn fails(&self, mut command: Command) -> String {
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        let mut child = Killed(child);
        let mut status = None;
        until_within(START, "the agent gives up", || {
            status = child.0.try_wait().expect("a child");
            status.is_some()
        });
        assert!(
            !status.expect("it ended").success(),
            "it ended as if all were well"
        );
        let mut said = String::new();
        let stderr = child.0.stderr.as_mut().expect("a pipe");
        std::io::Read::read_to_string(stderr, &mut said).expect("text");
        assert!(
            !self.path("control.sock").exists(),
            "a control socket is left: {said}"
        );
        assert!(!said.contains("panicked"), "{said}");
        said
    }

    /// Starts an agent and returns once it says that it is ready.
    pub fn start(&self) -> Agent<'_> {
        let notify = self.path("notify");
        let _ = std::fs::remove_file(&notify);
        let ready = UnixDatagram::bind(&notify).expect("a socket");
        ready
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a timeout");
        let log = File::create(self.path("log")).expect("a file");
        let child = self
            .command(&["run"])
            .env("NOTIFY_SOCKET", &notify)
            .stderr(log)
            .spawn()
            .expect("the program");
        let mut agent = Agent {
            child: Killed(child),
            home: self,
        };
        let deadline = Instant::now() + START;
        let mut said = [0; 64];
        loop {
            match ready.recv(&mut said) {
                Ok(length) if said[..length].starts_with(b"READY=1") => return agent,
                _ => assert!(
                    agent.is_running() && Instant::now() < deadline,
                    "not ready: {}",
                    self.log()
                ),
            }
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca")
    }
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running agent.
pub struct Agent<'a> {
    child: Killed,
    home: &'a Home,
}

impl Agent<'_> {
    pub fn is_running(&mut self) -> bool {
        self.child.0.try_wait().expect("a child").is_none()
    }

    /// What `status --json` says.
    pub fn status(&self) -> Value {
        let output = self.home.ask(&["status", "--json"]);
        assert!(
            output.status.success(),
            "{}{}",
            String::from_utf8_lossy(&output.stderr),
            self.home.log()
        );
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub fn counter(&self, name: &str) -> u64 {
        self.status()["counters"][name].as_u64().unwrap_or(0)
    }

    /// Awaits that something was counted.
    pub fn counts(&self, name: &str, least: u64) {
        until_within(
            Duration::from_secs(10),
            &format!("{least} x {name}\n{}", self.home.log()),
            || self.counter(name) >= least,
        );
    }

    /// Asks it to end, and how it did.
    pub fn stop(mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.child.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        self.child.0.wait().expect("it ends").success()
    }
}

/// Whether there is a network device of that name here.
pub fn has_device(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

/// What is pinned there.
pub fn pinned(directory: &Path) -> usize {
    std::fs::read_dir(directory).map_or(0, Iterator::count)
}
