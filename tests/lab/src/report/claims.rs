//! What the demonstration claims, each claim held against what was seen.
use std::fmt::Display;

use super::act::{Act, Transfer};
use super::trace::{Place, Trace};

/// One claim: whether it holds, and the facts.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    pub holds: bool,
    pub says: &'static str,
    pub facts: String,
}

/// A resumption is quick if it needs no timer of a kernel: those count in tenths of a second.
const QUICK_MS: f64 = 100.0;
/// The story keeps A without a network for eight seconds; a loaded machine may need a little longer.
const AWAY: std::ops::Range<f64> = 7.5..12.0;

/// What act 1 claims: with agents.
pub fn moved(act: &Act) -> Vec<Claim> {
    let download = act.download.as_ref();
    let mut claims = vec![
        same_bytes(act),
        same_connection(act),
        same_session(act),
        resumption(download),
        absence(download),
        places(act),
        resets(act),
        invalid(act),
    ];
    if !act.passed {
        claims.push(failed(act.reason.as_ref()));
    }
    claims
}

/// What act 2 claims: without them.
pub fn alone(act: &Act) -> Vec<Claim> {
    let killed = |ending: &super::act::Ending| {
        let at = ending
            .at
            .map_or_else(|| "never".to_owned(), |at| format!("at {at:.1} s"));
        let exit = ending
            .exit
            .map_or_else(String::new, |exit| format!(", exit {exit}"));
        format!("{at}{exit}: {}", ending.said)
    };
    let bytes = act.transfer.as_ref().map(|transfer| transfer.bytes);
    let mut claims = vec![
        Claim {
            holds: act.curl.exit.is_some_and(|exit| exit != 0),
            says: "the download dies",
            facts: match bytes {
                Some(bytes) => format!("{}; {} arrived", killed(&act.curl), megabytes(bytes)),
                None => killed(&act.curl),
            },
        },
        Claim {
            holds: act.ssh.exit.is_some_and(|exit| exit != 0) && act.echoes.away.is_none(),
            says: "the ssh session dies",
            facts: killed(&act.ssh),
        },
        Claim {
            holds: act.web.errors.iter().any(|error| error == "TIMEDOUT"),
            says: "B's kernel gives up",
            facts: match act.web.errors.as_slice() {
                [] => "it has not".to_owned(),
                errors => format!("the web server's write fails: {}", errors.join(", ")),
            },
        },
    ];
    if !act.passed {
        claims.push(failed(act.reason.as_ref()));
    }
    claims
}

fn same_bytes(act: &Act) -> Claim {
    let size = act.transfer.as_ref().map(|transfer| transfer.bytes);
    same_file(&act.digests, size)
}

/// The copy at A is the file at B; `size` in bytes.
pub fn same_file([there, here]: &[Option<String>; 2], size: Option<u64>) -> Claim {
    let size = size.map_or_else(String::new, |bytes| format!("{}, ", megabytes(bytes)));
    let facts = match (there, here) {
        (Some(there), Some(here)) if there == here => format!("{size}sha256 {}… at both ends", &here[..16]),
        (Some(there), Some(here)) => format!("sha256 {}… at B, {}… at A", &there[..16], &here[..16]),
        _ => "no sha256 of both copies".to_owned(),
    };
    Claim {
        holds: there.is_some() && there == here,
        says: "A has the file as it is at B",
        facts,
    }
}

/// B has seen one SYN for the download, and curl has connected once.
pub fn one_connection(opened: usize, transfer: Option<&Transfer>) -> Claim {
    let connects = transfer.map(|transfer| transfer.connects);
    Claim {
        holds: opened == 1 && connects == Some(1),
        says: "the download is one TCP connection",
        facts: format!(
            "B saw {opened} SYN for it, curl counts {} connect",
            connects.unwrap_or_default()
        ),
    }
}

/// The shell that answers after the move is the one of before.
pub fn one_shell(shells: [Option<u32>; 2]) -> Claim {
    Claim {
        holds: shells[0].is_some() && shells[0] == shells[1],
        says: "the ssh session is the same shell",
        facts: match shells {
            [Some(before), Some(after)] => format!("process {before} before, {after} after"),
            _ => "it does not answer".to_owned(),
        },
    }
}

/// No reset of the programs' connections has arrived, and somebody has looked.
pub fn no_resets(seen: bool, count: usize) -> Claim {
    Claim {
        holds: seen && count == 0,
        says: "no reset reaches A or B",
        facts: format!("{count} RST segments arrived for the two connections"),
    }
}

/// A story that has failed, and why.
pub fn failed(reason: Option<&String>) -> Claim {
    Claim {
        holds: false,
        says: "the story ends well",
        facts: reason.cloned().unwrap_or_default(),
    }
}

fn same_connection(act: &Act) -> Claim {
    let (opened, connects) = (
        act.download.as_ref().map(|trace| trace.opened),
        act.transfer.as_ref().map(|transfer| transfer.connects),
    );
    Claim {
        holds: opened == Some(1) && connects == Some(1) && act.curl.exit == Some(0),
        says: "the download is one TCP connection",
        facts: format!(
            "B saw {} SYN for it, curl counts {} connect and ends with exit {}",
            or_none(opened),
            or_none(connects),
            or_none(act.curl.exit)
        ),
    }
}

fn same_session(act: &Act) -> Claim {
    let echoes = &act.echoes;
    let opened = act.session.as_ref().map(|trace| trace.opened);
    let same = echoes.before.is_some() && echoes.before == echoes.away && echoes.away == echoes.after;
    let facts = if same {
        format!(
            "process {} echoes what was typed before, during and after; B saw {} SYN",
            or_none(echoes.before),
            or_none(opened)
        )
    } else {
        format!(
            "echo before {}, during {}, after {} (numbers of the shell's process)",
            or_none(echoes.before),
            or_none(echoes.away),
            or_none(echoes.after)
        )
    };
    Claim {
        holds: same && opened == Some(1),
        says: "the ssh session is the same shell",
        facts,
    }
}

fn resumption(trace: Option<&Trace>) -> Claim {
    let took = trace.and_then(|trace| trace.moments.resumption_ms());
    Claim {
        holds: took.is_some_and(|took| took < QUICK_MS),
        says: "data flows at once",
        facts: match took {
            Some(took) => format!("first new byte {took:.1} ms after the address was usable"),
            None => "no new byte after the move".to_owned(),
        },
    }
}

fn absence(trace: Option<&Trace>) -> Claim {
    let moments = trace.map(|trace| trace.moments).unwrap_or_default();
    let facts = match (moments.absence(), moments.outage()) {
        (Some(absence), Some(outage)) => {
            format!("{absence:.2} s without a network, {outage:.2} s without a new byte")
        }
        (Some(absence), None) => format!("{absence:.2} s without a network"),
        _ => "A's kernel does not tell when its address went and came".to_owned(),
    };
    Claim {
        holds: moments.absence().is_some_and(|absence| AWAY.contains(&absence)),
        says: "A was away",
        facts,
    }
}

fn places(act: &Act) -> Claim {
    let trace = act.download.as_ref();
    let (before, after) = (
        trace.map(|trace| trace.before),
        trace.and_then(|trace| trace.after),
    );
    let show = |place: Place| format!("{} ({})", place.direct, place.observed);
    let unchanged = act
        .transfer
        .as_ref()
        .zip(before)
        .is_some_and(|(transfer, before)| transfer.local == before.direct.to_string());
    let facts = match (before, after) {
        (Some(before), Some(after)) => format!(
            "{} → {}; curl's socket keeps {}",
            show(before),
            show(after),
            before.direct
        ),
        _ => "A was seen at one place only".to_owned(),
    };
    let differ = before.zip(after).is_some_and(|(before, after)| {
        before.direct.ip() != after.direct.ip() && before.observed.ip() != after.observed.ip()
    });
    Claim {
        holds: differ && unchanged,
        says: "another address, another NAPT",
        facts,
    }
}

fn resets(act: &Act) -> Claim {
    let counts = [&act.download, &act.session]
        .into_iter()
        .flatten()
        .map(|trace| trace.resets);
    let seen = act.download.is_some() && act.session.is_some();
    let count: usize = counts.sum();
    no_resets(seen, count)
}

fn invalid(act: &Act) -> Claim {
    let each: Vec<String> = act
        .invalid
        .iter()
        .map(|(name, count)| format!("{name}: {count}"))
        .collect();
    Claim {
        holds: !act.invalid.is_empty() && act.invalid.values().all(|count| *count == 0),
        says: "no NAPT drops a segment as INVALID",
        facts: each.join(", "),
    }
}

/// `50.0 MB`: a million bytes each.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "no".to_owned(), |value| value.to_string())
}
