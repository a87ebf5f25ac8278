//! The move counter: grows with every report, also over restarts, crashes and a lost state directory.
//!
//! It begins at the milliseconds since 1970, or above what was promised in the file when the clock is behind. What
//! is promised lies ahead of what is used, so that a report never waits for the disk.

use std::path::PathBuf;
use std::time::SystemTime;

const FILE: &str = "move_counter";
/// How many numbers are promised at once.
const AHEAD: u64 = 4096;

/// Gives numbers for reports.
#[derive(Debug, Default)]
pub struct MoveCounter {
    path: Option<PathBuf>,
    last: u64,
    promised: u64,
}

impl MoveCounter {
    /// Goes on where an earlier agent with this state directory ended.
    pub fn open(state_dir: &std::path::Path) -> Self {
        let path = state_dir.join(FILE);
        let stored = std::fs::read_to_string(&path)
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0u64);
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as u64);
        Self {
            path: Some(path),
            last: stored.max(now),
            promised: 0,
        }
    }

    /// The next number will be above `heard`, which a server has heard in our name.
    ///
    /// Not beyond half of all numbers: whoever lies about it cannot use them up.
    pub fn pass(&mut self, heard: u64) {
        self.last = self.last.max(heard.min(u64::MAX / 2));
    }

    /// The next number; never 0.
    pub fn take(&mut self) -> u64 {
        self.last += 1;
        if self.last > self.promised {
            self.promised = self.last + AHEAD;
            let stored = self.path.as_ref().map_or(Ok(()), |path| {
                std::fs::write(path, format!("{}\n", self.promised))
            });
            if let Err(error) = stored {
                tracing::warn!(%error, "cannot store the move counter; it goes on from the clock after a restart");
            }
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_does_not_repeat_a_number() {
        let state = tempfile::tempdir().unwrap();
        // What an agent promised under a clock that was far ahead.
        let ahead = u64::MAX / 4;
        std::fs::write(state.path().join(FILE), format!("{ahead}\n")).unwrap();
        let mut first = MoveCounter::open(state.path());
        let number = first.take();
        assert!(number > ahead);
        let mut second = MoveCounter::open(state.path());
        assert!(second.take() > number);
    }

    #[test]
    fn a_lost_state_directory_goes_on_from_the_clock() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let number = MoveCounter::open(one.path()).take();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(MoveCounter::open(other.path()).take() > number);
    }
}
