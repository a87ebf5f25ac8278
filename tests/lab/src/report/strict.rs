//! The act in which both hosts move behind NAPTs that draw their ports: a proxy relays, and later is needed no more.
//!
//! The story in `tests/scenarios/demo_strict.scn` and this file agree on names: the hosts A and B, the links they leave
//! (`home`, `desk`) and join (`cafe`, `train`), the proxy's address, the NAPT that changes (`napt3`) and its address, and
//! the programs.
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::ReportError;
use super::act::{Transfer, digest, echo, transfer};
use super::both::{busiest, opening, resets};
use super::claims::{self, Claim, megabytes};
use super::multipath::{Part, Stream};
use super::segments::{Seen, at_device};
use crate::emulator::capture::Way;
use crate::story::Verdict;
use crate::story::timeline::Entry;

const LINKS_OF_A: [&str; 2] = ["home", "cafe"];
const LINKS_OF_B: [&str; 2] = ["desk", "train"];
const HTTP: u16 = 80;
/// The NAPT that turns friendly.
const FRIENDLY: &str = "napt3";
/// From where B's data comes to A after the move: at first, and at last.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(100, 64, 8, 2));
const NAPT_OF_B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 3, 1));
/// What has carried less was not the path.
const A_PART: u64 = 2_000_000;

/// What is known when it is over.
#[derive(Clone, Debug, Default)]
pub struct Strict {
    /// Whether the story ended well.
    pub passed: bool,
    /// Why it did not.
    pub reason: Option<String>,
    pub timeline: Vec<Entry>,
    /// What A has received of the file, by path.
    pub download: Option<Stream>,
    /// When the last of both lost its network, and when the last of both had one again.
    pub lost: Option<f64>,
    pub back: Option<f64>,
    /// When one NAPT turned friendly.
    pub friendly: Option<f64>,
    /// When the first of both reported its move, and when it was told of the proxy, and of the direct path.
    pub reported: Option<f64>,
    pub to_proxy: Option<f64>,
    pub to_peer: Option<f64>,
    /// Plain SYNs for the file that reached B.
    pub opened: usize,
    /// Resets of the programs' connections that reached A or B.
    pub resets: usize,
    pub transfer: Option<Transfer>,
    /// The shell's process before and after.
    pub shells: [Option<u32>; 2],
    /// SHA-256 of the file at B and of its copy at A.
    pub digests: [Option<String>; 2],
    /// Why something above is missing.
    pub problems: Vec<String>,
}

impl Strict {
    /// Reads the artifacts of a story that is over. What cannot be read is missing, with the reason.
    pub fn gather(verdict: &Verdict, artifacts: &Path) -> Strict {
        let read = |name: &str| {
            let path = artifacts.join("programs").join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let typed = read("shell.out");
        let times = |what: &dyn Fn(&Entry) -> bool| -> Vec<f64> {
            let told = verdict.timeline.iter().filter(|entry| what(entry));
            told.map(|entry| entry.time).collect()
        };
        let link = |links: [&'static str; 2], event: &'static str| {
            let told = times(&|entry| entry.event == event && links.contains(&entry.subject.as_str()));
            told.into_iter().reduce(f64::max)
        };
        let (lost, back) = (
            link([LINKS_OF_A[0], LINKS_OF_B[0]], "down"),
            link([LINKS_OF_A[1], LINKS_OF_B[1]], "up"),
        );
        let after = |moment: Option<f64>, words: &'static [&'static str]| {
            let told = times(&|entry| words.iter().all(|word| entry.event.contains(word)));
            told.into_iter()
                .find(|time| moment.is_some_and(|moment| *time >= moment))
        };
        let friendly = times(&|entry| entry.subject == FRIENDLY && entry.event.contains("masquerades"));
        let friendly = friendly.first().copied();
        let mut strict = Strict {
            passed: verdict.passed,
            reason: verdict.reason.clone(),
            timeline: verdict.timeline.clone(),
            lost,
            back,
            friendly,
            reported: after(back, &["report", "now at"]),
            to_proxy: after(back, &["destination", "ACTION_PROXY"]),
            to_peer: after(friendly, &["destination", "ACTION_OPEN"]),
            transfer: transfer(&read("curl.out")),
            shells: [echo(&typed, "before-42 "), echo(&typed, "after-44 ")],
            digests: [digest(&read("make.out")), digest(&read("sum.out"))],
            ..Strict::default()
        };
        if let Err(error) = strict.look(verdict.began, &artifacts.join("links")) {
            strict.problems.push(error.to_string());
        }
        strict
    }

    fn look(&mut self, began: f64, links: &Path) -> Result<(), ReportError> {
        let at = |link: &str, host: &str| at_device(links, link, host, began);
        let of_a = [at(LINKS_OF_A[0], "A")?, at(LINKS_OF_A[1], "A")?];
        let of_b = [at(LINKS_OF_B[0], "B")?, at(LINKS_OF_B[1], "B")?];
        let opens =
            |seen: &&Seen| seen.way == Way::In && seen.destination.port() == HTTP && seen.is_plain_syn();
        let mut opened: Vec<_> = of_b[0]
            .iter()
            .filter(opens)
            .map(|seen| (seen.source, seen.seq))
            .collect();
        opened.sort_unstable();
        opened.dedup();
        self.opened = opened.len();
        self.resets = resets(&of_a[0], &of_a[1]) + resets(&of_b[0], &of_b[1]);
        let Some((old, base)) = opening(&of_a[0]) else {
            let problem = "A's capture shows no download that begins";
            self.problems.push(problem.to_owned());
            return Ok(());
        };
        let mut highest = 0;
        let mut subflows = vec![carried("direct, before", old, base, &mut highest, &of_a[0])];
        // On each path the file is what comes most.
        for (name, address) in [("through the proxy", PROXY), ("direct again", NAPT_OF_B)] {
            let from: Vec<Seen> = of_a[1]
                .iter()
                .filter(|seen| seen.source.ip() == address)
                .cloned()
                .collect();
            if let Some(source) = busiest(&from) {
                subflows.push(carried(name, source, base, &mut highest, &from));
            }
        }
        let bytes = subflows.iter().map(|part| part.bytes).sum();
        self.download = Some(Stream {
            subflows,
            bytes,
            ..Stream::default()
        });
        Ok(())
    }

    /// What has come from this address, and from when on.
    fn from(&self, address: IpAddr) -> Option<(u64, f64)> {
        let mut parts = self.download.iter().flat_map(|stream| &stream.subflows);
        let part = parts.find(|part| part.source.ip() == address)?;
        Some((part.bytes, part.progress.first()?.0))
    }

    /// What the act claims.
    pub fn claims(&self) -> Vec<Claim> {
        let after = |time: Option<f64>, moment: Option<f64>| match time.zip(moment) {
            Some((time, moment)) => format!("{:+.1} ms", (time - moment) * 1e3),
            None => "never".to_owned(),
        };
        let path = |address| {
            self.from(address)
                .filter(|(bytes, _)| *bytes >= A_PART)
                .map(|(bytes, since)| (megabytes(bytes), since))
        };
        let (relayed, direct) = (path(PROXY), path(NAPT_OF_B));
        let carried = |path: &Option<(String, f64)>, moment| match path {
            Some((bytes, since)) => format!("{bytes}, the first {}", after(Some(*since), moment)),
            None => "it has carried nothing to speak of".to_owned(),
        };
        let mut claims = vec![
            claims::same_file(
                &self.digests,
                self.transfer.as_ref().map(|transfer| transfer.bytes),
            ),
            claims::one_connection(self.opened, self.transfer.as_ref()),
            claims::one_shell(self.shells),
            Claim {
                holds: self.to_proxy.is_some(),
                says: "the server names a proxy",
                facts: format!(
                    "reported {}, told {} from when both had a network",
                    after(self.reported, self.back),
                    after(self.to_proxy, self.back)
                ),
            },
            Claim {
                holds: relayed.is_some(),
                says: "the proxy relays",
                facts: carried(&relayed, self.back),
            },
            Claim {
                holds: self.to_peer.is_some(),
                says: "the server lets them try it directly",
                facts: format!(
                    "{} from when one NAPT turned friendly",
                    after(self.to_peer, self.friendly)
                ),
            },
            Claim {
                holds: direct.is_some() && direct.as_ref().map(|path| path.1) > self.friendly,
                says: "it goes on without the proxy",
                facts: carried(&direct, self.friendly),
            },
            claims::no_resets(self.download.is_some(), self.resets),
        ];
        if !self.passed {
            claims.push(claims::failed(self.reason.as_ref()));
        }
        claims
    }
}

/// What came from there and had not come before: `highest` bytes of the file are there already.
fn carried(name: &str, from: std::net::SocketAddr, base: u32, highest: &mut u64, seen: &[Seen]) -> Part {
    let data = seen
        .iter()
        .filter(|seen| seen.way == Way::In && seen.source == from && seen.payload > 0);
    let (mut bytes, mut progress, mut to) = (0, Vec::new(), from);
    for seen in data {
        let end = u64::from(seen.seq.wrapping_add(seen.payload).wrapping_sub(base));
        if end > *highest && end < 1 << 31 {
            bytes += end - *highest;
            *highest = end;
            progress.push((seen.time, bytes));
            to = seen.destination;
        }
    }
    Part {
        link: name.to_owned(),
        source: from,
        destination: to,
        bytes,
        gaps: 0,
        unmapped: 0,
        progress,
    }
}
