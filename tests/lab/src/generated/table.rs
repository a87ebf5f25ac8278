//! One table of all that was told: places before by places after, and what failed in full.
use std::fmt::Write;
use std::path::Path;

use super::matrix::{Cell, Mover, Place};
use super::told::{Cell as _, Told};

pub struct Row {
    pub cell: Cell,
    pub told: Told,
}

/// Prints the table, writes it to `matrix.md` and `matrix.html`, and says whether all is well.
pub fn show(rows: &[Row], directory: &Path) -> Result<bool, String> {
    let failed: Vec<&Row> = rows.iter().filter(|row| !row.told.passed).collect();
    let passed = rows.len() - failed.len();
    let head = format!(
        "{} combinations told, {passed} passed, {} failed",
        rows.len(),
        failed.len()
    );
    let mut markdown =
        format!("# Moves, every kind of them\n\n{head}. A cell counts the programs that came through.\n");
    let mut html = String::from(
        "<!doctype html><meta charset=utf-8><title>Moves, every kind of them</title>\
         <style>body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;border:1px solid #bbb}\
         table{border-collapse:collapse;margin-bottom:2em}.bad{background:#fbb}.good{background:#cfc}</style>",
    );
    let _ = write!(html, "<h1>Moves, every kind of them</h1><p>{head}</p>");
    for mover in Mover::ALL {
        let (who, corner) = match mover {
            Mover::Initiator => ("The initiator moves", "from \\ to"),
            Mover::Acceptor => ("The acceptor moves", "initiator's place \\ to"),
            Mover::Both => ("Both move, the acceptor in the open", "initiator from \\ to"),
        };
        for (ipv6, family) in [(false, "IPv4"), (true, "IPv6")] {
            let part: Vec<&Row> = rows
                .iter()
                .filter(|row| row.cell.mover == mover && row.cell.ipv6 == ipv6)
                .collect();
            if part.is_empty() {
                continue;
            }
            let columns: Vec<&str> = Place::ALL.iter().map(|place| place.name()).collect();
            let _ = write!(
                markdown,
                "\n## {who}, {family}\n\n| {corner} | {} |\n|---|{}\n",
                columns.join(" | "),
                "---|".repeat(columns.len())
            );
            let _ = write!(
                html,
                "<h2>{who}, {family}</h2><table><tr><th>{corner}<th>{}",
                columns.join("<th>")
            );
            let mut shown = comfy_table::Table::new();
            shown.set_header(
                std::iter::once(format!("{who}, {family}: {corner}"))
                    .chain(columns.iter().map(|c| (*c).to_owned())),
            );
            for before in Place::ALL {
                let cells: Vec<String> = Place::ALL
                    .iter()
                    .map(|after| count(&part, before, *after))
                    .collect();
                if cells.iter().all(String::is_empty) {
                    continue;
                }
                let _ = writeln!(markdown, "| {} | {} |", before.name(), cells.join(" | "));
                let _ = write!(html, "<tr><th>{}", before.name());
                for cell in &cells {
                    let class = match cell.split_once('/') {
                        Some((good, all)) if good == all => "good",
                        Some(_) => "bad",
                        None => "",
                    };
                    let _ = write!(html, "<td class=\"{class}\">{cell}");
                }
                shown.add_row(std::iter::once(before.name().to_owned()).chain(cells));
            }
            html += "</table>";
            println!("{shown}");
        }
    }
    for row in &failed {
        let (name, told) = (row.cell.name(), &row.told);
        println!("\nFAILED {name}: {}\n  again: {}", told.reason, told.again);
        let _ = write!(markdown, "\n- **{name}**: {}\n  `{}`\n", told.reason, told.again);
        let reason = told.reason.replace('&', "&amp;").replace('<', "&lt;");
        let _ = write!(
            html,
            "<p class=bad><b>{name}</b>: {reason}<br><code>{}</code></p>",
            told.again
        );
    }
    println!("\n{head}");
    for (name, text) in [("matrix.md", &markdown), ("matrix.html", &html)] {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        println!("table: {}", path.display());
    }
    Ok(failed.is_empty())
}

/// `3/5`: three of five programs came through.
fn count(part: &[&Row], before: Place, after: Place) -> String {
    let told: Vec<&&Row> = part
        .iter()
        .filter(|row| row.cell.before == before && row.cell.after == after)
        .collect();
    if told.is_empty() {
        return String::new();
    }
    let passed = told.iter().filter(|row| row.told.passed).count();
    format!("{passed}/{}", told.len())
}
