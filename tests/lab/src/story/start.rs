//! Starting what a line starts, and waiting for what it says about its end.
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::judge::matches;
use super::programs::{Launch, conversation, socket_options};
use super::run::Stage;
use crate::apps::stream::Stream;
use crate::apps::{App, dialog};
use crate::language::ast::*;
use crate::language::units;
use crate::machine::{Station, command, netns};

/// How long a server may need until it listens, and a command until it ends, if its line does not say.
pub const LISTENING: Duration = Duration::from_secs(10);
const COMMAND: Duration = Duration::from_secs(30);

impl Stage {
    pub fn start(&mut self, start: &ProgramStart) -> Result<(), String> {
        let station = self.network.station(&start.host.text)?.clone();
        let name = start.name.text.as_str();
        let (launch, port) = match &start.program {
            Program::Talk(talk) => {
                let address = self.address(talk)?;
                let app = conversation(talk, address, self.seed);
                (self.programs.application(name, describe(talk), &app)?, None)
            }
            Program::Serve { port, options } => {
                let app = App::Serve {
                    port: *port,
                    options: socket_options(options),
                };
                (
                    self.programs
                        .application(name, format!("serve port={port}"), &app)?,
                    Some(*port),
                )
            }
            Program::Httpd { directory, port } => {
                let directory = directory
                    .as_ref()
                    .map(|directory| self.fill_in(directory, &station).into());
                let app = App::Httpd {
                    port: *port,
                    directory,
                };
                (
                    self.programs
                        .application(name, format!("httpd port={port}"), &app)?,
                    Some(*port),
                )
            }
            Program::Sshd { port } => (standing(name, "sshd", self.sshd(*port)?), Some(*port)),
            Program::Iperf3d { port } => {
                let mut command = Command::new("iperf3");
                command.args(["-s", "-p", &port.to_string(), "--forceflush"]);
                (standing(name, "iperf3d", command), Some(*port))
            }
            Program::Ssh {
                to,
                port,
                ipv6,
                command,
            } => {
                let address = self.node_address(&to.text, *ipv6)?;
                let words: Vec<String> = command.iter().map(|word| self.fill_in(word, &station)).collect();
                (
                    visiting(name, format!("ssh {to}"), self.ssh(address, *port, &words)),
                    None,
                )
            }
            Program::Dialog(script) => {
                let script = self.fill_in(script, &station);
                let port = dialog::listens(&dialog::read(&script)?);
                let what = format!("dialog {script}");
                let app = App::Dialog { script };
                (self.programs.application(name, what, &app)?, port)
            }
            Program::Exec(words) => {
                let words: Vec<String> = words.iter().map(|word| self.fill_in(word, &station)).collect();
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]);
                (visiting(name, words.join(" "), command), None)
            }
        };
        self.programs.launch(&station, launch)?;
        if let Some(port) = port {
            self.listening(&station, name, port)?;
        }
        match &start.outcome {
            Some(outcome) => self.outcome(&station, name, outcome),
            None => Ok(()),
        }
    }

    /// Waits for the end of a program and compares it with what its line expects.
    fn outcome(&self, station: &Station, name: &str, outcome: &Outcome) -> Result<(), String> {
        self.ended(name, outcome.within.unwrap_or(COMMAND))?;
        let state = self.board.lock();
        let Some(program) = state.programs.get(name) else {
            return Err(format!("{name} is not known"));
        };
        let said = || {
            format!(
                "{name} ended with exit={}; its output:\n{}",
                program.exit.unwrap_or(-1),
                program.output.trim_end()
            )
        };
        if outcome.exit.is_some() && program.exit != outcome.exit {
            return Err(said());
        }
        for pattern in &outcome.output {
            let pattern = self.fill_in(pattern, station);
            if !matches(&pattern, &program.output) {
                return Err(format!("no match for {pattern:?}: {}", said()));
            }
        }
        drop(state);
        self.board.program(name, |program| program.expected = true);
        Ok(())
    }

    pub fn ended(&self, name: &str, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit.mul_f64(self.slow);
        let mut state = self.board.lock();
        loop {
            if let Some(signal) = state.interrupted {
                return Err(format!("interrupted by {signal}"));
            }
            if state.programs.get(name).is_none_or(|program| program.has_ended()) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "{name} has not ended within {}",
                    units::show_duration(limit)
                ));
            }
            state = self.board.wait(state, deadline);
        }
    }

    /// Waits until somebody listens on a port in the station's namespace.
    pub fn listening(&self, station: &Station, name: &str, port: u16) -> Result<(), String> {
        let deadline = Instant::now() + LISTENING.mul_f64(self.slow);
        loop {
            if netns::is_listening(&station.netns, port).map_err(|error| error.to_string())? {
                return Ok(());
            }
            let state = self.board.lock();
            if let Some(program) = state.programs.get(name).filter(|program| program.has_ended()) {
                return Err(format!(
                    "{name} ended instead of listening; it said:\n{}",
                    program.output.trim_end()
                ));
            }
            if Instant::now() > deadline {
                return Err(format!("{name} does not listen on port {port}"));
            }
            drop(self.board.wait(state, Instant::now() + Duration::from_millis(10)));
        }
    }

    fn address(&self, talk: &Talk) -> Result<IpAddr, String> {
        match talk.address {
            Some(address) => Ok(address),
            None => self.node_address(&talk.to.text, talk.ipv6),
        }
    }

    fn node_address(&self, node: &str, ipv6: bool) -> Result<IpAddr, String> {
        let now = self.network.address_now(node, ipv6);
        now.or_else(|| self.network.scenario.address_of(node, ipv6))
            .ok_or_else(|| format!("{node} has no IPv{} address", if ipv6 { 6 } else { 4 }))
    }

    /// Replaces `{server}` and its like; see docs/scenarios.md.
    pub fn fill_in(&self, text: &str, station: &Station) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            filled += &rest[..open];
            let replaced = rest[open..].find('}').and_then(|length| {
                let word = &rest[open + 1..open + length];
                self.placeholder(word, station)
                    .map(|value| (value, open + length + 1))
            });
            match replaced {
                Some((value, after)) => {
                    filled += &value;
                    rest = &rest[after..];
                }
                None => {
                    filled.push('{');
                    rest = &rest[open + 1..];
                }
            }
        }
        filled + rest
    }

    fn placeholder(&self, word: &str, station: &Station) -> Option<String> {
        match word {
            "dir" => return Some(station.directory.display().to_string()),
            "seed" => return Some(self.seed.to_string()),
            _ => {}
        }
        if let Some(rest) = word.strip_prefix("sha256:") {
            let (size, seed) = rest.split_once(':').unwrap_or((rest, "0"));
            let mut digest = HashWriter(Sha256::new());
            Stream::new(seed.parse().ok()?)
                .write_to(units::size(size)?, &mut digest)
                .ok()?;
            return Some(hex::encode(digest.0.finalize()));
        }
        let (node, part) = word.split_once('.').unwrap_or((word, ""));
        let there = self.network.stations.get(node)?;
        match part {
            "" => self
                .node_address(node, false)
                .ok()
                .map(|address| address.to_string()),
            "6" => self
                .node_address(node, true)
                .ok()
                .map(|address| address.to_string()),
            "netns" => Some(there.netns.clone()),
            "cgroup" => Some(there.cgroup.display().to_string()),
            "dir" => Some(there.directory.display().to_string()),
            "agent" => self.agents.command(node),
            "relay" => self.relays.command(node),
            _ => None,
        }
    }

    /// An SSH server that lets root in with the run's key.
    fn sshd(&self, port: u16) -> Result<Command, String> {
        let keys = self.keys()?;
        // The daemon refuses to start without it; its package's service makes it at boot.
        std::fs::create_dir_all("/run/sshd").map_err(|error| format!("cannot create /run/sshd: {error}"))?;
        let mut command = Command::new("/usr/sbin/sshd");
        command
            .args(["-D", "-e", "-f", "/dev/null", "-p", &port.to_string(), "-h"])
            .arg(keys.join("host"));
        for option in [
            "StrictModes=no",
            "UsePAM=no",
            "PidFile=none",
            "PermitRootLogin=prohibit-password",
        ] {
            command.args(["-o", option]);
        }
        command
            .arg("-o")
            .arg(format!("AuthorizedKeysFile={}", keys.join("user.pub").display()));
        Ok(command)
    }

    fn ssh(&self, address: IpAddr, port: u16, words: &[String]) -> Command {
        let keys = self.directory.join("ssh");
        let mut command = Command::new("ssh");
        command
            .args(["-F", "/dev/null", "-tt", "-p", &port.to_string(), "-i"])
            .arg(keys.join("user"));
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "IdentitiesOnly=yes",
            "LogLevel=ERROR",
        ] {
            command.args(["-o", option]);
        }
        command.arg(format!("root@{address}")).args(words);
        command
    }

    fn keys(&self) -> Result<std::path::PathBuf, String> {
        let keys = self.directory.join("ssh");
        if !keys.exists() {
            std::fs::create_dir_all(&keys)
                .map_err(|error| format!("cannot create {}: {error}", keys.display()))?;
            for name in ["host", "user"] {
                let mut command = Command::new("ssh-keygen");
                command
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
                    .arg(keys.join(name));
                command::run(&mut command, "").map_err(|error| error.to_string())?;
            }
        }
        Ok(keys)
    }
}

struct HashWriter(Sha256);

impl std::io::Write for HashWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn standing(name: &str, what: &str, command: Command) -> Launch {
    Launch {
        name: name.to_owned(),
        what: what.to_owned(),
        command,
        reports: false,
        stands: true,
        connections: 0,
    }
}

fn visiting(name: &str, what: String, command: Command) -> Launch {
    Launch {
        name: name.to_owned(),
        what,
        command,
        reports: false,
        stands: false,
        connections: 1,
    }
}

fn describe(talk: &Talk) -> String {
    let mut said = match talk.what {
        Talking::Fetch(bytes) => format!("fetch {} {}", talk.to, units::show_size(bytes)),
        Talking::Push(bytes) => format!("push {} {}", talk.to, units::show_size(bytes)),
        Talking::Exchange(bytes) => format!("exchange {} {}", talk.to, units::show_size(bytes)),
        Talking::Echo { every, .. } => format!("echo {} every {}", talk.to, units::show_duration(every)),
        Talking::Idle => format!("idle {}", talk.to),
        Talking::Visits(count) => format!("visits {} count={count}", talk.to),
    };
    if talk.connections > 1 {
        said += &format!(" connections={}", talk.connections);
    }
    said
}
