//! How much one mobility server does, against a bare tonic service behind the same TLS on the same machine.
//!
//! 1. [`matches`]: pairs report from both ends, get their destinations and withdraw, over one stream for each agent:
//!    as fast as they can, then at 70 % of that. Against [`null`], which answers each report without a thought.
//! 2. [`memory`]: what a stream that says nothing costs, against the same bare service, and what a million stored
//!    sessions cost.
//!
//! Callers and server share the machine, and the callers are the larger part of it: what counts are the ratios. `cargo
//! bench -p mobility-server`; with `-- quick` in less than a minute. Needs root and redis-server for the rows of Redis.

#[path = "../../../crates/session-store/tests/contract/cluster.rs"]
#[allow(dead_code, reason = "the tests of the store need more of it")]
mod cluster;
#[path = "../../tests/service/common/mod.rs"]
mod common;
mod matches;
mod memory;
mod null;

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// Pairs that report at the same time.
    pub pairs: usize,
    /// How long each rate is measured.
    pub time: std::time::Duration,
    pub streams: usize,
    pub sessions: u64,
}

const FULL: Size = Size {
    pairs: 64,
    time: std::time::Duration::from_secs(10),
    streams: 2000,
    sessions: 1_000_000,
};
const QUICK: Size = Size {
    pairs: 32,
    time: std::time::Duration::from_secs(2),
    streams: 400,
    sessions: 100_000,
};

fn main() {
    // Every stream is a descriptor here and one in the server.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["null", directory] => runtime().block_on(null::run(Path::new(directory))),
        ["fill", backend, directory, count] => {
            let count = count.parse().expect("a number");
            runtime().block_on(memory::fill(backend, Path::new(directory), count));
        }
        // As cargo test calls it: that all of it works, in a moment.
        _ if !arguments.contains(&"--bench") => {}
        _ => {
            let size = if arguments.contains(&"quick") { QUICK } else { FULL };
            matches::measure(size);
            memory::measure(size);
        }
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// This program again, in another part.
pub fn another(part: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("it runs"));
    command.args(part);
    command
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.expect("a line of the kernel") * 1024
}
