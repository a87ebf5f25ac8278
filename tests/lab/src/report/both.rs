//! The act in which both hosts move at once, and a mobility server tells each where the other is.
//!
//! The story in `tests/scenarios/demo_both.scn` and this file agree on names: the hosts A and B, the links they leave
//! (`home`, `desk`) and join (`cafe`, `train`), the server's link `cloud`, and the programs.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use super::ReportError;
use super::act::{Transfer, digest, echo, transfer};
use super::claims::{self, Claim};
use super::multipath::{Part, Stream};
use super::segments::{ACK, Request, SYN, Seen, at_device};
use crate::emulator::capture::Way;
use crate::story::Verdict;
use crate::story::timeline::Entry;

/// What A leaves and joins, and B.
const LINKS_OF_A: [&str; 2] = ["home", "cafe"];
const LINKS_OF_B: [&str; 2] = ["desk", "train"];
const HTTP: u16 = 80;
const SSH: u16 = 22;
/// Where agents reach their server.
const SERVER: u16 = 7800;

/// What is known when it is over.
#[derive(Clone, Debug, Default)]
pub struct Both {
    pub title: String,
    pub passed: bool,
    /// Why the story failed.
    pub reason: Option<String>,
    pub timeline: Vec<Entry>,
    /// What A has received of the file, by link.
    pub download: Option<Stream>,
    /// When the last of both lost its network, and when the last of both had one again.
    pub lost: Option<f64>,
    pub back: Option<f64>,
    /// The first byte that A did not have before.
    pub first_byte: Option<f64>,
    /// The download's end at B, before and after.
    pub ends_of_b: [Option<SocketAddr>; 2],
    /// When A and B first wrote to the server from their new addresses.
    pub asked: [Option<f64>; 2],
    /// The first MSYN that was answered, and who sent it.
    pub answered: Option<(f64, &'static str)>,
    /// Plain SYNs for the file that reached B.
    pub opened: usize,
    /// Resets of the programs' connections that reached A or B.
    pub resets: usize,
    pub invalid: BTreeMap<String, u64>,
    pub transfer: Option<Transfer>,
    /// The shell's process before and after.
    pub shells: [Option<u32>; 2],
    /// SHA-256 of the file at B and of its copy at A.
    pub digests: [Option<String>; 2],
    /// Why something above is missing.
    pub problems: Vec<String>,
}

impl Both {
    /// Reads the artifacts of a story that is over. What cannot be read is missing, with the reason.
    pub fn gather(verdict: &Verdict, artifacts: &Path) -> Both {
        let read = |name: &str| {
            let path = artifacts.join("programs").join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let typed = read("shell.out");
        let mut both = Both {
            title: verdict.title.clone().unwrap_or_default(),
            passed: verdict.passed,
            reason: verdict.reason.clone(),
            timeline: verdict.timeline.clone(),
            invalid: verdict
                .invalid
                .iter()
                .map(|(name, count)| (name.clone(), *count))
                .collect(),
            transfer: transfer(&read("curl.out")),
            shells: [echo(&typed, "before-42 "), echo(&typed, "after-44 ")],
            digests: [digest(&read("make.out")), digest(&read("sum.out"))],
            ..Both::default()
        };
        let last = |links: [&str; 2], event: &str| {
            let told = both.timeline.iter().filter(|entry| entry.event == event);
            let of = told.filter(|entry| links.contains(&entry.subject.as_str()));
            of.map(|entry| entry.time).reduce(f64::max)
        };
        (both.lost, both.back) = (
            last([LINKS_OF_A[0], LINKS_OF_B[0]], "down"),
            last([LINKS_OF_A[1], LINKS_OF_B[1]], "up"),
        );
        if let Err(error) = both.look(verdict.began, &artifacts.join("links")) {
            both.problems.push(error.to_string());
        }
        both
    }

    fn look(&mut self, began: f64, links: &Path) -> Result<(), ReportError> {
        let at = |link: &str, host: &str| at_device(links, link, host, began);
        let of_a = [at(LINKS_OF_A[0], "A")?, at(LINKS_OF_A[1], "A")?];
        let of_b = [at(LINKS_OF_B[0], "B")?, at(LINKS_OF_B[1], "B")?];
        self.opened = of_b[0]
            .iter()
            .filter(|seen| seen.way == Way::In && seen.destination.port() == HTTP && seen.is_plain_syn())
            .map(|seen| (seen.source, seen.seq))
            .collect::<BTreeSet<_>>()
            .len();
        self.resets = resets(&of_a[0], &of_a[1]) + resets(&of_b[0], &of_b[1]);
        self.asked = [&of_a[1], &of_b[1]].map(|seen| {
            let mut asking = seen
                .iter()
                .filter(|seen| seen.way == Way::Out && seen.destination.port() == SERVER);
            asking.next().map(|seen| seen.time)
        });
        self.answered = [(&of_a[1], "A"), (&of_b[1], "B")]
            .into_iter()
            .filter_map(|(seen, name)| Some((answered(seen)?, name)))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((old, base)) = opening(&of_a[0]) else {
            self.problems
                .push("A's capture shows no download that begins".to_owned());
            return Ok(());
        };
        let before = progress(&of_a[0], old, base, 0);
        let had = before.last().map_or(0, |(_, bytes)| *bytes);
        self.ends_of_b[0] = Some(old);
        let mut stream = Stream {
            subflows: vec![part(LINKS_OF_A[0], old, &of_a[0], before)],
            ..Stream::default()
        };
        // What carries the file is what carries most.
        if let Some(new) = busiest(&of_a[1]) {
            let after = progress(&of_a[1], new, base, had);
            self.first_byte = after.first().map(|(time, _)| *time);
            self.ends_of_b[1] = Some(new);
            let carried = after
                .into_iter()
                .map(|(time, bytes)| (time, bytes - had))
                .collect();
            stream.subflows.push(part(LINKS_OF_A[1], new, &of_a[1], carried));
        }
        stream.bytes = stream.subflows.iter().map(|part| part.bytes).sum();
        self.download = Some(stream);
        Ok(())
    }

    /// Milliseconds after both had a network again.
    fn since_back(&self, time: f64) -> f64 {
        (time - self.back.unwrap_or(time)) * 1e3
    }

    /// What the act claims.
    pub fn claims(&self) -> Vec<Claim> {
        let [old, new] = self.ends_of_b;
        let remote = self.transfer.as_ref().map(|transfer| transfer.remote.as_str());
        let of_a = self
            .download
            .iter()
            .flat_map(|stream| &stream.subflows)
            .map(|part| part.destination.to_string())
            .collect::<Vec<_>>();
        let mut claims = vec![
            claims::same_file(
                &self.digests,
                self.transfer.as_ref().map(|transfer| transfer.bytes),
            ),
            claims::one_connection(self.opened, self.transfer.as_ref()),
            claims::one_shell(self.shells),
            Claim {
                holds: old.is_some_and(|old| new.is_some_and(|new| new.ip() != old.ip()))
                    && remote == old.map(|old| old.to_string()).as_deref(),
                says: "both have other addresses",
                facts: format!(
                    "A {}; B {} → {}; curl's socket still says {}",
                    of_a.join(" → "),
                    shown(old),
                    shown(new),
                    remote.unwrap_or("?")
                ),
            },
            Claim {
                holds: self.asked.iter().all(Option::is_some),
                says: "both asked the mobility server",
                facts: match (self.asked, self.answered) {
                    ([Some(a), Some(b)], Some((time, who))) => format!(
                        "A {:+.1} ms, B {:+.1} ms from when both had a network; {who}'s MSYN was answered at {:+.1} ms",
                        self.since_back(a),
                        self.since_back(b),
                        self.since_back(time)
                    ),
                    _ => "not both were seen to".to_owned(),
                },
            },
            Claim {
                holds: self.first_byte.is_some(),
                says: "data flows again",
                facts: match self.first_byte {
                    Some(time) => format!(
                        "first new byte {:.1} ms after both had a network again",
                        self.since_back(time)
                    ),
                    None => "no new byte after the move".to_owned(),
                },
            },
            claims::no_resets(self.download.is_some(), self.resets),
            Claim {
                holds: !self.invalid.is_empty() && self.invalid.values().all(|count| *count == 0),
                says: "no NAPT drops a segment as INVALID",
                facts: self
                    .invalid
                    .iter()
                    .map(|(name, count)| format!("{name}: {count}"))
                    .collect::<Vec<_>>()
                    .join(", "),
            },
        ];
        if !self.passed {
            claims.push(claims::failed(self.reason.as_ref()));
        }
        claims
    }
}

fn shown(end: Option<SocketAddr>) -> String {
    end.map_or_else(|| "nowhere".to_owned(), |end| end.to_string())
}

/// Of the programs' connections: what agents say to each other and to the server is theirs to end.
pub(super) fn resets(before: &[Seen], after: &[Seen]) -> usize {
    let programs = |port: u16| port == HTTP || port == SSH;
    let old = before
        .iter()
        .filter(|seen| programs(seen.source.port()) || programs(seen.destination.port()));
    // Where a resumption was spoken.
    let ends = |seen: &Seen| match seen.way {
        Way::In => (seen.destination, seen.source),
        Way::Out => (seen.source, seen.destination),
    };
    let resumed: BTreeSet<_> = after
        .iter()
        .filter(|seen| seen.request.is_some())
        .map(ends)
        .collect();
    let new = after.iter().filter(|seen| resumed.contains(&ends(seen)));
    let both = old.chain(new);
    both.filter(|seen| seen.way == Way::In && seen.is_rst()).count()
}

/// When an MSYN that left here was answered here.
fn answered(seen: &[Seen]) -> Option<f64> {
    let asked = |of: &Seen| {
        seen.iter().any(|sent| {
            sent.way == Way::Out
                && sent.request == Some(Request::Msyn)
                && (sent.source, sent.destination) == (of.destination, of.source)
        })
    };
    let answer = |seen: &&Seen| seen.way == Way::In && seen.request == Some(Request::MsynAck) && asked(seen);
    seen.iter().find(answer).map(|seen| seen.time)
}

/// B's end of the download, and the sequence number before its first byte.
pub(super) fn opening(seen: &[Seen]) -> Option<(SocketAddr, u32)> {
    let answer = seen.iter().find(|seen| {
        seen.way == Way::In
            && seen.source.port() == HTTP
            && seen.flags & (SYN | ACK) == SYN | ACK
            && seen.request.is_none()
    })?;
    Some((answer.source, answer.seq.wrapping_add(1)))
}

/// Who sends most.
pub(super) fn busiest(seen: &[Seen]) -> Option<SocketAddr> {
    let mut sent: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for seen in seen.iter().filter(|seen| seen.way == Way::In) {
        *sent.entry(seen.source).or_default() += u64::from(seen.payload);
    }
    sent.into_iter()
        .max_by_key(|(_, bytes)| *bytes)
        .map(|(end, _)| end)
}

/// How many bytes of the file had come from there at each moment, above what was there before.
fn progress(seen: &[Seen], from: SocketAddr, base: u32, had: u64) -> Vec<(f64, u64)> {
    let mut highest = had;
    let mut steps = Vec::new();
    for seen in seen {
        if seen.way != Way::In || seen.source != from || seen.payload == 0 {
            continue;
        }
        let end = u64::from(seen.seq.wrapping_add(seen.payload).wrapping_sub(base));
        if end > highest && end < 1 << 31 {
            highest = end;
            steps.push((seen.time, highest));
        }
    }
    steps
}

fn part(link: &str, from: SocketAddr, seen: &[Seen], progress: Vec<(f64, u64)>) -> Part {
    let to = seen
        .iter()
        .find(|seen| seen.way == Way::In && seen.source == from)
        .map_or(from, |seen| seen.destination);
    Part {
        link: link.to_owned(),
        source: from,
        destination: to,
        bytes: progress.last().map_or(0, |(_, bytes)| *bytes),
        gaps: 0,
        unmapped: 0,
        progress,
    }
}
