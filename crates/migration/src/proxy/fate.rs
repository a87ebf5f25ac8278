//! When a lease ends.

use std::time::Duration;

/// How long things are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// After both FINs, a reset or a release: late segments are still passed.
    pub linger: Duration,
    /// Without a segment in either direction.
    pub idle: Duration,
}

/// What a glance at the data path and at the clock shows of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    /// Whether it is spliced.
    pub spliced: bool,
    /// FINs have passed in both directions, or a reset in one.
    pub ended: bool,
    /// Since the last segment in either direction; before any: since it was spliced.
    pub quiet: Duration,
    /// Since the server released it.
    pub released: Option<Duration>,
    /// The time until which the ends had to come is over.
    pub expired: bool,
}

/// Why a lease is over.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum End {
    /// An end never came.
    Unused,
    /// The connection has ended.
    Finished,
    /// Nothing has passed for too long.
    Idle,
    /// The server has taken it back.
    Released,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            End::Unused => "unused",
            End::Finished => "finished",
            End::Idle => "idle",
            End::Released => "released",
        })
    }
}

/// What becomes of a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It goes on.
    Keep,
    /// Its port is free again.
    Free(End),
}

/// Whether a lease is over.
pub fn fate(activity: Activity, patience: Patience) -> Fate {
    if let Some(since) = activity.released
        && (!activity.spliced || since >= patience.linger)
    {
        return Fate::Free(End::Released);
    }
    match activity.spliced {
        false if activity.expired => Fate::Free(End::Unused),
        true if activity.ended && activity.quiet >= patience.linger => Fate::Free(End::Finished),
        true if activity.quiet >= patience.idle => Fate::Free(End::Idle),
        _ => Fate::Keep,
    }
}
