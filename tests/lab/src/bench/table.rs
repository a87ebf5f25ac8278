//! Numbers in rows, for people.
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::footprint::Footprint;
use super::meeting::Meeting;
use super::moves::Cell;
use super::notice::Silence;
use super::relayed;
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

pub fn meetings(title: &str, rows: &[Meeting]) {
    let columns = ["round trip", "samples", "p50", "p90", "p99", "max", "lost"];
    let mut table = begin(title, &columns);
    for row in rows {
        table.add_row([
            format!("{} ms", row.round_trip_ms),
            row.times.samples.to_string(),
            millis(row.times.p50),
            millis(row.times.p90),
            millis(row.times.p99),
            millis(row.times.max),
            row.lost.to_string(),
        ]);
    }
    finish(table, 1);
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

pub fn footprints(title: &str, rows: &[Footprint]) {
    let columns = [
        "connections",
        "moved",
        "agent MiB",
        "KiB each",
        "maps MiB",
        "bytes each",
    ];
    let mut table = begin(title, &columns);
    for row in rows {
        let mebi = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        table.add_row([
            row.connections.to_string(),
            if row.moved { "yes" } else { "no" }.to_owned(),
            mebi(row.resident),
            format!("{:.2}", row.resident_each / 1024.0),
            mebi(row.maps),
            format!("{:.0}", row.maps_each),
        ]);
    }
    finish(table, 2);
}

pub fn silences(title: &str, rows: &[Silence]) {
    let columns = [
        "what happens",
        "outage",
        "stories",
        "asks: p50",
        "max",
        "receives: p50",
        "max",
    ];
    let mut table = begin(title, &columns);
    for row in rows {
        table.add_row([
            row.kind.to_owned(),
            millis(row.outage),
            row.asks.samples.to_string(),
            millis(row.asks.p50),
            millis(row.asks.max),
            millis(row.receives.p50),
            millis(row.receives.max),
        ]);
    }
    finish(table, 1);
}

pub fn relay_footprints(title: &str, rows: &[relayed::footprint::Footprint]) {
    let mut table = begin(title, &["connections", "relay MiB", "KiB each", "slabs KiB each"]);
    for row in rows {
        table.add_row([
            row.connections.to_string(),
            format!("{:.1}", row.resident as f64 / f64::from(1 << 20)),
            format!("{:.2}", row.resident_each / 1024.0),
            format!("{:.2}", row.slabs_each / 1024.0),
        ]);
    }
    finish(table, 0);
}

pub fn switches(title: &str, rows: &[relayed::switch::Switch]) {
    let columns = [
        "conditions",
        "samples",
        "command: p50",
        "max",
        "first on the new: p50",
        "max",
        "last on the old: p50",
        "max",
    ];
    let mut table = begin(title, &columns);
    for row in rows {
        let mut cells = vec![row.conditions.clone(), row.command.samples.to_string()];
        for times in [&row.command, &row.first, &row.last] {
            cells.extend([millis(times.p50), millis(times.max)]);
        }
        table.add_row(cells);
    }
    finish(table, 1);
}

pub fn stalls(title: &str, rows: &[relayed::lost::Stall]) {
    let columns = [
        "what happens",
        "stories",
        "no agent: p50",
        "max",
        "reported: p50",
        "max",
    ];
    let mut table = begin(title, &columns);
    for row in rows {
        table.add_row([
            row.kind.to_owned(),
            row.with.samples.to_string(),
            millis(row.without.p50),
            millis(row.without.max),
            millis(row.with.p50),
            millis(row.with.max),
        ]);
    }
    finish(table, 1);
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
