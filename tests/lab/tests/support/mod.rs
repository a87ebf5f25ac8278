//! Running scenarios from tests.
#![allow(dead_code, reason = "every test file uses its part")]
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// A scenario in a directory of its own, which also takes its artifacts.
pub struct Story {
    pub directory: TempDir,
    pub file: PathBuf,
}

pub struct Outcome {
    pub code: Option<i32>,
    pub verdict: Value,
    pub said: String,
}

impl Story {
    pub fn new(text: &str) -> Story {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("story.scn");
        std::fs::write(&file, text).expect("the scenario can be written");
        Story { directory, file }
    }

    pub fn artifacts(&self) -> PathBuf {
        self.directory.path().join("artifacts")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command
            .arg("run")
            .arg(&self.file)
            .arg("--json")
            .env("LAB_ARTIFACTS", self.directory.path());
        command
    }

    pub fn run(&self) -> Outcome {
        self.run_with(&[])
    }

    pub fn run_with(&self, arguments: &[&str]) -> Outcome {
        let output = self.command().args(arguments).output().expect("lab can be run");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let verdict = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        Outcome {
            code: output.status.code(),
            verdict,
            said,
        }
    }

    pub fn start(&self) -> Runner {
        let mut command = self.command();
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        Runner(command.spawn().expect("lab can be run"))
    }
}

/// A run that goes on beside the test, and not beyond it.
pub struct Runner(pub Child);

impl Runner {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id() as i32), signal).expect("the runner lives");
    }

    /// Dies without a chance to tidy up.
    pub fn dies(&mut self) {
        self.signal(Signal::SIGKILL);
        self.0.wait().expect("the runner has died");
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Outcome {
    #[track_caller]
    pub fn passes(&self) -> &Value {
        assert_eq!(self.code, Some(0), "{}\n{}", self.said, self.short());
        &self.verdict
    }

    /// The run fails, with a reason that contains `words`.
    #[track_caller]
    pub fn fails(&self, words: &str) -> &Value {
        assert_eq!(self.code, Some(1), "{}\n{}", self.said, self.short());
        let reason = self.verdict["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(words), "`{reason}` does not contain `{words}`");
        &self.verdict
    }

    /// The timeline and the reason, as a person would want to see them when a test fails.
    fn short(&self) -> String {
        let mut text = String::new();
        for entry in self.verdict["timeline"].as_array().into_iter().flatten() {
            let time = entry["time"].as_f64().unwrap_or_default();
            let (subject, event) = (entry["subject"].as_str(), entry["event"].as_str());
            text += &format!(
                "{time:8.3}  {:<10} {}\n",
                subject.unwrap_or_default(),
                event.unwrap_or_default()
            );
        }
        text + &format!(
            "line {}: {}",
            self.verdict["line"],
            self.verdict["reason"].as_str().unwrap_or_default()
        )
    }

    /// Whether the timeline has an event of this subject that contains these words.
    pub fn happened(&self, subject: &str, words: &str) -> Option<f64> {
        let entries = self.verdict["timeline"].as_array()?;
        let found = entries.iter().find(|entry| {
            entry["subject"] == subject && entry["event"].as_str().is_some_and(|event| event.contains(words))
        });
        found.and_then(|entry| entry["time"].as_f64())
    }
}

/// Names of everything on the machine that carries the name of a run.
pub fn remains(run: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut look = |directory: &str| {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(run) || (directory == "/run/lab" && run.ends_with(&name)) {
                found.push(format!("{directory}/{name}"));
            }
        }
    };
    look("/run/netns");
    look("/run/lab");
    look(&std::env::temp_dir().display().to_string());
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(target), Some(kind)) = (fields.next(), fields.next()) else {
            continue;
        };
        if kind == "cgroup2" {
            look(target);
        }
        if target.contains(run) {
            look(target);
        }
    }
    // Devices of the run live in its namespaces, programs in its cgroups; a program also shows by its command.
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let cgroups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        // What is killed stays as a zombie until its foster parent looks; only the living hold anything.
        let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        if cgroups.contains(run) && !status.contains("State:\tZ") {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
