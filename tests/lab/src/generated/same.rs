//! Agents that have nothing to do leave no trace but their option: the same conversations, segment by segment.
//!
//! A scenario is told twice, with agents and without. On the link that is asked about, every connection to a port
//! of the story gives a list of segments for each direction: flags, numbers counted from the initial ones, length
//! of payload, kinds and lengths of options without Migrate-Permit where the protocol has it. Both lists must be equal.
//!
//! Now and then two tellings of the same story differ without any agent: a delayed acknowledgement comes before an
//! answer on a busy machine and after it on an idle one. So both are told again, a few times: what an agent changes
//! it changes every time.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::language;
use crate::report::segments::{self, Seen};
use crate::story;

const SYN: u8 = 0x02;
const PERMIT: [u8; 3] = [253, 11, 0x4d];

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The scenario; its servers listen on ports from 7100 to 7199
    pub file: PathBuf,
    /// The link whose segments are compared, at its first host
    #[arg(long, default_value = "lan")]
    pub link: String,
    /// The host on the link
    #[arg(long, default_value = "B")]
    pub host: String,
    /// How often both are told until they agree
    #[arg(long, default_value_t = 4)]
    pub tries: u32,
    /// The host-agent to start [default: as of `run`]
    #[arg(long, value_name = "PATH")]
    pub agent_binary: Option<PathBuf>,
}

/// One direction of one connection: the server's port, and whether the server speaks.
type Direction = (u16, bool);

/// What is compared of all segments, in order.
type Lists = BTreeMap<Direction, Vec<String>>;

/// Tells the story both ways; true if the segments are the same.
///
/// # Errors
/// The scenario cannot be read or run, or fails.
pub fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut difference = String::new();
    for attempt in 1..=arguments.tries.max(1) {
        let (with, permits) = tell(arguments, false)?;
        let (without, none) = tell(arguments, true)?;
        if permits == 0 || none != 0 {
            return Err(format!(
                "{permits} segments with Migrate-Permit with agents, {none} without: the agents were not there, or not away"
            ));
        }
        difference = first_difference(&with, &without);
        if difference.is_empty() {
            let segments: usize = with.values().map(Vec::len).sum();
            println!(
                "the same: {segments} segments of {} directions, {permits} with Migrate-Permit (attempt {attempt})",
                with.len()
            );
            return Ok(segments > 0);
        }
        println!("attempt {attempt}: {difference}");
    }
    println!("DIFFERENT: {difference}");
    Ok(false)
}

fn tell(arguments: &Arguments, no_agents: bool) -> Result<(Lists, usize), String> {
    let file = arguments.file.display().to_string();
    let text =
        std::fs::read_to_string(&arguments.file).map_err(|error| format!("cannot read {file}: {error}"))?;
    let scenario = language::parse(&file, &text).map_err(|mistakes| {
        let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        all.join("\n")
    })?;
    let artifacts = std::env::temp_dir().join(format!("lab-same-{}-{no_agents}", std::process::id()));
    let options = story::Options {
        seed: 1,
        artifacts: Some(artifacts.clone()),
        agent_binary: arguments.agent_binary.clone(),
        no_agents,
        slow: 1.0,
        ..story::Options::default()
    };
    let told = story::run(scenario, &options).and_then(|verdict| {
        if !verdict.passed {
            return Err(verdict.reason.unwrap_or_else(|| "the story failed".to_owned()));
        }
        read(&artifacts.join("links"), arguments, verdict.began)
    });
    // What could not be removed is in the directory for such things.
    let _ = std::fs::remove_dir_all(&artifacts);
    told
}

fn read(links: &Path, arguments: &Arguments, began: f64) -> Result<(Lists, usize), String> {
    let seen = segments::at_device(links, &arguments.link, &arguments.host, began)
        .map_err(|error| error.to_string())?;
    let mut lists = Lists::new();
    let mut initial: BTreeMap<(SocketAddr, SocketAddr), u32> = BTreeMap::new();
    let mut permits = 0;
    for segment in &seen {
        let (port, serves) = match (asked(segment.source), asked(segment.destination)) {
            (true, _) => (segment.source.port(), true),
            (_, true) => (segment.destination.port(), false),
            _ => continue,
        };
        let here = (segment.source, segment.destination);
        if segment.flags & SYN != 0 {
            initial.insert(here, segment.seq);
        }
        // Who accepts says it on the SYN-ACK only.
        let welcome = segment.flags & SYN != 0 || !serves;
        let (options, permitted) = kinds(&segment.options, welcome);
        permits += usize::from(permitted);
        lists
            .entry((port, serves))
            .or_default()
            .push(shown(segment, here, &initial, &options));
    }
    Ok((lists, permits))
}

fn asked(end: SocketAddr) -> bool {
    (7100..7200).contains(&end.port())
}

fn shown(
    segment: &Seen,
    (source, destination): (SocketAddr, SocketAddr),
    initial: &BTreeMap<(SocketAddr, SocketAddr), u32>,
    options: &str,
) -> String {
    let from = |isn: Option<&u32>, number: u32| number.wrapping_sub(isn.copied().unwrap_or_default());
    let seq = from(initial.get(&(source, destination)), segment.seq);
    let ack = match initial.get(&(destination, source)) {
        Some(isn) if segment.flags & 0x10 != 0 => segment.ack.wrapping_sub(*isn),
        _ => 0,
    };
    format!(
        "flags {:#04x} seq {seq} ack {ack} length {} options {options}",
        segment.flags, segment.payload
    )
}

/// Kinds and lengths of all options but padding and, where it is welcome, Migrate-Permit, and whether that was there.
fn kinds(options: &[u8], welcome: bool) -> (String, bool) {
    let (mut rest, mut kinds, mut permitted) = (options, Vec::new(), false);
    while let [kind, tail @ ..] = rest {
        let length = match (kind, tail) {
            (0, _) => break,
            (1, _) => 1,
            (_, [length, ..]) => usize::from(*length).max(2),
            (_, []) => break,
        };
        if welcome && rest.starts_with(&PERMIT) {
            permitted = true;
        } else if *kind != 1 {
            kinds.push(format!("{kind}/{length}"));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    (kinds.join(" "), permitted)
}

/// Empty if there is none.
fn first_difference(with: &Lists, without: &Lists) -> String {
    let directions: std::collections::BTreeSet<&Direction> = with.keys().chain(without.keys()).collect();
    for direction in directions {
        let empty = Vec::new();
        let (left, right) = (
            with.get(direction).unwrap_or(&empty),
            without.get(direction).unwrap_or(&empty),
        );
        if left == right {
            continue;
        }
        let at = left.iter().zip(right).take_while(|(a, b)| a == b).count();
        let nothing = "nothing".to_owned();
        let side = if direction.1 { "from" } else { "to" };
        return format!(
            "{side} port {}, segment {at}: with agents `{}`, without `{}`",
            direction.0,
            left.get(at).unwrap_or(&nothing),
            right.get(at).unwrap_or(&nothing)
        );
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_permit_is_left_out() {
        let mut options = vec![2, 4, 5, 180, 4, 2, 253, 11, 0x4d, 0x49];
        options.extend([0; 7]);
        options.extend([1, 3, 3, 7]);
        assert_eq!(kinds(&options, true), ("2/4 4/2 3/3".to_owned(), true));
        assert_eq!(kinds(&options, false), ("2/4 4/2 253/11 3/3".to_owned(), false));
        // Another experiment, and an option that is cut off.
        assert_eq!(kinds(&[253, 4, 0x12, 0x34, 8], true), ("253/4".to_owned(), false));
    }

    #[test]
    fn a_segment_too_many_is_a_difference() {
        let list = |segments: &[&str]| {
            Lists::from([(
                (7100, false),
                segments.iter().map(|text| (*text).to_owned()).collect(),
            )])
        };
        assert_eq!(first_difference(&list(&["a", "b"]), &list(&["a", "b"])), "");
        assert!(first_difference(&list(&["a", "b"]), &list(&["a"])).contains("segment 1"));
    }
}
