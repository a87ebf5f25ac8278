//! What is wanted of servers besides reports: to be pushed to, tunnels for exchanges, and whence the stream comes.

use super::*;

/// A pair exchange that has not come about by itself after this time gets a tunnel ...
const TUNNEL_AFTER: Duration = Duration::from_millis(1500);
/// ... for so long.
const TUNNEL_FOR: Duration = Duration::from_secs(60);

impl<D: Datapath> Agent<D> {
    /// Pairs that a server must be able to push for: an end is behind a NAPT, or was elsewhere before.
    pub(super) fn count_presence(&mut self) {
        let mut wanted: HashSet<Uuid> = HashSet::new();
        let mut behind: HashMap<Uuid, bool> = HashMap::new();
        for managed in self.sessions.values().filter(|managed| managed.is_live()) {
            let id = managed.keys().pair_id;
            if wanted.contains(&id) {
                continue;
            }
            let napt = *behind.entry(id).or_insert_with(|| {
                self.pairs
                    .by_id(&id)
                    .is_some_and(|pair| pair.self_behind_napt || pair.peer_behind_napt)
            });
            if napt || managed.machine.committed() != wire::reqno::ReqNo::UNMOVED {
                wanted.insert(id);
            }
        }
        self.reporting.wanted.pairs = wanted
            .into_iter()
            .filter_map(|id| {
                let pair = self.pairs.by_id(&id)?;
                let servers = self.servers_of(pair);
                let peer = pair.peer.to_string();
                (!servers.is_empty()).then_some((id, Presence { peer, servers }))
            })
            .collect();
    }

    /// The peers that there are keys with, and the servers that both may use.
    pub fn peers_and_servers(&self) -> crate::server::standing::Peers {
        let pairs = self.pairs.all();
        let all = pairs.map(|pair| (pair.peer.to_string(), self.servers_of(pair)));
        all.filter(|(_, servers)| !servers.is_empty()).collect()
    }

    /// Connections whose peer has an agent that no exchange has reached.
    pub(super) fn wish_for_tunnels(&mut self, now: Timestamp) {
        let reporting = &mut self.reporting;
        reporting
            .unpaired
            .retain(|identity, _| self.unpaired.contains(identity));
        reporting.wanted.tunnels.clear();
        for identity in &self.unpaired {
            let since = *reporting.unpaired.entry(*identity).or_insert(now);
            let waited = now.since(since);
            if waited < TUNNEL_AFTER || waited > TUNNEL_FOR {
                continue;
            }
            let Some(connection) = self.datapath.connection(identity) else {
                continue;
            };
            let isns = match connection.role {
                Role::Initiator => (connection.isn_local, connection.isn_remote),
                Role::Acceptor => (connection.isn_remote, connection.isn_local),
            };
            let wish = TunnelWish {
                local: identity.local,
                remote: identity.remote,
            };
            reporting.wanted.tunnels.insert(connection_hash(isns), wish);
        }
    }

    /// Where the stream comes from: what most reports say, or else what connections use.
    pub(super) fn stream_address(&self) -> Option<IpAddr> {
        let usable = |address: &IpAddr| self.network.device_of(*address).is_some();
        let reported = self
            .reporting
            .troubles
            .values()
            .filter_map(|trouble| trouble.report.as_ref().map(|(_, from, _)| *from).filter(usable));
        if let Some(from) = reported.into_iter().next() {
            return Some(from);
        }
        let current = self.reporting.wanted.from.filter(usable);
        let presence = &self.reporting.wanted.pairs;
        let used = || {
            self.sessions
                .values()
                .filter(|managed| managed.is_live() && presence.contains_key(&managed.keys().pair_id))
                .map(|managed| managed.machine.wire().local.address)
                .find(usable)
        };
        current
            .or_else(used)
            .or_else(|| self.network.usable().map(|(address, _)| address).next())
    }
}

/// The same at both ends of a connection, and of no use to who has not seen its first segments.
fn connection_hash((initiator, acceptor): (u32, u32)) -> u64 {
    let digest = Sha256::new()
        .chain_update(b"mobility pair wanted v1")
        .chain_update(initiator.to_be_bytes())
        .chain_update(acceptor.to_be_bytes())
        .finalize();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}
