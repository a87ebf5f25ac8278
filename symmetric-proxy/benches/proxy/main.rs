//! What the proxy costs. The data path against what could stand in its place, one after the other in every round; and the
//! daemon's handshake, in silence and under floods. `quick` takes about a minute.
//!
//! The ends of the streams are ordinary sockets of the kernel (`repair`), without agents: what translation costs a host is
//! `lab bench`'s to say.

mod crowd;
#[path = "../../tests/daemon/desk.rs"]
mod desk;
mod handshakes;
#[path = "../../tests/daemon/place.rs"]
mod place;
mod repair;
mod road;
mod turn;
#[path = "../../tests/daemon/world.rs"]
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use handshakes::Flood;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use road::{Between, Road};

/// Set in the process that has a place of its own, with what it is to do there.
const PART: &str = "PROXY_BENCH_PART";
const PARTS: [&str; 5] = ["streams", "silence", "syns", "msyns", "crowd"];

fn main() -> ExitCode {
    let quick = std::env::args().any(|word| word == "quick");
    if let Ok(part) = std::env::var(PART) {
        match part.as_str() {
            "streams" => streams(quick),
            "silence" => knocks(quick, Flood::Nothing),
            "syns" => knocks(quick, Flood::Syns),
            "crowd" => crowd(quick),
            _ => knocks(quick, Flood::Msyns),
        }
        return ExitCode::SUCCESS;
    }
    // `cargo test --benches` only asks whether it starts.
    if std::env::args().any(|word| word == "--test") {
        return ExitCode::SUCCESS;
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("this loads BPF programs and makes namespaces: run it as root");
        return ExitCode::from(2);
    }
    println!(
        "Linux {}, {} processors, congestion control cubic, {} build, load {}",
        read("/proc/sys/kernel/osrelease"),
        std::thread::available_parallelism().map_or(1, usize::from),
        if cfg!(debug_assertions) {
            "development"
        } else {
            "release"
        },
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    );
    let only: Vec<String> = std::env::args()
        .filter(|word| PARTS.contains(&word.as_str()))
        .collect();
    for part in PARTS
        .iter()
        .filter(|part| only.is_empty() || only.iter().any(|one| one == *part))
    {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env(PART, part);
        if quick {
            command.arg("quick");
        }
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
                let none = None::<&str>;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
                mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), MsFlags::empty(), none)?;
                Ok(())
            });
        }
        if !command.status().is_ok_and(|status| status.success()) {
            eprintln!("`{part}` has failed");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn streams(quick: bool) {
    let (rounds, time) = match quick {
        true => (3, Duration::from_millis(500)),
        false => (9, Duration::from_secs(1)),
    };
    let all = [
        Between::Forwarding,
        Between::Relay(0),
        Between::Relay(100_000),
        Between::Relay(1_000_000),
        Between::Nat,
        Between::Haproxy,
        Between::Socat,
        Between::Coturn,
    ];
    let directory = tempfile::tempdir().expect("a directory");
    let (there, missing): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|between| between.program().is_none_or(installed));
    for between in missing {
        println!("{} is left out: it is not installed", between.name());
    }
    let roads: Vec<Road> = there
        .into_iter()
        .map(|between| Road::build(between, 8, directory.path()).expect("a road"))
        .collect();
    for offloads in [true, false] {
        roads.iter().for_each(|road| road.set_offloads(offloads));
        let word = if offloads { "on" } else { "off" };
        for connections in [1, 8] {
            let title = format!("Gbit/s, connections: {connections}, offloads {word}");
            table(&title, &roads, rounds, |road| road.throughput(connections, time));
        }
        let title = format!("Microseconds from a question of 64 bytes to its answer, offloads {word}");
        table(&title, &roads, rounds, |road| road.round_trip(time));
    }
}

/// Every road once in each round; medians, and ratios to the first road of the same round.
fn table(title: &str, roads: &[Road], rounds: usize, measure: impl Fn(&Road) -> f64) {
    let mut found = vec![Vec::new(); roads.len()];
    for _ in 0..rounds {
        for (road, found) in roads.iter().zip(&mut found) {
            found.push(measure(road));
        }
    }
    println!(
        "\n{title}, {rounds} rounds\n{:<32} {:>9} {:>7} {:>7} {:>7}",
        "", "median", "ratio", "min", "max"
    );
    for (road, values) in roads.iter().zip(&found) {
        let ratios: Vec<f64> = values
            .iter()
            .zip(&found[0])
            .map(|(one, plain)| one / plain)
            .collect();
        println!(
            "{:<32} {:>9.2} {:>7.3} {:>7.3} {:>7.3}",
            road.between.name(),
            quantile(values, 0.5),
            quantile(&ratios, 0.5),
            quantile(&ratios, 0.0),
            quantile(&ratios, 1.0)
        );
    }
}

fn quantile(values: &[f64], which: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() - 1) as f64 * which).round() as usize;
    sorted[at]
}

fn crowd(quick: bool) {
    let connections = if quick { 20_000 } else { 500_000 };
    let found = crowd::measure(connections);
    let per_second = |seconds: f64| connections as f64 / seconds;
    let bytes = |[before, after]: [u64; 2]| after.saturating_sub(before) as f64 / connections as f64;
    let mega = |[_, after]: [u64; 2]| after as f64 / 1e6;
    println!("\n{connections} connections relayed at once by one daemon");
    println!(
        "{:.0} leases a second, then {:.0} handshakes a second, {} MSYNs repeated",
        per_second(found.leased),
        per_second(found.relayed),
        found.repeated
    );
    println!(
        "daemon {:.0} MB, {:.0} bytes a connection; maps {:.0} MB, {:.0} bytes a connection",
        mega(found.daemon),
        bytes(found.daemon),
        mega(found.maps),
        bytes(found.maps)
    );
    println!(
        "killed, the next daemon knows all of them after {:.1} s",
        found.adopted
    );
}

fn knocks(quick: bool, flood: Flood) {
    let times = handshakes::measure(if quick { 200 } else { 1000 }, flood);
    let what = match flood {
        Flood::Nothing => "in silence",
        Flood::Syns => "under a flood of SYNs to all ports",
        Flood::Msyns => "under a flood of MSYNs with wrong MACs",
    };
    println!(
        "\nMicroseconds from the second end's MSYN, {} handshakes {what}",
        times.answered.len()
    );
    println!("{:<32} {:>9} {:>9} {:>9}", "", "p50", "p99", "max");
    for (name, values) in [
        ("both MSYN-ACKs", &times.answered),
        ("the first byte passed on", &times.relayed),
    ] {
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|which| quantile(values, which));
        println!("{name:<32} {p50:>9.0} {p99:>9.0} {max:>9.0}");
    }
    if flood != Flood::Nothing {
        println!(
            "{:.0} packets a second dropped meanwhile, sender and proxy on the same processors; {} MSYNs repeated",
            times.dropped, times.repeated
        );
    }
}
