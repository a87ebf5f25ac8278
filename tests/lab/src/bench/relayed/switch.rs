//! How long `prefer` takes: the command, the first bytes on the path that is chosen, and the last on the one that was.
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::{Between, PATH_RATE, Road};
use crate::bench::table::{self, Distribution};
use crate::bench::{Bench, clock};
use crate::machine::netns;

/// Both paths of the terminal: device, and address.
const PATHS: [(&str, [u8; 4]); 2] = [("wifi", [10, 1, 0, 2]), ("lte", [10, 2, 0, 2])];
/// More than acknowledgements and commands are.
const DATA: u64 = 1400;
/// A path without data for so long carries none any more ...
const QUIET: u64 = 200_000_000;
/// ... and a switch takes no longer.
const LONGEST: u64 = 5_000_000_000;
const LOOK: Duration = Duration::from_micros(200);

/// All in milliseconds, after the command was given.
#[derive(Clone, Debug, Serialize)]
pub struct Switch {
    pub conditions: String,
    /// What the kernel's path manager needed, as the relay says.
    pub command: Distribution,
    /// The first data on the chosen path reaches the terminal.
    pub first: Distribution,
    /// The last data on the other path does.
    pub last: Distribution,
}

/// One download, sent to and fro between both paths.
pub fn measure(bench: &Bench) -> Result<Vec<Switch>, String> {
    let rounds = if bench.quick { 6 } else { 40 };
    let mut road = Road::build(bench, "switch", Between::Relay, true)?;
    let endpoint = "mptcp endpoint add 10.2.0.2 dev lte id 1 subflow\n";
    netns::ip(&road.phone.netns, endpoint).map_err(|error| error.to_string())?;
    let mut stream = road.connect(false)?;
    stream.source.tell("go")?;
    let (mut command, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
    // The first choice comes from both paths, and counts for nothing.
    for round in 0..=rounds {
        let times = road.switch(round % 2)?;
        if round > 0 {
            command.push(times.command);
            first.push(times.first);
            last.push(times.last);
        }
    }
    stream.source.tell("hold")?;
    bench.progress("primary paths are switched");
    let rows = vec![Switch {
        conditions: format!("download, {PATH_RATE} each"),
        command: Distribution::of(command),
        first: Distribution::of(first),
        last: Distribution::of(last),
    }];
    table::switches("Time that `prefer` takes (ms)", &rows);
    Ok(rows)
}

#[derive(Clone, Copy)]
struct Times {
    command: f64,
    first: f64,
    last: f64,
}

impl Road {
    /// Chooses a path for the one connection there is.
    fn switch(&self, chosen: usize) -> Result<Times, String> {
        let (node, netns) = (&self.middle.name, &self.phone.netns);
        let address = IpAddr::from(PATHS[chosen].1);
        let sessions = self.relays.ask(node, crate::language::ast::RelayList::Sessions)?;
        let token = sessions
            .iter()
            .find_map(|session| session["token"].as_str())
            .ok_or("no connection is multipath")?;
        let watched = std::thread::scope(|scope| {
            let begun = clock::now();
            let watching = scope.spawn(move || watch(netns, chosen, begun));
            let said = self
                .relays
                .tell(node, &["prefer", token, &address.to_string(), "--json"])?;
            let said: Value =
                serde_json::from_str(&said).map_err(|error| format!("prefer said no JSON: {error}"))?;
            let watched = watching.join().map_err(|_| "the watch has ended".to_owned())??;
            let command = said["took_ms"]
                .as_f64()
                .ok_or("prefer does not say what it took")?;
            Ok::<_, String>((command, watched))
        })?;
        let (command, (first, last)) = watched;
        Ok(Times { command, first, last })
    }
}

/// When data comes by the chosen path first, and by the other last; in milliseconds since `begun`.
fn watch(netns: &str, chosen: usize, begun: u64) -> Result<(f64, f64), String> {
    let look = || -> Result<(f64, f64), String> {
        let mut before = received()?;
        let (mut first, mut last) = (None, begun);
        loop {
            std::thread::sleep(LOOK);
            let (now, counts) = (clock::now(), received()?);
            if counts[chosen] - before[chosen] >= DATA {
                first.get_or_insert(now);
            }
            if counts[1 - chosen] - before[1 - chosen] >= DATA {
                last = now;
            }
            before = counts;
            let millis = |at: u64| (at - begun) as f64 / 1e6;
            match first {
                Some(first) if now - last > QUIET && now - first > QUIET => {
                    return Ok((millis(first), millis(last)));
                }
                _ if now - begun > LONGEST => return Err("the paths were not switched within 5 s".into()),
                _ => {}
            }
        }
    };
    netns::inside(netns, || Ok(look())).map_err(|error| error.to_string())?
}

/// Bytes that this thread's network has received by each path.
fn received() -> Result<[u64; 2], String> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")
        .map_err(|error| format!("cannot read the devices' counters: {error}"))?;
    let count = |device: &str| {
        text.lines()
            .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("there is no device {device}"))
    };
    Ok([count(PATHS[0].0)?, count(PATHS[1].0)?])
}
