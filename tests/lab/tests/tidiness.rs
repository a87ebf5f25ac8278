//! What a run leaves on the machine: nothing, however it ends.
mod support;

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::{Story, remains};

/// Programs that do not want to end, a NAPT, emulated and plain links.
const STORY: &str = "
host   a b
napt   n masquerade
core
link   home  a=192.168.1.2/24  n=192.168.1.1/24  delay=1ms
link   up    n=10.0.1.1/24     core=10.0.1.254/24
link   lan   b=10.0.3.2/24     core=10.0.3.1/24
+0           a  echo b every=10ms as=rr
+0           a  exec as=deaf sh -c \"trap '' TERM INT HUP; sleep 1000 & while true; do sleep 1; done\"
+0           a  exec as=session setsid sleep 1000
";

/// Waits until something is the case, and fails after half a minute.
#[track_caller]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "{what} has not come true");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The runs that a process has claimed.
fn runs_of(pid: u32) -> Vec<String> {
    let claims = lab::machine::Claim::all()
        .into_iter()
        .filter(|claim| claim.pid == pid);
    claims.map(|claim| claim.name()).collect()
}

/// Waits until the story of a runner is so far that its programs run.
fn running(pid: u32) -> String {
    let mut run = String::new();
    wait_for("the run", || {
        run = runs_of(pid).pop().unwrap_or_default();
        let members = remains(&run)
            .iter()
            .filter(|remain| remain.starts_with("/proc/"))
            .count();
        !run.is_empty() && members >= 5
    });
    run
}

#[test]
fn a_run_that_passes_or_fails_leaves_nothing() {
    for end in [
        "within 5 rr answers>=3\n",
        "within 5 rr answers>=3\nexpect leaks=9\n",
    ] {
        let outcome = Story::new(&format!("{STORY}{end}")).run();
        let run = outcome.verdict["run"]
            .as_str()
            .unwrap_or_else(|| panic!("{}", outcome.said))
            .to_owned();
        assert_eq!(remains(&run), [] as [String; 0], "left behind");
    }
}

#[test]
fn a_run_that_is_interrupted_leaves_nothing() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let story = Story::new(&format!("{STORY}+600 rr kill\n"));
        let mut runner = story.start();
        let run = running(runner.id());
        runner.signal(signal);
        let mut verdict = String::new();
        runner
            .0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut verdict)
            .unwrap();
        assert_eq!(runner.0.wait().unwrap().code(), Some(1));
        assert!(verdict.contains(&format!("interrupted by {signal}")), "{verdict}");
        assert_eq!(remains(&run), [] as [String; 0], "left behind");
    }
}

#[test]
fn what_a_killed_runner_leaves_is_swept_and_what_others_hold_is_not() {
    let story = Story::new(&format!("{STORY}+600 rr kill\n"));
    let (mut victim, mut other) = (story.start(), story.start());
    let (run, others) = (running(victim.id()), running(other.id()));
    victim.dies();
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("sweep")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // Another test's run may sweep as well: it is gone either way.
    wait_for("the sweep", || remains(&run).is_empty());
    assert!(
        !remains(&others).is_empty(),
        "the sweep took what a living runner holds"
    );
    other.signal(Signal::SIGTERM);
    other.0.wait().unwrap();
    assert_eq!(remains(&others), [] as [String; 0]);
}

/// A socket with data that nobody acknowledges and a long timeout outlives its program, and with it its namespace would.
#[test]
fn no_socket_outlives_its_run() {
    let story = Story::new(
        "host a b\nlink lan a=10.0.3.2/24 b=10.0.3.1/24 rate=20mbit\n\
         +0 b serve user_timeout=3600s as=files\n+0 a fetch b 200MiB as=dl\nafter dl >= 1MiB lan down\n\
         +600 dl kill\n",
    );
    let mut runner = story.start();
    let pid = runner.id();
    let mut run = String::new();
    wait_for("the run", || {
        run = runs_of(pid).pop().unwrap_or_default();
        !run.is_empty() && remains(&run).iter().any(|remain| remain.ends_with("-b"))
    });
    let path = format!("/run/netns/{run}-b");
    let mut opened = None;
    // The name is there before the namespace is.
    wait_for("the namespace", || {
        let there = std::fs::File::open(&path).ok();
        opened = there.filter(|there| unacknowledged(there).is_some());
        opened.is_some()
    });
    let namespace = opened.unwrap();
    wait_for("data that nobody acknowledges", || {
        unacknowledged(&namespace) > Some(0) && routes(&namespace) == Some(0)
    });
    runner.signal(Signal::SIGTERM);
    runner.0.wait().unwrap();
    assert_eq!(remains(&run), [] as [String; 0], "left behind");
    assert_eq!(
        unacknowledged(&namespace),
        Some(0),
        "a socket has outlived its run"
    );
}

/// Sockets with something sent that was not acknowledged; none: that is no namespace.
fn unacknowledged(namespace: &std::fs::File) -> Option<usize> {
    let tables = ["tcp", "tcp6"].map(|table| read(namespace, table));
    let [four, six] = tables;
    let table = four? + &six.unwrap_or_default();
    let sending = table.lines().filter(|line| {
        let queues = line.split_whitespace().nth(4).unwrap_or_default();
        queues.contains(':') && !queues.starts_with("00000000:")
    });
    Some(sending.count())
}

/// IPv4's routes: none while its links are down.
fn routes(namespace: &std::fs::File) -> Option<usize> {
    Some(read(namespace, "route")?.lines().count().saturating_sub(1))
}

/// A file of `/proc/net` inside the namespace.
fn read(namespace: &std::fs::File, name: &str) -> Option<String> {
    let inside = || {
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).ok()?;
        std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok()
    };
    std::thread::scope(|scope| scope.spawn(inside).join().ok().flatten())
}

#[test]
fn the_next_run_sweeps_first() {
    let story = Story::new(&format!("{STORY}+600 rr kill\n"));
    let mut victim = story.start();
    let run = running(victim.id());
    victim.dies();
    Story::new("host a\n+0 a exec true\n").run().passes();
    wait_for("the sweep", || remains(&run).is_empty());
}

#[test]
fn runs_side_by_side_do_not_meet() {
    let story = Story::new(&format!(
        "{STORY}+0 a fetch b 5MiB as=dl\n+0 a exchange b 5MiB as=both\nwithin 30 dl done sha256=same\n\
         within 30 both done sha256=same\nexpect errors=0 leaks=0\n"
    ));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| story.run())).collect();
        let names: std::collections::HashSet<String> = runs
            .into_iter()
            .map(|run| run.join().unwrap().passes()["run"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names.len(), 4);
    });
}

#[test]
fn what_lost_its_note_is_swept_too() {
    // As if somebody had removed the note of a run that died.
    let story = Story::new(&format!("{STORY}+600 rr kill\n"));
    let mut victim = story.start();
    let run = running(victim.id());
    let note = lab::machine::Claim::all()
        .into_iter()
        .find(|claim| claim.name() == run)
        .unwrap()
        .note();
    victim.dies();
    let _ = std::fs::remove_file(note);
    let output = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("sweep")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    wait_for("the sweep", || remains(&run).is_empty());
}
