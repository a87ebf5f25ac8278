//! What the agent asked for beside the data path, carried out.

use super::*;

/// An IPv6 header is longer than an IPv4 header, in bytes.
const FAMILY_DIFFERENCE: u32 = 20;

impl Driver {
    pub(super) async fn carry_out(&mut self) {
        if !self.parking.leads() && self.agent.moves() {
            self.lead().await;
        }
        loop {
            self.tell_mtu().await;
            let mut effects = std::mem::take(&mut self.agent.effects);
            if effects.is_empty() {
                return;
            }
            effects.dedup();
            let mut destinations = Vec::new();
            effects.retain(|effect| match effect {
                Effect::FindWayTo(identity, to) => {
                    destinations.push((*identity, *to));
                    false
                }
                _ => true,
            });
            self.find_ways_to(destinations).await;
            for effect in effects {
                self.carry_out_one(effect).await;
            }
            self.agent.settled();
        }
    }

    pub(super) async fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Attach {
                ifindex,
                name,
                ethernet,
            } => {
                if ifindex == self.parking.ifindex {
                    return;
                }
                let link = if ethernet { Link::Ethernet } else { Link::Raw };
                if let Err(error) = self.agent.datapath.attach_device(ifindex, link) {
                    tracing::warn!(device = name, %error, "connections over this device cannot migrate");
                }
            }
            Effect::Retire(address) => {
                if let Err(error) = self.parking.retire(address).await {
                    tracing::error!(%error, "an address is lost to its connections");
                }
            }
            Effect::Release(address) => match self.parking.release(address).await {
                Ok(()) => self
                    .agent
                    .timeline
                    .note("", "address_released", address.to_string()),
                Err(error) => tracing::warn!(%error, "an address stays on the parking device"),
            },
            Effect::FindWaysOut => {
                let needy = self.agent.in_need();
                self.find_ways_out(needy, None, None).await;
            }
            Effect::FindWayOut(identity) => {
                self.find_ways_out(vec![identity], None, None).await;
            }
            Effect::FindOtherWay { identity, anew } => {
                self.find_other_way(identity, anew).await;
            }
            Effect::SearchNat64 => self.search_nat64(),
            Effect::FindWaysOutOf(connections) => {
                self.find_ways_out(connections, None, None).await;
            }
            Effect::DialAgain(peer) => {
                if self.agent.pairs.may_dial_again(peer) {
                    self.dial(peer);
                }
            }
            Effect::ReviewRoutes { follow } => self.review_routes(follow).await,
            Effect::LeavePath(address) => self.leave_path(address).await,
            Effect::Dial(peer) => self.dial_unless_paired(peer),
            Effect::DialLater(peer) => {
                let sender = self.later.0.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(DIAL_LATER).await;
                    let _ = sender.send(peer).await;
                });
            }
            // Taken out by the caller, many at once.
            Effect::FindWayTo(identity, to) => self.find_ways_to(vec![(identity, to)]).await,
            Effect::Tunnel {
                server,
                tunnel,
                dial,
                peer,
            } => self.tunnel(server, tunnel, dial, peer),
            Effect::UpdateFacts => {
                let mut local = local_facts(&self.config);
                let network = &self.agent.network;
                // Who dials a server whose anchor this is finds this agent, and no NAPT before it.
                local.direct_addresses = network
                    .usable()
                    .map(|(address, _)| address)
                    .chain(network.anchored_hosts())
                    .collect();
                local.known = self.agent.pairs.known();
                self.facts.send_replace(Arc::new(local));
                self.servers.paired_with(self.agent.peers_and_servers());
            }
        }
    }

    /// One look at the routing table for each peer, then one attempt for each connection.
    pub(super) async fn find_ways_out(
        &mut self,
        connections: Vec<Tuple>,
        from: Option<IpAddr>,
        to: Option<Endpoint>,
    ) -> usize {
        let mut ways: Vec<(IpAddr, Option<WayOut>)> = Vec::new();
        let mut begun = 0;
        for identity in connections {
            let Some(managed) = self.agent.sessions.get(&identity) else {
                continue;
            };
            let peer = to.map_or(managed.machine.wire().remote.address, |to| to.address);
            let bound = self.agent.bound_device(identity);
            let way = match ways.iter().find(|(known, _)| *known == peer) {
                _ if bound.is_some() => self.way_by(peer, from, bound).await,
                Some((_, way)) => *way,
                None => {
                    let way = self.way_to(peer, from).await;
                    ways.push((peer, way));
                    way
                }
            };
            let Some(way) = way else {
                begun += usize::from(to.is_none() && self.find_other_way(identity, false).await);
                continue;
            };
            let now = self.clock.now();
            self.agent.try_way_out(identity, way, to, now);
            begun += 1;
            // Answers to the first must not wait for the last.
            if begun % 16 == 0 {
                self.datapath_events();
            }
        }
        begun
    }

    /// One attempt in the family that the wire tuple does not have, at every place of the peer that the same way out
    /// leads to. Whether one was begun.
    async fn find_other_way(&mut self, identity: Tuple, anew: bool) -> bool {
        let mut found: Option<(WayOut, Vec<Endpoint>)> = None;
        for place in self.agent.other_places(identity) {
            let address = place.endpoint.address;
            if !anew && self.agent.attempts_in(identity, address.is_ipv4()) {
                return false;
            }
            let Some(way) = self.way_to(address, None).await else {
                continue;
            };
            if place.on_link_only && way.path.next_hop != Some(address) {
                continue;
            }
            match &mut found {
                None => found = Some((way, vec![place.endpoint])),
                Some((first, places)) if *first == way => places.push(place.endpoint),
                Some(_) => {}
            }
        }
        let Some((way, places)) = found else { return false };
        let now = self.clock.now();
        self.agent.try_to(identity, way, places, false, now);
        true
    }

    /// The last search counts: an earlier one may still be asking the network before.
    fn search_nat64(&mut self) {
        if self.config.resolv_conf.as_os_str().is_empty() {
            return;
        }
        let (path, found) = (self.config.resolv_conf.clone(), self.nat64.found.0.clone());
        let search = tokio::spawn(async move {
            let prefixes = nat64::search::search(&path).await;
            let _ = found.send(prefixes).await;
        });
        if let Some(before) = self.nat64.search.replace(search) {
            before.abort();
        }
    }

    pub(super) async fn way_to(&mut self, peer: IpAddr, from: Option<IpAddr>) -> Option<WayOut> {
        self.way_by(peer, from, None).await
    }

    /// `device`: by none but this one.
    async fn way_by(&mut self, peer: IpAddr, from: Option<IpAddr>, device: Option<u32>) -> Option<WayOut> {
        if from.is_some_and(|from| from.is_ipv4() != peer.is_ipv4()) {
            return None;
        }
        let from_device = from.and_then(|from| self.agent.network.device_of(from));
        let route = self.parking.route_to(peer, from, device.or(from_device)).await?;
        // Asked for one device, the kernel takes whatever has no route there for a neighbour. Those are neighbours of
        // this host whichever device is asked for.
        if device.is_some() && route.gateway.is_none() {
            let free = self.parking.route_to(peer, None, None).await?;
            if free.gateway.is_some() || free.ifindex != route.ifindex {
                return None;
            }
        }
        let source = from.or(route.source)?;
        if self.agent.network.device_of(source) != Some(route.ifindex) {
            return None;
        }
        let next_hop = Some(route.gateway.unwrap_or(peer));
        Some(WayOut {
            source,
            path: Path {
                ifindex: route.ifindex,
                next_hop,
            },
        })
    }

    /// The routes to the parking device have the smallest MTU of the devices behind it, less what an IPv4 segment
    /// grows by when it leaves as IPv6.
    async fn tell_mtu(&mut self) {
        let Some(mtu) = self.agent.network.smallest_mtu() else {
            return;
        };
        let growth = if self.agent.grows() { FAMILY_DIFFERENCE } else { 0 };
        let mtus = (mtu.saturating_sub(growth), mtu);
        if mtus == self.mtu {
            return;
        }
        self.mtu = mtus;
        if let Err(error) = self.parking.set_mtu(Some(mtus)).await {
            tracing::warn!(%error, mtu, "cannot tell the MTU of the new path");
        }
    }

    pub(super) fn dial_unless_paired(&mut self, peer: std::net::SocketAddr) {
        if !self.agent.pairs.of(peer.ip(), peer.port()).is_empty()
            || !self.agent.pairs.may_dial(peer.ip(), peer.port())
        {
            return;
        }
        self.dial(peer);
    }

    pub(super) fn dial(&self, peer: std::net::SocketAddr) {
        tokio::spawn(pairs::dial(
            peer,
            self.config.agent_mark,
            self.credentials.borrow().clone(),
            self.facts.subscribe(),
            self.pair_events.0.clone(),
        ));
    }
}
