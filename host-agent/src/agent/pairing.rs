//! New connections and the pairs whose keys they get.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use datapath::Datapath;
use wire::keys::{ConnectionKeys, Role};
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::Tuple;

use super::*;

/// As many as a token's list has room for.
pub(super) const MOST_CANDIDATES: usize = 4;
/// Connections without keys that a token is compared with: who makes tokens up must not keep us busy.
const MOST_COMPARED: usize = 512;
/// Unknown tokens of a second that are compared and fit nothing: each may cost some milliseconds.
const COMPARED_IN_VAIN: u32 = 10;

impl<D: Datapath> Agent<D> {
    /// What became of a pair exchange.
    pub fn pair_event(&mut self, event: PairEvent) {
        match event {
            PairEvent::Agreed(pair) if self.pairs.is_revoked(&pair.peer) => {
                self.pairs.finished(pair.peer_observed.address);
                self.timeline.note(
                    "",
                    "pair_revoked",
                    format!("{} was revoked: no keys with it", pair.peer_name),
                );
            }
            PairEvent::Agreed(pair) => {
                let detail = format!(
                    "{} ({}), epoch {}{}{}",
                    pair.peer_name,
                    pair.peer_observed.address,
                    pair.epoch,
                    if pair.self_behind_napt {
                        ", this host is behind a NAPT"
                    } else {
                        ""
                    },
                    if pair.peer_behind_napt {
                        ", the peer is behind a NAPT"
                    } else {
                        ""
                    },
                );
                tracing::info!(peer = %pair.peer, "pair agreed: {detail}");
                self.timeline.note("", "pair", detail);
                let pair_id = pair.pair_id;
                if let Err(error) = self.pairs.agreed(*pair) {
                    tracing::error!(%error, "cannot store the pair; it will be agreed anew after a restart");
                }
                if self.pairs.has_aliases(&pair_id) {
                    self.rename(pair_id);
                }
                self.effects.push(Effect::UpdateFacts);
                let waiting: Vec<Tuple> = self.unpaired.drain().collect();
                waiting.into_iter().for_each(|identity| self.opened(identity));
                self.add_keys();
            }
            PairEvent::Failed {
                peer,
                dialled,
                reason,
                detail,
            } => {
                if dialled {
                    self.pairs.finished(peer.ip());
                }
                self.timeline.note("", "pair_failed", format!("{peer}: {detail}"));
                self.timeline.count(&format!("pair_failed_{reason}"));
                tracing::warn!(%peer, dialled, reason, "no pair: {detail}; connections with this host stay plain TCP");
            }
        }
    }

    /// Two first exchanges have crossed, and each made an ID: connections, lines and reports go under the one that
    /// counts, as they do at the other end.
    fn rename(&mut self, any: uuid::Uuid) {
        let name = self.pairs.name(any);
        let pairs = &self.pairs;
        let other = |id: uuid::Uuid| id != name && pairs.name(id) == name;
        for managed in self.sessions.values_mut() {
            let mut renamed = false;
            for set in managed.candidates.iter_mut().filter(|set| other(set.pair_id)) {
                set.pair_id = name;
                renamed = true;
            }
            if renamed {
                self.reporting.touch(managed.identity);
            }
        }
        self.lines.rename(other, name);
    }

    /// Connections that have not moved yet may have the keys of the newest exchange: the peer may have taken them up
    /// just after it, and this end just before. A MAC that has fitted earlier ones changes nothing: the peer need not
    /// know that it has.
    fn add_keys(&mut self) {
        let open: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.is_open())
            .map(|managed| managed.identity)
            .collect();
        for identity in open {
            let Some(connection) = self.datapath.connection(&identity) else {
                continue;
            };
            let Some(managed) = self.sessions.get(&identity) else {
                continue;
            };
            let isns = managed.isns;
            // Since the connection was set up its peer may have left the address by which it is known here.
            let mut fresh: Vec<KeySet> = self
                .pairs
                .newest(&managed.keys().pair_id)
                .map(|pair| self.key_set(pair, isns))
                .collect();
            fresh.extend(self.key_sets(identity.remote.address, connection.peer_agent_port, isns));
            let Some(managed) = self.sessions.get_mut(&identity) else {
                continue;
            };
            let gone = managed.add_candidates(fresh, MOST_CANDIDATES);
            let Some(gone) = gone else {
                continue;
            };
            managed.proven = false;
            self.keys_changed(identity, gone);
        }
    }

    /// Every number's token is told again, for the keys that there are now.
    pub(super) fn keys_changed(&mut self, identity: Tuple, gone: impl IntoIterator<Item = KeySet>) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let numbers = std::mem::take(&mut managed.tokens);
        for set in gone {
            for number in &numbers {
                self.datapath.remove_token(set.keys.token(*number), &identity);
            }
        }
        self.reporting.renew(managed.keys().pair_id, identity);
        self.settle(identity);
    }

    /// Gives keys to the connections that were set up since the last call.
    pub fn take_opened(&mut self) {
        for identity in self.datapath.opened() {
            self.opened(identity);
        }
    }

    pub(super) fn opened(&mut self, identity: Tuple) {
        if self.sessions.contains_key(&identity) {
            return;
        }
        let Some(connection) = self.datapath.connection(&identity) else {
            return;
        };
        let isns = isns(&connection);
        let candidates = self.key_sets(identity.remote.address, connection.peer_agent_port, isns);
        if candidates.is_empty() {
            if self.unpaired.insert(identity) {
                let initiated = connection.role == Role::Initiator;
                self.meet(identity.remote.address, connection.peer_agent_port, initiated);
            }
            return;
        }
        self.take_up(identity, connection.role, isns, candidates);
    }

    fn take_up(&mut self, identity: Tuple, role: Role, isns: (u32, u32), candidates: Vec<KeySet>) {
        let policy = self.policy_with(&candidates[0].pair_id);
        let managed = Managed::new(identity, role, isns, candidates, policy);
        self.hold(managed);
        self.timeline.count("enrolled");
        self.settle(identity);
        if self.stays_plain(identity) {
            return;
        }
        if self.network.device_of(identity.local.address).is_none() {
            self.late.push(identity);
        }
        if self.datapath.connection(&identity).is_none() {
            // It closed meanwhile, and nobody would tell.
            self.bury(identity);
        }
    }

    /// A token that names no connection here. Whoever makes tokens up is not listened to for long; who is genuine says
    /// his again.
    pub(super) fn unknown_token(&mut self, token: Token, from: IpAddr, now: Timestamp) {
        self.timeline.count("unknown_token");
        if now.since(self.compared.0) >= Duration::from_secs(1) {
            self.compared = (now, 0);
        }
        if self.compared.1 >= COMPARED_IN_VAIN {
            self.timeline.count("unknown_token_not_compared");
        } else if !self.recognise(token, from) {
            self.compared.1 += 1;
        }
    }

    /// A host may move before its first exchange with this one. Then its connections are known here by an address that
    /// no exchange names, and stay without keys, until it says the token of one from where it is now.
    fn recognise(&mut self, token: Token, from: IpAddr) -> bool {
        let pairs: Vec<&identity::Pair> = self.pairs.seen_at(from).take(MOST_CANDIDATES).collect();
        if pairs.is_empty() {
            return false;
        }
        let known = self.unpaired.iter().take(MOST_COMPARED).find_map(|identity| {
            let connection = self.datapath.connection(identity)?;
            let isns = isns(&connection);
            let sets = pairs.iter().map(|pair| self.key_set(pair, isns));
            let found = sets.filter(|set| set.keys.token(ReqNo::UNMOVED) == token);
            found.map(|set| (*identity, connection.role, isns, set)).next()
        });
        let Some((identity, role, isns, set)) = known else {
            return self.recognise_keys(token, from);
        };
        self.unpaired.remove(&identity);
        self.timeline
            .note(identity, "recognised", format!("by its token, from {from}"));
        self.take_up(identity, role, isns, vec![set]);
        true
    }

    /// How patient with connections of a pair. A NAPT before the peer may have forgotten them and answer for it with
    /// resets: those are held until the peer must have noticed.
    pub(super) fn policy_with(&self, pair_id: &uuid::Uuid) -> Policy {
        let mut policy = self.policy;
        if self
            .pairs
            .by_id(pair_id)
            .is_some_and(|pair| pair.peer_behind_napt)
        {
            policy.reset_deadline = policy.reset_deadline.max(self.heartbeat.notice());
        }
        policy
    }

    /// The keys that a connection with this peer may have: as many as a token's list has room for.
    pub(super) fn key_sets(&self, peer: IpAddr, agent_port: u16, isns: (u32, u32)) -> Vec<KeySet> {
        let pairs = self.pairs.of(peer, agent_port).into_iter().take(MOST_CANDIDATES);
        pairs.map(|pair| self.key_set(pair, isns)).collect()
    }

    pub(super) fn key_set(&self, pair: &identity::Pair, isns: (u32, u32)) -> KeySet {
        KeySet {
            keys: ConnectionKeys::derive(&pair.key, pair.epoch, isns.0, isns.1),
            pair_id: self.pairs.name(pair.pair_id),
            epoch: pair.epoch,
        }
    }

    /// The side that opened a connection dials at once; the other one only when nothing comes.
    pub(super) fn meet(&mut self, peer: IpAddr, agent_port: u16, initiated_here: bool) {
        if agent_port == 0 || !self.pairs.of(peer, agent_port).is_empty() {
            return;
        }
        let peer = SocketAddr::new(peer, agent_port);
        self.effects.push(if initiated_here {
            Effect::Dial(peer)
        } else {
            Effect::DialLater(peer)
        });
    }
}

/// The initiator's initial sequence number, and the acceptor's.
fn isns(connection: &datapath::Connection) -> (u32, u32) {
    match connection.role {
        Role::Initiator => (connection.isn_local, connection.isn_remote),
        Role::Acceptor => (connection.isn_remote, connection.isn_local),
    }
}
