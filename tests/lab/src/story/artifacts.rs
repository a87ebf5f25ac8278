//! What is kept of a run: timeline, verdict, captures, outputs, and the state of every host at the end.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::run::{Options, Stage, Verdict};
use super::timeline::Timeline;
use crate::machine::{Claim, command, netns};
use crate::network::napt;

/// Collects the artifacts and ends the network, so that the captures are complete. Returns where they are.
pub fn keep(
    verdict: &Verdict,
    stage: Option<Stage>,
    options: &Options,
    claim: &Claim,
    timeline: &Timeline,
) -> Option<PathBuf> {
    let directory = options.artifacts.clone().unwrap_or_else(|| default(verdict));
    match collect(&directory, verdict, stage, claim, timeline) {
        Ok(()) => Some(directory),
        Err(error) => {
            timeline.note(
                "lab",
                format!("cannot keep artifacts in {}: {error}", directory.display()),
            );
            None
        }
    }
}

/// `lab-artifacts/public_to_public-1a2b3c`, below `target` where there is one.
fn default(verdict: &Verdict) -> PathBuf {
    let stem = Path::new(&verdict.scenario)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let beside = if Path::new("target").is_dir() {
        "target/lab-artifacts"
    } else {
        "lab-artifacts"
    };
    let base = std::env::var_os("LAB_ARTIFACTS").map_or_else(|| PathBuf::from(beside), PathBuf::from);
    base.join(format!("{stem}-{}", verdict.run.trim_start_matches("lab-")))
}

fn collect(
    directory: &Path,
    verdict: &Verdict,
    stage: Option<Stage>,
    claim: &Claim,
    timeline: &Timeline,
) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("timeline.txt"), timeline.text())?;
    fs::write(
        directory.join("timeline.json"),
        serde_json::to_vec_pretty(verdict)?,
    )?;
    if let Ok(text) = fs::read_to_string(&verdict.scenario) {
        fs::write(directory.join("scenario.scn"), text)?;
    }
    let reason = verdict.reason.as_deref().unwrap_or("passed");
    fs::write(
        directory.join("again.txt"),
        format!("{reason}\n\n{}\n", verdict.again),
    )?;
    if let Some(stage) = stage {
        describe_hosts(&directory.join("hosts"), &stage)?;
        // Closes the links: what is buffered for the captures reaches their files.
        drop(stage);
    }
    for part in ["links", "programs"] {
        copy_files(&claim.directory.join(part), &directory.join(part))?;
    }
    Ok(())
}

fn describe_hosts(directory: &Path, stage: &Stage) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, station) in &stage.network.stations {
        let mut text = String::new();
        for command in [
            "ip -d addr",
            "ip rule",
            "ip route show table all",
            "ip -6 rule",
            "ip -6 route show table all",
            "ip neigh",
            "ip -s link",
            "ss -tnoemi",
        ] {
            text += &format!("--- {command}\n{}\n", said_inside(&station.netns, command));
        }
        fs::write(directory.join(format!("{name}.txt")), text)?;
    }
    for name in stage.napts() {
        if let Ok(station) = stage.network.station(name) {
            let rules = napt::describe(station).unwrap_or_else(|error| error.to_string());
            fs::write(directory.join(format!("{name}.nft")), rules)?;
            fs::write(
                directory.join(format!("{name}.conntrack")),
                said_inside(&station.netns, "conntrack -L"),
            )?;
        }
    }
    let described = stage
        .agents
        .describe()
        .into_iter()
        .chain(stage.servers.describe())
        .chain(stage.relays.describe());
    for (name, text) in described {
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// Output of a command in a namespace, or why there is none.
fn said_inside(namespace: &str, line: &str) -> String {
    let mut words = line.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    netns::inside(namespace, || command::run(&mut command, "")).unwrap_or_else(|error| error.to_string())
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
    {
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
