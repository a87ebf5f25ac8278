//! Returning to the machine what a run held.
use std::fs;
use std::path::Path;

use super::{Claim, MachineError, cgroup, netns};

/// Returns what runs held whose runner is gone; yields their names.
pub fn dead_runs() -> Result<Vec<String>, MachineError> {
    let mut swept = Vec::new();
    for claim in Claim::all().into_iter().filter(|claim| !claim.is_alive()) {
        release(&claim, true)?;
        swept.push(claim.name());
    }
    Ok(swept)
}

/// Processes, mounts, namespaces (and with them their devices), cgroups, files, and the note last: an error on
/// the way leaves the note for the next sweep.
pub fn release(claim: &Claim, with_files: bool) -> Result<(), MachineError> {
    cgroup::remove(&claim.cgroup)?;
    unmount_below(&claim.directory)?;
    for name in netns::named(&format!("{}-", claim.name())) {
        netns::remove(&name)?;
    }
    if with_files && claim.directory.exists() {
        let doing = format!("remove {}", claim.directory.display());
        fs::remove_dir_all(&claim.directory).map_err(MachineError::io(doing))?;
    }
    match fs::remove_file(claim.note()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(MachineError::Io {
            doing: format!("remove {}", claim.note().display()),
            source: error,
        }),
        _ => Ok(()),
    }
}

fn unmount_below(directory: &Path) -> Result<(), MachineError> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(MachineError::io("read /proc/mounts"))?;
    for target in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .map(Path::new)
    {
        if target.starts_with(directory) {
            nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH)
                .map_err(MachineError::io(format!("unmount {}", target.display())))?;
        }
    }
    Ok(())
}
