//! One generated story, told by a process of its own.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a story is told.
#[derive(Clone, Debug)]
pub struct Teller {
    pub agent_binary: Option<PathBuf>,
    pub seed: u64,
}

#[derive(Clone, Debug)]
pub struct Told {
    pub passed: bool,
    pub took: Duration,
    /// Why it failed, in a line.
    pub reason: String,
    /// The command that tells it again.
    pub again: String,
}

impl Teller {
    /// The command that tells a story, with its artifacts beside it.
    pub fn command(&self, story: &Path) -> Result<Command, String> {
        let executable = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(executable);
        command.arg("run").arg(story);
        command.args(["--seed", &self.seed.to_string()]);
        if let Some(agent) = &self.agent_binary {
            command.arg("--agent-binary").arg(agent);
        }
        command.arg("--artifacts").arg(story.with_extension("artifacts"));
        Ok(command)
    }

    /// Tells a story to its end. What was said is in a `.log` beside it; artifacts of a success are not kept.
    pub fn tell(&self, story: &Path) -> Result<Told, String> {
        let begun = Instant::now();
        let mut command = self.command(story)?;
        let again = format!("{command:?}").replace('"', "");
        let output = command
            .output()
            .map_err(|error| format!("cannot run the laboratory: {error}"))?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let log = story.with_extension("log");
        std::fs::write(&log, &said).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let passed = output.status.success();
        if passed {
            // It may never have been made.
            let _ = std::fs::remove_dir_all(story.with_extension("artifacts"));
        }
        Ok(Told {
            passed,
            took: begun.elapsed(),
            reason: reason(&said),
            again,
        })
    }
}

/// A story that is one of many: a combination of what can be combined.
pub trait Cell: Clone + Send + Sync {
    /// Tells it from all others; a part of a file's name.
    fn name(&self) -> String;
    /// In the language of scenarios.
    fn story(&self) -> String;
}

/// Tells the stories of these combinations, `jobs` at the same time, in this directory; says each one's verdict. As they ended.
pub fn tell_all<C: Cell>(
    cells: &[C],
    jobs: usize,
    teller: &Teller,
    directory: &Path,
) -> Result<Vec<(C, Told)>, String> {
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()))?;
    let (waiting, told) = (Mutex::new(cells.iter()), Mutex::new(Ok(Vec::new())));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while let Some(cell) = next() {
                    let one = tell(cell, teller, directory);
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    match (&mut *told, one) {
                        (Ok(told), Ok(one)) => told.push((cell.clone(), one)),
                        (Ok(_), Err(error)) => *told = Err(error),
                        (Err(_), _) => return,
                    }
                }
            });
        }
    });
    told.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn tell<C: Cell>(cell: &C, teller: &Teller, directory: &Path) -> Result<Told, String> {
    let file = directory.join(format!("{}.scn", cell.name()));
    std::fs::write(&file, cell.story())
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let told = teller.tell(&file)?;
    let verdict = if told.passed { "ok" } else { "FAILED" };
    println!("{verdict:6} {:5.1} s  {}", told.took.as_secs_f64(), cell.name());
    Ok(told)
}

/// The line that says why a run failed: it begins with the file.
fn reason(said: &str) -> String {
    let found = said.lines().find(|line| line.contains(".scn:"));
    let line = found.or_else(|| said.lines().last()).unwrap_or_default();
    let short = line.rsplit_once(".scn:").map_or(line, |(_, rest)| rest);
    short.chars().take(200).collect()
}
