//! What a stream loses to the agents: the same stream without them, in turns.
//!
//! Three cables: one without agents, one with agents whose connections have never moved, one whose connections have
//! moved, so that every segment is translated at both ends. One second of each, then the next round.
use std::time::Duration;

use serde::Serialize;

use super::pair::Pair;
use super::table::{self, Distribution};
use super::traffic::{Counted, Role};
use super::world::{Layout, Means, World};
use super::{Bench, clock};

/// The stream finds its rate before it is measured.
const WARM: Duration = Duration::from_millis(300);
/// What is in the buffers has arrived.
const DRAIN: Duration = Duration::from_millis(80);

/// One line of the table: pairs of measurements, one after the other, without and with.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub what: String,
    pub against: String,
    pub conditions: String,
    pub unit: &'static str,
    pub without: Distribution,
    pub with: Distribution,
    /// Of each pair, `with / without`.
    pub ratio: Distribution,
}

impl Comparison {
    pub fn new(what: &str, conditions: &str, unit: &'static str, pairs: &[(f64, f64)]) -> Comparison {
        Comparison {
            what: what.to_owned(),
            against: "no agents".to_owned(),
            conditions: conditions.to_owned(),
            unit,
            without: Distribution::of(pairs.iter().map(|pair| pair.0).collect()),
            with: Distribution::of(pairs.iter().map(|pair| pair.1).collect()),
            ratio: Distribution::of(pairs.iter().map(|pair| pair.1 / pair.0).collect()),
        }
    }
}

/// A world with one connection in each direction.
struct Cable {
    world: World,
    download: Pair,
    upload: Pair,
}

impl Cable {
    fn build(bench: &Bench, name: &str, means: Means) -> Result<Cable, String> {
        let mut world = World::build(bench, name, means, Layout::Cable)?;
        Ok(Cable {
            download: world.connect(1, Role::Sink, Role::Source, None)?,
            upload: world.connect(1, Role::Source, Role::Sink, None)?,
            world,
        })
    }

    /// Its connections are with a neighbour of the phone that has no agent.
    fn beside(bench: &Bench, name: &str, means: Means) -> Result<Cable, String> {
        let mut world = World::build(bench, name, means, Layout::Cable)?;
        world.add_neighbour(bench, name)?;
        Ok(Cable {
            download: world.connect_to_neighbour(Role::Sink, Role::Source)?,
            upload: world.connect_to_neighbour(Role::Source, Role::Sink)?,
            world,
        })
    }

    /// Gbit/s at the receiving application.
    fn run(&mut self, upload: bool, time: Duration) -> Result<f64, String> {
        let (source, sink) = if upload {
            (&mut self.upload.client, &mut self.upload.server)
        } else {
            (&mut self.download.server, &mut self.download.client)
        };
        source.tell("go")?;
        std::thread::sleep(WARM);
        let before: Counted = sink.ask("count")?;
        clock::sleep_until(before.at + time.as_nanos() as u64);
        let after: Counted = sink.ask("count")?;
        source.tell("hold")?;
        std::thread::sleep(DRAIN);
        Ok((after.bytes - before.bytes) as f64 * 8.0 / (after.at - before.at) as f64)
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Comparison>, String> {
    let (rounds, time) = if bench.quick {
        (3, Duration::from_millis(600))
    } else {
        (7, Duration::from_millis(1000))
    };
    let mut none = Cable::build(bench, "none", Means::Plain)?;
    let mut idle = Cable::build(bench, "idle", Means::Agents)?;
    let mut moved = Cable::build(bench, "moved", Means::Agents)?;
    let refused = |error: std::io::Error| format!("the phone's kernel refused a change of address: {error}");
    moved.world.disappear().map_err(refused)?;
    moved.world.reappear().map_err(refused)?;
    let mut rows = Vec::new();
    for offloads in [true, false] {
        for cable in [&none, &idle, &moved] {
            cable.world.set_offloads(offloads)?;
        }
        let conditions = if offloads { "offloads on" } else { "offloads off" };
        for upload in [false, true] {
            let direction = if upload { "upload" } else { "download" };
            let (mut translated, mut unmoved) = (Vec::new(), Vec::new());
            for _ in 0..rounds {
                let without = none.run(upload, time)?;
                translated.push((without, moved.run(upload, time)?));
                let without = none.run(upload, time)?;
                unmoved.push((without, idle.run(upload, time)?));
            }
            bench.progress(&format!("{direction}, {conditions}"));
            let moved = format!("moved connection, {direction}");
            rows.push(Comparison::new(&moved, conditions, "Gbit/s", &translated));
            let idle = format!("unmoved connection, {direction}");
            rows.push(Comparison::new(&idle, conditions, "Gbit/s", &unmoved));
        }
    }
    table::comparisons("Throughput of one stream", &rows);
    Ok(rows)
}

/// What agents cost those who have nothing from them: one stream with a host that has none, in turns without an agent
/// at this end, with one of which nothing has moved, and with one that translates another connection.
pub fn measure_unprotected(bench: &Bench) -> Result<Vec<Comparison>, String> {
    let (rounds, time) = if bench.quick {
        (3, Duration::from_millis(600))
    } else {
        (7, Duration::from_millis(1000))
    };
    let mut none = Cable::beside(bench, "bnone", Means::Plain)?;
    let mut idle = Cable::beside(bench, "bidle", Means::Agents)?;
    let mut moved = Cable::beside(bench, "bmoved", Means::Agents)?;
    let refused = |error: std::io::Error| format!("the phone's kernel refused a change of address: {error}");
    let _translated = moved.world.connect(1, Role::Sink, Role::Sink, None)?;
    moved.world.disappear().map_err(refused)?;
    moved.world.reappear().map_err(refused)?;
    let mut rows = Vec::new();
    for offloads in [true, false] {
        for cable in [&none, &idle, &moved] {
            cable.world.set_offloads(offloads)?;
        }
        let conditions = if offloads { "offloads on" } else { "offloads off" };
        for upload in [false, true] {
            let direction = if upload { "upload" } else { "download" };
            let mut pairs = [Vec::new(), Vec::new()];
            for _ in 0..rounds {
                for (cable, found) in [&mut idle, &mut moved].into_iter().zip(&mut pairs) {
                    let without = none.run(upload, time)?;
                    found.push((without, cable.run(upload, time)?));
                }
            }
            bench.progress(&format!("unprotected {direction}, {conditions}"));
            for (others, pairs) in ["nothing has moved", "another has moved"].into_iter().zip(&pairs) {
                let what = format!("unprotected {direction}, {others}");
                rows.push(Comparison::new(&what, conditions, "Gbit/s", pairs));
            }
        }
    }
    table::comparisons("Throughput of one stream with a host that has no agent", &rows);
    Ok(rows)
}
