//! Network namespaces by name, as `ip netns` knows them.
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns};

use super::{MachineError, command};

const DIRECTORY: &str = "/run/netns";

pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

pub fn create(name: &str) -> Result<(), MachineError> {
    command::run(Command::new("ip").args(["netns", "add", name]), "").map(drop)
}

/// Removes a namespace; one that does not exist is removed already.
pub fn remove(name: &str) -> Result<(), MachineError> {
    if !path(name).exists() {
        return Ok(());
    }
    end_sockets(name);
    match command::run(Command::new("ip").args(["netns", "del", name]), "") {
        // Two runs may sweep after the same dead one.
        Err(_) if !path(name).exists() => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// A socket that nobody holds any more goes on asking for an answer until its timeout, a day where an agent has raised it,
/// and keeps its namespace and all devices and BPF maps in it alive. A kernel without CONFIG_INET_DIAG_DESTROY ends none:
/// then at least the parking device goes, by far the largest.
fn end_sockets(name: &str) {
    let mut end = Command::new("ip");
    end.args(["netns", "exec", name, "ss", "--kill", "--tcp", "state", "all"]);
    let _ = command::run(&mut end, "");
    let _ = ip_lenient(name, "link del mob0\n");
}

/// Names of the namespaces that begin with `prefix`.
pub fn named(prefix: &str) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(prefix)).collect()
}

pub fn open(name: &str) -> Result<File, MachineError> {
    let path = path(name);
    File::open(&path).map_err(MachineError::io(format!(
        "open network namespace {}",
        path.display()
    )))
}

/// Runs `work` on a thread that is inside the namespace; sockets and devices it opens belong there for good.
pub fn inside<T: Send>(
    name: &str,
    work: impl FnOnce() -> Result<T, MachineError> + Send,
) -> Result<T, MachineError> {
    let namespace = open(name)?;
    thread::scope(|scope| {
        let worker = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .map_err(MachineError::io(format!("enter network namespace {name}")))?;
            work()
        });
        match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Commands for `ip -batch` inside the namespace, in one process and in order.
pub fn ip(name: &str, batch: &str) -> Result<(), MachineError> {
    if batch.is_empty() {
        return Ok(());
    }
    command::run(Command::new("ip").args(["-n", name, "-batch", "-"]), batch).map(drop)
}

/// Like [`ip`], but a line that fails is skipped.
pub fn ip_lenient(name: &str, batch: &str) -> Result<(), MachineError> {
    if batch.is_empty() {
        return Ok(());
    }
    match command::run(
        Command::new("ip").args(["-n", name, "-force", "-batch", "-"]),
        batch,
    ) {
        Err(MachineError::Command { .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sets `net.*` parameters of the namespace. A parameter this kernel lacks is skipped when `optional`.
pub fn sysctl(name: &str, settings: &[(String, String)], optional: bool) -> Result<(), MachineError> {
    inside(name, || {
        for (key, value) in settings {
            let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
            if optional && !path.exists() {
                continue;
            }
            let written = std::fs::write(&path, value);
            if optional {
                continue;
            }
            written.map_err(MachineError::io(format!("set {key}={value} in {name}")))?;
        }
        Ok(())
    })
}

/// Whether a TCP socket of either family listens on this port.
pub fn is_listening(name: &str, port: u16) -> Result<bool, MachineError> {
    const LISTEN: &str = "0A";
    inside(name, || {
        Ok(["tcp", "tcp6"].iter().any(|table| {
            let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
            text.lines().skip(1).any(|line| {
                let mut fields = line.split_whitespace().skip(1);
                let local = fields.next().and_then(|local| local.rsplit(':').next());
                let own = local.and_then(|port| u16::from_str_radix(port, 16).ok());
                own == Some(port) && fields.nth(1) == Some(LISTEN)
            })
        }))
    })
}
