//! Ways out are compared with the routing table, and with one another.

use std::net::IpAddr;

use datapath::parking::Route;

use super::*;

impl Driver {
    /// Looks by which device the kernel would send for each pair of addresses now. Where that is not the one that has
    /// the local address, segments would leave with a source that means nothing there: the connection is kept on its
    /// device, or moved if there is no way by it any more. `follow`: moved in any case to where new ones go.
    pub(super) async fn review_routes(&mut self, follow: bool) {
        for ((local, peer), connections) in self.agent.flows() {
            let Some(device) = self.agent.network.device_of(local) else {
                continue;
            };
            if self.agent.network.is_anchored(local) {
                continue;
            }
            let Some(now) = self.parking.route_to(peer, Some(local), None).await else {
                continue;
            };
            let astray = now.ifindex != device;
            let own = match astray {
                true => self.parking.route_to(peer, Some(local), Some(device)).await,
                false => Some(now),
            };
            let works = own.is_some_and(|own| !astray || self.leads_on(own));
            let best = self.parking.route_to(peer, None, None).await;
            let elsewhere = best.is_some_and(|best| best.ifindex != device && best.source.is_some());
            if elsewhere && (follow || !works) {
                let way = self.way_to(peer, None).await;
                let moved = way.is_some_and(|way| self.move_all(&connections, way));
                if moved {
                    continue;
                }
            }
            for identity in connections {
                self.agent.pin(identity, astray && works);
            }
        }
    }

    /// Whether a route by one device is meant, and not the kernel's guess that everything is on-link there.
    fn leads_on(&self, route: Route) -> bool {
        route.gateway.is_some() || !self.agent.network.is_ethernet(route.ifindex)
    }

    /// Moves what is on a bad way to the first other one that is not known to be bad.
    pub(super) async fn leave_path(&mut self, address: IpAddr) {
        let limits = self.agent.limits;
        let flows = self.agent.flows();
        for ((_, peer), connections) in flows.into_iter().filter(|((local, _), _)| *local == address) {
            let now = self.clock.now();
            let device = self.agent.network.device_of(address);
            let others: Vec<(IpAddr, u32)> = self
                .agent
                .network
                .usable()
                .filter(|(other, ifindex)| {
                    other.is_ipv4() == peer.is_ipv4()
                        && Some(*ifindex) != device
                        && self.agent.quality.may_choose(*other, &limits, now)
                })
                .collect();
            for (other, ifindex) in others {
                let route = self.parking.route_to(peer, Some(other), Some(ifindex)).await;
                if !route.is_some_and(|route| self.leads_on(route)) {
                    continue;
                }
                if let Some(way) = self.way_to(peer, Some(other)).await
                    && self.move_all(&connections, way)
                {
                    break;
                }
            }
        }
    }

    /// Asks for a move of connections that go on meanwhile.
    fn move_all(&mut self, connections: &[Tuple], way: WayOut) -> bool {
        let now = self.clock.now();
        for (number, identity) in connections.iter().enumerate() {
            let Some(peer) = self
                .agent
                .sessions
                .get(identity)
                .map(|managed| managed.machine.wire().remote)
            else {
                continue;
            };
            self.agent.try_way_out(*identity, way, Some(peer), now);
            if number % 16 == 15 {
                self.datapath_events();
            }
        }
        !connections.is_empty()
    }
}
