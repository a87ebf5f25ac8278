//! The scenario language: from the text of a `.scn` file to a checked [`Scenario`].
//!
//! 1. [`lexer`] cuts a line into words, pairs (`rate=20mbit`) and signs (`>=`, `->`), each with its place.
//! 2. [`topology`] reads the lines that describe the network, [`story`] those that happen in it, both with
//!    [`units`] for durations, sizes, rates and addresses.
//! 3. [`check`] resolves every name and refuses what cannot be meant.
//!
//! A line that cannot be read yields a [`Diagnostic`] with file, line, column, the line itself, a caret and what
//! was expected; the other lines are still read, so that one run shows all mistakes.
//!
//! `docs/scenarios.md` describes the language for its users.
pub mod ast;
mod check;
mod condition;
mod diagnostic;
mod lexer;
mod programs;
mod story;
mod topology;
pub mod units;
mod words;

pub use ast::Scenario;
pub use diagnostic::{Diagnostic, Place};
pub use lexer::Sign;

/// Reads and checks one scenario. `file` only names it in messages.
///
/// # Errors
/// Every mistake that was found, in the order of lines.
pub fn parse(file: &str, text: &str) -> Result<Scenario, Vec<Diagnostic>> {
    let mut scenario = Scenario {
        file: file.to_owned(),
        ..Scenario::default()
    };
    let mut mistakes = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        if let Err(mistake) =
            lexer::words(number, line).and_then(|words| statement(&mut scenario, words, line))
        {
            mistakes.push(mistake.in_file(file, line));
        }
    }
    if mistakes.is_empty() {
        let lines: Vec<&str> = text.lines().collect();
        for mistake in check::check(&scenario) {
            let line = lines
                .get(mistake.place.line.saturating_sub(1))
                .copied()
                .unwrap_or_default();
            mistakes.push(mistake.in_file(file, line));
        }
    }
    mistakes.sort_by_key(|mistake| (mistake.place.line, mistake.place.column));
    if mistakes.is_empty() {
        Ok(scenario)
    } else {
        Err(mistakes)
    }
}

fn statement(scenario: &mut Scenario, mut words: words::Words, line: &str) -> Result<(), Diagnostic> {
    if words.is_empty() {
        return Ok(());
    }
    match words.keyword() {
        Some("title") => {
            words.skip();
            scenario.title = Some(words.rest_as_text());
            Ok(())
        }
        Some(
            "host" | "router" | "core" | "napt" | "link" | "route" | "sysctl" | "agent" | "capture" | "limit"
            | "needs" | "multipath",
        ) => topology::statement(scenario, words, line),
        // A host may be called `server`: only `server NAME on HOST` is a statement.
        Some("server" | "redis") if words.has_at(2, "on") => topology::statement(scenario, words, line),
        // And `relay NAME kill` happens.
        Some("relay" | "proxy") if !story::is_relay_step(&words) => {
            topology::statement(scenario, words, line)
        }
        _ => {
            let step = story::step(words, line)?;
            scenario.steps.push(step);
            Ok(())
        }
    }
}
