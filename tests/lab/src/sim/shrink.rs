//! Makes a story that fails short: every line without which it still fails is left out.

use crate::language::{self, Scenario};

/// The shortest text found for which `fails` still holds; lines of the network stay.
pub fn shrink(text: &str, fails: impl Fn(&Scenario) -> bool) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    let mut shorter = true;
    while shorter {
        shorter = false;
        let mut at = lines.len();
        while at > 0 {
            at -= 1;
            let mut fewer = lines.clone();
            fewer.remove(at);
            let read = language::parse("shrunk", &(fewer.join("\n") + "\n"));
            if read.is_ok_and(|scenario| fails(&scenario)) {
                lines = fewer;
                shorter = true;
            }
        }
    }
    lines.join("\n") + "\n"
}
