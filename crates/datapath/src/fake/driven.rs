//! The trait that the agent drives, as `KernelDatapath` has it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::token::Token;
use wire::tuple::Tuple;

use super::{FakeDatapath, Sent, TOKEN_ENTRIES, TokenEntry, sockets};
use crate::event::Event;
use crate::interface::{Datapath, DatapathError};
use crate::kernel::COUNTERS;
use crate::types::{Arrival, Connection, Heads, Leg, Path, Session, Source, TcpState, WireState};

/// Writes into a map that has room for `limit` entries.
fn put<K: Ord, V>(
    map: &mut BTreeMap<K, V>,
    limit: usize,
    name: &'static str,
    key: K,
    value: V,
) -> Result<(), DatapathError> {
    if map.len() >= limit && !map.contains_key(&key) {
        return Err(DatapathError::MapFull { map: name });
    }
    map.insert(key, value);
    Ok(())
}

impl Datapath for FakeDatapath {
    fn events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    fn opened(&mut self) -> Vec<Tuple> {
        self.opened.drain(..).collect()
    }

    fn connection(&self, identity: &Tuple) -> Option<Connection> {
        self.connections.get(identity).copied()
    }

    fn connections(&self) -> Vec<(Tuple, Connection)> {
        self.connections
            .iter()
            .map(|(tuple, connection)| (*tuple, *connection))
            .collect()
    }

    fn forget_peer(&mut self, address: IpAddr, agent_port: u16) {
        self.peers.remove(&(address, agent_port));
    }

    fn put_session(&mut self, identity: &Tuple, session: &Session) -> Result<(), DatapathError> {
        if self.closing.remove(identity) {
            self.change_state(identity, sockets::CLOSE);
        }
        put(
            &mut self.sessions,
            self.limits.sessions,
            "sessions",
            *identity,
            session.clone(),
        )
    }

    fn sessions(&self) -> Vec<(Tuple, Session)> {
        self.sessions
            .iter()
            .map(|(tuple, session)| (*tuple, session.clone()))
            .collect()
    }

    fn remove_session(&mut self, identity: &Tuple) {
        self.sessions.remove(identity);
    }

    fn put_leg(&mut self, identity: &Tuple, leg: &Leg) -> Result<(), DatapathError> {
        put(
            &mut self.legs,
            self.limits.sessions,
            "legs",
            *identity,
            leg.clone(),
        )
    }

    fn leg(&self, identity: &Tuple) -> Option<Leg> {
        self.legs.get(identity).cloned()
    }

    fn remove_leg(&mut self, identity: &Tuple) {
        self.legs.remove(identity);
    }

    fn put_token(
        &mut self,
        token: Token,
        identity: &Tuple,
        key_in: &MacKey,
        candidate: u32,
    ) -> Result<(), DatapathError> {
        let mut list = self.tokens.get(&token).cloned().unwrap_or_default();
        let entry = TokenEntry {
            identity: *identity,
            key_in: key_in.clone(),
            candidate,
        };
        match list
            .iter()
            .position(|old| old.identity == *identity && old.key_in == *key_in)
        {
            Some(index) => list[index] = entry,
            None if list.len() < TOKEN_ENTRIES => list.push(entry),
            None => return Err(DatapathError::MapFull { map: "tokens" }),
        }
        put(&mut self.tokens, self.limits.tokens, "tokens", token, list)
    }

    fn knows_token(&self, token: Token, identity: &Tuple) -> bool {
        self.tokens
            .get(&token)
            .is_some_and(|list| list.iter().any(|entry| entry.identity == *identity))
    }

    fn remove_token(&mut self, token: Token, identity: &Tuple) {
        let Some(list) = self.tokens.get_mut(&token) else {
            return;
        };
        list.retain(|entry| entry.identity != *identity);
        if list.is_empty() {
            self.tokens.remove(&token);
        }
    }

    fn put_arrival(&mut self, wire: &Tuple, arrival: &Arrival) -> Result<(), DatapathError> {
        put(
            &mut self.arrivals,
            self.limits.arrivals,
            "arrivals",
            *wire,
            *arrival,
        )
    }

    fn arrival(&self, wire: &Tuple) -> Option<Arrival> {
        self.arrivals.get(wire).copied()
    }

    fn arrivals(&self) -> Vec<(Tuple, Arrival)> {
        self.arrivals
            .iter()
            .map(|(tuple, arrival)| (*tuple, *arrival))
            .collect()
    }

    fn remove_arrival(&mut self, wire: &Tuple, identity: &Tuple) {
        if self
            .arrival(wire)
            .is_some_and(|arrival| arrival.identity == *identity)
        {
            self.arrivals.remove(wire);
        }
    }

    fn commit(
        &mut self,
        identity: &Tuple,
        wire: &Tuple,
        path: &Path,
        req_no: ReqNo,
    ) -> Result<(), DatapathError> {
        match self.commit_wire(identity, wire, path, req_no) {
            true => Ok(()),
            false => Err(DatapathError::MapFull { map: "wires" }),
        }
    }

    fn park(&mut self, identity: &Tuple, wire: &Tuple, req_no: ReqNo) -> Result<(), DatapathError> {
        let parked = match self.wires.get_mut(identity) {
            Some(state) if state.req_no == req_no => {
                state.path.ifindex = 0;
                true
            }
            Some(_) => true,
            None => self.insert_wire(
                identity,
                WireState {
                    req_no,
                    wire: *wire,
                    path: Path::default(),
                },
            ),
        };
        match parked {
            true => Ok(()),
            false => Err(DatapathError::MapFull { map: "wires" }),
        }
    }

    fn wire(&self, identity: &Tuple) -> Option<WireState> {
        self.wires.get(identity).copied()
    }

    fn remove_wire(&mut self, identity: &Tuple) {
        self.wires.remove(identity);
    }

    fn put_source(&mut self, address: IpAddr, source: Source) -> Result<(), DatapathError> {
        put(&mut self.sources, self.limits.sources, "sources", address, source)
    }

    fn remove_source(&mut self, address: IpAddr) {
        self.sources.remove(&address);
    }

    fn read_tcp(&mut self, identity: &Tuple) -> Result<Option<TcpState>, DatapathError> {
        Ok(self.sockets.get(identity).map(|socket| socket.tcp))
    }

    fn heads(&self, identity: &Tuple) -> Heads {
        self.heads.get(identity).cloned().unwrap_or_default()
    }

    fn remove_heads(&mut self, identity: &Tuple) {
        self.heads.remove(identity);
    }

    fn plain(&mut self) -> Vec<Tuple> {
        self.listings += 1;
        let offered = |identity: &Tuple| {
            self.connections.contains_key(identity) || self.sessions.contains_key(identity)
        };
        self.sockets
            .keys()
            .filter(|identity| !offered(identity))
            .copied()
            .collect()
    }

    fn reconcile(&mut self) {
        self.walk();
    }

    fn set_load(&mut self, sessions: u32, moved: u32) -> Result<(), DatapathError> {
        self.load = (sessions, moved);
        Ok(())
    }

    fn beat(&mut self) {
        self.heartbeat = self.now;
    }

    fn send(&mut self, packet: &[u8], ifindex: Option<u32>) -> Result<(), DatapathError> {
        let to = Segment::parse(packet)
            .map_err(|error| DatapathError::Kernel {
                what: "cannot send".into(),
                error: error.to_string(),
            })?
            .destination
            .address;
        if self.unreachable {
            return Err(DatapathError::Send {
                to,
                error: std::io::ErrorKind::NetworkUnreachable.into(),
            });
        }
        self.sent.push(Sent {
            packet: packet.to_vec(),
            ifindex,
        });
        Ok(())
    }

    fn deliver(&mut self, packet: &[u8]) -> Result<(), DatapathError> {
        self.delivered.push(packet.to_vec());
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        COUNTERS
            .iter()
            .map(|name| (*name, self.counters.get(name).copied().unwrap_or(0)))
            .collect()
    }
}
