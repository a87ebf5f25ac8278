//! Every number of the rules that could as well be another.

use std::time::Duration;

/// How patient a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// How long a report is kept when its agent does not say.
    pub keep: Duration,
    /// How long it is kept at most.
    pub keep_max: Duration,
    /// A decision of which nobody says whether it worked counts as failed after this.
    pub try_patience: Duration,
    /// When no try is left, the first one is made again after this: an outage may be over.
    pub rest: Duration,
    /// The same for connections that go through a proxy meanwhile.
    pub rest_relayed: Duration,
    /// How long a record with nothing in it refuses late reports before it is forgotten.
    pub linger: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(15 * 60),
            keep_max: Duration::from_secs(24 * 60 * 60),
            try_patience: Duration::from_secs(15),
            rest: Duration::from_secs(60),
            rest_relayed: Duration::from_secs(10 * 60),
            linger: Duration::from_secs(60),
        }
    }
}
