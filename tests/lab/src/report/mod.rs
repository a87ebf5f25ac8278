//! The demonstration: five acts, a verdict for the terminal and a report for everybody else.
//!
//! 1. [`demo`] tells the stories, with agents, without, with a relay, and twice with both hosts moving, and keeps their artifacts.
//! 2. [`segments`] reads the captures, [`kernel`] what the mover's kernel said about its addresses.
//! 3. [`trace`] makes of them what happened to one connection, as figure 23 of Shimizu 2002 shows it;
//!    [`handshake`] looks closer, at the milliseconds around its resumption.
//! 4. [`act`] gathers everything known about one act, [`claims`] says what it proves or fails to prove.
//! 5. [`multipath`] reads out of the same captures how connections are spread over their subflows.
//!    [`relayed`] is the act in which one does so, [`both`] and [`strict`] those in which both hosts move, and [`paths`] the
//!    picture of each.
//! 6. [`topology`], [`figure`] and [`ladder`] draw, in [`ink`] that suits light and dark pages; [`page`] writes
//!    all of it into one file of HTML that needs nothing else.
pub mod act;
pub mod both;
pub mod claims;
pub mod demo;
pub mod figure;
pub mod handshake;
pub mod ink;
pub mod kernel;
pub mod ladder;
pub mod multipath;
pub mod page;
pub mod paths;
pub mod relayed;
pub mod segments;
pub mod strict;
pub mod topology;
pub mod trace;

/// Why there is no report, or a part of it is missing.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// A file of the artifacts cannot be read, or the report cannot be written.
    #[error("cannot {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A capture is no pcapng file, or a damaged one.
    #[error("{path} is no capture: {reason}; run the demo again")]
    Capture {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A picture cannot be drawn.
    #[error("cannot draw {what}: {reason}")]
    Picture {
        /// Which one.
        what: &'static str,
        /// What the drawing library says.
        reason: String,
    },
    /// A story cannot be told on this machine.
    #[error("{0}")]
    Story(String),
}

impl ReportError {
    /// For `map_err`: what was tried.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> ReportError {
        let doing = doing.into();
        move |source| ReportError::Io { doing, source }
    }
}
