//! Which access point each terminal's connection should use, from what each carries. Pure.
//!
//! Every round moves at most one connection: from the access point that is loaded most, relative to its capacity, to the
//! one where it leaves the greater of the two loads least. It is moved only when that lowers this load by more than the
//! hysteresis, so that two access points in balance do not hand connections to and fro, and only when it has stayed
//! where it is for long enough. A connection that sees one access point counts as load and stays.
//!
//! What a connection carries does not say what it would carry elsewhere: seven downloads on a full access point get a
//! seventh of it each, and one alone on another all of it, and both are loaded to the brim. So bulk connections count as asking
//! for equal shares of all there is; only what does not take all it can get counts as what it carries.

use std::time::Duration;

/// One access point.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// What it can carry, in bytes a second.
    pub capacity: f64,
    /// What others carry on it, in bytes a second, whatever there is for them.
    pub steady: f64,
    /// How many bulk connections of others are on it.
    pub others: f64,
}

impl Point {
    /// One that nobody else uses.
    pub fn alone(capacity: f64) -> Self {
        Self {
            capacity,
            steady: 0.0,
            others: 0.0,
        }
    }
}

/// One connection.
#[derive(Clone, PartialEq, Debug)]
pub struct Flow {
    /// What it carries, in bytes a second.
    pub rate: f64,
    /// Whether it takes all that it can get.
    pub bulk: bool,
    /// Index of the access point that it uses.
    pub at: usize,
    /// Indices of those that it could use.
    pub sees: Vec<usize>,
    /// Whether policy lets it move.
    pub may_move: bool,
    /// How long it has been where it is.
    pub stayed: Duration,
}

/// How eager the balancer is.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Eagerness {
    /// By how much the greater load must fall, as a part of the capacity.
    pub hysteresis: f64,
    /// How long a connection stays at least.
    pub stay: Duration,
}

/// One connection to another access point.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    /// Index of the connection.
    pub flow: usize,
    /// Index of the access point.
    pub to: usize,
}

/// What a bulk connection asks for: an equal share of what the others leave of all access points.
fn share(points: &[Point], flows: &[Flow]) -> f64 {
    let room: f64 = points.iter().map(|point| point.capacity - point.steady).sum();
    let taken: f64 = flows
        .iter()
        .filter(|flow| !flow.bulk)
        .map(|flow| flow.rate.max(0.0))
        .sum();
    let others: f64 = points.iter().map(|point| point.others).sum();
    let bulk = flows.iter().filter(|flow| flow.bulk).count() as f64 + others;
    // Where there is no room, they are still told apart by their number.
    ((room - taken) / bulk.max(1.0)).max(1.0)
}

fn demand(flow: &Flow, share: f64) -> f64 {
    if flow.bulk { share } else { flow.rate.max(0.0) }
}

/// What is asked of every access point, as a part of its capacity.
pub fn loads(points: &[Point], flows: &[Flow]) -> Vec<f64> {
    let share = share(points, flows);
    let own = |point: &Point| (point.steady + point.others * share) / point.capacity.max(1.0);
    let mut loads: Vec<f64> = points.iter().map(own).collect();
    for flow in flows {
        if let (Some(load), Some(point)) = (loads.get_mut(flow.at), points.get(flow.at)) {
            *load += demand(flow, share) / point.capacity.max(1.0);
        }
    }
    loads
}

/// The best move, if one is worth it.
pub fn next(points: &[Point], flows: &[Flow], eagerness: Eagerness) -> Option<Move> {
    let (loads, share) = (loads(points, flows), share(points, flows));
    let from = (0..loads.len()).max_by(|a, b| loads[*a].total_cmp(&loads[*b]))?;
    let mut best: Option<(f64, Move)> = None;
    for (index, flow) in flows.iter().enumerate() {
        let demand = demand(flow, share);
        if flow.at != from || !flow.may_move || flow.stayed < eagerness.stay || demand <= 0.0 {
            continue;
        }
        for to in flow.sees.iter().copied() {
            let Some(there) = points.get(to).filter(|_| to != from) else {
                continue;
            };
            let left = loads[from] - demand / points[from].capacity.max(1.0);
            let arrived = loads[to] + demand / there.capacity.max(1.0);
            let greater = left.max(arrived);
            let gain = loads[from] - greater;
            if gain > eagerness.hysteresis && best.is_none_or(|(most, _)| gain > most) {
                best = Some((gain, Move { flow: index, to }));
            }
        }
    }
    best.map(|(_, chosen)| chosen)
}

/// Jain's index of fairness: 1 when all are equal, 1/n when one has everything.
pub fn fairness(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    match squares > 0.0 {
        true => sum * sum / (rates.len() as f64 * squares),
        false => 1.0,
    }
}
