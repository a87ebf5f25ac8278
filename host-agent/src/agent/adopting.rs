//! What an earlier agent left behind.

use std::collections::HashSet;
use std::net::IpAddr;

use datapath::{ArrivalState, Datapath};
use migration::{Event, TcpState, Timestamp};
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use super::*;

impl<D: Datapath> Agent<D> {
    /// Takes up what an earlier agent left in the data path.
    pub fn adopt(&mut self, retired: impl IntoIterator<Item = IpAddr>, now: Timestamp) {
        self.retired.extend(retired);
        let arrivals = self.datapath.arrivals();
        let mut dead = Vec::new();
        for (identity, session) in self.datapath.sessions() {
            let wire = self.datapath.wire(&identity);
            let tcp = self.datapath.read_tcp(&identity).ok().flatten();
            let committed = wire.as_ref().map_or(wire::ReqNo::UNMOVED, |wire| wire.req_no);
            let on_wire = wire.as_ref().map_or(identity, |wire| wire.wire);
            let arrival = self.datapath.arrival(&on_wire);
            let adopted = migration::Adopted {
                committed,
                highest_seen: session.req_stored,
                wire: on_wire,
                confirmed: arrival.is_none_or(|arrival| !arrival.confirm),
                known: session.req_committed,
                parked: wire.as_ref().is_some_and(|wire| wire.path.ifindex == 0),
                lingering: arrivals
                    .iter()
                    .filter(|(tuple, arrival)| {
                        arrival.identity == identity
                            && *tuple != on_wire
                            && matches!(arrival.state, ArrivalState::Committed | ArrivalState::Linger)
                    })
                    .map(|(tuple, arrival)| (arrival.req_no, *tuple))
                    .collect(),
                tcp_state: tcp.map_or(TcpState::Closed, |tcp| machine_state(tcp.tcp_state)),
            };
            if tcp.is_none() {
                dead.push(identity);
            }
            let policy = self.policy_with(&uuid::Uuid::from_bytes(session.pair_id));
            let mut managed = Managed::adopt(identity, &session, adopted, policy, now);
            // A peer that knows less than we do still uses an older token.
            let numbers = session.req_stored.0.saturating_sub(64)..=session.req_stored.0;
            if let Some(kept) = self.datapath.leg(&identity) {
                managed.take_leg(kept);
            }
            let keys = managed.keys().keys.clone();
            managed.tokens = numbers
                .map(ReqNo)
                .filter(|number| self.datapath.knows_token(keys.token(*number), &identity))
                .collect();
            managed.machine = managed.machine.with_tokens(managed.tokens.iter().copied());
            // Which of the peer's keys is right may not be known yet.
            if !managed.proven
                && let Some(connection) = self.datapath.connection(&identity)
            {
                let others = self.keys_beside(&managed, connection.peer_agent_port);
                managed.candidates.extend(others);
                managed.tokens.clear();
            }
            managed
                .paths
                .extend(wire.map(|wire| (wire.wire.local, wire.path)));
            managed.tuples.extend(
                arrivals
                    .iter()
                    .filter(|(_, arrival)| arrival.identity == identity)
                    .map(|(t, a)| (*t, a.req_no)),
            );
            managed
                .tuples
                .keys()
                .for_each(|tuple| self.ports.note(tuple.local));
            self.hold(managed);
        }
        let adopted: Vec<Tuple> = self.sessions.keys().copied().collect();
        adopted.iter().for_each(|identity| self.settle(*identity));
        // What ended while nobody looked is released as if it had just ended.
        let ended = Event::LocalClose {
            tcp_state: TcpState::Closed,
            reset: false,
        };
        dead.into_iter()
            .for_each(|identity| self.advance(identity, ended.clone(), now));
        let known: HashSet<Tuple> = self.sessions.keys().copied().collect();
        let fresh: Vec<Tuple> = self
            .datapath
            .connections()
            .into_iter()
            .map(|(t, _)| t)
            .filter(|t| !known.contains(t))
            .collect();
        fresh.into_iter().for_each(|identity| self.opened(identity));
        let unneeded: Vec<IpAddr> = self
            .retired
            .iter()
            .copied()
            .filter(|address| !self.holders.contains_key(address))
            .collect();
        unneeded.into_iter().for_each(|address| self.let_go(address));
        if !self.sessions.is_empty() {
            let count = self.sessions.len();
            self.timeline
                .note("", "adopted", format!("{count} connections of an earlier agent"));
        }
        self.walk_if_due();
    }
}
