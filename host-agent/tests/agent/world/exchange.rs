//! Pair exchanges, as if both agents had talked over TLS.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use identity::{Abilities, AgentId, Fingerprint, Pair, Role as PairRole, SleepHint};
use uuid::Uuid;
use wire::keys::PairKey;
use wire::tuple::Endpoint;

use super::{AGENT_PORT, SERVER, Side, World};

impl World {
    /// Exchanges that an agent wants and that are due.
    pub(super) fn dial_due(&mut self) -> bool {
        let mut dialled = false;
        for side in [Side::A, Side::B] {
            let now = self.now;
            for peer in self.host(side).dials(now) {
                dialled = true;
                let reachable =
                    self.host(side.other()).device(peer.ip()).is_some() && peer.port() == AGENT_PORT;
                if reachable && self.trusting {
                    self.exchange(side);
                } else {
                    let reason = if reachable {
                        "unknown_authority"
                    } else {
                        "unreachable"
                    };
                    self.host(side).pair_failed(peer, reason);
                }
            }
        }
        dialled
    }

    /// Both agents agree on a key; `dialler` opened the exchange.
    pub fn exchange(&mut self, dialler: Side) {
        self.exchanges += 1;
        for side in [Side::A, Side::B] {
            let other = self.host(side.other());
            let (peer, addresses) = (other.id(), other.addresses());
            let pair = self.pair(side, dialler, peer, addresses);
            self.host(side).agreed(pair);
        }
    }

    /// One that an end has taken for agreed when the other's agent was killed: the other knows nothing of it.
    pub fn half_an_exchange(&mut self, dialler: Side) {
        self.exchanges += 1;
        let other = self.host(dialler.other());
        let (peer, addresses) = (other.id(), other.addresses());
        let pair = self.pair(dialler, dialler, peer, addresses);
        self.host(dialler).agreed(pair);
    }

    /// An exchange that began before either end knew of the last one: under the same epoch, with an ID of its own.
    pub fn crossing_exchange(&mut self, dialler: Side) {
        let epoch = self.exchanges;
        self.exchanges += 1;
        for side in [Side::A, Side::B] {
            let other = self.host(side.other());
            let (peer, addresses) = (other.id(), other.addresses());
            let pair = Pair {
                pair_id: Uuid::from_u128(8),
                epoch: u32::from(epoch),
                ..self.pair(side, dialler, peer, addresses)
            };
            self.host(side).agreed(pair);
        }
    }

    /// One host agrees on a key with another agent at the peer's address, behind the same NAPT.
    pub fn exchange_with_neighbour(&mut self, side: Side) {
        self.exchanges += 1;
        let fingerprint = Fingerprint([self.exchanges; 32]);
        let neighbour = AgentId::from_key("test", &fingerprint).expect("a trust domain");
        let pair = self.pair(side, side, neighbour, Vec::new());
        self.host(side).agreed(pair);
    }

    /// What one side has after the exchange that was counted last.
    fn pair(&self, side: Side, dialler: Side, peer: AgentId, peer_direct_addresses: Vec<IpAddr>) -> Pair {
        let number = self.exchanges;
        let (peer_host, own_host) = match side {
            Side::A => (&self.b, &self.a),
            Side::B => (&self.a, &self.b),
        };
        Pair {
            pair_id: Uuid::from_u128(7),
            exchange_id: Uuid::from_u128(u128::from(number)),
            peer,
            peer_name: "peer".into(),
            peer_fingerprint: Fingerprint([0; 32]),
            key: PairKey::new([number; 32]),
            epoch: u32::from(number),
            peer_agent_port: AGENT_PORT,
            peer_direct_addresses,
            peer_observed: Endpoint::new(peer_host.source(), 50_000),
            self_observed: Endpoint::new(own_host.source(), 50_000),
            peer_behind_napt: false,
            self_behind_napt: false,
            common_servers: vec![SERVER.into()],
            no_common_server: false,
            abilities: Abilities::MIGRATE,
            peer_sleep: SleepHint::default(),
            established_by: if side == dialler {
                PairRole::Dialer
            } else {
                PairRole::Acceptor
            },
            dialled_by_smaller: dialler == Side::A,
            established_at: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(number)),
        }
    }
}
