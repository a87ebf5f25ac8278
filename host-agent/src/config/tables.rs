//! The tables of the file: ways, timeouts, heartbeat.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::PreferSetting;

/// When connections leave a way that still works.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Whether they follow the default route.
    pub prefer: PreferSetting,
    /// Part of the segments that may have to be sent again, 0 to 1; 0: all.
    pub loss: f64,
    /// Round-trip time that may be, in seconds; 0: any.
    pub rtt: f64,
    /// How long a way that was left for these is not chosen again, in seconds.
    pub hold: f64,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            prefer: PreferSetting::Own,
            loss: 0.0,
            rtt: 0.0,
            hold: 60.0,
        }
    }
}

/// This host's own Multipath TCP connections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mptcp {
    /// Whether servers are told of lost paths, for relays.
    pub report: bool,
    /// Whether this host's addresses are made endpoints of the kernel's path manager, with source routing.
    pub endpoints: bool,
    /// Whether subflows go to every address of the peer.
    pub fullmesh: bool,
    /// Subflows of a connection beside its first, 0 to 8.
    pub subflows: u32,
    /// Addresses that are taken from a peer, 0 to 8.
    pub accepted_addresses: u32,
    /// First of 16 routing tables, one for each address.
    pub table: u32,
    /// Directories of cgroup2: programs in them and below get MPTCP sockets when they ask for TCP.
    pub cgroups: Vec<PathBuf>,
    /// Files: programs that run them do.
    pub executables: Vec<PathBuf>,
}

impl Mptcp {
    /// Whether any program's sockets are to be MPTCP.
    pub fn chooses(&self) -> bool {
        !self.cgroups.is_empty() || !self.executables.is_empty()
    }
}

impl Default for Mptcp {
    fn default() -> Self {
        Self {
            report: true,
            endpoints: false,
            fullmesh: false,
            subflows: 4,
            accepted_addresses: 4,
            table: 7810,
            cgroups: Vec::new(),
            executables: Vec::new(),
        }
    }
}

/// Durations, all in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// How long a connection waits for a way to resume before it is reset.
    pub mig_wait: f64,
    /// The same for a peer whose host has said that it goes to sleep, and at most what it asks for.
    pub sleep: f64,
    /// How long a moved connection's tuples are kept after its end.
    pub linger: f64,
    /// How long a reset that nobody answers for is held.
    pub reset: f64,
    /// How old the agent's last sign of life may be before resets pass.
    pub heartbeat: f64,
    /// How often the servers are asked whether peers were revoked.
    pub revocation: f64,
}

/// The heartbeat between agents. All in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Heartbeat {
    /// Between two beats, while there are connections with the peer.
    pub interval: f64,
    /// How long one may stay unanswered.
    pub timeout: f64,
}

impl Heartbeat {
    /// Between two beats.
    pub fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.interval)
    }

    /// How long one may stay unanswered.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout)
    }

    /// How long it takes at most until the other end of a path that died has found out and says so.
    pub fn notice(&self) -> Duration {
        self.interval() + self.timeout() + Duration::from_secs(2)
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: 3.0,
            timeout: 2.0,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            mig_wait: 900.0,
            sleep: 86_400.0,
            linger: 60.0,
            reset: 3.0,
            heartbeat: 5.0,
            revocation: 600.0,
        }
    }
}
