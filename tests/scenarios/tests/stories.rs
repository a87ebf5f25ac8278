//! Every story beside this crate is told by the laboratory and must end well.
//!
//! `cargo test -p scenarios --test stories -- napt move` tells those whose names contain one of the words;
//! `--list` names them. Needs root, and `lab` and `host-agent` built before (`make test` does). `LAB_JOBS` says
//! how many are told at the same time (2 if it does not): more than that, and they disturb each other's clocks.
//! Stories that mostly wait are told one after the other beside those, longest first.
//! A story that fails beside another one is told a second time, alone, when all the others are over. The first
//! failure is printed whole in any case: a story that needs its second telling is a thing to look into.
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A story that waits as long all in all costs nothing while it does, in seconds.
const MOSTLY_WAITS: f64 = 8.0;
/// How many failed stories are told again at most.
const SECOND_TELLINGS: usize = 5;
/// The exit code of a story that needs what this kernel was built without.
const LACKING: i32 = 3;

struct Told {
    story: PathBuf,
    name: String,
    passed: bool,
    /// This kernel lacks what it needs.
    skipped: bool,
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
        eprintln!("the laboratory is not built: make build, or make test");
        return ExitCode::FAILURE;
    };
    let jobs = std::env::var("LAB_JOBS")
        .ok()
        .and_then(|jobs| jobs.parse().ok())
        .unwrap_or(2_usize);
    let told = tell_all(&lab, &stories, jobs.max(1));
    let failed: Vec<&Told> = told.iter().filter(|told| !told.passed).collect();
    failed.iter().for_each(|told| show("failed", told));
    // More than a few failures are no accident of timing.
    let again = if jobs > 1 && failed.len() <= SECOND_TELLINGS {
        let failed: Vec<PathBuf> = failed.iter().map(|told| told.story.clone()).collect();
        tell_all(&lab, &failed, 1)
    } else {
        Vec::new()
    };
    let recovered = again.iter().filter(|told| told.passed).count();
    again
        .iter()
        .filter(|told| !told.passed)
        .for_each(|told| show("failed again, alone", told));
    let lost = failed.len() - recovered;
    let skipped: Vec<&Told> = told.iter().filter(|told| told.skipped).collect();
    println!(
        "\n{} stories passed, {recovered} of them only alone, {lost} failed, {} skipped",
        told.len() - lost - skipped.len(),
        skipped.len()
    );
    skipped.iter().for_each(|told| print!("{}", told.said));
    if lost == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn show(how: &str, told: &Told) {
    println!("\n---- {} {how} ----\n{}", told.name, told.said);
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
    let (mut waiting, busy): (Vec<&PathBuf>, Vec<&PathBuf>) = stories
        .iter()
        .partition(|story| jobs > 1 && waits(story) >= MOSTLY_WAITS);
    waiting.sort_by(|one, other| waits(other).total_cmp(&waits(one)));
    let (waiting, busy) = (Mutex::new(waiting.into_iter()), Mutex::new(busy.into_iter()));
    let waiting = || waiting.lock().unwrap_or_else(|held| held.into_inner()).next();
    let busy = || busy.lock().unwrap_or_else(|held| held.into_inner()).next();
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| tell_each(lab, waiting, &told));
        for _ in 0..jobs {
            scope.spawn(|| tell_each(lab, || busy().or_else(waiting), &told));
        }
    });
    told.into_inner().unwrap_or_else(|held| held.into_inner())
}

fn tell_each<'a>(lab: &Path, next: impl Fn() -> Option<&'a PathBuf>, told: &Mutex<Vec<Told>>) {
    while let Some(story) = next() {
        let outcome = tell(lab, story);
        let verdict = match (outcome.skipped, outcome.passed) {
            (true, _) => "skipped",
            (_, true) => "ok",
            _ => "FAILED",
        };
        println!(
            "story {} ... {verdict} ({:.1} s)",
            outcome.name,
            outcome.took.as_secs_f64()
        );
        told.lock().unwrap_or_else(|held| held.into_inner()).push(outcome);
    }
}

/// What a script lets pass by its own clock, in seconds: until the last `+75`, in moves with `gap=60s`, in `exec sleep 60`,
/// between two looks of a Python script.
fn waits(story: &Path) -> f64 {
    let text = std::fs::read_to_string(story).unwrap_or_default();
    let seconds = |word: &str| word.trim_end_matches('s').parse::<f64>().unwrap_or(0.0);
    let lines = text.lines().map(str::trim);
    let times = lines.filter_map(|line| line.strip_prefix('+')?.split_whitespace().next());
    let last = times.map(seconds).fold(0.0, f64::max);
    let away = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("gap="));
    let sleeps = text
        .split("exec sleep ")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next());
    let looks = text
        .split("time.sleep(")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    last + away.chain(sleeps).chain(looks).map(seconds).sum::<f64>()
}

fn tell(lab: &Path, story: &Path) -> Told {
    let begun = Instant::now();
    // From the top of the checkout, so that the artifacts of a story that fails are found in its target directory.
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let output = Command::new(lab).arg("run").arg(story).current_dir(top).output();
    let (passed, skipped, said) = match output {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            (
                output.status.success() || output.status.code() == Some(LACKING),
                output.status.code() == Some(LACKING),
                String::from_utf8_lossy(&said).into_owned(),
            )
        }
        Err(error) => (false, false, format!("cannot run {}: {error}", lab.display())),
    };
    Told {
        story: story.to_owned(),
        name: name(story),
        passed,
        skipped,
        took: begun.elapsed(),
        said,
    }
}
