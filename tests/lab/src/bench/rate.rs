//! What short connections lose to the agents: connect, ask, answer, close; in turns without and with.
use super::Bench;
use super::short::Rate;
use super::table;
use super::throughput::Comparison;
use super::world::{Layout, Means, World};

pub fn measure(bench: &Bench) -> Result<Vec<Comparison>, String> {
    let (rounds, millis) = if bench.quick { (3, 600) } else { (7, 1000) };
    let mut without = World::build(bench, "none", Means::Plain, Layout::Cable)?.serve()?;
    let mut with = World::build(bench, "idle", Means::Agents, Layout::Cable)?.serve()?;
    // The first connection makes the agents agree keys.
    for world in [&mut without, &mut with] {
        world.run(300)?;
    }
    let mut pairs = Vec::new();
    for _ in 0..rounds {
        pairs.push((without.run(millis)?, with.run(millis)?));
    }
    bench.progress("short connections");
    let what = "connect, ask, answer, close";
    let rows = vec![Comparison::new(what, "one processor", "1000/s", &pairs)];
    table::comparisons("Short connections", &rows);
    Ok(rows)
}

/// A world with its short connections.
struct Shop {
    pair: super::pair::Pair,
    _world: World,
}

impl World {
    fn serve(mut self) -> Result<Shop, String> {
        Ok(Shop {
            pair: self.serve_short()?,
            _world: self,
        })
    }
}

impl Shop {
    /// Thousands of connections a second.
    fn run(&mut self, millis: u64) -> Result<f64, String> {
        let rate: Rate = self.pair.client.ask(&format!("rate {millis}"))?;
        if rate.failures > 0 {
            return Err(format!(
                "{} of {} connections failed",
                rate.failures, rate.connections
            ));
        }
        Ok(rate.connections as f64 * 1e6 / rate.nanoseconds as f64)
    }
}
