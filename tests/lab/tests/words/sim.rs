//! The simulated world: a thousand seeds, the same twice, and failures that are short.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use lab::language::{self, Scenario};
use lab::sim;

/// 1,000 stories in all unless `SIM_SEEDS` asks for more.
fn seeds() -> u64 {
    let text = std::env::var("SIM_SEEDS").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(1_000)
}

fn scenarios(below: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests");
    let entries = std::fs::read_dir(root.join("scenarios").join(below)).expect("the scenarios are there");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "scn"));
    files.sort();
    files
}

fn read(name: &str, text: &str) -> Scenario {
    language::parse(name, text).unwrap_or_else(|mistakes| panic!("{name}: {}", mistakes[0]))
}

/// What is told in both worlds.
const CHOSEN: [&str; 9] = [
    "public_to_public",
    "napt_to_napt",
    "napt_to_public",
    "public_to_napt",
    "five_moves",
    "acceptor_moves",
    "outage_8s",
    "outage_60s",
    "handshake_lost",
];

#[test]
fn every_wandering_arrives() {
    for seed in 0..seeds() {
        if let Some(report) = sim::wander::fails(seed) {
            panic!("{report}");
        }
    }
}

#[test]
fn every_story_of_the_protocol_core_ends_well_with_every_seed() {
    let chosen = |path: &PathBuf| {
        path.file_stem()
            .is_some_and(|stem| CHOSEN.iter().any(|name| stem == *name))
    };
    let files: Vec<PathBuf> = scenarios("")
        .into_iter()
        .filter(chosen)
        .chain(scenarios("sim"))
        .collect();
    let mut told = BTreeSet::new();
    for file in &files {
        let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let scenario = read(&name, &std::fs::read_to_string(file).expect("readable"));
        for seed in 0..seeds() / 100 {
            // What only the other world can tell is told there.
            let Ok(outcome) = sim::run(&scenario, seed) else {
                break;
            };
            assert_eq!(
                outcome.failure,
                None,
                "{name}, seed {seed}: lab run --world sim --seed {seed} {}",
                file.display()
            );
            told.insert(name.clone());
        }
    }
    for name in CHOSEN {
        assert!(told.contains(name), "{name} was not told; told: {told:?}");
    }
}

#[test]
fn one_seed_is_one_run() {
    let scenario = read("wander", &sim::wander::story(7));
    let runs = [0, 1].map(|_| sim::run(&scenario, 7).expect("it is for sim"));
    assert_eq!(runs[0].timeline, runs[1].timeline);
    assert_eq!(runs[0].duration, runs[1].duration);
    let other = sim::run(&scenario, 8).expect("it is for sim");
    assert_ne!(runs[0].duration, other.duration, "another seed is another run");
}

#[test]
fn the_server_is_needed_and_decides() {
    let file = scenarios("sim")
        .into_iter()
        .find(|path| path.ends_with("both_move.scn"))
        .expect("it is there");
    let text = std::fs::read_to_string(file).expect("readable");
    let scenario = read("both_move", &text);
    assert!(sim::run(&scenario, 1).expect("it is for sim").decisions > 0);
    let alone = sim::run_without_server(&scenario, 1).expect("it is for sim");
    assert!(alone.failure.is_some(), "nobody knows where the other is");
}

#[test]
fn a_failure_is_shrunk_to_what_it_needs() {
    // Both behind NAPTs that choose ports at random, and there is no proxy: that cannot work.
    let text = sim::wander::story(3);
    let (network, _) = text.split_once("+0 ").expect("a story");
    let story = format!(
        "{network}+0  A  fetch B 10MiB as=dl\n+0  A  idle B as=quiet\n+0.1  A  move aopen -> ahome\n+0.2  A  move ahome -> acafe\n\
         +0.3  B  move bopen -> bhome\n+0.4  B  move bhome -> bcafe\n+8  quiet  speak\nwithin 60  dl  done\n"
    );
    let fails = |scenario: &Scenario| sim::run(scenario, 1).is_ok_and(|told| told.failure.is_some());
    let story = story
        .replace("10MiB", "1000MiB")
        .replace("dl\n", "dl\n+0.01  up1  loss=0.1%\n");
    assert!(fails(&read("long", &story)), "it fails at first");
    let short = sim::shrink(&story, fails);
    assert!(fails(&read("short", &short)), "it still fails");
    assert!(
        short.lines().count() < story.lines().count() - 3,
        "and is shorter:\n{short}"
    );
    assert!(!short.contains("speak"), "what does not matter is gone:\n{short}");
}

#[test]
fn what_cannot_be_simulated_is_said() {
    let text = "host A B\nrouter core\nlink a A=192.0.2.2/24 core=192.0.2.1/24\nlink b B=192.0.3.2/24 core=192.0.3.1/24\n+0 A exec \
                as=x date\n";
    let scenario = read("exec", text);
    let refused = sim::run(&scenario, 1).expect_err("a real program");
    assert_eq!(refused.line, 5);
    assert!(refused.to_string().contains("not for sim"), "{refused}");
}
