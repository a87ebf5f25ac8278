//! Symmetric proxies: a server names one for each connection, with a key of this agent and the proxy.
//!
//! 1. The proxy's endpoint and the key are kept with the connection ([`Agent::name_proxy`]): MSYNs to that endpoint are
//!    signed with the key, and an MSYN-ACK signed with it is heard as the proxy's ([`PROXY`]).
//! 2. An attempt begins there like any other; that the proxy keeps silent until the peer has come is no failure.
//! 3. The proxy's answer says what the peer's MSYN said ([`migration::Event::RelayAnswered`]). All that follows is
//!    signed with the pair's own keys, which no proxy knows.
//! 4. Once the wire tuple leads there, the data path keeps the leg: an end that moves knocks at the same port again, also
//!    when another agent has taken over ([`Managed::take_leg`]).

use datapath::{Datapath, DatapathError};
use identity::ticket::LegKey;
use migration::{Event, Timestamp};
use wire::request::RequestType;

use super::*;
use crate::sessions::RelayLeg;

/// The candidate of what a proxy has signed; no pair's key set has so high a number.
pub(super) const PROXY: u32 = 1 << 16;

impl Managed {
    /// Notes whether the wire tuple leads to a proxy.
    pub(super) fn note_relayed(&mut self) {
        let wire = self.machine.wire();
        if self.leg_towards(wire.remote).is_some() {
            self.relayed = Some(wire);
        }
        self.flags.relayed = self.is_relayed();
    }

    /// Takes up what an earlier agent has left of the proxy.
    pub(super) fn take_leg(&mut self, kept: datapath::Leg) {
        let halves = [*kept.to_proxy.as_bytes(), *kept.to_agent.as_bytes()].concat();
        if let Some(key) = LegKey::from_bytes(&halves) {
            let proxy = kept.proxy;
            self.kept_leg = Some(proxy);
            self.legs.push(RelayLeg { proxy, key });
        }
    }

    /// The leg that is to be kept for the next agent.
    pub(super) fn leg_in_use(&self) -> Option<&RelayLeg> {
        let relayed = self.is_live() && self.is_relayed();
        self.leg_towards(self.machine.wire().remote).filter(|_| relayed)
    }

    /// Whether its segments go through a symmetric proxy.
    pub fn is_relayed(&self) -> bool {
        self.relayed == Some(self.machine.wire())
    }

    /// Whether it was relayed until something happened, and knocks at the same port of the proxy again.
    pub(super) fn returns(&self) -> bool {
        let proxy = self.machine.wire().remote;
        let mut attempts = self.machine.attempts().iter();
        self.is_relayed()
            && self.leg_towards(proxy).is_some()
            && attempts.any(|attempt| attempt.destinations().contains(&proxy))
    }

    /// The key that signs an MSYN to this endpoint, if it is a proxy's.
    pub(crate) fn leg_towards(&self, to: Endpoint) -> Option<&RelayLeg> {
        self.legs.iter().find(|leg| leg.proxy == to)
    }
}

impl<D: Datapath> Agent<D> {
    /// Takes up what a server has said of a connection's proxy.
    ///
    /// # Errors
    /// The data path cannot hear the proxy: its map is full.
    pub(super) fn name_proxy(&mut self, identity: Tuple, leg: RelayLeg) -> Result<(), DatapathError> {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return Ok(());
        };
        if managed.legs.contains(&leg) {
            return Ok(());
        }
        let in_use = managed.machine.wire().remote;
        managed
            .legs
            .retain(|known| known.proxy == in_use && known.proxy != leg.proxy);
        managed.legs.push(leg);
        // A token names a connection under each of its keys; that of a former proxy goes with the others.
        for number in &managed.tokens {
            for set in &managed.candidates {
                self.datapath.remove_token(set.keys.token(*number), &identity);
            }
            for (index, set) in managed.candidates.iter().enumerate() {
                let key = set.keys.incoming(managed.role);
                let token = set.keys.token(*number);
                self.datapath.put_token(token, &identity, key, index as u32)?;
                // The proxy repeats the token of the MSYN that it answers, and each key set has said one.
                for leg in &managed.legs {
                    let key = leg.key.to_agent();
                    self.datapath.put_token(token, &identity, &key, PROXY)?;
                }
            }
        }
        Ok(())
    }

    /// Something whose MAC fits the key of a proxy. All that it may say is that both ends are there.
    pub(super) fn proxy_heard(&mut self, kind: RequestType, heard: &datapath::event::Heard, now: Timestamp) {
        let (from, to) = (heard.wire.remote, heard.wire.local);
        let known = self
            .sessions
            .get(&heard.identity)
            .is_some_and(|managed| managed.leg_towards(from).is_some());
        if kind != RequestType::MsynAck || !known {
            self.timeline.count("proxy_stray");
            return;
        }
        self.timeline
            .note(heard.identity, "proxy_answered", format!("{from} -> {to}"));
        let event = Event::RelayAnswered {
            from,
            to,
            req_no: heard.req_no,
            seq: heard.seq,
            ack: heard.ack,
        };
        self.advance(heard.identity, event, now);
    }

    /// The data path keeps the leg of a relayed connection, and no other.
    pub(super) fn keep_leg(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let leg = managed.leg_in_use().map(|leg| datapath::Leg {
            proxy: leg.proxy,
            to_proxy: leg.key.to_proxy(),
            to_agent: leg.key.to_agent(),
        });
        let proxy = leg.as_ref().map(|leg| leg.proxy);
        if managed.kept_leg == proxy {
            return;
        }
        managed.kept_leg = proxy;
        match leg {
            Some(leg) => self.write(|datapath| datapath.put_leg(&identity, &leg)),
            None => self.datapath.remove_leg(&identity),
        }
    }

    /// A Migrate-Ack that commits nothing in the data path: the peer has moved behind the proxy, or answers our move.
    pub(super) fn relayed_ack(&mut self, heard: &datapath::event::Heard, now: Timestamp) {
        let (from, to) = (heard.wire.remote, heard.wire.local);
        let proxy = self
            .sessions
            .get(&heard.identity)
            .is_some_and(|managed| managed.is_relayed() || managed.leg_towards(from).is_some());
        let Ok(Some(tcp)) = self.datapath.read_tcp(&heard.identity) else {
            return;
        };
        if !proxy {
            return;
        }
        let event = Event::RelayedAckHeard {
            from,
            to,
            req_no: heard.req_no,
            seq: heard.seq,
            ack: heard.ack,
            tcp: snapshot(&tcp),
        };
        self.advance(heard.identity, event, now);
    }
}
