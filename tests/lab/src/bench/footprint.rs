//! What protected connections take: of the agent's own memory, and of the kernel's in its maps.
use std::collections::BTreeMap;
use std::fs;

use serde::Serialize;

use super::Bench;
use super::table;
use super::traffic::Role;
use super::world::{Layout, Means, World};

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Footprint {
    /// Protected connections of the host.
    pub connections: u32,
    /// Whether they have moved.
    pub moved: bool,
    /// What the agent has resident, in bytes.
    pub resident: u64,
    /// What its maps take in the kernel, in bytes.
    pub maps: u64,
    /// What each connection has added to the first of them, in bytes.
    pub resident_each: f64,
    /// What each connection has added to the second, in bytes.
    pub maps_each: f64,
}

#[derive(Clone, Copy)]
struct Memory {
    resident: u64,
    maps: u64,
}

/// Opens idle connections, looks, moves them, looks again.
pub fn measure(bench: &Bench) -> Result<Vec<Footprint>, String> {
    let connections = if bench.quick { 1000 } else { 10_000 };
    let mut world = World::build(bench, "foot", Means::Agents, Layout::Cable)?;
    // The first connection makes the agents agree keys.
    let _first = world.connect(1, Role::Sink, Role::Sink, None)?;
    let before = memory(&world)?;
    let _pair = world.connect(connections, Role::Sink, Role::Sink, None)?;
    let still = memory(&world)?;
    bench.progress(&format!("{connections} connections are protected"));
    let refused = |error: std::io::Error| format!("the phone's kernel refused a change of address: {error}");
    world.disappear().map_err(refused)?;
    world.reappear().map_err(refused)?;
    world.await_moved(connections as usize)?;
    let moved = memory(&world)?;
    let line = |connections: u32, moved, now: Memory| {
        let each = |now: u64, then: u64| match connections {
            0 => 0.0,
            _ => (now as f64 - then as f64) / f64::from(connections),
        };
        Footprint {
            connections,
            moved,
            resident: now.resident,
            maps: now.maps,
            resident_each: each(now.resident, before.resident),
            maps_each: each(now.maps, before.maps),
        }
    };
    let rows = vec![
        line(0, false, before),
        line(connections, false, still),
        line(connections, true, moved),
    ];
    table::footprints("Memory of one host's agent", &rows);
    Ok(rows)
}

fn memory(world: &World) -> Result<Memory, String> {
    let pid = world.agent_pid().ok_or("the agent's process is not known")?;
    let unreadable = |error: std::io::Error| format!("cannot look at process {pid}: {error}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(unreadable)?;
    let resident = number(&status, "VmRSS:").ok_or("the process has no VmRSS")? * 1024;
    // A map is held by several descriptors: it counts once.
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .map_err(unreadable)?
        .flatten()
    {
        // Descriptors come and go while one looks.
        let Ok(text) = fs::read_to_string(entry.path()) else {
            continue;
        };
        if let (Some(id), Some(bytes)) = (number(&text, "map_id:"), number(&text, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(Memory {
        resident,
        maps: maps.values().sum(),
    })
}

/// The number behind a word at the beginning of a line.
fn number(text: &str, word: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(word))?;
    line.split_whitespace().next()?.parse().ok()
}
