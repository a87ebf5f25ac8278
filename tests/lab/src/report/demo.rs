//! All acts, one after the other, and what they show.
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use super::ReportError;
use super::act::Act;
use super::both::Both;
use super::claims::{self, Claim};
use super::page::page;
use super::relayed::Relayed;
use super::strict::Strict;
use crate::language::{self, Scenario};
use crate::story::{self, Verdict};

/// The stories are part of the program: it can be started anywhere.
const ACTS: [(&str, &str, &str); 5] = [
    (
        "act1",
        "tests/scenarios/demo.scn",
        include_str!("../../../scenarios/demo.scn"),
    ),
    (
        "act2",
        "tests/scenarios/demo_without_agents.scn",
        include_str!("../../../scenarios/demo_without_agents.scn"),
    ),
    (
        "act3",
        "tests/scenarios/demo_relay.scn",
        include_str!("../../../scenarios/demo_relay.scn"),
    ),
    (
        "act4",
        "tests/scenarios/demo_both.scn",
        include_str!("../../../scenarios/demo_both.scn"),
    ),
    (
        "act5",
        "tests/scenarios/demo_strict.scn",
        include_str!("../../../scenarios/demo_strict.scn"),
    ),
];

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Where to write the report; the captures and logs of both acts go beside it
    #[arg(long, value_name = "FILE", default_value = "target/demo/report.html")]
    pub report: PathBuf,
    /// The host-agent to start [default: LAB_AGENT, beside this executable, PATH]
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,
}

/// Tells all acts, prints timelines and verdict, and writes the report. True: every claim holds.
///
/// `slow`: all waits are so many times as long.
///
/// # Errors
/// The stories cannot be told on this machine, or the report cannot be written. A story that goes wrong is no
/// error: its claims do not hold.
pub fn run(arguments: &Arguments, slow: f64) -> Result<bool, ReportError> {
    let beside = arguments.report.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(beside).map_err(ReportError::io(format!("create {}", beside.display())))?;
    let style = Style {
        colours: std::io::stdout().is_terminal(),
    };
    let mut acts = Vec::new();
    for (number, (name, file, text)) in ACTS.into_iter().enumerate() {
        let scenario = read(file, text)?;
        let title = scenario.title.clone().unwrap_or_default();
        println!(
            "{}\n",
            style.bold(&format!("{}{title}", if number > 0 { "\n" } else { "" }))
        );
        let artifacts = beside.join(name);
        acts.push((tell(scenario, &artifacts, arguments, slow)?, artifacts));
    }
    let [moved, alone, relayed, both, strict] = acts.as_slice() else {
        return Err(ReportError::Story("an act is missing".to_owned()));
    };
    let (moved, alone) = (&Act::gather(&moved.0, &moved.1), &Act::gather(&alone.0, &alone.1));
    let relayed = &Relayed::gather(&relayed.0, &relayed.1);
    let both = &Both::gather(&both.0, &both.1);
    let strict = &Strict::gather(&strict.0, &strict.1);
    let html = page(moved, alone, Some(relayed), Some(both), Some(strict))?;
    std::fs::write(&arguments.report, html)
        .map_err(ReportError::io(format!("write {}", arguments.report.display())))?;

    let claims = [
        ("With agents", claims::moved(moved)),
        ("Without agents", claims::alone(alone)),
        ("Over two carriers, through a relay", relayed.claims()),
        ("Both hosts at once", both.claims()),
        ("Both hosts behind strict NAPTs", strict.claims()),
    ];
    println!("\n{}", style.bold("Verdict"));
    for (title, claims) in &claims {
        println!("\n{title}");
        claims.iter().for_each(|claim| println!("{}", style.claim(claim)));
    }
    let problems = moved.problems.iter().chain(&alone.problems);
    let others = relayed
        .problems
        .iter()
        .chain(&both.problems)
        .chain(&strict.problems);
    for problem in problems.chain(others) {
        println!("\n{problem}");
    }
    let all = claims
        .iter()
        .flat_map(|(_, claims)| claims)
        .all(|claim| claim.holds);
    let said = if all {
        "every claim holds"
    } else {
        "NOT every claim holds"
    };
    println!(
        "\n{}; the report: {}",
        style.bold(said),
        arguments.report.display()
    );
    Ok(all)
}

fn read(file: &str, text: &str) -> Result<Scenario, ReportError> {
    language::parse(file, text).map_err(|mistakes| {
        let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        ReportError::Story(all.join("\n"))
    })
}

fn tell(
    scenario: Scenario,
    artifacts: &Path,
    arguments: &Arguments,
    slow: f64,
) -> Result<Verdict, ReportError> {
    forget(artifacts)?;
    let options = story::Options {
        seed: 1,
        artifacts: Some(artifacts.to_owned()),
        agent_binary: arguments.agent_binary.clone(),
        events: true,
        print: true,
        slow,
        ..story::Options::default()
    };
    let verdict = story::run(scenario, &options).map_err(ReportError::Story)?;
    // Who interrupts one act does not want to see the next.
    match &verdict.reason {
        Some(reason) if reason.starts_with("interrupted") => Err(ReportError::Story(reason.clone())),
        _ => Ok(verdict),
    }
}

/// What an earlier demonstration left is not to be taken for this one's; anything else is not ours to remove.
fn forget(artifacts: &Path) -> Result<(), ReportError> {
    if !artifacts.exists() {
        return Ok(());
    }
    if !artifacts.join("again.txt").is_file() {
        let shown = artifacts.display();
        let reason =
            format!("{shown} is in the way, and no demonstration left it: choose another place by --report");
        return Err(ReportError::Story(reason));
    }
    std::fs::remove_dir_all(artifacts).map_err(ReportError::io(format!("remove {}", artifacts.display())))
}

/// How the verdict is printed.
struct Style {
    colours: bool,
}

impl Style {
    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn claim(&self, claim: &Claim) -> String {
        let sign = if claim.holds {
            self.paint("32", "✓")
        } else {
            self.paint("31", "✗")
        };
        format!("  {sign} {:<36}{}", claim.says, claim.facts)
    }
}
