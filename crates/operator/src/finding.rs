//! What `doctor` finds.

use serde::Serialize;

/// How something is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Good enough, or good to know.
    Less,
    /// The daemon cannot run like this.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// More about it, and what to do.
    pub detail: String,
}

impl Finding {
    /// One.
    pub fn new(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            subject,
            verdict,
            detail: detail.into(),
        }
    }
}

/// Whether something must be mended first.
pub fn is_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.verdict == Verdict::Bad)
}

/// For people; `who` is "the relay", "the proxy".
pub fn print(findings: &[Finding], who: &str) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Good => "ok",
            Verdict::Less => "note",
            Verdict::Bad => "BAD",
        };
        lines.push(format!("{word:<5} {:<14} {}", finding.subject, finding.detail));
    }
    let bad = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Bad)
        .count();
    lines.push(match bad {
        0 => format!("{who} can run here"),
        1 => "one thing must be mended first".into(),
        count => format!("{count} things must be mended first"),
    });
    lines.join("\n")
}
