//! One cgroup for a run, one below it for every node.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::MachineError;

/// Where cgroup2 is mounted: `/sys/fs/cgroup` on most machines, `/sys/fs/cgroup/unified` on hybrid ones.
pub fn mount() -> Result<PathBuf, MachineError> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(MachineError::io("read /proc/mounts"))?;
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    });
    found.ok_or(MachineError::NoCgroup2)
}

pub fn create(path: &Path) -> Result<(), MachineError> {
    fs::create_dir_all(path).map_err(MachineError::io(format!("create cgroup {}", path.display())))
}

/// Kills every process below `path` and removes the cgroups, deepest first.
pub fn remove(path: &Path) -> Result<(), MachineError> {
    if !path.exists() {
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        kill(path);
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(source) if Instant::now() > deadline => {
                return Err(MachineError::Io {
                    doing: format!("remove cgroup {}", path.display()),
                    source,
                });
            }
            // The kernel tells nobody when the last process is gone from a cgroup without controllers that
            // anyone watches; a killed process needs some milliseconds.
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn kill(path: &Path) {
    if fs::write(path.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    // Kernels before 5.14 have no cgroup.kill.
    for directory in tree(path) {
        let processes = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| line.parse().ok()) {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

fn remove_tree(path: &Path) -> std::io::Result<()> {
    tree(path)
        .iter()
        .rev()
        .try_for_each(|directory| match fs::remove_dir(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        })
}

/// `path` and all directories below it, parents first.
fn tree(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut next = 0;
    while next < all.len() {
        if let Ok(entries) = fs::read_dir(&all[next]) {
            all.extend(
                entries
                    .flatten()
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                    .map(|e| e.path()),
            );
        }
        next += 1;
    }
    all
}
