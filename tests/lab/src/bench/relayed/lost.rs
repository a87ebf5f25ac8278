//! How long a download through the relay pauses when one of its two paths is lost, with an agent's report and without.
//!
//! Every kind of loss is a story of the laboratory, told by turns with an agent at the terminal and without.
use serde::Serialize;

use crate::bench::Bench;
use crate::bench::table::{self, Distribution};
use crate::{language, story};

/// How a path is lost.
struct Kind {
    name: &'static str,
    event: &'static str,
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "the link has no carrier, the address stays",
        event: "wifi down keep",
    },
    Kind {
        name: "the link is gone, and the address with it",
        event: "wifi down",
    },
    Kind {
        name: "segments vanish, the link looks well",
        event: "wifi blackhole",
    },
];

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Stall {
    pub kind: &'static str,
    /// Longest pause at the application in milliseconds, without an agent ...
    pub without: Distribution,
    /// ... and with one that reports.
    pub with: Distribution,
}

fn text(event: &str, agent: bool) -> String {
    let (hub, far, agents, attends) = match agent {
        true => (
            " hub",
            "link   far    hub=100.64.9.2/24  R=100.64.9.1/24",
            "server M on hub store.backend=memory\nagent  A",
            "within 60   M     server agents state=attends count=1",
        ),
        false => ("", "", "", ""),
    };
    format!(
        "host      A B{hub}
multipath A
relay     R
link   wifi   A=10.1.0.2/24      R=10.1.0.1/24   rate=40mbit delay=5ms
link   lte    A=10.2.0.2/24      R=10.2.0.1/24   rate=40mbit delay=10ms
link   lan    B=192.0.2.2/24     R=192.0.2.1/24
{far}
sysctl B net.mptcp.enabled=0
{agents}
B           serve port=7000
+0          A     fetch B 40MiB as=dl mptcp
{attends}
within 60   R     relay subflows path=wifi sent>=1000000 count=1
within 60   R     relay subflows path=lte sent>=1000000 count=1
            A     route default via 10.2.0.1
            {event}
within 120  dl    done sha256=same
expect      resets=0 errors=0
"
    )
}

/// Tells every story several times.
pub fn measure(bench: &Bench) -> Result<Vec<Stall>, String> {
    let rounds = if bench.quick { 1 } else { 7 };
    let mut rows = Vec::new();
    for kind in &KINDS {
        let mut gaps = [Vec::new(), Vec::new()];
        for seed in 0..rounds {
            for (agent, gaps) in [false, true].into_iter().zip(&mut gaps) {
                let scenario = language::parse(kind.name, &text(kind.event, agent)).map_err(|mistakes| {
                    let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                    all.join("; ")
                })?;
                let options = story::Options {
                    seed,
                    agent_binary: Some(bench.agent.clone()),
                    slow: 1.0,
                    ..story::Options::default()
                };
                let verdict = story::run(scenario, &options)?;
                if !verdict.passed {
                    return Err(format!("{}: {}", kind.name, verdict.reason.unwrap_or_default()));
                }
                gaps.extend(verdict.programs.get("dl").map(|program| program.report.gap));
            }
        }
        bench.progress(kind.name);
        let [without, with] = gaps.map(Distribution::of);
        rows.push(Stall {
            kind: kind.name,
            without,
            with,
        });
    }
    table::stalls(
        "Longest pause of a download when one of two paths is lost (ms; 2 x 40 Mbit/s, 5 and 10 ms one way)",
        &rows,
    );
    Ok(rows)
}
