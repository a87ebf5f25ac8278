//! How long a program hears nothing when the path changes and no address does: the time to notice it, and to resume.
//!
//! Every kind is a story of the laboratory, with real NAPTs, told several times. Two programs listen for silences: one
//! asks every 20 ms, the other only receives.
use serde::Serialize;

use super::Bench;
use super::table::{self, Distribution};
use crate::language;
use crate::story;

/// A kind of move that no address change shows.
struct Kind {
    name: &'static str,
    /// What of the silence is the path's own, in milliseconds.
    outage: f64,
    /// Lines of the story beside the common ones.
    network: &'static str,
    /// What happens, and to whom.
    event: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "the same address behind another NAPT",
        outage: 200.0,
        network: "link   cafe   A=192.168.1.2/24   napt2=192.168.1.1/24   rate=100mbit down
link   up2    napt2=10.0.2.1/24  core=10.0.2.254/24",
        event: "A move home -> cafe gap=200ms",
    },
    Kind {
        name: "the NAPT forgets its table",
        outage: 0.0,
        network: "",
        event: "napt1 flush",
    },
    Kind {
        name: "the NAPT gets another public address",
        outage: 0.0,
        network: "",
        event: "napt1 address up1 -10.0.1.1/24 +10.0.1.77/24",
    },
    Kind {
        name: "another gateway takes over (ARP)",
        outage: 0.0,
        network: "sysctl napt1 net.ipv4.conf.home.arp_notify=1",
        event: "napt1 exec as=replaced sh -c \"conntrack -F; ip link set home address 02:00:5e:00:01:17\" -> exit=0",
    },
    Kind {
        name: "the path stalls for 3 s",
        outage: 3000.0,
        network: "",
        event: "up1 blackhole
       A exec as=waits sleep 3 -> exit=0
       up1 heal",
    },
];

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Silence {
    pub kind: &'static str,
    /// What of it is the path's own, in milliseconds.
    pub outage: f64,
    /// Milliseconds without an answer.
    pub asks: Distribution,
    /// Milliseconds without a byte.
    pub receives: Distribution,
}

impl Kind {
    fn text(&self) -> String {
        let Kind { network, event, .. } = self;
        let second = if network.contains("napt2") {
            "napt   napt2  masquerade"
        } else {
            ""
        };
        format!(
            "host   A B
napt   napt1  masquerade
{second}
router core
link   home   A=192.168.1.2/24   napt1=192.168.1.1/24   rate=100mbit
link   up1    napt1=10.0.1.1/24  core=10.0.1.254/24
link   lan    B=192.0.2.2/24     core=192.0.2.1/24
{network}
agent  A B
+0               A  fetch B 60MiB as=dl
+0               A  echo B as=rr every=20ms
within 60        A  agent connections count=2 state=Established
within 60        B  agent connections count=2 state=Established
after dl >= 10MiB   {event}
within 120       dl done sha256=same
                 rr kill
expect           resets=0 errors=0
"
        )
    }
}

/// Tells every story several times.
pub fn measure(bench: &Bench) -> Result<Vec<Silence>, String> {
    let rounds = if bench.quick { 1 } else { 7 };
    let mut rows = Vec::new();
    for kind in &KINDS {
        let (mut asks, mut receives) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let scenario = language::parse(kind.name, &kind.text()).map_err(|mistakes| {
                let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                all.join("; ")
            })?;
            let options = story::Options {
                seed: round,
                agent_binary: Some(bench.agent.clone()),
                slow: 1.0,
                ..story::Options::default()
            };
            let verdict = story::run(scenario, &options)?;
            if !verdict.passed {
                return Err(format!("{}: {}", kind.name, verdict.reason.unwrap_or_default()));
            }
            let silence = |name: &str| verdict.programs.get(name).map(|program| program.report.gap);
            asks.extend(silence("rr"));
            receives.extend(silence("dl"));
        }
        bench.progress(kind.name);
        rows.push(Silence {
            kind: kind.name,
            outage: kind.outage,
            asks: Distribution::of(asks),
            receives: Distribution::of(receives),
        });
    }
    table::silences(
        "Longest silence when the path changes and no address does (ms)",
        &rows,
    );
    Ok(rows)
}
