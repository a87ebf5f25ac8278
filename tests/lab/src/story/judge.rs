//! Does a condition hold, not hold yet, or can it hold no more?
use super::board::{ProgramState, State};
use crate::agents::Answer;
pub use crate::language::Sign;
use crate::language::ast::*;
use crate::language::units::show_size;

#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    Holds,
    /// What is the case instead.
    NotYet(String),
    /// What is the case instead, for good.
    Never(String),
}

/// Facts that are not on the board and were asked for just now.
pub trait Facts {
    /// Entries of an agent's list, or why there is none.
    fn agent(&self, host: &str, list: AgentList) -> Answer;
    /// Entries of the list of a relay that the condition is about, or why there is none.
    fn relay(&self) -> Answer;
    fn leaks(&self) -> (u64, Vec<String>);
    fn invalid(&self, napt: &str) -> Result<u64, String>;
    fn rst(&self, host: &str) -> u64;
    /// A pattern with `{server}` and its like replaced, for a program of this host.
    fn fill_in(&self, pattern: &str, host: &str) -> String;
}

pub fn judge(condition: &Condition, state: &State, facts: &dyn Facts) -> Judgement {
    match &condition.subject {
        Subject::Program(name) => match state.programs.get(&name.text) {
            Some(program) => all(condition
                .terms
                .iter()
                .map(|term| program_term(term, program, &name.text, facts))),
            None => Judgement::NotYet(format!("{name} has not been started")),
        },
        Subject::Agent { host, list } => match facts.agent(&host.text, *list) {
            Ok(entries) => agent(&condition.terms, &entries),
            Err(reason) => Judgement::NotYet(reason),
        },
        Subject::Relay { .. } | Subject::Server { .. } => match facts.relay() {
            Ok(entries) => agent(&condition.terms, &entries),
            Err(reason) => Judgement::NotYet(reason),
        },
        Subject::Run => all(condition.terms.iter().map(|term| run_term(term, state, facts))),
    }
}

/// The worst judgement wins.
fn all(judgements: impl Iterator<Item = Judgement>) -> Judgement {
    let mut worst = Judgement::Holds;
    for judgement in judgements {
        match (&worst, &judgement) {
            (_, Judgement::Never(_)) => return judgement,
            (Judgement::Holds, _) => worst = judgement,
            _ => {}
        }
    }
    worst
}

fn program_term(term: &Term, program: &ProgramState, name: &str, facts: &dyn Facts) -> Judgement {
    let state = || describe(name, program);
    let decide = |holds: bool| match (holds, program.has_ended()) {
        (true, _) => Judgement::Holds,
        (false, true) => Judgement::Never(state()),
        (false, false) => Judgement::NotYet(state()),
    };
    match term {
        Term::Done => decide(program.is_done()),
        Term::Running if program.has_ended() => Judgement::Never(state()),
        Term::Running => Judgement::Holds,
        Term::Connected => decide(program.connections > 0 && program.report.connected >= program.connections),
        Term::Error(names) => {
            let met = names.iter().any(|name| program.report.errors.contains_key(name));
            decide(met)
        }
        Term::Exit(code) => decide(program.exit == Some(*code)),
        Term::Output(pattern) => {
            let pattern = facts.fill_in(pattern, &program.host);
            let found = matches(&pattern, &program.output);
            match decide(found) {
                Judgement::Never(said) => {
                    Judgement::Never(format!("{said}; its output: {}", tail(&program.output)))
                }
                other => other,
            }
        }
        Term::Same => match program.report.same {
            Some(false) => Judgement::Never(format!("{name} received other bytes than were sent")),
            same => decide(same == Some(true) && program.has_ended()),
        },
        Term::Digest(digest) => decide(program.report.sha256.as_ref() == Some(digest)),
        Term::Compare { measure, sign, value } => {
            let measured = match measure {
                Measure::Bytes => program.report.bytes as f64,
                Measure::Answers => program.report.answers as f64,
                Measure::Gap => program.report.gap / 1e3,
                Measure::Rtt => program.report.rtt.median / 1e3,
                Measure::Rtt99 => program.report.rtt.p99 / 1e3,
                Measure::Connections => program.report.open as f64,
                Measure::Elapsed => program.ended.unwrap_or(program.started) - program.started,
                // The lab's applications connect once: another connection would be a failure here.
                _ => program.report.connected.saturating_sub(program.connections) as f64,
            };
            let holds = compare(measured, *sign, *value);
            match sign {
                // A longest gap only grows.
                Sign::AtMost | Sign::Less if !holds && *measure == Measure::Gap => Judgement::Never(state()),
                _ => decide(holds),
            }
        }
        Term::Field { .. } => Judgement::Never(format!("{name} has no such field")),
    }
}

pub fn describe(name: &str, program: &ProgramState) -> String {
    let report = &program.report;
    let mut said = match (program.ended, program.exit) {
        (Some(time), _) if program.killed => format!("{name} was killed, ended at {time:.3}"),
        (Some(time), Some(exit)) => format!("{name} ended with exit={exit} at {time:.3}"),
        (Some(time), None) => format!("{name} ended at {time:.3}"),
        _ => format!("{name} is running"),
    };
    if program.reports {
        said += &format!(", {} bytes ({})", report.bytes, show_size(report.bytes));
        if report.answers > 0 {
            said += &format!(", {} answers", report.answers);
        }
        if report.rtt.max > 0.0 {
            said += &format!(
                ", rtt {:.2} ms median, {:.2} ms at 99%",
                report.rtt.median, report.rtt.p99
            );
        }
        said += &format!(
            ", {} of {} connections open, longest gap {:.0} ms",
            report.open, program.connections, report.gap
        );
        if !report.errors.is_empty() {
            said += &format!(", errors {:?}", report.errors);
        }
    }
    said
}

fn tail(output: &str) -> String {
    let from = output.len().saturating_sub(400);
    let from = (from..=output.len())
        .find(|at| output.is_char_boundary(*at))
        .unwrap_or_default();
    format!("{:?}", &output[from..])
}

fn run_term(term: &Term, state: &State, facts: &dyn Facts) -> Judgement {
    let Term::Compare { measure, sign, value } = term else {
        return Judgement::Never("the run has no such property".to_owned());
    };
    let (measured, said) = match measure {
        Measure::Resets => count(state, "resets", |program| program.report.resets),
        Measure::Errors => count(state, "errors", failures),
        Measure::Leaks => {
            let (leaks, examples) = facts.leaks();
            (
                leaks,
                format!("{leaks} packets with a foreign source: {}", examples.join(", ")),
            )
        }
        Measure::Invalid(napt) => match facts.invalid(&napt.text) {
            Ok(invalid) => (invalid, format!("{napt} dropped {invalid} packets as invalid")),
            Err(reason) => return Judgement::NotYet(reason),
        },
        Measure::Rst(host) => {
            let resets = facts.rst(&host.text);
            (resets, format!("{resets} reset segments reached {host}"))
        }
        _ => return Judgement::Never("the run has no such property".to_owned()),
    };
    if compare(measured as f64, *sign, *value) {
        Judgement::Holds
    } else {
        Judgement::NotYet(said)
    }
}

fn count(state: &State, what: &str, of: impl Fn(&ProgramState) -> u64) -> (u64, String) {
    let each: Vec<(&String, u64)> = state
        .programs
        .iter()
        .map(|(name, program)| (name, of(program)))
        .collect();
    let total = each.iter().map(|(_, number)| number).sum();
    let guilty: Vec<String> = each
        .iter()
        .filter(|(_, number)| *number > 0)
        .map(|(name, number)| format!("{name}: {number}"))
        .collect();
    (total, format!("{total} {what} ({})", guilty.join(", ")))
}

/// Failures of a program: what it reports, else an exit that is not 0. What the story wanted is none.
fn failures(program: &ProgramState) -> u64 {
    if program.expected {
        return 0;
    }
    let reported: u64 = program.report.errors.values().sum();
    let ended_badly = program.has_ended() && !program.killed && (program.exit != Some(0) || program.stands);
    reported.max(u64::from(ended_badly))
}

/// Whether a text has a place where the pattern fits; `^` and `$` stand for the ends of lines.
pub fn matches(pattern: &str, text: &str) -> bool {
    let regex = regex::RegexBuilder::new(pattern).multi_line(true).build();
    regex.is_ok_and(|regex| regex.is_match(text) || regex.is_match(&without_terminal(text)))
}

/// What a person would read on a terminal: without escape sequences, and a carriage return begins a line.
fn without_terminal(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\u{1b}' => match rest.next() {
                // A command: parameters, then a letter.
                Some('[') => drop(rest.find(|c| ('@'..='~').contains(c))),
                // A title, up to the bell or the string terminator.
                Some(']') => drop(rest.find(|c| matches!(c, '\u{7}' | '\\'))),
                _ => {}
            },
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => plain.push('\n'),
            c => plain.push(c),
        }
    }
    plain
}

pub fn compare(measured: f64, sign: Sign, value: f64) -> bool {
    match sign {
        Sign::Equal => measured == value,
        Sign::NotEqual => measured != value,
        Sign::AtLeast => measured >= value,
        Sign::AtMost => measured <= value,
        Sign::More => measured > value,
        Sign::Less => measured < value,
        Sign::Matches => false,
    }
}

/// With `count`, so many entries match; without, there is one at least and all match.
fn agent(terms: &[Term], entries: &[serde_json::Value]) -> Judgement {
    let matching = entries.iter().filter(|entry| {
        terms.iter().all(|term| match term {
            Term::Field { key, sign, value } => field(entry, key, *sign, value),
            _ => true,
        })
    });
    let matching = matching.count();
    let counted = terms.iter().find_map(|term| match term {
        Term::Compare {
            measure: Measure::Count,
            sign,
            value,
        } => Some(compare(matching as f64, *sign, *value)),
        _ => None,
    });
    if counted.unwrap_or(matching > 0 && matching == entries.len()) {
        return Judgement::Holds;
    }
    let shown: Vec<String> = entries.iter().take(3).map(ToString::to_string).collect();
    Judgement::NotYet(format!(
        "{matching} of {} match: {}",
        entries.len(),
        shown.join(" ")
    ))
}

fn field(entry: &serde_json::Value, key: &str, sign: Sign, value: &str) -> bool {
    let found = key.split('.').try_fold(entry, |entry, part| entry.get(part));
    let Some(found) = found else {
        return sign == Sign::NotEqual;
    };
    let text = found.as_str().map_or_else(|| found.to_string(), str::to_owned);
    match (sign, text.parse::<f64>(), value.parse::<f64>()) {
        (Sign::Matches, ..) => regex::Regex::new(value).is_ok_and(|regex| regex.is_match(&text)),
        (sign, Ok(measured), Ok(value)) => compare(measured, sign, value),
        (Sign::Equal, ..) => text.eq_ignore_ascii_case(value),
        (Sign::NotEqual, ..) => !text.eq_ignore_ascii_case(value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn output_of_a_terminal_reads_as_on_a_terminal() {
        let output = "\u{1b}[?2004hroot@b:~# echo x\r\n\u{1b}[?2004l\rbefore-42 77\r\n\u{1b}]0;title\u{7}";
        assert!(matches("^before-42 [0-9]+$", output));
        assert!(!matches("^fore", output));
        assert!(matches("\\r", output), "the raw text matches as well");
    }
}
