//! What two agents agreed on in one exchange, and which of two exchanges counts.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use wire::Endpoint;
use wire::keys::PairKey;

use crate::agent_id::{AgentId, Fingerprint};

/// Which part this side had in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// It opened the connection to the other's agent port.
    Dialer,
    /// It accepted it.
    Acceptor,
}

/// What an agent can do, as a set; an exchange yields what both can.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Abilities(pub u64);

impl Abilities {
    /// Nothing beyond the exchange itself.
    pub const NONE: Self = Self(0);
    /// Moves connections directly (MSYN and its answers).
    pub const MIGRATE: Self = Self(1);
    /// Moves IPv6 connections, and between the families.
    pub const IPV6: Self = Self(1 << 1);
    /// Answers questions about resets.
    pub const RESET_QUESTIONS: Self = Self(1 << 2);
    /// Compares observed tuples after a resumption.
    pub const OBSERVED_TUPLES: Self = Self(1 << 3);
    /// Takes up connections without the option.
    pub const ENROL: Self = Self(1 << 4);
    /// Reports to mobility servers.
    pub const SERVER: Self = Self(1 << 5);
    /// Accepts relaying by a symmetric proxy.
    pub const PROXY: Self = Self(1 << 6);

    const NAMES: [(Self, &str); 7] = [
        (Self::MIGRATE, "migrate"),
        (Self::IPV6, "ipv6"),
        (Self::RESET_QUESTIONS, "reset-questions"),
        (Self::OBSERVED_TUPLES, "observed-tuples"),
        (Self::ENROL, "enrol"),
        (Self::SERVER, "server"),
        (Self::PROXY, "proxy"),
    ];

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether all of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = Self::NAMES
            .iter()
            .filter(|(ability, _)| self.has(*ability))
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&names.join(" "))
    }
}

impl fmt::Debug for Abilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// What an agent says about sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SleepHint {
    /// The host may be suspended while connections are open.
    pub may_sleep: bool,
    /// How long it asks the peer to keep connections waiting, in whole seconds; zero: the peer's own limit.
    pub longest: Duration,
}

/// The outcome of one confirmed exchange between two agents, from this side's point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Names the pair towards mobility servers; the same in later exchanges as long as both remember it.
    pub pair_id: Uuid,
    /// Names this exchange; follows from all that was said in it, equal at both ends, not secret.
    pub exchange_id: Uuid,
    /// The other agent.
    pub peer: AgentId,
    /// What its certificate calls it; for people, vouched for by a CA or by nobody.
    pub peer_name: String,
    /// Its key.
    pub peer_fingerprint: Fingerprint,
    /// From the TLS exporter; secret.
    pub key: PairKey,
    /// Numbers the exchanges of the pair, from 1.
    pub epoch: u32,
    /// Where it accepts exchanges; 0: nowhere.
    pub peer_agent_port: u16,
    /// All addresses of its host, before any NAPT.
    pub peer_direct_addresses: Vec<IpAddr>,
    /// Under which endpoint this side saw it; unspecified address: not seen (tunnel).
    pub peer_observed: Endpoint,
    /// Under which endpoint it saw this side; unspecified address: not seen (tunnel).
    pub self_observed: Endpoint,
    /// Its observed address is not one of its direct ones.
    pub peer_behind_napt: bool,
    /// This side's observed address is not one of its direct ones.
    pub self_behind_napt: bool,
    /// The mobility servers that both may use, in the dialer's order.
    pub common_servers: Vec<String>,
    /// There is none: the pair survives the move of one end at a time, and no move of both.
    pub no_common_server: bool,
    /// What both can do.
    pub abilities: Abilities,
    /// What it said about sleeping.
    pub peer_sleep: SleepHint,
    /// This side's part.
    pub established_by: Role,
    /// The agent with the smaller identity dialled.
    pub dialled_by_smaller: bool,
    /// When it was confirmed, by this host's clock, in whole seconds.
    pub established_at: SystemTime,
}

/// Which of two exchanges between the same agents counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// The one that was there.
    Existing,
    /// The one that came.
    New,
}

/// Decides between two exchanges of the same two agents, alike at both ends whatever the order of arrival.
///
/// The higher epoch counts. Exchanges that crossed have the same number: then the one that the smaller identity
/// dialled counts; should one agent have dialled twice at once, the greater exchange ID.
pub fn winning(existing: &Pair, new: &Pair) -> Winner {
    match rank(new) > rank(existing) {
        true => Winner::New,
        false => Winner::Existing,
    }
}

/// The order of exchanges between the same two agents: the greatest counts.
pub(crate) fn rank(pair: &Pair) -> (u32, bool, Uuid) {
    (pair.epoch, pair.dialled_by_smaller, pair.exchange_id)
}

/// What this agent remembers of earlier exchanges with one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remembered {
    /// The highest epoch number used.
    pub highest_epoch: u32,
    /// The pair ID that counts.
    pub pair_id: Uuid,
}

/// The same for all peers; made by [`crate::PairStore::known`].
pub type Known = HashMap<AgentId, Remembered>;
