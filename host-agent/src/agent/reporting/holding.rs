//! Which connections the servers list as sessions: those with other agents that have lived for a while, however short
//! the next one may be. Servers need none of it; operators do.

use super::*;
use crate::server::wanted::{HeldConnection, HeldKind, HeldSessions};

/// How often what is held is said anew: servers forget it after three times as long.
const AGAIN: Duration = Duration::from_secs(60);

impl<D: Datapath> Agent<D> {
    /// Counts the connections anew. One is said when it was there the last time too.
    pub(super) fn count_sessions(&mut self, now: Timestamp) {
        if !self.reporting.list_sessions {
            return;
        }
        let mut counted = HashMap::new();
        for managed in self.sessions.values().filter(|managed| managed.is_live()) {
            let keys = managed.keys();
            let wire = managed.machine.wire();
            let kind = if managed.is_relayed() {
                HeldKind::Relayed
            } else if managed.machine.committed() == wire::reqno::ReqNo::UNMOVED {
                HeldKind::Direct
            } else {
                HeldKind::Migrated
            };
            let held = HeldConnection {
                kind,
                initiator: managed.role == Role::Initiator,
                identity: managed.identity,
                wire,
            };
            counted.insert((keys.pair_id, keys.keys.label()), held);
        }
        let pairs: HashSet<Uuid> = counted.keys().map(|(pair, _)| *pair).collect();
        let peers: BTreeMap<Uuid, Presence> = pairs
            .into_iter()
            .filter_map(|id| {
                let pair = self.pairs.by_id(&id)?;
                let servers = self.servers_of(pair);
                let peer = pair.peer.to_string();
                (!servers.is_empty()).then_some((id, Presence { peer, servers }))
            })
            .collect();
        let held: BTreeMap<(Uuid, u64), HeldConnection> = counted
            .iter()
            .filter(|(name, _)| peers.contains_key(&name.0) && self.reporting.lived.contains(*name))
            .map(|(name, held)| (*name, *held))
            .collect();
        self.reporting.lived = counted.into_keys().collect();
        let round = now.since(Timestamp(Duration::ZERO)).as_secs() / AGAIN.as_secs();
        let before = &self.reporting.wanted.sessions;
        if before.round != round || before.held != held || before.peers != peers {
            self.reporting.wanted.sessions = Arc::new(HeldSessions { round, held, peers });
        }
    }
}
