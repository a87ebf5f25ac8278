//! Resuming connections from where the host is: the path has changed, and no address shows it.
//!
//! The end behind the NAPT acts, since nobody outside can. What is asked for is an attempt from the same address and
//! another port; until it commits the connection goes on as it was, and a healthy one loses nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use datapath::Datapath;
use identity::Message;
use migration::Timestamp;
use uuid::Uuid;
use wire::tuple::Tuple;

use super::*;

/// How soon a connection may be resumed again for want of an answer.
const AGAIN: Duration = Duration::from_secs(2);
/// How soon because a stranger sends resets: who forges them must not keep us busy.
const AGAIN_AFTER_A_RESET: Duration = Duration::from_secs(10);
/// How long a connection is suspect before its agents talk about it.
const WORTH_A_WORD: Duration = Duration::from_secs(1);

impl<D: Datapath> Agent<D> {
    /// Resumes the connections with a peer that have not gone on since they stood there.
    pub(super) fn repair_all(
        &mut self,
        pair_id: Uuid,
        local: IpAddr,
        stood: &HashMap<Tuple, (u32, u32)>,
        now: Timestamp,
    ) {
        let here: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| {
                managed.keys().pair_id == pair_id && managed.machine.wire().local.address == local
            })
            .map(|managed| managed.identity)
            .collect();
        let mut connections = Vec::new();
        for identity in here {
            let tcp = self.datapath.read_tcp(&identity).ok().flatten();
            let stands = match (stood.get(&identity), tcp) {
                (Some(before), Some(tcp)) => *before == (tcp.snd_una, tcp.rcv_nxt),
                (None, Some(_)) => true,
                (_, None) => false,
            };
            if stands && self.may_repair(identity, AGAIN, now) {
                connections.push(identity);
            }
        }
        if connections.is_empty() {
            return;
        }
        self.timeline.note(
            "",
            "repair",
            format!("{} connections are resumed from {local}", connections.len()),
        );
        tracing::info!(%local, connections = connections.len(), "the path has changed: connections are resumed");
        self.effects.push(Effect::FindWaysOutOf(connections));
    }

    /// Resumes one connection.
    pub(super) fn repair(&mut self, identity: Tuple, why: &str, now: Timestamp) {
        self.repair_after(identity, AGAIN, why, now);
    }

    fn repair_after(&mut self, identity: Tuple, again: Duration, why: &str, now: Timestamp) {
        if !self.is_behind_napt(identity) || !self.may_repair(identity, again, now) {
            return;
        }
        self.timeline.note(identity, "repair", why);
        self.effects.push(Effect::FindWaysOutOf(vec![identity]));
    }

    fn may_repair(&mut self, identity: Tuple, again: Duration, now: Timestamp) -> bool {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return false;
        };
        let recently = managed.repaired_at.is_some_and(|at| now.since(at) < again);
        let busy = managed.machine.is_parked() || !managed.machine.attempts().is_empty();
        if recently || busy || !managed.is_live() {
            return false;
        }
        managed.repaired_at = Some(now);
        true
    }

    /// Whether this end of a connection can be reached only through a NAPT, as far as is known.
    fn is_behind_napt(&self, identity: Tuple) -> bool {
        self.sessions
            .get(&identity)
            .and_then(|managed| self.pairs.by_id(&managed.keys().pair_id))
            .is_some_and(|pair| pair.self_behind_napt)
    }

    /// Somebody sends resets in the name of the peer, or in ours: something on the way has forgotten the connection.
    pub(super) fn reset_disowned(&mut self, identity: Tuple, now: Timestamp) {
        self.repair_after(
            identity,
            AGAIN_AFTER_A_RESET,
            "resets that neither end has sent",
            now,
        );
    }

    /// A connection is suspect for a while: the path is asked, and who can act is told.
    pub(super) fn still_suspect(&mut self, identity: Tuple, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let since = *managed.suspect_since.get_or_insert(now);
        if now.since(since) < WORTH_A_WORD {
            return;
        }
        managed.suspect_since = Some(now + WORTH_A_WORD * 2);
        let (pair_id, isns) = (managed.keys().pair_id, managed.isns);
        if self.is_behind_napt(identity) {
            self.doubt_paths("a connection is suspect", now);
        } else {
            self.lines.say(
                &pair_id,
                Message::Unheard {
                    isn_initiator: isns.0,
                    isn_acceptor: isns.1,
                },
            );
        }
    }

    /// The peer's agent has answered just now: what is suspect all the same needs another way.
    pub(super) fn peer_is_there(&mut self, pair_id: Uuid, now: Timestamp) {
        let suspects: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| {
                managed.suspected_at.is_some()
                    && managed.suspect_since.is_some_and(|since| since > now)
                    && managed.keys().pair_id == pair_id
            })
            .map(|managed| managed.identity)
            .collect();
        for identity in suspects {
            self.repair(identity, "the peer is there and does not hear it", now);
        }
    }
}
