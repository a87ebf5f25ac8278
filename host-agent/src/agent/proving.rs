//! Which of a pair's keys are a connection's own.
//!
//! Each end holds a few candidates: the keys of the exchanges that it knew of when it took the connection up, and of
//! those that came later. What one end has taken for agreed and the other has not, because an agent was killed just
//! then, makes them differ; a restarted agent finds only the keys in force noted with the connection. What the peer
//! signs with is right, as long as the exchange is remembered here.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use datapath::Datapath;
use datapath::event::Heard;
use uuid::Uuid;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::Tuple;

use super::pairing::MOST_CANDIDATES;
use super::relaying::PROXY;
use super::*;

/// Keys derived to find out whose a token is: who makes tokens up must not keep us busy.
const MOST_DERIVED: usize = 2048;

impl<D: Datapath> Agent<D> {
    /// Notes with whose keys a genuine segment was signed. The data path says their place among the candidates, as
    /// whoever told it the token counted them: they may have gone elsewhere meanwhile, or be an earlier agent's.
    /// `decides`: the connection goes on under these. Else, before its first move, those of the newest exchange count,
    /// of those that the peer has shown; a connection that has moved keeps its own, and a peer that goes by others is
    /// answered by those. False: they are nobody's any more, and nothing may come of the segment.
    pub(super) fn prove(&mut self, heard: &Heard, decides: bool) -> bool {
        if heard.candidate == PROXY {
            return true;
        }
        let Some(managed) = self.sessions.get(&heard.identity) else {
            return false;
        };
        let (pair_id, isns) = (managed.keys().pair_id, managed.isns);
        let numbers = managed.numbers();
        let mut place = managed.place_of(heard.token, heard.candidate as usize);
        if place.is_none()
            && let Some(set) = self.key_set_of(&pair_id, isns, &numbers, heard.token)
        {
            place = self.admit(heard.identity, set);
        }
        let Some(place) = place else {
            self.datapath.remove_token(heard.token, &heard.identity);
            self.timeline.count("token_without_keys");
            return false;
        };
        let Some(managed) = self.sessions.get_mut(&heard.identity) else {
            return false;
        };
        let before = managed.chosen;
        managed.shown(place, decides);
        if managed.chosen != before {
            self.reporting.renew(pair_id, heard.identity);
        }
        true
    }

    /// Of all exchanges of a pair, the keys that give a connection this token for one of these numbers.
    fn key_set_of(
        &self,
        pair_id: &Uuid,
        isns: (u32, u32),
        numbers: &BTreeSet<ReqNo>,
        token: Token,
    ) -> Option<KeySet> {
        let mut sets = self
            .pairs
            .remembered(pair_id)
            .map(|pair| self.key_set(pair, isns));
        sets.find(|set| numbers.iter().any(|number| set.keys.token(*number) == token))
    }

    /// Keys that a peer has shown to use become candidates; their place.
    fn admit(&mut self, identity: Tuple, set: KeySet) -> Option<usize> {
        let managed = self.sessions.get_mut(&identity)?;
        let (place, gone) = managed.admit(set, MOST_CANDIDATES);
        self.keys_changed(identity, gone);
        Some(place)
    }

    /// A token that names nothing may be that of a connection held here under the keys of other exchanges with whoever
    /// is at `from` now. The MAC of the next segment decides.
    pub(super) fn recognise_keys(&mut self, token: Token, from: IpAddr) -> bool {
        let this = &*self;
        let there: HashSet<Uuid> = this
            .pairs
            .seen_at(from)
            .flat_map(|pair| [pair.pair_id, this.pairs.name(pair.pair_id)])
            .collect();
        let found = this
            .sessions
            .values()
            .filter(|managed| managed.is_open() && there.contains(&managed.keys().pair_id))
            .flat_map(|managed| {
                let pairs = this.pairs.remembered(&managed.keys().pair_id);
                pairs.map(|pair| (managed.identity, this.key_set(pair, managed.isns)))
            })
            .take(MOST_DERIVED)
            .find(|(_, set)| set.keys.token(ReqNo::UNMOVED) == token);
        let Some((identity, set)) = found else {
            return false;
        };
        let detail = format!("the keys of epoch {}, by their token, from {from}", set.epoch);
        self.timeline.note(identity, "recognised", detail);
        self.admit(identity, set);
        true
    }

    /// The keys that a connection may have beside those noted with it: first those whose token an earlier agent has
    /// told the data path, then those of the pair's newest exchanges and of whoever may be at the peer's address.
    pub(super) fn keys_beside(&self, managed: &Managed, agent_port: u16) -> Vec<KeySet> {
        let noted = managed.keys();
        let (isns, peer) = (managed.isns, managed.identity.remote.address);
        let numbers: BTreeSet<ReqNo> = match managed.machine.committed() {
            ReqNo::UNMOVED => BTreeSet::from([ReqNo::UNMOVED]),
            committed => BTreeSet::from([committed, managed.machine.known()]),
        };
        let sets = self.pairs.remembered(&noted.pair_id);
        let (told, others): (Vec<KeySet>, Vec<KeySet>) =
            sets.map(|pair| self.key_set(pair, isns)).partition(|set| {
                let mut tokens = numbers.iter().map(|number| set.keys.token(*number));
                tokens.any(|token| self.datapath.knows_token(token, &managed.identity))
            });
        let others = others.into_iter().take(2);
        let mut labels = HashSet::from([noted.keys.label()]);
        told.into_iter()
            .chain(others)
            .chain(self.key_sets(peer, agent_port, isns))
            .filter(|set| labels.insert(set.keys.label()))
            .take(MOST_CANDIDATES - 1)
            .collect()
    }
}
