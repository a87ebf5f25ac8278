//! Symmetric proxies: a server names one for each connection, with a key of this agent and the proxy.
//!
//! 1. The proxy's endpoint and the key are kept with the connection ([`Agent::name_proxy`]): MSYNs to that endpoint are
//!    signed with the key, and an MSYN-ACK signed with it is heard as the proxy's ([`PROXY`]).
//! 2. An attempt begins there like any other; that the proxy keeps silent until the peer has come is no failure.
//! 3. The proxy's answer says what the peer's MSYN said ([`migration::Event::RelayAnswered`]). All that follows is
//!    signed with the pair's own keys, which no proxy knows.

use datapath::{Datapath, DatapathError};
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
        if self.leg.as_ref().is_some_and(|leg| leg.proxy == wire.remote) {
            self.relayed = Some(wire);
        }
        self.flags.relayed = self.is_relayed();
    }

    /// Whether its segments go through a symmetric proxy.
    pub fn is_relayed(&self) -> bool {
        self.relayed == Some(self.machine.wire())
    }

    /// The key that signs an MSYN to this endpoint, if it is a proxy's.
    pub(crate) fn leg_towards(&self, to: Endpoint) -> Option<&RelayLeg> {
        self.leg.as_ref().filter(|leg| leg.proxy == to)
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
        let before = managed.leg.replace(leg.clone());
        if before.is_some_and(|before| before.key == leg.key) {
            return Ok(());
        }
        // A token names a connection under each of its keys; the old proxy's goes with the others.
        for number in &managed.tokens {
            for set in &managed.candidates {
                self.datapath.remove_token(set.keys.token(*number), &identity);
            }
            for (index, set) in managed.candidates.iter().enumerate() {
                let key = set.keys.incoming(managed.role);
                let token = set.keys.token(*number);
                self.datapath.put_token(token, &identity, key, index as u32)?;
                // The proxy repeats the token of the MSYN that it answers, and each key set has said one.
                self.datapath
                    .put_token(token, &identity, &leg.key.to_agent(), PROXY)?;
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
}
