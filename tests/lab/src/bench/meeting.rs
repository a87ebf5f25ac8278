//! Both ends move at once, and a mobility server brings them together: how long that takes on paths of some length.
//!
//! A story like those of users, in a process of its own: some downloads, both hosts away for half a second, both back
//! with other addresses. What is measured begins when the server has decided, which is at once when the second report
//! has come, by the server's log; it ends when the next byte has reached the application, by its own note. Both
//! read the machine's wall clock.
//!
//! The row `proxied` is the same behind two NAPTs whose ports nobody can foresee, through a symmetric proxy. It begins when
//! the second report has reached the server: between that and the decision lies the proxy's answer.
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;
use serde_json::Value;

use super::Bench;
use super::table::{self, Distribution};

/// Round trips in milliseconds, between any two of the hosts and the server.
const TRIPS: [u32; 4] = [0, 20, 50, 100];
/// Downloads that wait together.
const DOWNLOADS: usize = 4;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Meeting {
    pub round_trip_ms: u32,
    /// Milliseconds from the second report to the first new byte.
    pub times: Distribution,
    /// Downloads that did not go on.
    pub lost: usize,
}

/// How the ends meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Proxied,
}

impl Way {
    /// Every link has its share of the way: two of them, there and back, are the round trip; through the proxy, which is
    /// on a link of its own, there are four between the ends.
    fn story(self, round_trip_ms: u32) -> String {
        let delay = match round_trip_ms {
            0 => String::new(),
            trip => format!("delay={}ms", f64::from(trip) / 4.0),
        };
        let network = match self {
            Way::Direct => format!(
                "host A B hub\nrouter core\n\
                 link a2 A=192.0.2.2/25 core=192.0.2.1/25 rate=100mbit {delay} down\n\
                 link b2 B=192.0.2.130/25 core=192.0.2.129/25 rate=100mbit {delay} down\n"
            ),
            Way::Proxied => format!(
                "host A B hub\nproxy P\nnapt n1 masquerade fully-random\nnapt n2 masquerade fully-random\nrouter core\n\
                 link a2 A=192.168.1.2/24 n1=192.168.1.1/24 rate=100mbit {delay} down\n\
                 link b2 B=192.168.2.2/24 n2=192.168.2.1/24 rate=100mbit {delay} down\n\
                 link u1 n1=10.0.1.1/24 core=10.0.1.254/24\nlink u2 n2=10.0.2.1/24 core=10.0.2.254/24\n\
                 link far P=100.64.8.2/24 core=100.64.8.1/24 {delay}\n"
            ),
        };
        let mut text = format!(
            "title Both hosts move at once\n{network}\
             link a1 A=198.51.100.2/24 core=198.51.100.1/24 rate=100mbit {delay}\n\
             link b1 B=203.0.113.2/24 core=203.0.113.1/24 rate=100mbit {delay}\n\
             link lan hub=100.64.9.2/24 core=100.64.9.1/24 {delay}\n\
             server M on hub store.backend=memory\nagent A B\n"
        );
        // The agents meet first: on a busy machine that may take longer than the downloads.
        text += "+0 A idle B as=first\n";
        for host in ["A", "B"] {
            text += &format!("within 40 {host} agent connections count=1 state=Established\n");
        }
        for number in 0..DOWNLOADS {
            text += &format!("+0 A fetch B 5MiB as=d{number}\n");
        }
        for host in ["A", "B"] {
            let all = DOWNLOADS + 1;
            text += &format!("within 20 {host} agent connections count={all} state=Established\n");
        }
        if self == Way::Proxied {
            text += "within 20 P proxy status capacity=10000 count=1\n";
        }
        text += "after d0 >= 1MiB a1 down\n+0 b1 down\n+0 hub exec sleep 0.5 -> exit=0 within=60\n+0 a2 up\n+0 b2 up\n";
        for number in 0..DOWNLOADS {
            text += &format!("within 60 d{number} done sha256=same\n");
        }
        text
    }
}

/// Measures and prints.
///
/// # Errors
/// The story cannot be run, or what it left behind is not what is read here.
pub fn measure(bench: &Bench) -> Result<Vec<Meeting>, String> {
    let rows = measure_way(bench, Way::Direct)?;
    table::meetings(
        "Both ends moved: from the second report at the server to the first new byte (ms)",
        &rows,
    );
    Ok(rows)
}

/// The same through a symmetric proxy.
///
/// # Errors
/// As [`measure`].
pub fn measure_proxied(bench: &Bench) -> Result<Vec<Meeting>, String> {
    let rows = measure_way(bench, Way::Proxied)?;
    table::meetings(
        "Both ends behind NAPTs: from the second report at the server to the first relayed byte (ms)",
        &rows,
    );
    Ok(rows)
}

fn measure_way(bench: &Bench, way: Way) -> Result<Vec<Meeting>, String> {
    let rounds = if bench.quick { 2 } else { 10 };
    let mut rows = Vec::new();
    for round_trip_ms in TRIPS {
        let (mut times, mut lost) = (Vec::new(), 0);
        for round in 0..rounds {
            let directory = bench
                .claim
                .directory
                .join(format!("meeting-{way:?}-{round_trip_ms}-{round}"));
            run(bench, &way.story(round_trip_ms), &directory)?;
            let found = read(&directory, way)?;
            lost += DOWNLOADS - found.len();
            times.extend(found);
        }
        bench.progress(&format!("both move, {way:?}, round trip {round_trip_ms} ms"));
        rows.push(Meeting {
            round_trip_ms,
            times: Distribution::of(times),
            lost,
        });
    }
    Ok(rows)
}

fn run(bench: &Bench, story: &str, directory: &Path) -> Result<(), String> {
    let said = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(said)?;
    let file = directory.join("meeting.scn");
    std::fs::write(&file, story).map_err(said)?;
    let output = Command::new(std::env::current_exe().map_err(said)?)
        .arg("run")
        .arg(&file)
        .arg("--agent-binary")
        .arg(&bench.agent)
        .arg("--artifacts")
        .arg(directory.join("artifacts"))
        .stdin(Stdio::null())
        .output()
        .map_err(said)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "the story did not pass; are mobility-server and symmetric-proxy beside this program?\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Of every download that went on: milliseconds from when it could to its next byte.
fn read(directory: &Path, way: Way) -> Result<Vec<f64>, String> {
    let artifacts = directory.join("artifacts");
    let text = |path: &str| {
        let path = artifacts.join(path);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let log = text("programs/M.err")?;
    let decided = match way {
        Way::Direct => said_of_both(&log, ": destination "),
        Way::Proxied => said_of_both(&log, ": report "),
    };
    let decided = decided.ok_or("the server's log does not have both ends")?;
    let timeline: Value = serde_json::from_str(&text("timeline.json")?).map_err(|error| error.to_string())?;
    let times = (0..DOWNLOADS).filter_map(|number| {
        let stalls = timeline["programs"][format!("d{number}")]["stalls"].as_array()?;
        let ends = stalls.iter().filter_map(|stall| stall["until"].as_u64());
        // Before it there is no reason to wait; after it, the path's rate may be one.
        let next = ends.filter(|end| *end > decided).min()?;
        Some((next - decided) as f64 / 1e3)
    });
    Ok(times.collect())
}

/// When this was said of the last of two ends for the first time, in microseconds since 1970.
fn said_of_both(log: &str, what: &str) -> Option<u64> {
    let mut ends = BTreeSet::new();
    for line in log.lines().filter(|line| line.contains(what)) {
        let agent = line.split(" agent=").nth(1)?.split(' ').next()?;
        ends.insert(agent.to_owned());
        if ends.len() == 2 {
            return micros(line.split_whitespace().next()?);
        }
    }
    None
}

/// `2026-11-24T11:04:17.507452Z` as microseconds since 1970.
fn micros(stamp: &str) -> Option<u64> {
    let (date, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (
        time.next()?.parse::<i64>().ok()?,
        time.next()?.parse::<i64>().ok()?,
    );
    let seconds: f64 = time.next()?.parse().ok()?;
    // Years that begin in March have their odd day at the end.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 719_469;
    let whole = ((days * 24 + hours) * 60 + minutes) * 60_000_000;
    u64::try_from(whole)
        .ok()?
        .checked_add((seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_counts_when_both_ends_were_told() {
        let line = |time: &str, agent: &str| {
            format!("{time}  INFO x::pairs: destination pair=1 agent={agent} decision=1\n")
        };
        let first = line("2026-11-24T11:04:17.507444Z", "a");
        let decided = |log: &str| said_of_both(log, ": destination ");
        assert_eq!(decided(&first), None);
        let both = format!("{first}{first}{}", line("2026-11-24T11:04:17.507452Z", "b"));
        assert_eq!(decided(&both), Some(1_795_518_257_507_452));
        assert_eq!(said_of_both(&both, ": report "), None);
    }

    #[test]
    fn a_leap_day_counts() {
        assert_eq!(micros("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(micros("2024-02-29T00:00:01.5Z"), Some(1_709_164_801_500_000));
        assert_eq!(micros("yesterday"), None);
    }
}
