//! Draws `docs/state-machine.md` from the cells of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use migration::State;

use crate::Cell;

/// The figure's node of a state: the states in which data can flow are one, or the picture shows nothing.
fn node(state: State) -> &'static str {
    match state {
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck
        | State::TimeWait => "Open",
        State::Suspect => "Suspect",
        State::SynRecv => "SynRecv",
        State::MigSent => "MigSent",
        State::MigWait(_) => "MigWait",
        State::Closed => "Closed",
        State::Buried => "Buried",
    }
}

/// The event without its circumstances.
fn short(event: &str) -> &str {
    event.split(':').next().unwrap_or(event)
}

fn edges(cells: &[Cell]) -> BTreeMap<(&'static str, &'static str), BTreeSet<String>> {
    let mut edges: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for cell in cells {
        let (from, to) = (node(cell.from), node(cell.to));
        if from != to {
            edges
                .entry((from, to))
                .or_default()
                .insert(short(cell.event).to_owned());
        }
    }
    edges
}

pub fn render(cells: &[Cell]) -> String {
    let mut out = String::from(INTRODUCTION);
    let edges = edges(cells);
    out.push_str("\n```mermaid\nstateDiagram-v2\n    [*] --> Open\n");
    for ((from, to), events) in &edges {
        let label: Vec<&str> = events.iter().map(String::as_str).collect();
        writeln!(out, "    {from} --> {to}: {}", label.join(", ")).expect("a string");
    }
    out.push_str("    Buried --> [*]\n```\n\nThe same in text:\n\n```\n");
    for ((from, to), events) in &edges {
        for event in events {
            writeln!(out, "{from:<8} --{event:-<22}> {to}").expect("a string");
        }
    }
    out.push_str("```\n\n## The table\n");
    out.push_str(TABLE);
    let mut columns: Vec<&str> = Vec::new();
    for cell in cells {
        if !columns.contains(&cell.event) {
            columns.push(cell.event);
        }
    }
    for column in columns {
        write!(out, "\n### {column}\n\n| in | then | actions |\n|---|---|---|\n").expect("a string");
        for (what, rows) in grouped(cells.iter().filter(|cell| cell.event == column)) {
            writeln!(out, "| {} | {} | {} |", rows.join("; "), what.0, what.1).expect("a string");
        }
    }
    out
}

/// Rows that do the same, in the order of the first of each.
type Group<'a> = ((String, String), Vec<&'a str>);

fn grouped<'a>(cells: impl Iterator<Item = &'a Cell>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for cell in cells {
        let to = if cell.from == cell.to {
            "the same".to_owned()
        } else {
            cell.to.to_string()
        };
        let what = (to, described(cell));
        match groups.iter_mut().find(|(known, _)| *known == what) {
            Some((_, rows)) => rows.push(cell.row),
            None => groups.push((what, vec![cell.row])),
        }
    }
    groups
}

fn described(cell: &Cell) -> String {
    let told = |action: &&migration::Action| {
        let text = action.to_string();
        !text.starts_with("WakeAt") && !text.contains(" -> ")
    };
    let names: Vec<String> = cell.actions.iter().filter(told).map(named).collect();
    if names.is_empty() {
        "–".to_owned()
    } else {
        names.join(", ")
    }
}

/// Refusals and reports say what they are; of the rest the name is enough here.
fn named(action: &migration::Action) -> String {
    match action.name() {
        "Refuse" | "Report" => {
            let text: String = action
                .to_string()
                .chars()
                .map(|c| if c.is_ascii_digit() { '#' } else { c })
                .collect();
            let mut words = text.replace("##", "#");
            while words.contains("##") {
                words = words.replace("##", "#");
            }
            words
        }
        name => name.to_owned(),
    }
}

const INTRODUCTION: &str = "# The state machine of a connection

<!-- Made by `UPDATE_DOCS=1 cargo test -p migration --test table` from what the code does. Do not edit. -->

The extended TCP state machine (figure 14 of the source) of one connection at one end. `crates/migration` holds it
as a pure function, `step(machine, event, now) -> (machine, actions)`; its module documentation gives the rules
and the reasons.

`Open` stands for Established, FinWait1, FinWait2, CloseWait, Closing, LastAck and TimeWait, which all move alike.
An arrow is drawn when the event leads there from at least one of the situations in the table below.
";

const TABLE: &str = "
Left: the situations in which the event does the same; \"the same\" means that the state does not change. WakeAt and
the report of a change of state follow from the rest and are left out; `#` stands for any number. The snapshot
`crates/migration/tests/snapshots/table__cells.snap` pins every cell with all its values.
";
