//! `lab`: run, list, explain and check scenarios; sweep what killed runs left.
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use lab::generated::{chaos, matrix, same};
use lab::language::{self, Scenario};
use lab::machine::{self, sweep};
use lab::report::demo;
use lab::{apps, bench, explain, sim, story};

#[derive(Parser)]
#[command(
    name = "lab",
    version,
    about = "Roaming stories as scripts, told in network namespaces with real programs"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one scenario; exit code 0 if it passes, 1 if it fails, 2 if it cannot be run, 3 if this kernel lacks what it needs
    Run(Run),
    /// Show in five acts what the project is for, and write a report; exit codes as of `run`
    Demo(demo::Arguments),
    /// List the scenarios of a directory with their titles
    List {
        #[arg(default_value = "tests/scenarios")]
        directory: PathBuf,
    },
    /// Draw the topology of a scenario and list its story
    Explain { file: PathBuf },
    /// Read and check scenarios without running them
    Check {
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Tell a story for every combination of NAPTs before and after, mover, family and program
    Matrix(matrix::Arguments),
    /// Tell a long story that a seed draws: moves, reboots, kills, losses and thefts under real programs
    Chaos(chaos::Arguments),
    /// Compare the segments of a story with agents that have nothing to do, and without agents
    Same(same::Arguments),
    /// Measure how long a move takes, and what translation costs
    Bench(bench::command::Arguments),
    /// Make up stories of two wandering hosts and tell them in the simulated world, one for each seed; the first that
    /// fails is made short and printed as a scenario, exit code 1
    Sim(Simulate),
    /// Return to the machine what killed runs left behind
    Sweep,
    /// Be one of the lab's own applications (started by the runner inside a host)
    #[command(hide = true)]
    App { description: String },
    /// Be one end of the connections that are measured (started by `bench` inside a host)
    #[command(hide = true)]
    BenchProgram { description: String },
}

#[derive(clap::Args)]
struct Simulate {
    /// How many seeds
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Only print the story of the first seed
    #[arg(long)]
    print: bool,
}

/// Where a scenario is told.
#[derive(Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
enum World {
    /// In network namespaces: a real kernel, real programs
    #[default]
    Netns,
    /// The protocol core alone, under a virtual clock
    Sim,
}

#[derive(clap::Args)]
struct Run {
    file: PathBuf,
    /// Where it is told
    #[arg(long, value_enum, default_value_t)]
    world: World,
    /// Seed of everything random in the run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the artifacts although the run passes
    #[arg(long)]
    keep: bool,
    /// Print the verdict as JSON instead of the timeline
    #[arg(long)]
    json: bool,
    /// Where to write the artifacts, always
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
    /// The host-agent to start [default: LAB_AGENT, beside this executable, PATH]
    #[arg(long, value_name = "PATH")]
    agent_binary: Option<PathBuf>,
    /// Start no agents and ask nothing about them
    #[arg(long)]
    no_agents: bool,
    /// Put what the agents tell on the timeline
    #[arg(long)]
    events: bool,
}

fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Demo(arguments) => Ok(demo(&arguments)),
        Command::List { directory } => list(&directory),
        Command::Explain { file } => {
            let Some(scenario) = read(&file)? else {
                return Ok(ExitCode::from(2));
            };
            print!("{}{}", explain::explain(&scenario), explain::details(&scenario));
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { files } => {
            let mut good = true;
            for file in &files {
                good &= read(file)?.is_some();
            }
            Ok(if good {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(2)
            })
        }
        Command::Sim(arguments) => Ok(simulate(&arguments)),
        Command::Sweep => {
            for name in sweep::dead_runs()? {
                println!("swept {name}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Matrix(arguments) => Ok(generated(matrix::run(&arguments))),
        Command::Chaos(arguments) => Ok(generated(chaos::run(&arguments))),
        Command::Same(arguments) => Ok(generated(same::run(&arguments))),
        Command::Bench(arguments) => bench::command::run(arguments),
        Command::BenchProgram { description } => match bench::pair::be(&description) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(reason) => bail!(reason),
        },
        Command::App { description } => match apps::run(&description) {
            Ok(code) => Ok(ExitCode::from(code as u8)),
            Err(reason) => bail!(reason),
        },
    }
}

fn run(arguments: &Run) -> Result<ExitCode> {
    let Some(scenario) = read(&arguments.file)? else {
        return Ok(ExitCode::from(2));
    };
    if arguments.world == World::Sim {
        return Ok(run_simulated(&scenario, arguments.seed));
    }
    if let Some(missing) = scenario.needs.iter().find(|needed| !machine::has(**needed)) {
        println!(
            "SKIPPED  {}  this kernel is built without {}",
            scenario.file,
            missing.option()
        );
        return Ok(ExitCode::from(3));
    }
    let options = story::Options {
        seed: arguments.seed,
        keep: arguments.keep,
        artifacts: arguments.artifacts.clone(),
        agent_binary: arguments.agent_binary.clone(),
        no_agents: arguments.no_agents,
        events: arguments.events,
        print: !arguments.json,
        slow: slow(),
    };
    let verdict = match story::run(scenario, &options) {
        Ok(verdict) => verdict,
        Err(reason) => {
            eprintln!("lab: {reason}");
            return Ok(ExitCode::from(2));
        }
    };
    if arguments.json {
        println!("{}", serde_json::to_string(&verdict)?);
    } else {
        report(&verdict);
    }
    Ok(if verdict.passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_simulated(scenario: &Scenario, seed: u64) -> ExitCode {
    let told = match sim::run(scenario, seed) {
        Ok(told) => told,
        Err(refused) => {
            eprintln!("lab: {refused}");
            return ExitCode::from(2);
        }
    };
    for (at, what) in &told.timeline {
        println!("{:>10.3}  {what}", at.0.as_secs_f64());
    }
    let said = if told.failure.is_none() {
        "PASSED"
    } else {
        "FAILED"
    };
    if let Some((line, reason)) = &told.failure {
        println!("\n{}:{line}: {reason}", scenario.file);
        println!(
            "run it again: lab run --world sim --seed {seed} {}",
            scenario.file
        );
    }
    println!(
        "{said}  {}  {:.3} s of virtual time",
        scenario.file,
        told.duration.as_secs_f64()
    );
    if told.failure.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn simulate(arguments: &Simulate) -> ExitCode {
    if arguments.print {
        print!("{}", sim::wander::story(arguments.from));
        return ExitCode::SUCCESS;
    }
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        if let Some(report) = sim::wander::fails(seed) {
            println!("{report}");
            return ExitCode::FAILURE;
        }
    }
    println!("PASSED  {} seeds from {}", arguments.seeds, arguments.from);
    ExitCode::SUCCESS
}

/// How many times longer than usual the lab waits, on a slow machine.
fn slow() -> f64 {
    let text = std::env::var("LAB_SLOW").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(1.0)
}

fn demo(arguments: &demo::Arguments) -> ExitCode {
    match demo::run(arguments, slow()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("lab: {reason}");
            ExitCode::from(2)
        }
    }
}

fn generated(outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            eprintln!("lab: {reason}");
            ExitCode::from(2)
        }
    }
}

fn report(verdict: &story::Verdict) {
    if let Some(reason) = &verdict.reason {
        let at = verdict.line.map_or_else(
            || verdict.scenario.clone(),
            |line| format!("{}:{line}", verdict.scenario),
        );
        println!("\n{at}: {reason}");
        if let Some(step) = &verdict.step {
            println!("    {step}");
        }
        println!("run it again: {}", verdict.again);
    }
    if let Some(artifacts) = &verdict.artifacts {
        println!("artifacts: {}", artifacts.display());
    }
    let said = if verdict.passed { "PASSED" } else { "FAILED" };
    println!("{said}  {}  {:.3} s", verdict.scenario, verdict.duration);
}

/// Reads a scenario; its mistakes go to standard error.
fn read(file: &Path) -> Result<Option<Scenario>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    match language::parse(&file.display().to_string(), &text) {
        Ok(scenario) => Ok(Some(scenario)),
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{mistake}\n");
            }
            Ok(None)
        }
    }
}

fn list(directory: &Path) -> Result<ExitCode> {
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "scn"));
    files.sort();
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let title = match language::parse(&file.display().to_string(), &text) {
            Ok(scenario) => scenario.title.unwrap_or_default(),
            Err(mistakes) => format!("{} mistakes, see `lab check`", mistakes.len()),
        };
        table.add_row([file.display().to_string(), title]);
    }
    println!("{table}");
    Ok(ExitCode::SUCCESS)
}
