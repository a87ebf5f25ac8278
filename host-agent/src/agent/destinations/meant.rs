//! Which connections of ours a destination is about.

use super::*;

/// A connection that a destination is about.
pub(super) struct Meant {
    pub(super) identity: Tuple,
    /// Where the peer expects it.
    pub(super) port: u16,
    /// What the peer had committed when it reported it.
    peer_req_no: Option<u32>,
}

impl<D: Datapath> Agent<D> {
    /// The connections that a destination is about.
    pub(super) fn meant(&self, pair: Uuid, destination: &said::Destination) -> Vec<Meant> {
        let named: BTreeMap<u64, &said::ConnectionDestination> = destination
            .connections
            .iter()
            .map(|connection| (connection.label, connection))
            .collect();
        self.sessions
            .values()
            .filter(|managed| managed.is_live() && managed.keys().pair_id == pair)
            .filter_map(|managed| {
                let named = named.get(&managed.keys().keys.label())?;
                let port = u16::try_from(named.destination_port)
                    .ok()
                    .filter(|port| *port != 0);
                Some(Meant {
                    identity: managed.identity,
                    port: port.unwrap_or(managed.machine.wire().remote.port),
                    peer_req_no: named.peer_req_no,
                })
            })
            .collect()
    }

    /// Whether a connection has been resumed since the peer reported it, and goes where it is said to: a report names all of
    /// its connections until the last of them is resumed. To resume one again would be a move without need.
    pub(super) fn is_resumed_since(&self, meant: &Meant, destination: &said::Destination) -> bool {
        use said::destination::Action;
        let Some(managed) = self.sessions.get(&meant.identity) else {
            return false;
        };
        let (machine, wire) = (&managed.machine, managed.machine.wire());
        let direct = !matches!(destination.action(), Action::Proxy | Action::SameNapt);
        direct
            && meant
                .peer_req_no
                .is_some_and(|before| machine.committed().0 > before)
            && Some(wire.remote.address) == address_of(&destination.peer_address)
            && wire.remote.port == meant.port
            && !machine.is_parked()
            && self.network.device_of(wire.local.address).is_some()
    }
}
