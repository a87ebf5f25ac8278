//! Returning to the machine what a run held.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::claim::PREFIX;
use super::{Claim, MachineError, cgroup, netns};

/// Returns what runs held whose runner is gone; yields their names.
pub fn dead_runs() -> Result<Vec<String>, MachineError> {
    let mut swept = Vec::new();
    // Names are looked for before notes: a run that begins meanwhile has its note first, and one that ends
    // removes it last.
    let names = names_in_use();
    let claims = Claim::all();
    let nameless = names
        .into_iter()
        .filter(|id| !claims.iter().any(|claim| claim.id == *id));
    let nameless: Vec<Claim> = nameless.filter_map(|id| Claim::without_note(&id)).collect();
    for claim in claims.iter().filter(|claim| !claim.is_alive()).chain(&nameless) {
        release(claim, true)?;
        swept.push(claim.name());
    }
    Ok(swept)
}

/// Runs whose namespaces or cgroups exist.
fn names_in_use() -> BTreeSet<String> {
    let cgroups = cgroup::mount().ok().and_then(|mount| fs::read_dir(mount).ok());
    let cgroups = cgroups
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let is_id = |id: &str| id.len() == 6 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    netns::named(PREFIX)
        .into_iter()
        .chain(cgroups)
        .filter_map(|name| Some(name.strip_prefix(PREFIX)?.split('-').next()?.to_owned()))
        .filter(|id| is_id(id))
        .collect()
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
