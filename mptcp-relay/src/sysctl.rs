//! Settings of the network namespace that the relay needs different, and puts back.
//!
//! What they were is written to the state directory before anything is changed, so that `cleanup` and the next start
//! know it after a crash.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "settings.json";

/// Whether this host has IPv6: it may be switched off, or not be there at all.
pub fn has_ipv6() -> bool {
    read("net.ipv6.conf.lo.disable_ipv6").as_deref() == Some("0")
}

/// What the relay has found before it came, by name.
#[derive(Debug, Default)]
pub struct Settings {
    before: BTreeMap<String, String>,
    file: PathBuf,
}

fn place(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// The value of a setting; None: this kernel has none such.
pub fn read(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(place(name)).ok()?;
    Some(text.trim().to_owned())
}

impl Settings {
    /// Reads what an earlier run has left, so that its changes are not taken for the host's own settings.
    pub fn open(state: &Path) -> Self {
        let file = state.join(FILE);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let before = serde_json::from_str(&text).unwrap_or_default();
        Self { before, file }
    }

    /// Whether an earlier run has left changes behind.
    pub fn are_changed(&self) -> bool {
        !self.before.is_empty()
    }

    /// Changes a setting. A name this kernel does not have is left out.
    ///
    /// # Errors
    /// It cannot be written, or what it was cannot be noted.
    pub fn set(&mut self, name: &str, value: &str) -> std::io::Result<()> {
        let Some(now) = read(name) else { return Ok(()) };
        if now == value {
            return Ok(());
        }
        self.before.entry(name.to_owned()).or_insert(now);
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(&self.file, serde_json::to_vec(&self.before)?)?;
        std::fs::write(place(name), value)
    }

    /// Puts everything back; the names that were.
    pub fn restore(&mut self) -> Vec<String> {
        let before = std::mem::take(&mut self.before);
        for (name, value) in &before {
            if let Err(error) = std::fs::write(place(name), value) {
                tracing::warn!(%name, %value, %error, "cannot put a setting back");
            }
        }
        let _ = std::fs::remove_file(&self.file);
        before.into_keys().collect()
    }
}
