//! A run's name, and the note that says which process it belongs to.
//!
//! The note is written before anything else is created, so that whatever a killed runner leaves can be found.
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{MachineError, cgroup};

/// Notes of the runs that are alive, or died without tidying up.
pub const REGISTRY: &str = "/run/lab";

/// Everything a run creates on the machine begins with this, then its six hex digits.
pub const PREFIX: &str = "lab-";

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claim {
    /// Six hex digits.
    pub id: String,
    pub pid: u32,
    /// Start of the process in clock ticks since boot: with the pid it names one process for ever.
    pub started: u64,
    /// Where the run keeps its files while it runs.
    pub directory: PathBuf,
    pub cgroup: PathBuf,
}

impl Claim {
    /// Takes a name nobody has.
    ///
    /// # Errors
    /// Not root, no cgroup2, or the registry cannot be written.
    pub fn take() -> Result<Claim, MachineError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(MachineError::NotRoot);
        }
        let mount = cgroup::mount()?;
        fs::create_dir_all(REGISTRY).map_err(MachineError::io(format!("create {REGISTRY}")))?;
        let pid = std::process::id();
        let started = start_of(pid).unwrap_or_default();
        loop {
            let id = random_id()?;
            let name = format!("{PREFIX}{id}");
            let claim = Claim {
                directory: std::env::temp_dir().join(&name),
                cgroup: mount.join(&name),
                id,
                pid,
                started,
            };
            if claim.write_note()? {
                fs::create_dir_all(&claim.directory)
                    .map_err(MachineError::io(format!("create {}", claim.directory.display())))?;
                cgroup::create(&claim.cgroup)?;
                return Ok(claim);
            }
        }
    }

    /// What a run of this name would hold, when its note is lost; `None` if a note exists after all.
    pub fn without_note(id: &str) -> Option<Claim> {
        let name = format!("{PREFIX}{id}");
        let claim = Claim {
            id: id.to_owned(),
            pid: 0,
            started: 0,
            directory: std::env::temp_dir().join(&name),
            cgroup: cgroup::mount().ok()?.join(&name),
        };
        (!claim.note().exists()).then_some(claim)
    }

    /// Writes the note under its name in one step; false if the name is taken.
    fn write_note(&self) -> Result<bool, MachineError> {
        let note = self.note();
        let draft = note.with_extension(format!("draft-{}-{}", self.pid, self.id));
        let failed = |doing: &str| format!("{doing} {}", note.display());
        let text = serde_json::to_vec(self).unwrap_or_default();
        fs::File::create(&draft)
            .and_then(|mut file| file.write_all(&text))
            .map_err(MachineError::io(failed("write")))?;
        let linked = fs::hard_link(&draft, &note);
        let _ = fs::remove_file(&draft);
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
            Err(source) => Err(MachineError::Io {
                doing: failed("write"),
                source,
            }),
        }
    }

    pub fn note(&self) -> PathBuf {
        Path::new(REGISTRY).join(&self.id)
    }

    /// `lab-1a2b3c`
    pub fn name(&self) -> String {
        format!("{PREFIX}{}", self.id)
    }

    /// The process that made this claim still runs.
    pub fn is_alive(&self) -> bool {
        start_of(self.pid) == Some(self.started)
    }

    /// All notes in the registry; a note that cannot be read is none.
    pub fn all() -> Vec<Claim> {
        let Ok(entries) = fs::read_dir(REGISTRY) else {
            return Vec::new();
        };
        let notes = entries
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().contains('.'));
        notes
            .filter_map(|entry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok())
            .collect()
    }
}

fn random_id() -> Result<String, MachineError> {
    let mut bytes = [0; 3];
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(MachineError::io("read /dev/urandom"))?;
    Ok(hex::encode(bytes))
}

/// Field 22 of `/proc/PID/stat`, counted behind the command's closing parenthesis. A zombie runs no more.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
    if *fields.first()? == "Z" {
        return None;
    }
    fields.get(19)?.parse().ok()
}
