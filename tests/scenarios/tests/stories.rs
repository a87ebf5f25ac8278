//! Every story beside this crate is told by the laboratory and must end well.
//!
//! `cargo test -p scenarios --test stories -- napt move` tells those whose names contain one of the words;
//! `--list` names them. Needs root, and `lab` and `host-agent` built before (`make test` does). `LAB_JOBS` says
//! how many are told at the same time (2 if it does not): more than that, and they disturb each other's clocks.
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

struct Told {
    name: String,
    passed: bool,
    took: Duration,
    said: String,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let stories: Vec<PathBuf> = stories()
        .into_iter()
        .filter(|story| words.is_empty() || words.iter().any(|word| name(story).contains(word.as_str())))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        stories.iter().for_each(|story| println!("{}: test", name(story)));
        return ExitCode::SUCCESS;
    }
    let Some(lab) = lab() else {
        eprintln!("the laboratory is not built: cargo build -p lab -p host-agent, or make test");
        return ExitCode::FAILURE;
    };
    let jobs = std::env::var("LAB_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(2_usize);
    let told = tell_all(&lab, &stories, jobs.max(1));
    let failed: Vec<&Told> = told.iter().filter(|told| !told.passed).collect();
    for told in &failed {
        println!("\n---- {} ----\n{}", told.name, told.said);
    }
    println!(
        "\n{} stories passed, {} failed",
        told.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn stories() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut stories: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    stories.retain(|path| path.extension().is_some_and(|extension| extension == "scn"));
    stories.sort();
    stories
}

fn name(story: &Path) -> String {
    story
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The laboratory that was built into the directory this test comes from.
fn lab() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let lab = own.parent()?.parent()?.join("lab");
    lab.is_file().then_some(lab)
}

fn tell_all(lab: &Path, stories: &[PathBuf], jobs: usize) -> Vec<Told> {
    let (waiting, told) = (Mutex::new(stories.iter()), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(|held| held.into_inner()).next();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some(story) = next() {
                    let outcome = tell(lab, story);
                    let verdict = if outcome.passed { "ok" } else { "FAILED" };
                    println!(
                        "story {} ... {verdict} ({:.1} s)",
                        outcome.name,
                        outcome.took.as_secs_f64()
                    );
                    told.lock().unwrap_or_else(|held| held.into_inner()).push(outcome);
                }
            });
        }
    });
    told.into_inner().unwrap_or_else(|held| held.into_inner())
}

fn tell(lab: &Path, story: &Path) -> Told {
    let begun = Instant::now();
    // From the top of the checkout, so that the artifacts of a story that fails are found in its target directory.
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(lab).arg("run").arg(story).current_dir(top).output();
    let (passed, said) = match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            (
                output.status.success(),
                String::from_utf8_lossy(&said).into_owned(),
            )
        }
        Err(error) => (false, format!("cannot run {}: {error}", lab.display())),
    };
    Told {
        name: name(story),
        passed,
        took: begun.elapsed(),
        said,
    }
}
