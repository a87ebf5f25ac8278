//! How long after a move until bytes flow again.
//!
//! Every means and workload has a world of its own, so that one outage serves many connections and a long one
//! serves many worlds: addresses go one world after the other, and come back in the same order, far enough apart
//! that a world has finished before the next begins. What is measured begins when the kernel has answered the last
//! request that makes the new address usable, and ends when the first byte reaches the application.
use std::time::Duration;

use serde::Serialize;

use super::pair::Pair;
use super::table::{self, Distribution};
use super::traffic::{Collected, Role};
use super::world::{Layout, Means, World};
use super::{Bench, clock};

/// Bounds what a bulk transfer has under way: every connection has as much to say after the move.
const SEND_BUFFER: u32 = 200 * 1024;
/// How long traffic flows before the address goes.
const FLOW: Duration = Duration::from_millis(350);
const FLOW_ALONE: Duration = Duration::from_millis(120);
/// Nothing is under way any more so long after the address has gone.
const SILENCE: Duration = Duration::from_millis(100);
/// Connections that are silent so long after the address is usable count as silent for good; plain TCP, whose timers
/// have doubled meanwhile, has as long as the outage in addition.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Workload {
    Download,
    Upload,
    RequestResponse,
    /// Idle; the phone speaks when the address is usable.
    IdleUp,
    /// Idle; the server speaks then.
    IdleDown,
}

impl Workload {
    pub const ALL: [Workload; 5] = [
        Workload::Download,
        Workload::Upload,
        Workload::RequestResponse,
        Workload::IdleUp,
        Workload::IdleDown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Workload::Download => "bulk download",
            Workload::Upload => "bulk upload",
            Workload::RequestResponse => "request-response",
            Workload::IdleUp => "idle, phone speaks",
            Workload::IdleDown => "idle, server speaks",
        }
    }

    /// Roles at phone and server. Many connections think longer, so that they ask as often together.
    fn roles(self, connections: u32) -> (Role, Role) {
        let think_micros = 250 * u64::from(connections.max(20));
        match self {
            Workload::Download => (Role::Sink, Role::Source),
            Workload::Upload => (Role::Source, Role::Sink),
            Workload::RequestResponse => (Role::Asker { think_micros }, Role::Answerer),
            Workload::IdleUp | Workload::IdleDown => (Role::Sink, Role::Sink),
        }
    }

    fn arrives_at_phone(self) -> bool {
        matches!(
            self,
            Workload::Download | Workload::RequestResponse | Workload::IdleDown
        )
    }
}

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    pub workload: Workload,
    pub means: &'static str,
    pub outage_seconds: f64,
    /// Moved together.
    pub connections: u32,
    pub moves: u32,
    /// Milliseconds from usable to the first byte.
    pub times: Distribution,
    /// Of every move, the last connection of it.
    pub last: Distribution,
    /// Connections that were reset or stayed silent.
    pub lost: usize,
}

/// A set of connections that moves together.
struct Group {
    workload: Workload,
    world: World,
    pair: Pair,
    usable: u64,
}

struct Plan {
    outage: Duration,
    rounds: u32,
}

/// Many connections at once, under every means.
pub fn measure(bench: &Bench) -> Result<Vec<Cell>, String> {
    let connections = if bench.quick { 30 } else { 100 };
    let plan = |seconds, rounds| Plan {
        outage: Duration::from_secs_f64(seconds),
        rounds,
    };
    let plans = if bench.quick {
        vec![plan(0.2, 1), plan(2.0, 1)]
    } else {
        vec![plan(0.2, 2), plan(8.0, 2), plan(30.0, 2)]
    };
    let groups = gather(bench, &Means::ALL, &Workload::ALL, connections)?;
    let cells = perform(bench, groups, &plans, connections)?;
    let title =
        format!("From address usable to the first new byte, {connections} connections moving together (ms)");
    table::moves(&title, &cells);
    Ok(cells)
}

/// One connection at a time.
pub fn measure_single(bench: &Bench) -> Result<Vec<Cell>, String> {
    let plan = |seconds, rounds| Plan {
        outage: Duration::from_secs_f64(seconds),
        rounds,
    };
    let plans = if bench.quick {
        vec![plan(0.2, 4)]
    } else {
        vec![plan(0.2, 20), plan(8.0, 5)]
    };
    let groups = gather(bench, &[Means::Agents], &Workload::ALL, 1)?;
    let cells = perform(bench, groups, &plans, 1)?;
    table::moves(
        "From address usable to the first new byte, one connection moving alone (ms)",
        &cells,
    );
    Ok(cells)
}

/// Hundreds, a thousand and ten thousand at once.
pub fn measure_many(bench: &Bench) -> Result<Vec<Cell>, String> {
    let sizes: &[u32] = if bench.quick { &[200] } else { &[200, 1000, 10_000] };
    let mut cells = Vec::new();
    for connections in sizes {
        let plans = [Plan {
            outage: Duration::from_secs(2),
            rounds: if bench.quick {
                2
            } else if *connections > 1000 {
                3
            } else {
                5
            },
        }];
        let workloads = [Workload::RequestResponse, Workload::IdleUp];
        let groups = gather(bench, &[Means::Agents], &workloads, *connections)?;
        cells.extend(perform(bench, groups, &plans, *connections)?);
    }
    table::last(
        "From address usable until the last connection has a new byte (ms)",
        &cells,
    );
    Ok(cells)
}

fn gather(
    bench: &Bench,
    means: &[Means],
    workloads: &[Workload],
    connections: u32,
) -> Result<Vec<Group>, String> {
    let mut groups = Vec::new();
    for means in means {
        for workload in workloads {
            let name = format!("{}{}{}", *means as u8, *workload as u8, connections);
            let mut world = World::build(bench, &name, *means, Layout::Road)?;
            let (client, server) = workload.roles(connections);
            let send_buffer = (connections > 1).then_some(SEND_BUFFER);
            let pair = world.connect(connections, client, server, send_buffer)?;
            groups.push(Group {
                workload: *workload,
                world,
                pair,
                usable: 0,
            });
        }
        bench.progress(&format!("{connections} connections each, {}", means.name()));
    }
    Ok(groups)
}

/// Plain TCP comes back in its own time and not one world after the other: its rounds lie between the others'.
fn perform(bench: &Bench, groups: Vec<Group>, plans: &[Plan], connections: u32) -> Result<Vec<Cell>, String> {
    let (mut plain, mut quick): (Vec<Group>, Vec<Group>) = groups
        .into_iter()
        .partition(|group| group.world.means == Means::Plain);
    // Workload by workload, so that means alternate.
    quick.sort_by_key(|group| (group.workload as u8, group.world.means));
    let mut cells = Vec::new();
    for plan in plans {
        let mut found: Vec<Vec<Times>> = Vec::new();
        for round in 0..plan.rounds {
            for groups in [&mut quick, &mut plain] {
                let times = outage(groups, plan.outage, connections)?;
                found.push(times);
            }
            if connections > 1 || (round + 1) % 5 == 0 {
                let (seconds, rounds) = (plan.outage.as_secs_f64(), plan.rounds);
                bench.progress(&format!("outage of {seconds} s, round {} of {rounds}", round + 1));
            }
        }
        let all: Vec<Times> = found.into_iter().flatten().collect();
        for workload in Workload::ALL {
            for means in Means::ALL {
                let mine: Vec<&Times> = all
                    .iter()
                    .filter(|times| times.workload == workload && times.means == means)
                    .collect();
                if mine.is_empty() {
                    continue;
                }
                let times: Vec<f64> = mine.iter().flat_map(|times| times.millis.clone()).collect();
                let last = mine
                    .iter()
                    .filter_map(|times| times.millis.iter().copied().reduce(f64::max));
                cells.push(Cell {
                    workload,
                    means: means.name(),
                    outage_seconds: plan.outage.as_secs_f64(),
                    connections,
                    moves: plan.rounds,
                    last: Distribution::of(last.collect()),
                    times: Distribution::of(times),
                    lost: mine.iter().map(|times| times.lost).sum(),
                });
            }
        }
    }
    Ok(cells)
}

/// What one group saw in one outage.
struct Times {
    workload: Workload,
    means: Means,
    millis: Vec<f64>,
    lost: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Flow,
    Leave,
    Arm,
    Arrive,
}

/// One outage of every group, overlapping where it is long.
fn outage(groups: &mut [Group], outage: Duration, connections: u32) -> Result<Vec<Times>, String> {
    let flow = if connections == 1 { FLOW_ALONE } else { FLOW };
    let slot = slot(groups.len(), outage, flow, connections);
    let mut steps = Vec::new();
    for number in 0..groups.len() {
        let leave = slot * number as u32 + flow;
        steps.push((leave - flow, Step::Flow, number));
        steps.push((leave, Step::Leave, number));
        steps.push((leave + outage - SILENCE, Step::Arm, number));
        steps.push((leave + outage, Step::Arrive, number));
    }
    steps.sort();
    let begun = clock::now() + 1_000_000;
    for (at, step, number) in steps {
        clock::sleep_until(begun + at.as_nanos() as u64);
        groups[number].take(step)?;
    }
    let patience = |group: &Group| match group.world.means {
        Means::Plain => outage + PATIENCE,
        Means::Agents | Means::Multipath => PATIENCE,
    };
    groups
        .iter_mut()
        .map(|group| group.collect(patience(group)))
        .collect()
}

/// The time from one group to the next.
fn slot(groups: usize, outage: Duration, flow: Duration, connections: u32) -> Duration {
    let busy = match connections {
        1 => Duration::from_millis(120),
        2..=100 => Duration::from_millis(500),
        101..=1000 => Duration::from_millis(1500),
        _ => Duration::from_secs(6),
    };
    let alone = flow + outage + busy;
    // All leave before the first arrives, if the outage is long enough for that.
    let shared = (outage - SILENCE * 2)
        .checked_div(groups.max(1) as u32)
        .unwrap_or(alone);
    if shared >= flow + busy / 2 {
        shared.min(Duration::from_millis(1500))
    } else {
        alone
    }
}

impl Group {
    fn take(&mut self, step: Step) -> Result<(), String> {
        let refused =
            |error: std::io::Error| format!("the phone's kernel refused a change of address: {error}");
        match step {
            // Multipath TCP adds no path before both ends have heard something.
            Step::Flow if self.is_idle() => self.pair.tell("speak"),
            Step::Flow => self.pair.tell("go"),
            Step::Leave => {
                self.world.disappear().map_err(refused)?;
                match self.workload {
                    // What is in the send buffers is what there is to say: others are to be measured after it.
                    Workload::Download | Workload::Upload => self.pair.tell("hold"),
                    _ => Ok(()),
                }
            }
            Step::Arm => self.receiver().tell("arm"),
            Step::Arrive => {
                self.usable = self.world.reappear().map_err(refused)?;
                match self.workload {
                    Workload::IdleUp => self.pair.client.tell("speak"),
                    Workload::IdleDown => self.pair.server.tell("speak"),
                    _ => Ok(()),
                }
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.workload, Workload::IdleUp | Workload::IdleDown)
    }

    fn receiver(&mut self) -> &mut super::pair::End {
        if self.workload.arrives_at_phone() {
            &mut self.pair.client
        } else {
            &mut self.pair.server
        }
    }

    fn collect(&mut self, patience: Duration) -> Result<Times, String> {
        let left = patience.saturating_sub(Duration::from_nanos(clock::now() - self.usable));
        let (usable, millis) = (self.usable, left.as_millis());
        let collected: Collected = self.receiver().ask(&format!("collect {millis}"))?;
        if !collected.errors.is_empty() {
            let (workload, means) = (self.workload.name(), self.world.means.name());
            eprintln!("{workload}, {means}: connections ended: {:?}", collected.errors);
        }
        let times = collected.first.iter().flatten();
        let millis: Vec<f64> = times.map(|at| (*at as f64 - usable as f64) / 1e6).collect();
        if self.workload == Workload::RequestResponse {
            self.pair.tell("hold")?;
        }
        Ok(Times {
            workload: self.workload,
            means: self.world.means,
            lost: collected.first.len() - millis.len(),
            millis,
        })
    }
}
