#![allow(dead_code, reason = "the tests and the benchmark use a part each")]
//! A place of its own for each test: a process in fresh network and mount namespaces, gone with all that is in it.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Set in the process that is inside.
const INSIDE: &str = "PROXY_TEST_INSIDE";
/// A loaded machine is slow; a broken program is slower.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the body of a test in a place of its own.
///
/// # Panics
/// When the body does, and without root.
pub fn isolated<F: FnOnce()>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads BPF programs and makes namespaces: run it as root"
    );
    let path = std::any::type_name::<F>();
    let name = path
        .trim_end_matches("::{{closure}}")
        .split_once("::")
        .map_or(path, |(_, name)| name);
    let mut command = Command::new(std::env::current_exe().expect("this test program"));
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1");
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
    let output = command.output().expect("the test starts in its own place");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.contains("1 passed"), "`{name}` is no test: {said}");
}

/// Runs a command of the system.
///
/// # Panics
/// When it fails, with what it said.
pub fn run(line: &str) {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {complaint}");
}

/// Awaits something.
///
/// # Panics
/// When it does not come.
pub fn until<T>(what: &str, mut come: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(it) = come() {
            return it;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
