//! Every state and every event: what follows. A snapshot pins each cell in full; `docs/state-machine.md` is made
//! from the same cells. Rewrite it with `UPDATE_DOCS=1 cargo test -p migration --test table`, and the snapshot
//! with `INSTA_UPDATE=always`.

#[path = "table/document.rs"]
mod document;
#[path = "table/fixtures.rs"]
mod fixtures;

use std::fmt::Write;
use std::path::Path;

use migration::{Actions, Machine, State, Timestamp, step};

/// One cell of the table.
pub struct Cell {
    pub row: &'static str,
    pub from: State,
    pub event: &'static str,
    pub to: State,
    pub actions: Actions,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (row, walk) in fixtures::rows() {
        for (name, event) in fixtures::columns(&walk.machine) {
            let alarm = walk.machine.next_alarm().map_or(walk.now, |(at, _)| at);
            let now = if name == "TimerFired: in time" {
                alarm
            } else {
                walk.now
            };
            let from = walk.machine.state();
            let (next, actions) = step(walk.machine.clone(), event, now);
            cells.push(Cell {
                row,
                from,
                event: name,
                to: next.state(),
                actions,
            });
        }
    }
    cells
}

#[test]
fn every_state_answers_every_event_as_written() {
    let mut text = String::new();
    let mut row = "";
    for cell in cells() {
        if cell.row != row {
            row = cell.row;
            writeln!(text, "\n== {row} ==").expect("a string");
        }
        writeln!(text, "{} => {}", cell.event, cell.to).expect("a string");
        for action in &cell.actions {
            writeln!(text, "    {action}").expect("a string");
        }
    }
    insta::assert_snapshot!("cells", text);
}

#[test]
fn the_rows_are_in_the_states_they_are_named_after() {
    for (row, walk) in fixtures::rows() {
        let state = walk.machine.state().to_string();
        let named = row.starts_with(&state) || (state == "MigWait (keys gone)" && row == state);
        assert!(named, "{row} is in {state}");
    }
}

#[test]
fn the_document_is_what_the_machine_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/state-machine.md");
    let text = document::render(&cells());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &text).expect("docs/state-machine.md can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/state-machine.md is out of date: run UPDATE_DOCS=1 cargo test -p migration --test table"
    );
}

#[test]
fn a_refusal_changes_no_state() {
    for cell in cells() {
        let refused = cell.actions.iter().any(|action| action.name() == "Refuse");
        assert!(!refused || cell.from == cell.to, "{} x {}", cell.row, cell.event);
    }
}

#[test]
fn every_cell_says_something_or_has_nothing_to_say() {
    for (row, walk) in fixtures::rows() {
        for (name, event) in fixtures::columns(&walk.machine) {
            let again: (Machine, Actions) = step(walk.machine.clone(), event.clone(), walk.now);
            let same = step(walk.machine.clone(), event, walk.now);
            assert_eq!(again, same, "{row} x {name}: not a function");
        }
    }
    let (_, actions) = step(
        fixtures::Walk::start().machine,
        migration::Event::TimerFired,
        Timestamp::START,
    );
    assert!(actions.is_empty());
}
