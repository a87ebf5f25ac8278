//! What idle connections take at the relay: of its program's memory, and of the kernel's.
use std::fs;

use serde::Serialize;

use super::{Between, Road};
use crate::bench::{Bench, table};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Footprint {
    pub connections: u32,
    /// What the relay's program has resident, in bytes.
    pub resident: u64,
    /// What each connection has added to it, in bytes.
    pub resident_each: f64,
    /// What each connection has added to the kernel's slabs, in bytes: of the terminal's host, the relay's and the server's together,
    /// since there is one kernel.
    pub slabs_each: f64,
}

/// Opens idle connections, looks before and after.
pub fn measure(bench: &Bench) -> Result<Vec<Footprint>, String> {
    let connections = if bench.quick { 1000 } else { 5000 };
    let mut road = Road::build(bench, "full", Between::Relay, false)?;
    // Listeners and pools are there before the first look.
    let _first = road.connect(false)?;
    let (resident, slabs) = (road.resident()?, slabs_of_all()?);
    let _many = road.connect_many(connections, false)?;
    let (full, used) = (road.resident()?, slabs_of_all()?);
    bench.progress(&format!("{connections} connections are relayed"));
    let each = |now: u64, then: u64| (now as f64 - then as f64) / f64::from(connections);
    let rows = vec![
        Footprint {
            connections: 1,
            resident,
            resident_each: 0.0,
            slabs_each: 0.0,
        },
        Footprint {
            connections: connections + 1,
            resident: full,
            resident_each: each(full, resident),
            slabs_each: each(used, slabs),
        },
    ];
    table::relay_footprints("Memory of idle connections at a relay", &rows);
    Ok(rows)
}

impl Road {
    fn resident(&self) -> Result<u64, String> {
        let program = self.relays.program(&self.middle.name);
        let pid = program.and_then(|name| self.board.lock().programs.get(&name)?.pid);
        let pid = pid.ok_or("the relay's process is not known")?;
        kibibytes(&format!("/proc/{pid}/status"), "VmRSS:")
    }
}

fn slabs_of_all() -> Result<u64, String> {
    kibibytes("/proc/meminfo", "SUnreclaim:")
}

/// A number of a file, in bytes.
fn kibibytes(path: &str, word: &str) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(number.ok_or_else(|| format!("{path} has no {word}"))? * 1024)
}
