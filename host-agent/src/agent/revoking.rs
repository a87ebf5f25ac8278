//! Peers that the deployment has revoked.
//!
//! Of those a server tells: of the ones that a stream names at once, of all others when it is asked (`server::standing`).
//! Then the keys agreed with them count no more, and none are agreed with them again. A connection to such a peer goes on
//! where it is, as plain TCP does; it moves no more, whoever wants it to.

use datapath::Datapath;
use migration::{Event, Timestamp};
use uuid::Uuid;
use wire::keys::{ConnectionKeys, PairKey};
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use super::*;

impl<D: Datapath> Agent<D> {
    /// A server says that a peer was revoked. It must be one that both ends use.
    pub(super) fn revoked(&mut self, server: &String, uri: &str, now: Timestamp) {
        let named = self.pairs.all().find(|pair| pair.peer.as_str() == uri);
        let Some(pair) = named
            .filter(|pair| self.servers_of(pair).contains(server))
            .cloned()
        else {
            return self.timeline.count("revoked_stranger");
        };
        self.timeline.note(
            "",
            "peer_revoked",
            format!("{} ({uri}), says {server}", pair.peer_name),
        );
        tracing::warn!(peer = %pair.peer, server, "revoked: connections with {} move no more", pair.peer_name);
        let theirs: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| {
                managed
                    .candidates
                    .iter()
                    .any(|set| self.is_with(set, &pair.pair_id))
            })
            .map(|managed| managed.identity)
            .collect();
        for identity in theirs {
            self.take_keys(identity, &pair.pair_id, now);
        }
        if let Err(error) = self.pairs.revoke(&pair.peer) {
            tracing::error!(%error, "cannot store that a peer was revoked; a restarted agent has to be told again");
        }
        self.lines.close(&pair.pair_id);
        self.effects.push(Effect::UpdateFacts);
    }

    fn is_with(&self, set: &KeySet, pair_id: &Uuid) -> bool {
        self.pairs.name(set.pair_id) == *pair_id
    }

    /// Takes the keys of one pair from a connection.
    fn take_keys(&mut self, identity: Tuple, pair_id: &Uuid, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let numbers = std::mem::take(&mut managed.tokens);
        for number in numbers {
            for set in &managed.candidates {
                self.datapath.remove_token(set.keys.token(number), &identity);
            }
        }
        let pairs = &self.pairs;
        managed
            .candidates
            .retain(|set| pairs.name(set.pair_id) != *pair_id);
        managed.chosen = 0;
        if !managed.candidates.is_empty() {
            // Another agent behind the same address, perhaps.
            return self.settle(identity);
        }
        // In place of the keys some that nobody has: a restarted agent finds them, and no others.
        managed.candidates.push(nobodys_keys());
        let machine = &managed.machine;
        if machine.committed() == ReqNo::UNMOVED && !machine.troubled() && machine.attempts().is_empty() {
            return self.bury(identity);
        }
        self.settle(identity);
        self.advance(identity, Event::KeysGone, now);
    }
}

fn nobodys_keys() -> KeySet {
    let secret = PairKey::new(std::array::from_fn(|_| rand::random()));
    KeySet {
        keys: ConnectionKeys::derive(&secret, 0, rand::random(), rand::random()),
        pair_id: Uuid::nil(),
        epoch: 0,
    }
}
