//! `lab bench` on the command line.
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use super::{Options, ROWS};

#[derive(clap::Args)]
pub struct Arguments {
    /// Fewer samples, less than two minutes
    #[arg(long)]
    quick: bool,
    /// Only these rows, separated by commas
    #[arg(long, value_delimiter = ',', value_parser = ROWS)]
    rows: Vec<String>,
    /// Write everything that was measured to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The host-agent to measure [default: LAB_AGENT, beside this executable, PATH]
    #[arg(long, value_name = "PATH")]
    agent_binary: Option<PathBuf>,
}

/// Measures, prints, writes.
pub fn run(arguments: Arguments) -> Result<ExitCode> {
    let options = Options {
        quick: arguments.quick,
        rows: arguments.rows,
        agent_binary: arguments.agent_binary,
    };
    let outcome = match super::run(&options) {
        Ok(outcome) => outcome,
        Err(reason) => bail!("bench: {reason}"),
    };
    if let Some(path) = arguments.json {
        let text = serde_json::to_string_pretty(&outcome)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
