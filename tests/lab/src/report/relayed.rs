//! The act of the relay: a download over two carriers, one of which is cut.
//!
//! The story in `tests/scenarios/demo_relay.scn` and this file agree on names: the hosts A and B, the links `wifi`,
//! `lte` and `lan`, and the programs `make`, `curl` and `sum`.
use std::path::Path;

use super::ReportError;
use super::act::digest;
use super::claims::{self, Claim, megabytes};
use super::multipath::{self, Part, Stream};
use super::segments;
use crate::story::Verdict;
use crate::story::timeline::Entry;

const TERMINAL: &str = "A";
const SERVER: &str = "B";
/// The carrier that is cut.
pub const CUT: &str = "wifi";
const LEFT: &str = "lte";
const SERVER_LINK: &str = "lan";
/// A path that has carried less than this has not carried its part.
const A_PART: u64 = 1_000_000;

/// What is known when it is over.
#[derive(Clone, Debug, Default)]
pub struct Relayed {
    pub title: String,
    pub passed: bool,
    /// Why the story failed.
    pub reason: Option<String>,
    pub timeline: Vec<Entry>,
    /// What A has received.
    pub download: Option<Stream>,
    /// When the carrier was cut, in seconds since the story began.
    pub cut: Option<f64>,
    /// Connections that curl opened.
    pub connects: Option<u32>,
    /// SHA-256 of the file at B and of its copy at A.
    pub digests: [Option<String>; 2],
    /// Segments at B's device, and those among them with any option of MPTCP.
    pub at_server: [usize; 2],
    /// Why something above is missing.
    pub problems: Vec<String>,
}

impl Relayed {
    /// Reads the artifacts of a story that is over. What cannot be read is missing, with the reason.
    pub fn gather(verdict: &Verdict, artifacts: &Path) -> Relayed {
        let read = |name: &str| {
            let path = artifacts.join("programs").join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let cut = |entry: &&Entry| entry.subject == CUT && entry.event == "down";
        let mut relayed = Relayed {
            title: verdict.title.clone().unwrap_or_default(),
            passed: verdict.passed,
            reason: verdict.reason.clone(),
            timeline: verdict.timeline.clone(),
            cut: verdict.timeline.iter().find(cut).map(|entry| entry.time),
            connects: read("curl.out")
                .split_whitespace()
                .next()
                .and_then(|count| count.parse().ok()),
            digests: [digest(&read("make.out")), digest(&read("sum.out"))],
            ..Relayed::default()
        };
        if let Err(error) = relayed.look(verdict.began, &artifacts.join("links")) {
            relayed.problems.push(error.to_string());
        }
        relayed
    }

    fn look(&mut self, began: f64, links: &Path) -> Result<(), ReportError> {
        let found = multipath::at_host(links, TERMINAL, &[CUT, LEFT], began)?;
        self.download = found.into_iter().next().map(|connection| connection.received);
        if self.download.is_none() {
            self.problems.push("A has opened no MPTCP connection".to_owned());
        }
        let seen = segments::at_device(links, SERVER_LINK, SERVER, began)?;
        let multipath = seen
            .iter()
            .filter(|segment| multipath::is_multipath(&segment.options));
        self.at_server = [seen.len(), multipath.count()];
        Ok(())
    }

    fn part(&self, link: &str) -> Option<&Part> {
        let parts = self.download.as_ref()?.subflows.iter();
        parts.into_iter().find(|part| part.link == link)
    }

    /// Bytes that a path had carried by then.
    fn carried(&self, link: &str, time: f64) -> u64 {
        let progress = self.part(link).map(|part| part.progress.as_slice());
        let until = progress.unwrap_or_default().iter();
        until
            .take_while(|(at, _)| *at <= time)
            .last()
            .map_or(0, |(_, bytes)| *bytes)
    }

    /// What the act claims.
    pub fn claims(&self) -> Vec<Claim> {
        let cut = self.cut.unwrap_or(f64::MAX);
        let before = [CUT, LEFT].map(|link| self.carried(link, cut));
        let after = self.carried(LEFT, f64::MAX).saturating_sub(before[1]);
        let [segments, multipath] = self.at_server;
        let holes = self.download.as_ref().map(|stream| stream.holes);
        let mut claims = vec![
            Claim {
                holds: self.digests[0].is_some() && self.digests[0] == self.digests[1],
                says: "every byte arrives",
                facts: match &self.digests[1] {
                    Some(digest) => format!("sha256 of the copy {}…", digest.get(..12).unwrap_or(digest)),
                    None => "there is no copy".to_owned(),
                },
            },
            Claim {
                holds: before.iter().all(|bytes| *bytes >= A_PART),
                says: "both carriers carry",
                facts: format!(
                    "before the cut {} by {CUT}, {} by {LEFT}",
                    megabytes(before[0]),
                    megabytes(before[1])
                ),
            },
            Claim {
                holds: self.cut.is_some() && after >= A_PART,
                says: "one goes on alone",
                facts: format!("after the cut {} by {LEFT}", megabytes(after)),
            },
            Claim {
                holds: self.connects == Some(1),
                says: "it is one connection",
                facts: format!("curl opened {}", self.connects.unwrap_or_default()),
            },
            Claim {
                holds: holes == Some(0),
                says: "the data numbers leave no hole",
                facts: match &self.download {
                    Some(stream) => format!(
                        "{} in {} subflows, {} sent again on the other",
                        megabytes(stream.bytes),
                        stream.subflows.len(),
                        megabytes(stream.twice)
                    ),
                    None => "nothing was captured".to_owned(),
                },
            },
            Claim {
                holds: segments > 0 && multipath == 0,
                says: "the server knows nothing of it",
                facts: format!("{multipath} of {segments} segments at B have an option of MPTCP"),
            },
        ];
        if !self.passed {
            claims.push(claims::failed(self.reason.as_ref()));
        }
        claims
    }
}
