//! One host: its devices and addresses, its agent, and the effects that the agent's loop would carry out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use datapath::fake::{FakeDatapath, Verdict};
use datapath::{Datapath, Path};
use host_agent::agent::{Agent, Effect, Reporting, WayOut};
use host_agent::network::NetworkEvent;
use host_agent::pairs::{PairEvent, Pairs};
use host_agent::ports::WirePorts;
use host_agent::server::ServerEvent;
use host_agent::server::counter::MoveCounter;
use host_agent::server::wanted::Wanted;
use identity::{AgentId, Fingerprint, Pair, PairStore};
use migration::{Policy, Timestamp};
use proto::mobility::v1::server_message::Body;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use tempfile::TempDir;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use super::tcp::Stack;
use super::{AGENT_PORT, SERVER, TestAgent};

/// Index of the parking device.
const PARKING: u32 = 99;
/// How long the side that accepted a connection waits for the other to dial.
const DIAL_LATER: Duration = Duration::from_secs(3);

pub struct Host {
    pub name: &'static str,
    pub agent: TestAgent,
    /// Addresses on the parking device.
    pub parked: BTreeSet<IpAddr>,
    /// Exchanges to run, and when.
    pub dial_at: Vec<(Timestamp, SocketAddr)>,
    pub stack: Stack,
    /// Whether somebody drives the data path.
    alive: bool,
    /// Addresses the host has, with their devices.
    devices: BTreeMap<IpAddr, u32>,
    last_device: u32,
    outgoing: Vec<Segment>,
    wanted: Wanted,
    state: TempDir,
}

fn new_agent(datapath: FakeDatapath, state: &TempDir, ports: (u16, u16)) -> TestAgent {
    let (store, quarantined) = PairStore::open(&state.path().join("state")).expect("a pair store");
    assert!(quarantined.is_none());
    Agent::new(
        datapath,
        Policy::default(),
        PARKING,
        Pairs::new(store),
        WirePorts::new(ports),
    )
}

impl Host {
    pub fn new(name: &'static str) -> Host {
        let state = tempfile::tempdir().expect("a directory");
        Host {
            name,
            agent: new_agent(FakeDatapath::new(), &state, (61_000, 62_999)),
            parked: BTreeSet::new(),
            dial_at: Vec::new(),
            stack: Stack::default(),
            alive: true,
            devices: BTreeMap::new(),
            last_device: 1,
            outgoing: Vec::new(),
            wanted: Wanted::default(),
            state,
        }
    }

    /// The agent dies and another takes its place: the data path stays as it is.
    pub fn restart_agent(&mut self, now: Timestamp) {
        self.crash_agent();
        self.start_agent(now);
    }

    /// The agent dies; nobody drives the data path any more.
    pub fn crash_agent(&mut self) {
        let datapath = std::mem::take(&mut self.agent.datapath);
        self.agent = new_agent(datapath, &self.state, (61_000, 62_999));
        self.dial_at.clear();
        self.alive = false;
    }

    /// A new agent starts, as the loop's own start does: what is there, then what was left, then what was lost.
    pub fn start_agent(&mut self, now: Timestamp) {
        self.alive = true;
        for (address, ifindex) in self.devices.clone() {
            self.tell_link(ifindex, now);
            self.tell(
                RouteNetlinkMessage::NewAddress(address_message(address, ifindex)),
                now,
            );
        }
        let retired: Vec<IpAddr> = self.parked.iter().copied().collect();
        self.agent.adopt(retired, now);
        let lost: BTreeSet<IpAddr> = self
            .agent
            .sessions
            .values()
            .flat_map(|managed| {
                [
                    managed.machine.wire().local.address,
                    managed.identity.local.address,
                ]
            })
            .filter(|address| self.agent.network.device_of(*address).is_none())
            .collect();
        for address in lost {
            self.agent
                .network_changed(NetworkEvent::AddressLost { address }, now);
        }
    }

    pub fn with_ports(&mut self, ports: (u16, u16)) {
        self.agent.ports = WirePorts::new(ports);
    }

    pub fn gain(&mut self, address: IpAddr, now: Timestamp) {
        self.last_device += 1;
        let ifindex = self.last_device;
        self.devices.insert(address, ifindex);
        self.tell_link(ifindex, now);
        self.tell(
            RouteNetlinkMessage::NewAddress(address_message(address, ifindex)),
            now,
        );
    }

    pub fn lose(&mut self, address: IpAddr, now: Timestamp) {
        let ifindex = self.devices.remove(&address).expect("the host has the address");
        self.tell(
            RouteNetlinkMessage::DelAddress(address_message(address, ifindex)),
            now,
        );
    }

    /// The same changes as [`Host::lose`] and [`Host::gain`], of which netlink lost every message but that it did.
    pub fn overrun(&mut self, lost: IpAddr, gained: IpAddr, now: Timestamp) {
        self.devices.remove(&lost).expect("the host has the address");
        self.last_device += 1;
        self.devices.insert(gained, self.last_device);
        let mut inventory: Vec<RouteNetlinkMessage> = Vec::new();
        for (address, ifindex) in &self.devices {
            inventory.push(RouteNetlinkMessage::NewLink(link_message(*ifindex)));
            inventory.push(RouteNetlinkMessage::NewAddress(address_message(
                *address, *ifindex,
            )));
        }
        for event in self.agent.network.take_stock(&inventory) {
            self.agent.network_changed(event, now);
        }
    }

    fn tell_link(&mut self, ifindex: u32, now: Timestamp) {
        self.tell(RouteNetlinkMessage::NewLink(link_message(ifindex)), now);
    }

    fn tell(&mut self, message: RouteNetlinkMessage, now: Timestamp) {
        if !self.alive {
            return;
        }
        for event in self.agent.network.apply(&message) {
            self.agent.network_changed(event, now);
        }
    }

    /// The device of an address that the host has.
    pub fn device(&self, address: IpAddr) -> Option<u32> {
        self.devices.get(&address).copied()
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.devices.keys().copied().collect()
    }

    /// The address from which new connections leave.
    pub fn source(&self) -> IpAddr {
        *self.devices.keys().next().expect("the host has an address")
    }

    pub fn id(&self) -> AgentId {
        let number = self.name.as_bytes()[0];
        AgentId::from_key("test", &Fingerprint([number; 32])).expect("a trust domain")
    }

    pub fn tick(&mut self, now: Timestamp) {
        if self.alive {
            self.agent.datapath.beat();
            self.agent.tick(now);
        }
    }

    pub fn timers(&mut self, now: Timestamp) {
        if self.alive {
            self.agent.timers(now);
        }
    }

    /// When a timer rings next.
    pub fn next_alarm(&self) -> Option<Timestamp> {
        self.agent.next_alarm().filter(|_| self.alive)
    }

    pub fn agreed(&mut self, pair: Pair) {
        self.agent.pair_event(PairEvent::Agreed(Box::new(pair)));
    }

    pub fn pair_failed(&mut self, peer: SocketAddr, reason: &'static str) {
        let detail = "refused".to_string();
        self.agent.pair_event(PairEvent::Failed {
            peer,
            dialled: true,
            reason,
            detail,
        });
    }

    /// The exchanges that are due.
    pub fn dials(&mut self, now: Timestamp) -> Vec<SocketAddr> {
        let (due, later): (Vec<_>, Vec<_>) = self.dial_at.drain(..).partition(|(at, _)| *at <= now);
        self.dial_at = later;
        let due = due.into_iter().map(|(_, peer)| peer);
        due.filter(|peer| {
            self.agent.pairs.of(peer.ip(), peer.port()).is_empty()
                && self.agent.pairs.may_dial(peer.ip(), peer.port())
        })
        .collect()
    }

    /// What the data path saw and what the agent wants, until neither has anything to say.
    pub fn settle(&mut self, now: Timestamp) {
        while self.alive {
            let events = self.agent.datapath.events();
            let effects = std::mem::take(&mut self.agent.effects);
            let delivered = self.agent.datapath.take_delivered();
            if events.is_empty() && effects.is_empty() && delivered.is_empty() {
                return;
            }
            events
                .into_iter()
                .for_each(|event| self.agent.datapath_event(event, now));
            self.agent.settled();
            effects.into_iter().for_each(|effect| self.carry_out(effect, now));
            for segment in delivered.iter().filter_map(|packet| Segment::parse(packet).ok()) {
                self.hand_to_stack(&segment);
            }
            self.agent.settled();
        }
    }

    fn carry_out(&mut self, effect: Effect, now: Timestamp) {
        match effect {
            Effect::Retire(address) => {
                assert!(self.parked.insert(address), "{address} was retired twice");
            }
            Effect::Release(address) => {
                assert!(
                    self.parked.remove(&address),
                    "{address} was released and not retired"
                );
            }
            Effect::FindWaysOut => {
                let needy = self.agent.in_need();
                needy
                    .into_iter()
                    .for_each(|identity| self.find_way_out(identity, now));
            }
            Effect::FindWayOut(identity) => self.find_way_out(identity, now),
            Effect::FindOtherWay { identity, anew } => self.find_other_way(identity, anew, now),
            Effect::Dial(peer) => self.dial_at.push((now, peer)),
            Effect::DialLater(peer) => self.dial_at.push((now + DIAL_LATER, peer)),
            Effect::FindWaysOutOf(connections) => {
                connections
                    .into_iter()
                    .for_each(|identity| self.find_way_out(identity, now));
            }
            Effect::FindWayTo(identity, to) => self.find_way_to(identity, to, now),
            Effect::Attach { .. } | Effect::UpdateFacts | Effect::DialAgain(_) | Effect::Tunnel { .. } => {}
            Effect::SearchNat64 => {}
            Effect::ReviewRoutes { .. } | Effect::LeavePath(_) => {}
        }
    }

    /// The host may use [`SERVER`].
    pub fn use_servers(&mut self) {
        let counter = MoveCounter::open(self.state.path());
        self.agent.reporting = Reporting::new(self.id(), &[SERVER.into()], AGENT_PORT, counter);
    }

    /// What the host wants of servers now.
    pub fn wanted(&mut self, now: Timestamp) -> Wanted {
        self.agent.review_reports(now);
        if let Some(wanted) = self.agent.reporting.take_changed() {
            self.wanted = wanted;
        }
        self.wanted.clone()
    }

    /// A server says something.
    pub fn told(&mut self, body: Body, now: Timestamp) {
        let server = SERVER.into();
        self.agent.server_event(ServerEvent::Said { server, body }, now);
        self.settle(now);
    }

    fn find_way_to(&mut self, identity: Tuple, to: Endpoint, now: Timestamp) {
        let way = self
            .devices
            .iter()
            .find(|(address, _)| address.is_ipv4() == to.address.is_ipv4());
        let Some((&source, &ifindex)) = way else { return };
        let way = way_out(source, ifindex, to.address);
        self.agent.try_way_out(identity, way, Some(to), now);
    }

    /// One attempt by the first address of the right family.
    pub fn find_way_out(&mut self, identity: Tuple, now: Timestamp) {
        let Some(managed) = self.agent.sessions.get(&identity) else {
            return;
        };
        let peer = managed.machine.wire().remote.address;
        let way = self
            .devices
            .iter()
            .find(|(address, _)| address.is_ipv4() == peer.is_ipv4());
        let Some((&source, &ifindex)) = way else {
            return self.find_other_way(identity, false, now);
        };
        self.agent
            .try_way_out(identity, way_out(source, ifindex, peer), None, now);
    }

    /// One attempt in the other family, by its first address, at the peer's likeliest place.
    fn find_other_way(&mut self, identity: Tuple, anew: bool, now: Timestamp) {
        let Some(place) = self.agent.other_places(identity).first().copied() else {
            return;
        };
        let peer = place.endpoint.address;
        let mut devices = self.devices.iter();
        let way = devices.find(|(address, _)| address.is_ipv4() == peer.is_ipv4());
        let Some((&source, &ifindex)) = way else { return };
        if anew || !self.agent.attempts_in(identity, peer.is_ipv4()) {
            let way = way_out(source, ifindex, peer);
            self.agent.try_to(identity, way, vec![place.endpoint], false, now);
        }
    }

    /// As the user's command: from one address, to the peer's last endpoint or another.
    pub fn migrate(&mut self, identity: Tuple, from: IpAddr, to: Option<Endpoint>, now: Timestamp) {
        let peer = self.agent.sessions[&identity].machine.wire().remote.address;
        let ifindex = self.devices[&from];
        self.agent
            .try_way_out(identity, way_out(from, ifindex, peer), to, now);
    }

    /// What the agent and the sockets have sent; nothing leaves from an address that the host does not have.
    pub fn take_sent(&mut self) -> Vec<Segment> {
        let sent = self.agent.datapath.take_sent();
        let by_agent = sent
            .iter()
            .map(|sent| Segment::parse(&sent.packet).expect("the agent sends good segments"));
        let all: Vec<Segment> = by_agent.chain(self.outgoing.drain(..)).collect();
        all.into_iter()
            .filter(|segment| {
                let own = self.devices.contains_key(&segment.source.address);
                assert!(own || segment.migrate.is_none(), "{} leaks {segment}", self.name);
                own
            })
            .collect()
    }

    pub fn arrive(&mut self, segment: &Segment) {
        let Some(ifindex) = self.device(segment.destination.address) else {
            return;
        };
        match self.agent.datapath.arrive(segment, ifindex) {
            Verdict::Passed => self.hand_to_stack(segment),
            Verdict::HandedIn(translated) => self.hand_to_stack(&translated),
            Verdict::Stolen | Verdict::Held | Verdict::Dropped => {}
        }
    }

    pub(super) fn send_from_socket(&mut self, segment: Segment) {
        use datapath::fake::Departure;
        match self.agent.datapath.leave(&segment) {
            Departure::Plain(segment) => {
                // The agent must have stopped it: the address may be another's by now.
                let own = self.devices.contains_key(&segment.source.address);
                assert!(own, "{} leaks {segment}", self.name);
                self.outgoing.push(segment);
            }
            Departure::Directed(segment, path) => {
                let device = self.device(segment.source.address);
                assert_eq!(
                    device,
                    Some(path.ifindex),
                    "{} sends {segment} by the wrong device",
                    self.name
                );
                self.outgoing.push(segment);
            }
            Departure::Parked => {}
        }
    }
}

fn way_out(source: IpAddr, ifindex: u32, peer: IpAddr) -> WayOut {
    WayOut {
        source,
        path: Path {
            ifindex,
            next_hop: Some(peer),
        },
    }
}

fn link_message(ifindex: u32) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
    link.header.link_layer_type = LinkLayerType::Ether;
    link.attributes
        .push(LinkAttribute::IfName(format!("eth{ifindex}")));
    link.attributes.push(LinkAttribute::Mtu(1500));
    link
}

fn address_message(address: IpAddr, ifindex: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = ifindex;
    message.attributes.push(AddressAttribute::Address(address));
    message
}
