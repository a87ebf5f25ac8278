//! The interface, over the maps and programs in the kernel.

use super::maps::{all, find, remove, update};
use super::*;
use crate::types::{ARRIVES_BOUND, Leg};

impl Datapath for KernelDatapath {
    fn events(&mut self) -> Vec<Event> {
        if let Err(error) = self.events.consume() {
            tracing::warn!(%error, "cannot read the event ring");
        }
        self.event_queue.borrow_mut().drain(..).collect()
    }

    fn opened(&mut self) -> Vec<Tuple> {
        if let Err(error) = self.opened.consume() {
            tracing::warn!(%error, "cannot read the ring of new connections");
        }
        self.opened_queue.borrow_mut().drain(..).collect()
    }

    fn connection(&self, identity: &Tuple) -> Option<Connection> {
        find::<raw::connection>(&self.skeleton.maps.connections, tuple_to_raw(identity).bytes())
            .map(|connection| (&connection).into())
    }

    fn connections(&self) -> Vec<(Tuple, Connection)> {
        all::<raw::tuple, raw::connection>(&self.skeleton.maps.connections)
            .map(|(tuple, connection)| (tuple_from_raw(&tuple), (&connection).into()))
            .collect()
    }

    fn forget_peer(&mut self, address: IpAddr, agent_port: u16) {
        let key = raw::peer_key {
            address: address_bytes(address),
            agent_port: u32::from(agent_port),
        };
        remove(&self.skeleton.maps.peers, key.bytes());
    }

    fn put_session(&mut self, identity: &Tuple, session: &Session) -> Result<(), DatapathError> {
        update(
            &self.skeleton.maps.sessions,
            "sessions",
            tuple_to_raw(identity).bytes(),
            &raw::session::from(session),
        )
    }

    fn sessions(&self) -> Vec<(Tuple, Session)> {
        all::<raw::tuple, raw::session>(&self.skeleton.maps.sessions)
            .map(|(tuple, session)| (tuple_from_raw(&tuple), (&session).into()))
            .collect()
    }

    fn remove_session(&mut self, identity: &Tuple) {
        remove(&self.skeleton.maps.sessions, tuple_to_raw(identity).bytes());
    }

    fn put_leg(&mut self, identity: &Tuple, leg: &Leg) -> Result<(), DatapathError> {
        update(
            &self.skeleton.maps.legs,
            "legs",
            tuple_to_raw(identity).bytes(),
            &raw::leg::from(leg),
        )
    }

    fn leg(&self, identity: &Tuple) -> Option<Leg> {
        find::<raw::leg>(&self.skeleton.maps.legs, tuple_to_raw(identity).bytes()).map(|leg| (&leg).into())
    }

    fn remove_leg(&mut self, identity: &Tuple) {
        remove(&self.skeleton.maps.legs, tuple_to_raw(identity).bytes());
    }

    fn put_token(
        &mut self,
        token: Token,
        identity: &Tuple,
        key_in: &MacKey,
        candidate: u32,
    ) -> Result<(), DatapathError> {
        let key = token.0.to_ne_bytes();
        let mut list =
            find::<raw::token_list>(&self.skeleton.maps.tokens, &key).unwrap_or_else(Plain::zeroed);
        let entry = raw::token_entry {
            identity: tuple_to_raw(identity),
            key_in: *key_in.as_bytes(),
            candidate,
        };
        let used = list.used as usize;
        let same = list.entry[..used]
            .iter()
            .position(|old| old.identity.bytes() == entry.identity.bytes() && old.key_in == entry.key_in);
        match same {
            Some(index) => list.entry[index] = entry,
            None if used < list.entry.len() => {
                list.entry[used] = entry;
                list.used += 1;
            }
            None => return Err(DatapathError::MapFull { map: "tokens" }),
        }
        update(&self.skeleton.maps.tokens, "tokens", &key, &list)
    }

    fn knows_token(&self, token: Token, identity: &Tuple) -> bool {
        let identity = tuple_to_raw(identity);
        find::<raw::token_list>(&self.skeleton.maps.tokens, &token.0.to_ne_bytes()).is_some_and(|list| {
            list.entry[..list.used as usize]
                .iter()
                .any(|entry| entry.identity.bytes() == identity.bytes())
        })
    }

    fn remove_token(&mut self, token: Token, identity: &Tuple) {
        let key = token.0.to_ne_bytes();
        let Some(mut list) = find::<raw::token_list>(&self.skeleton.maps.tokens, &key) else {
            return;
        };
        let identity = tuple_to_raw(identity);
        let kept: Vec<_> = list.entry[..list.used as usize]
            .iter()
            .filter(|entry| entry.identity.bytes() != identity.bytes())
            .copied()
            .collect();
        if kept.is_empty() {
            remove(&self.skeleton.maps.tokens, &key);
            return;
        }
        list.used = kept.len() as u32;
        list.entry[..kept.len()].copy_from_slice(&kept);
        if let Err(error) = update(&self.skeleton.maps.tokens, "tokens", &key, &list) {
            tracing::warn!(%error, "cannot shorten a token's list");
        }
    }

    fn put_arrival(&mut self, wire: &Tuple, arrival: &Arrival) -> Result<(), DatapathError> {
        let mut value = raw::arrival::from(arrival);
        // What the socket does not hear through the parking device is handed in where it arrives.
        if matches!(self.read_tcp(&arrival.identity), Ok(Some(tcp)) if tcp.bound != 0) {
            value.confirm |= ARRIVES_BOUND;
        }
        update(
            &self.skeleton.maps.arrivals,
            "arrivals",
            tuple_to_raw(wire).bytes(),
            &value,
        )
    }

    fn arrival(&self, wire: &Tuple) -> Option<Arrival> {
        find::<raw::arrival>(&self.skeleton.maps.arrivals, tuple_to_raw(wire).bytes())
            .map(|arrival| (&arrival).into())
    }

    fn arrivals(&self) -> Vec<(Tuple, Arrival)> {
        all::<raw::tuple, raw::arrival>(&self.skeleton.maps.arrivals)
            .map(|(tuple, arrival)| (tuple_from_raw(&tuple), (&arrival).into()))
            .collect()
    }

    fn remove_arrival(&mut self, wire: &Tuple, identity: &Tuple) {
        if self
            .arrival(wire)
            .is_none_or(|arrival| arrival.identity != *identity)
        {
            return;
        }
        remove(&self.skeleton.maps.arrivals, tuple_to_raw(wire).bytes());
    }

    fn commit(
        &mut self,
        identity: &Tuple,
        wire: &Tuple,
        path: &Path,
        req_no: ReqNo,
    ) -> Result<(), DatapathError> {
        let mut request = raw::request::zeroed();
        request.kind = 2;
        request.identity = tuple_to_raw(identity);
        request.wire = tuple_to_raw(wire);
        request.path = path.into();
        request.req_no = req_no.0;
        match self.ask(request)?.result {
            0 => Err(DatapathError::MapFull { map: "wires" }),
            _ => Ok(()),
        }
    }

    fn park(&mut self, identity: &Tuple, wire: &Tuple, req_no: ReqNo) -> Result<(), DatapathError> {
        let mut request = raw::request::zeroed();
        request.kind = 5;
        request.identity = tuple_to_raw(identity);
        request.wire = tuple_to_raw(wire);
        request.req_no = req_no.0;
        match self.ask(request)?.result {
            0 => Err(DatapathError::MapFull { map: "wires" }),
            _ => Ok(()),
        }
    }

    fn wire(&self, identity: &Tuple) -> Option<WireState> {
        let value = self
            .skeleton
            .maps
            .wires
            .lookup(tuple_to_raw(identity).bytes(), MapFlags::LOCK)
            .ok()
            .flatten()?;
        raw::wire_state::from_bytes(&value).map(|state| (&state).into())
    }

    fn remove_wire(&mut self, identity: &Tuple) {
        remove(&self.skeleton.maps.wires, tuple_to_raw(identity).bytes());
    }

    fn put_source(&mut self, address: IpAddr, source: Source) -> Result<(), DatapathError> {
        let value = raw::source {
            ifindex: source.ifindex,
            usable: u32::from(source.usable),
        };
        update(
            &self.skeleton.maps.sources,
            "sources",
            &address_bytes(address),
            &value,
        )
    }

    fn remove_source(&mut self, address: IpAddr) {
        remove(&self.skeleton.maps.sources, &address_bytes(address));
    }

    fn read_tcp(&mut self, identity: &Tuple) -> Result<Option<TcpState>, DatapathError> {
        let mut request = raw::request::zeroed();
        request.kind = 1;
        request.identity = tuple_to_raw(identity);
        if let Some(found) = TcpState::from_raw(&self.ask(request)?.tcp) {
            return Ok(Some(found));
        }
        // A socket that is bound to a device is found from there only. The device may be gone.
        let devices = self.devices.borrow();
        let asked = devices
            .iter()
            .filter_map(|ifindex| self.ask_on(request, *ifindex).ok());
        Ok(asked
            .filter_map(|request| TcpState::from_raw(&request.tcp))
            .next())
    }

    fn heads(&self, identity: &Tuple) -> Heads {
        find::<raw::heads>(&self.skeleton.maps.heads, tuple_to_raw(identity).bytes())
            .map(|heads| Heads::from_raw(&heads))
            .unwrap_or_default()
    }

    fn remove_heads(&mut self, identity: &Tuple) {
        remove(&self.skeleton.maps.heads, tuple_to_raw(identity).bytes());
    }

    fn plain(&mut self) -> Vec<Tuple> {
        let listed = self
            .skeleton
            .progs
            .plain
            .attach()
            .and_then(|link| crate::walker::list(&link));
        let bytes = listed.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot list the sockets; older connections stay plain");
            Vec::new()
        });
        bytes
            .chunks_exact(size_of::<raw::tuple>())
            .filter_map(raw::tuple::from_bytes)
            .map(|tuple| tuple_from_raw(&tuple))
            .collect()
    }

    fn reconcile(&mut self) {
        self.walker.ask();
    }

    fn set_load(&mut self, sessions: u32, moved: u32) -> Result<(), DatapathError> {
        self.config.sessions = sessions;
        self.config.moved = moved;
        self.write_config()
    }

    fn beat(&mut self) {
        self.config.heartbeat_ns = monotonic_ns();
        self.config.forwards = u32::from(forwards());
        if let Err(error) = self.write_config() {
            tracing::warn!(%error, "cannot write the heartbeat");
        }
    }

    fn send(&mut self, packet: &[u8], ifindex: Option<u32>) -> Result<(), DatapathError> {
        self.sender.send(packet, ifindex)
    }

    fn deliver(&mut self, packet: &[u8]) -> Result<(), DatapathError> {
        self.injector.deliver(packet)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        sums(&self.skeleton.maps.counters, &COUNTERS)
    }
}

/// What every processor has counted, together, under these names.
pub(crate) fn sums(map: &impl MapCore, names: &[&'static str]) -> Vec<(&'static str, u64)> {
    let sum = |index: usize| {
        let values = map
            .lookup_percpu(&(index as u32).to_ne_bytes(), MapFlags::ANY)
            .ok()
            .flatten()
            .unwrap_or_default();
        values
            .iter()
            .filter_map(|value| value.first_chunk::<8>())
            .map(|value| u64::from_ne_bytes(*value))
            .sum()
    };
    names
        .iter()
        .enumerate()
        .map(|(index, name)| (*name, sum(index)))
        .collect()
}

/// In the order of `enum counter` in intf.h.
pub(crate) const COUNTERS: [&str; 20] = [
    "offered",
    "permitted",
    "parked",
    "translated_out",
    "translated_in",
    "stolen",
    "malformed_option",
    "unknown_token",
    "bad_mac",
    "stale_ack",
    "committed",
    "stranger_dropped",
    "unproven_dropped",
    "reset_held",
    "reset_passed",
    "icmp_translated",
    "event_lost",
    "map_full",
    "caught",
    "stranger_shadowed",
];
