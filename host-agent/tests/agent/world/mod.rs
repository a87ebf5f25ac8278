//! Two hosts with agents over the data path in memory, and a wire between them. Time is a number: nothing waits.
//!
//! The wire carries what the agents send and what the sockets send, in order, unless the test's interference says
//! otherwise. Nothing may leave a host from an address that it does not have: such a leak fails the test at once.

mod exchange;
mod host;
mod napt;
mod proxy;
mod tcp;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use datapath::fake::FakeDatapath;
use datapath::{Connection, Datapath, TcpState};
use host_agent::agent::Agent;
use migration::{State, Timestamp};
use wire::keys::Role;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

pub use host::Host;
pub use napt::Napt;
pub use proxy::Proxy;

/// The agents' TCP port, the same everywhere.
pub const AGENT_PORT: u16 = 7801;
/// A mobility server that both may use, if they are told to use any.
pub const SERVER: &str = "https://hub.example:7800";
/// How often an agent looks at new connections and suspects.
const TICK: Duration = Duration::from_millis(100);

/// What the wire does with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Arrives,
    Lost,
    Twice,
    After(Duration),
}

/// One of the two hosts: the one that opens connections, the one that accepts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    A,
    B,
}

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::A => Side::B,
            Side::B => Side::A,
        }
    }
}

type Interference = Box<dyn FnMut(&Segment) -> Fate>;

pub struct World {
    pub a: Host,
    pub b: Host,
    /// A symmetric proxy, if the test has one.
    pub proxy: Option<Proxy>,
    /// A NAPT before one of the addresses, if the test has one.
    pub napt: Option<Napt>,
    pub now: Timestamp,
    /// Whether the agents accept each other's certificates.
    pub trusting: bool,
    /// Every segment that was put on the wire, with what became of it.
    pub trace: Vec<(Segment, Fate)>,
    interference: Interference,
    /// By arrival; the number keeps the order of what arrives at the same time.
    under_way: BTreeMap<(Timestamp, u64), Segment>,
    sent: u64,
    next_tick: Timestamp,
    ports: u16,
    exchanges: u8,
}

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

impl World {
    /// Host A at 10.0.1.2 and host B at 203.0.113.3, both with agents that trust each other.
    pub fn new() -> World {
        World::at("10.0.1.2", "203.0.113.3")
    }

    pub fn at(a: &str, b: &str) -> World {
        let mut world = World {
            a: Host::new("a"),
            b: Host::new("b"),
            proxy: None,
            napt: None,
            now: Timestamp::from_millis(1),
            trusting: true,
            trace: Vec::new(),
            interference: Box::new(|_| Fate::Arrives),
            under_way: BTreeMap::new(),
            sent: 0,
            next_tick: Timestamp::from_millis(1),
            ports: 40_000,
            exchanges: 0,
        };
        world.gain(Side::A, a);
        world.gain(Side::B, b);
        world
    }

    pub fn host(&mut self, side: Side) -> &mut Host {
        match side {
            Side::A => &mut self.a,
            Side::B => &mut self.b,
        }
    }

    /// What happens to every segment from now on.
    pub fn interfere(&mut self, interference: impl FnMut(&Segment) -> Fate + 'static) {
        self.interference = Box::new(interference);
    }

    pub fn leave_alone(&mut self) {
        self.interfere(|_| Fate::Arrives);
    }

    /// A host gets an address, on a device of its own.
    pub fn gain(&mut self, side: Side, text: &str) {
        let now = self.now;
        self.host(side).gain(address(text), now);
        self.settle();
    }

    /// A host loses an address.
    pub fn lose(&mut self, side: Side, text: &str) {
        let now = self.now;
        self.host(side).lose(address(text), now);
        self.settle();
    }

    /// A host loses an address and gains another, and netlink loses the messages that say so.
    pub fn overrun(&mut self, side: Side, lost: &str, gained: &str) {
        let now = self.now;
        self.host(side).overrun(address(lost), address(gained), now);
        self.settle();
    }

    /// A opens a connection to B; both offer migration. The tuple is A's.
    pub fn connect(&mut self) -> Tuple {
        let identity = self.connect_unanswered(true);
        self.run(millis(200));
        identity
    }

    /// A opens a connection to B. `offered`: both ends offer migration.
    pub fn connect_unanswered(&mut self, offered: bool) -> Tuple {
        self.ports += 1;
        let local = Endpoint::new(self.a.source(), self.ports);
        let identity = Tuple::new(local, Endpoint::new(self.b.source(), 443));
        let (isn_a, isn_b) = (
            0x1000_0000 + u32::from(self.ports),
            0xfff0_0000 + u32::from(self.ports),
        );
        let connection = |role, isn_local, isn_remote| Connection {
            role,
            isn_local,
            isn_remote,
            opened_ns: 0,
            peer_direct_port: 0,
            peer_agent_port: AGENT_PORT,
            peer_unmapped: true,
        };
        let (a, b) = (fresh_socket(isn_a, isn_b), fresh_socket(isn_b, isn_a));
        if offered {
            self.a
                .agent
                .datapath
                .establish(identity, connection(Role::Initiator, isn_a, isn_b), a);
            let mirrored = connection(Role::Acceptor, isn_b, isn_a);
            self.b.agent.datapath.establish(identity.reversed(), mirrored, b);
        } else {
            self.a.agent.datapath.establish_plain(identity, a);
            self.b.agent.datapath.establish_plain(identity.reversed(), b);
        }
        self.settle();
        identity
    }

    /// An application writes; the bytes go as one segment.
    pub fn write(&mut self, side: Side, identity: Tuple, bytes: &[u8]) {
        self.host(side).write(identity, bytes);
        self.settle();
    }

    /// The socket's retransmission timer runs out: the head of the line goes again.
    pub fn time_out(&mut self, side: Side, identity: Tuple) {
        self.host(side).time_out(identity);
        self.settle();
    }

    /// Puts a segment on the wire, whoever made it.
    pub fn inject(&mut self, segment: Segment) {
        self.put(segment);
        self.settle();
    }

    /// Lets time pass; timers ring and ticks come when they are due.
    pub fn run(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let alarms = [self.a.next_alarm(), self.b.next_alarm()];
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let dials = self
                .a
                .dial_at
                .iter()
                .chain(&self.b.dial_at)
                .map(|(at, _)| *at)
                .min();
            let next = alarms.into_iter().chain([arrival, dials]).flatten().min();
            let next = next.map_or(self.next_tick, |next| next.min(self.next_tick));
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if self.next_tick <= self.now {
                self.next_tick = self.now + TICK;
                self.both(|host, now| host.tick(now));
            }
            self.both(|host, now| host.timers(now));
            self.settle();
        }
        self.now = end;
    }

    /// Runs until the condition holds.
    ///
    /// # Panics
    /// When it does not hold after `limit`, with what it was about.
    pub fn until(&mut self, what: &str, limit: Duration, mut holds: impl FnMut(&mut World) -> bool) {
        let end = self.now + limit;
        while !holds(self) {
            assert!(self.now < end, "after {limit:?}: {what}\n{}", self.story());
            self.run(millis(10));
        }
    }

    fn both(&mut self, mut act: impl FnMut(&mut Host, Timestamp)) {
        for side in [Side::A, Side::B] {
            let now = self.now;
            self.host(side).agent.datapath.now = now.0;
            act(self.host(side), now);
        }
    }

    /// Everything that happens without time passing.
    pub fn settle(&mut self) {
        loop {
            self.both(|host, now| host.settle(now));
            let mut busy = self.dial_due();
            for side in [Side::A, Side::B] {
                for segment in self.host(side).take_sent() {
                    busy = true;
                    self.put(segment);
                }
            }
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= self.now
            {
                busy = true;
                let segment = entry.remove();
                self.arrive(&segment);
            }
            if !busy {
                return;
            }
        }
    }

    fn put(&mut self, segment: Segment) {
        let fate = (self.interference)(&segment);
        self.trace.push((segment.clone(), fate));
        let mut arrivals = match fate {
            Fate::Arrives => vec![self.now],
            Fate::Lost => vec![],
            Fate::Twice => vec![self.now, self.now],
            Fate::After(delay) => vec![self.now + delay],
        };
        for at in arrivals.drain(..) {
            self.sent += 1;
            self.under_way.insert((at, self.sent), segment.clone());
        }
    }

    /// To whoever has the address now; nobody: it is lost.
    fn arrive(&mut self, segment: &Segment) {
        let passed = match &mut self.napt {
            Some(napt) => napt.pass(segment),
            None => Some(segment.clone()),
        };
        let Some(segment) = &passed else { return };
        let to = segment.destination.address;
        if let Some(proxy) = self.proxy.as_mut().filter(|proxy| proxy.at.address == to) {
            let passed = proxy.arrive(segment);
            return passed.into_iter().for_each(|segment| self.put(segment));
        }
        let side = [Side::A, Side::B]
            .into_iter()
            .find(|side| self.host(*side).device(to).is_some());
        if let Some(side) = side {
            self.host(side).arrive(segment);
        }
    }

    /// The state of a connection at one end; the tuple is A's.
    pub fn state(&mut self, side: Side, identity: Tuple) -> Option<State> {
        let identity = seen_by(side, identity);
        self.host(side)
            .agent
            .sessions
            .get(&identity)
            .map(|managed| managed.machine.state())
    }

    /// What is on the wire for a connection, as one end's data path has it; the tuple is A's.
    pub fn wire(&mut self, side: Side, identity: Tuple) -> Tuple {
        let identity = seen_by(side, identity);
        self.host(side)
            .agent
            .datapath
            .wire(&identity)
            .map_or(identity, |state| state.wire)
    }

    /// Both ends are on one tuple, from and to these addresses, and at peace.
    ///
    /// # Panics
    /// When they are not.
    pub fn assert_resumed(&mut self, identity: Tuple, a: &str, b: &str) {
        let (at_a, at_b) = (self.wire(Side::A, identity), self.wire(Side::B, identity));
        assert_eq!(at_a, at_b.reversed(), "the ends disagree\n{}", self.story());
        assert_eq!(
            (at_a.local.address, at_a.remote.address),
            (address(a), address(b)),
            "{}",
            self.story()
        );
        for side in [Side::A, Side::B] {
            let machine = self.host(side).agent.sessions[&seen_by(side, identity)]
                .machine
                .clone();
            assert_eq!(machine.state(), State::Established, "{side:?}\n{}", self.story());
            assert!(machine.is_confirmed(), "{side:?} is not confirmed");
        }
    }

    /// Bytes written at both ends arrive at the other.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_data_flows(&mut self, identity: Tuple) {
        for side in [Side::A, Side::B] {
            let before = self.host(side.other()).received(identity).len();
            self.write(side, identity, b"still here");
            self.run(millis(50));
            let received = self.host(side.other()).received(identity)[before..].to_vec();
            assert_eq!(received, b"still here", "from {side:?}\n{}", self.story());
        }
    }

    /// How many segments with this Migrate-Request were put on the wire.
    pub fn count(&self, r#type: RequestType) -> usize {
        let is = |segment: &Segment| segment.migrate.is_some_and(|request| request.r#type == r#type);
        self.trace.iter().filter(|(segment, _)| is(segment)).count()
    }

    /// What both agents noted and what was on the wire, for a test that fails.
    pub fn story(&self) -> String {
        let mut lines = Vec::new();
        for host in [&self.a, &self.b] {
            for entry in host.agent.timeline.recent() {
                lines.push(format!(
                    "{}: {} {} {}",
                    host.name, entry.connection, entry.what, entry.detail
                ));
            }
        }
        lines.extend(
            self.trace
                .iter()
                .map(|(segment, fate)| format!("{fate:?}: {segment}")),
        );
        lines.join("\n")
    }
}

/// A's tuple as this side's socket knows it.
pub fn seen_by(side: Side, identity: Tuple) -> Tuple {
    match side {
        Side::A => identity,
        Side::B => identity.reversed(),
    }
}

fn fresh_socket(isn_local: u32, isn_remote: u32) -> TcpState {
    TcpState {
        tcp_state: 1,
        snd_una: isn_local.wrapping_add(1),
        snd_nxt: isn_local.wrapping_add(1),
        rcv_nxt: isn_remote.wrapping_add(1),
        receive_window: 65_536,
        send_window: 65_536,
        mss: 1448,
        receive_scale: Some(7),
        timestamps: None,
        ..TcpState::default()
    }
}

/// The agent that the tests drive.
pub type TestAgent = Agent<FakeDatapath>;
