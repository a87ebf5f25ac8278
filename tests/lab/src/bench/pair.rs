//! The two programs at the ends of a set of connections, and what they are told.
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{short, traffic};
use crate::machine::{Station, spawn};

/// What a process of the bench is asked to be (`lab bench-program JSON`).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    Traffic(traffic::Description),
    Short(short::Description),
}

/// Is one of the bench's programs until standard input ends.
///
/// # Errors
/// The description cannot be read, or the program cannot begin.
pub fn be(description: &str) -> Result<(), String> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let program = serde_json::from_str(description).map_err(|error| format!("not a program: {error}"))?;
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A refusal shows when a connection cannot be opened.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    match program {
        Program::Traffic(description) => traffic::run(description),
        Program::Short(description) => short::run(&description),
    }
}

/// One running program.
pub struct End {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    name: String,
}

impl End {
    /// Starts a program and waits until it is ready. It ends with the calling thread.
    ///
    /// # Errors
    /// It cannot begin.
    pub fn start(station: &Station, program: &Program) -> Result<End, String> {
        let executable = std::env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
        let description = serde_json::to_string(program).map_err(|error| error.to_string())?;
        let mut command = Command::new(executable);
        command
            .arg("bench-program")
            .arg(description)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spawn::spawn(station, &mut command).map_err(|error| error.to_string())?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err("a program was started without pipes".into());
        };
        let mut end = End {
            child,
            input,
            output: BufReader::new(output),
            name: station.name.clone(),
        };
        end.hear::<traffic::Opened>()?;
        Ok(end)
    }

    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        let written = writeln!(self.input, "{line}");
        written.map_err(|error| format!("the program in {} does not listen: {error}", self.name))
    }

    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        let read = self.output.read_line(&mut line);
        match read {
            Ok(length) if length > 0 => serde_json::from_str(&line)
                .map_err(|error| format!("the program in {} said {line:?}: {error}", self.name)),
            _ => Err(format!("the program in {} has ended", self.name)),
        }
    }

    pub fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T, String> {
        self.tell(line)?;
        self.hear()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both ends of a set of connections.
pub struct Pair {
    pub client: End,
    pub server: End,
}

impl Pair {
    pub fn tell(&mut self, line: &str) -> Result<(), String> {
        self.client.tell(line)?;
        self.server.tell(line)
    }
}
