//! Stories made up from a seed: two hosts wander between networks in the open and behind NAPTs, sleep, are cut off; at
//! the end a path exists, nothing is lost any more than usual, and every byte must arrive.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::random::Random;
use super::{run, shrink};
use crate::language::ast::{Action, HostChange, LinkChange, What};
use crate::language::{self, Scenario};

/// Two hosts with three networks each: one in the open, two behind NAPTs.
const NETWORK: &str = "\
host   A B
napt   napt1 masquerade
napt   napt2 masquerade
napt   napt3 masquerade random
napt   napt4 masquerade random
router core

link   aopen  A=198.51.100.2/24        core=198.51.100.1/24
link   ahome  A=192.168.1.2/24         napt1=192.168.1.1/24   down
link   acafe  A=192.168.1.2/24         napt3=192.168.1.1/24   down
link   bopen  B=203.0.113.2/24         core=203.0.113.1/24
link   bhome  B=192.168.1.3/24         napt2=192.168.1.1/24   down
link   bcafe  B=192.168.1.2/24         napt4=192.168.1.1/24   down
link   up1    napt1=10.0.1.1/24        core=10.0.1.254/24
link   up2    napt2=10.0.2.1/24        core=10.0.2.254/24
link   up3    napt3=10.0.3.1/24        core=10.0.3.254/24
link   up4    napt4=10.0.4.1/24        core=10.0.4.254/24
";

/// The story of this seed.
pub fn story(seed: u64) -> String {
    let mut random = Random::new(seed ^ 0x7761_6e64);
    let mut at = [["aopen", "ahome", "acafe"], ["bopen", "bhome", "bcafe"]].map(|links| (links, 0usize));
    let mut holes: Vec<&str> = Vec::new();
    let mut text = format!("title  Wandering, seed {seed}\n\n{NETWORK}\nagent  A B\n\n");
    text += "+0    A  fetch B 10MiB as=dl\n+0    A  push B 10MiB as=ul\n+0    A  echo B as=rr every=200ms count=150\n";
    let mut now = 1.0;
    for _ in 0..1 + random.below(8) {
        now += random.below(120) as f64 / 10.0;
        let h = random.below(2) as usize;
        let host = ["A", "B"][h];
        let (links, here) = at[h];
        match random.below(10) {
            0..=5 => {
                let to = (here + 1 + random.below(2) as usize) % 3;
                let gap = *random.pick(&["0s", "300ms", "2s", "8s"]);
                let _ = writeln!(
                    text,
                    "+{now:.1}  {host}  move {} -> {} gap={gap}",
                    links[here], links[to]
                );
                at[h].1 = to;
            }
            6 => {
                let _ = writeln!(text, "+{now:.1}  {host}  sleep {}s", 5 + random.below(60));
            }
            7 | 8 => {
                let link = links[here];
                let _ = writeln!(text, "+{now:.1}  {link}  blackhole");
                holes.push(link);
            }
            _ => {
                let napt = *random.pick(&["napt1", "napt2", "napt3", "napt4"]);
                let _ = writeln!(text, "+{now:.1}  {napt}  flush");
            }
        }
    }
    now += 70.0;
    for link in holes {
        let _ = writeln!(text, "+{now:.1}  {link}  heal");
    }
    // Two NAPTs need a proxy; one host in the open does not.
    let h = random.below(2) as usize;
    let (links, here) = at[h];
    if here != 0 && at[1 - h].1 != 0 {
        let _ = writeln!(
            text,
            "+{now:.1}  {}  move {} -> {}",
            ["A", "B"][h],
            links[here],
            links[0]
        );
    }
    for program in ["dl", "ul", "rr"] {
        let _ = writeln!(text, "within 400  {program}  done");
    }
    text + "expect  resets=0 errors=0\n"
}

/// Tells the story of this seed; a report with the shortest story found, when it does not end well.
pub fn fails(seed: u64) -> Option<String> {
    let text = story(seed);
    let scenario = match language::parse("wander", &text) {
        Ok(scenario) => scenario,
        Err(mistakes) => return Some(format!("seed {seed}: {}\n{text}", mistakes[0])),
    };
    let why = why(&scenario, seed)?;
    // Only what still could succeed: a program that waits for its end is not left out with the way to it.
    let short = shrink(&text, |fewer| {
        ends_reachable(fewer) && self::why(fewer, seed).is_some_and(|other| kind(&other) == kind(&why))
    });
    let scenario = language::parse("wander", &short).unwrap_or(scenario);
    let why = self::why(&scenario, seed).unwrap_or(why);
    Some(format!("seed {seed}: {why}\n\n{short}"))
}

/// What goes wrong, a broken rule of the machines' driver included.
fn why(scenario: &Scenario, seed: u64) -> Option<String> {
    let told = std::panic::catch_unwind(|| run(scenario, seed));
    match told {
        Ok(Ok(told)) => told
            .failure
            .map(|(line, reason)| format!("line {line}: {reason}")),
        Ok(Err(refused)) => Some(refused.to_string()),
        Err(cause) => {
            let text = cause.downcast_ref::<String>().cloned();
            let text = text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

fn kind(why: &str) -> &str {
    ["panic", "not within", "was reset", "could not connect"]
        .into_iter()
        .find(|kind| why.contains(kind))
        .unwrap_or("other")
}

/// Whether one host ends up in the open and nothing swallows segments for ever.
fn ends_reachable(scenario: &Scenario) -> bool {
    let mut at = ["aopen", "bopen"];
    let mut holes = BTreeSet::new();
    for step in &scenario.steps {
        match &step.what {
            What::Do(Action::Host {
                host,
                change: HostChange::Move { from, to, .. },
            }) => {
                let h = usize::from(host.text == "B");
                if at[h] != from.text {
                    return false;
                }
                at[h] = &to.text;
            }
            What::Do(Action::Link { link, change }) => match change {
                LinkChange::Blackhole { .. } => drop(holes.insert(link.text.clone())),
                LinkChange::Heal => drop(holes.remove(&link.text)),
                _ => {}
            },
            _ => {}
        }
    }
    holes.is_empty() && at.iter().any(|link| link.ends_with("open"))
}
