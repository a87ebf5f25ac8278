//! Everything that is known about one act when it is over.
//!
//! The stories in `tests/scenarios/demo*.scn` and this file agree on names: the hosts A and B, the links `home`,
//! `cafe` and `lan`, and the programs below.
use std::collections::BTreeMap;
use std::path::Path;

use super::ReportError;
use super::kernel;
use super::segments::{Seen, at_device};
use super::trace::{Trace, Views};
use crate::story::Verdict;
use crate::story::timeline::Entry;

pub const MOVER: &str = "A";
pub const SERVER: &str = "B";
const FROM: &str = "home";
const TO: &str = "cafe";
const SERVER_LINK: &str = "lan";
const HTTP: u16 = 80;
const SSH: u16 = 22;

/// How one program ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ending {
    pub exit: Option<i32>,
    /// Seconds since the story began.
    pub at: Option<f64>,
    /// Its last line on standard error.
    pub said: String,
    /// Failures by errno name, of programs that report them.
    pub errors: Vec<String>,
}

/// What curl says about itself when it is done.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    pub connects: u32,
    /// Its own end, as its socket knows it.
    pub local: String,
    pub remote: String,
    pub bytes: u64,
}

/// The shell's answers to what was typed before, while A was away, and after: the number of its process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Echoes {
    pub before: Option<u32>,
    pub away: Option<u32>,
    pub after: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct Act {
    pub title: String,
    pub passed: bool,
    /// Why the story failed.
    pub reason: Option<String>,
    /// Seconds the story took.
    pub duration: f64,
    pub timeline: Vec<Entry>,
    /// Packets that each NAPT dropped as invalid.
    pub invalid: BTreeMap<String, u64>,
    pub download: Option<Trace>,
    pub session: Option<Trace>,
    pub curl: Ending,
    pub ssh: Ending,
    pub web: Ending,
    pub transfer: Option<Transfer>,
    pub echoes: Echoes,
    /// SHA-256 of the file at B and of its copy at A.
    pub digests: [Option<String>; 2],
    /// Why something above is missing.
    pub problems: Vec<String>,
}

impl Act {
    /// Reads the artifacts of a story that is over. What cannot be read is missing in the act, with the reason.
    pub fn gather(verdict: &Verdict, artifacts: &Path) -> Act {
        let read = |name: &str| {
            let path = artifacts.join("programs").join(name);
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let ending = |name: &str| {
            let program = verdict.programs.get(name);
            Ending {
                exit: program.and_then(|program| program.exit),
                at: program.and_then(|program| program.ended),
                said: last_line(&read(&format!("{name}.err"))),
                errors: program
                    .map(|program| program.report.errors.keys().cloned().collect())
                    .unwrap_or_default(),
            }
        };
        let typed = read("shell.out");
        let mut act = Act {
            title: verdict.title.clone().unwrap_or_default(),
            passed: verdict.passed,
            reason: verdict.reason.clone(),
            duration: verdict.duration,
            timeline: verdict.timeline.clone(),
            invalid: verdict
                .invalid
                .iter()
                .map(|(name, count)| (name.clone(), *count))
                .collect(),
            curl: ending("curl"),
            ssh: ending("shell"),
            web: ending("web"),
            transfer: transfer(&read("curl.out")),
            echoes: Echoes {
                before: echo(&typed, "before-42 "),
                away: echo(&typed, "away-43 "),
                after: echo(&typed, "after-44 "),
            },
            digests: [digest(&read("make.out")), digest(&read("sum.out"))],
            ..Act::default()
        };
        if let Err(error) = act.look(verdict.began, &artifacts.join("links"), &read("kernel.out")) {
            act.problems.push(error.to_string());
        }
        act
    }

    /// Makes traces of the captures.
    fn look(&mut self, began: f64, links: &Path, log: &str) -> Result<(), ReportError> {
        let mover_before: Vec<Seen> = at_device(links, FROM, MOVER, began)?;
        let mover_after = at_device(links, TO, MOVER, began)?;
        let server = at_device(links, SERVER_LINK, SERVER, began)?;
        let views = Views {
            mover_before: &mover_before,
            mover_after: &mover_after,
            server: &server,
        };
        let moved = kernel::a_move(log, FROM, TO, began);
        if moved.usable.is_none() {
            let problem =
                "the kernel's own log of A does not show both the loss and the return of an address";
            self.problems.push(problem.to_owned());
        }
        self.download = Trace::of(views, HTTP, moved);
        self.session = Trace::of(views, SSH, moved);
        Ok(())
    }
}

fn last_line(text: &str) -> String {
    let mut lines = text.lines().rev().map(str::trim);
    lines.find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// `1 192.168.1.2:37610 10.0.3.2:80 50000000`.
pub(super) fn transfer(said: &str) -> Option<Transfer> {
    let words: Vec<&str> = said.split_whitespace().collect();
    let &[connects, local, remote, bytes] = &words[..] else {
        return None;
    };
    Some(Transfer {
        connects: connects.parse().ok()?,
        local: local.to_owned(),
        remote: remote.to_owned(),
        bytes: bytes.parse().ok()?,
    })
}

/// The number behind a word that the shell prints; the command line itself shows the word without a number.
pub(super) fn echo(output: &str, word: &str) -> Option<u32> {
    let mut places = output.match_indices(word);
    places.find_map(|(at, _)| {
        let digits = output[at + word.len()..].split(|c: char| !c.is_ascii_digit());
        digits.into_iter().next()?.parse().ok()
    })
}

/// The first word of `sha256sum`'s line.
pub(super) fn digest(said: &str) -> Option<String> {
    let word = said.split_whitespace().next()?;
    (word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| word.to_owned())
}
