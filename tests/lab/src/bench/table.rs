//! Numbers in rows, for people.
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::moves::Cell;
use super::throughput::Comparison;

/// What a number of measured values looks like; its unit is that of the values.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Distribution {
    pub samples: usize,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Distribution {
    /// Quantiles by the nearest rank: each is a value that was measured.
    pub fn of(mut values: Vec<f64>) -> Distribution {
        values.sort_by(f64::total_cmp);
        let quantile = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
        };
        Distribution {
            samples: values.len(),
            min: quantile(0.0),
            p50: quantile(0.5),
            p90: quantile(0.9),
            p99: quantile(0.99),
            max: quantile(1.0),
        }
    }
}

pub fn moves(title: &str, cells: &[Cell]) {
    let mut table = begin(
        title,
        &[
            "outage", "workload", "means", "samples", "p50", "p90", "p99", "max", "lost",
        ],
    );
    for cell in cells {
        let times = &cell.times;
        table.add_row([
            format!("{} s", cell.outage_seconds),
            cell.workload.name().to_owned(),
            cell.means.to_owned(),
            times.samples.to_string(),
            millis(times.p50),
            millis(times.p90),
            millis(times.p99),
            millis(times.max),
            cell.lost.to_string(),
        ]);
    }
    finish(table, 3);
}

pub fn last(title: &str, cells: &[Cell]) {
    let columns = [
        "connections",
        "workload",
        "moves",
        "first",
        "all p50",
        "last: min",
        "median",
        "max",
        "lost",
    ];
    let mut table = begin(title, &columns);
    for cell in cells {
        table.add_row([
            cell.connections.to_string(),
            cell.workload.name().to_owned(),
            cell.moves.to_string(),
            millis(cell.times.min),
            millis(cell.times.p50),
            millis(cell.last.min),
            millis(cell.last.p50),
            millis(cell.last.max),
            cell.lost.to_string(),
        ]);
    }
    finish(table, 2);
}

pub fn comparisons(title: &str, rows: &[Comparison]) {
    let columns = [
        "what",
        "against",
        "conditions",
        "without",
        "with",
        "pairs",
        "ratio",
        "min",
        "max",
    ];
    let mut table = begin(title, &columns);
    for row in rows {
        table.add_row([
            row.what.clone(),
            row.against.clone(),
            row.conditions.clone(),
            format!("{:.2} {}", row.without.p50, row.unit),
            format!("{:.2} {}", row.with.p50, row.unit),
            row.ratio.samples.to_string(),
            format!("{:.3}", row.ratio.p50),
            format!("{:.3}", row.ratio.min),
            format!("{:.3}", row.ratio.max),
        ]);
    }
    finish(table, 3);
}

fn begin(title: &str, columns: &[&str]) -> Table {
    println!("\n{title}");
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(columns);
    table
}

/// Prints; columns from `numbers` on hold numbers.
fn finish(mut table: Table, numbers: usize) {
    for column in table.column_iter_mut().skip(numbers) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

fn millis(value: f64) -> String {
    match value {
        value if value.is_nan() => "-".into(),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
