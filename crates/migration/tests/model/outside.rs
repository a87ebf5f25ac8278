//! Two ends, two servers, and an outside that does a bounded amount of harm.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::time::Duration;

use migration::server::{
    AgentName, ConnectionPorts, DestinationAction, Mapping, PairId, PairKey, PairRecord, Relayed, Report,
    Rules, ServerAction, ServerEvent, step,
};
use migration::{Endpoint, Role};
use stateright::{Model, Property};

use super::world::host::Notice;
use super::world::network::{Kind, Place, Segment};
use super::world::quiescence::Rest;
use super::world::{Where, World};

/// What happened before the story begins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Moves {
    /// Both ends have left their addresses for others in the open.
    BothOutside,
    /// Both have moved; the first is behind a NAPT now.
    FirstIntoNapt,
    /// The first has always been behind a NAPT and stays; the second has moved.
    SecondWhileFirstWaits,
}

/// How much harm is done.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Segments and messages lost.
    pub losses: u8,
    /// Servers that die; fewer than there are.
    pub deaths: u8,
    /// Alarms that ring while nothing is delivered.
    pub timers: u8,
}

pub struct Roaming {
    pub moves: Moves,
    pub bounds: Bounds,
}

/// One of two servers, and its streams.
#[derive(Clone, Debug)]
struct Server {
    alive: bool,
    record: PairRecord,
    up: [VecDeque<ServerEvent>; 2],
    down: [VecDeque<ServerAction>; 2],
}

#[derive(Clone)]
pub struct State {
    world: World,
    servers: [Server; 2],
    spent: [u8; 3],
}

/// What the outside lets happen next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    Deliver(usize),
    Lose(usize),
    ToServer(usize, usize),
    LoseReport(usize, usize),
    ToAgent(usize, usize),
    Die(usize),
    Ring,
}

const NAMES: [&str; 2] = ["first", "second"];

impl State {
    fn new(moves: Moves) -> Self {
        let mut world = World::new(moves == Moves::SecondWhileFirstWaits);
        world.server = false;
        let goes: [Option<Where>; 2] = match moves {
            Moves::BothOutside => [Some(Where::Public), Some(Where::Public)],
            Moves::FirstIntoNapt => [Some(Where::Napt(true)), Some(Where::Public)],
            Moves::SecondWhileFirstWaits => [None, Some(Where::Public)],
        };
        for (h, to) in goes.into_iter().enumerate() {
            if let Some(to) = to {
                world.detach(h);
                world.attach(h, to);
            }
        }
        world.drain_all();
        let names = NAMES.map(AgentName::from);
        let key = PairKey::new(PairId([1; 16]), &names[0], &names[1]).expect("two names");
        let server = Server {
            alive: true,
            record: PairRecord::new(key),
            up: Default::default(),
            down: Default::default(),
        };
        let mut state = Self {
            world,
            servers: [server.clone(), server],
            spent: [0; 3],
        };
        state.report_everywhere();
        state.let_ordinary_segments_arrive();
        state
    }

    /// Every end tells every server where it is, over a fresh stream.
    fn report_everywhere(&mut self) {
        for h in 0..2 {
            let event = self.report(h);
            for server in &mut self.servers {
                server.up[h].push_back(event.clone());
            }
        }
    }

    fn report(&self, h: usize) -> ServerEvent {
        let host = &self.world.hosts[h];
        let place = *host.places.last().expect("it is somewhere");
        let observed = match place {
            Place::Public(address) => address,
            Place::Behind { napt, .. } => self.world.net.napts[napt].outside,
        };
        let start = World::new(false);
        let ports = ConnectionPorts {
            source_before: start.hosts[h].machine.wire().local.port,
            destination_before: start.hosts[h].machine.wire().remote.port,
            label: 1,
            ..ConnectionPorts::default()
        };
        let report = Report {
            pair: PairId([1; 16]),
            peer: AgentName::from(NAMES[1 - h]),
            move_counter: 1,
            source_before: start.hosts[h].machine.wire().local.address,
            destination_before: start.hosts[h].machine.wire().remote.address,
            source_after: place.address(),
            connections: vec![ports],
            confirmed_source: None,
            sealed: Vec::new(),
            waiting: false,
            keep: None,
            mapping: Mapping::default(),
            relayed: Relayed::No,
        };
        ServerEvent::ReportHeard {
            agent: AgentName::from(NAMES[h]),
            report,
            local: Endpoint::new(place.address(), 50_000),
            observed: Endpoint::new(observed, 50_000),
        }
    }

    fn server_hears(&mut self, s: usize, h: usize) {
        let server = &mut self.servers[s];
        let Some(event) = server.up[h].pop_front() else {
            return;
        };
        let (record, actions) = step(server.record.clone(), event, &Rules::default(), self.world.now);
        server.record = record;
        for action in actions {
            if let ServerAction::Tell { agent, destination } = &action
                && destination.action == DestinationAction::SendMsyn
            {
                let side = server.record.side_of(agent).expect("an end");
                server.down[side.index()].push_back(action);
            }
        }
    }

    /// An end obeys every server that tells it to send: two that name different later reporters could otherwise leave both
    /// ends awaiting.
    fn agent_hears(&mut self, s: usize, h: usize) {
        let Some(ServerAction::Tell { destination, .. }) = self.servers[s].down[h].pop_front() else {
            return;
        };
        let Some(&place) = self.world.hosts[h].places.last() else {
            return;
        };
        let port = destination.connections[0].destination;
        let peer = Endpoint::new(destination.peer_address, port);
        self.world.hosts[h]
            .notices
            .push_back(Notice::Command { place, peer });
        self.world.drain_all();
    }

    /// Segments to where nobody is are lost at once, and ordinary ones arrive at once: what is explored is the order of
    /// reports, destinations and handshake segments.
    fn let_ordinary_segments_arrive(&mut self) {
        loop {
            let ordinary = |kind| matches!(kind, Kind::Data { .. } | Kind::Ack { .. } | Kind::Fin { .. });
            let flying = &self.world.net.in_flight;
            let Some(at) = flying
                .iter()
                .position(|&(_, segment)| ordinary(segment.kind) || !self.arrives(segment))
            else {
                return;
            };
            let (_, segment) = self.world.net.in_flight.remove(at).expect("it is there");
            self.world.deliver(segment);
            self.world.drain_all();
        }
    }

    fn arrives(&self, segment: Segment) -> bool {
        let mut places = self.world.hosts.iter().flat_map(|host| &host.places);
        places.any(|&place| self.world.net.route(place, segment.src, segment.dst).is_some())
    }

    fn die(&mut self, s: usize) {
        let server = &mut self.servers[s];
        server.alive = false;
        server.up = Default::default();
        server.down = Default::default();
    }

    /// The harm is over: streams are made anew, what was said is said again, the network is good.
    fn heals(&self) -> bool {
        let mut after = self.clone();
        for server in &mut after.servers {
            server.up = Default::default();
            server.down = Default::default();
        }
        after.report_everywhere();
        for s in 0..2 {
            for h in 0..2 {
                if after.servers[s].alive {
                    after.server_hears(s, h);
                }
            }
            for h in 0..2 {
                while !after.servers[s].down[h].is_empty() {
                    after.agent_hears(s, h);
                }
            }
        }
        let rest = after.world.run_good(Duration::from_secs(120));
        after.world.check();
        rest == Rest::Together && after.world.hosts.iter().all(|host| host.machine.is_confirmed())
    }
}

impl Model for Roaming {
    type State = State;
    type Action = Deed;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self.moves)]
    }

    fn actions(&self, state: &State, deeds: &mut Vec<Deed>) {
        let [losses, deaths, timers] = state.spent;
        let flying = state.world.net.in_flight.len();
        deeds.extend((0..flying).map(Deed::Deliver));
        if losses < self.bounds.losses {
            deeds.extend((0..flying).map(Deed::Lose));
        }
        for (s, server) in state.servers.iter().enumerate() {
            for h in 0..2 {
                if !server.up[h].is_empty() {
                    deeds.push(Deed::ToServer(s, h));
                    if losses < self.bounds.losses {
                        deeds.push(Deed::LoseReport(s, h));
                    }
                }
                if !server.down[h].is_empty() {
                    deeds.push(Deed::ToAgent(s, h));
                }
            }
            let both = state.servers.iter().all(|server| server.alive);
            if both && deaths < self.bounds.deaths {
                deeds.push(Deed::Die(s));
            }
        }
        if timers < self.bounds.timers {
            deeds.push(Deed::Ring);
        }
    }

    fn next_state(&self, state: &State, deed: Deed) -> Option<State> {
        let mut next = state.clone();
        match deed {
            Deed::Deliver(at) => {
                let (_, segment) = next.world.net.in_flight.remove(at)?;
                next.world.deliver(segment);
                next.world.drain_all();
            }
            Deed::Lose(at) => {
                next.world.net.in_flight.remove(at)?;
                next.spent[0] += 1;
            }
            Deed::ToServer(s, h) => next.server_hears(s, h),
            Deed::LoseReport(s, h) => {
                next.servers[s].up[h].pop_front();
                next.spent[0] += 1;
            }
            Deed::ToAgent(s, h) => next.agent_hears(s, h),
            Deed::Die(s) => {
                next.die(s);
                next.spent[1] += 1;
            }
            Deed::Ring => {
                let alarms = next.world.hosts.iter().filter_map(|host| host.alarm);
                let at = alarms.min()?;
                next.world.advance(at.since(next.world.now));
                next.world.drain_all();
                next.spent[2] += 1;
            }
        }
        next.let_ordinary_segments_arrive();
        next.world.check();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "when the harm stops, both come to one wire tuple",
                |_, state: &State| state.heals(),
            ),
            Property::sometimes(
                "what makes the case interesting happens",
                |model: &Roaming, state: &State| {
                    let [first, second] = [0, 1].map(|h| &state.world.hosts[h].machine);
                    match model.moves {
                        // Two servers name different later reporters, and the MSYNs of both ends cross.
                        Moves::BothOutside => !first.answered().is_empty() && !second.answered().is_empty(),
                        // The one behind the NAPT is told, and its number is committed at the other end.
                        Moves::FirstIntoNapt | Moves::SecondWhileFirstWaits => {
                            second.committed().role() == Some(Role::Initiator)
                        }
                    }
                },
            ),
        ]
    }
}

impl State {
    /// Everything that tells two states apart. What was seen on the wire is for replays only, and how late it was when
    /// nothing rang does not matter.
    fn facts(&self) -> String {
        let Self {
            world,
            servers,
            spent,
        } = self;
        let mut flying: Vec<String> = world
            .net
            .in_flight
            .iter()
            .map(|(_, segment)| format!("{segment:?}"))
            .collect();
        flying.sort();
        format!(
            "{:?} {:?} {:?} {flying:?} {servers:?} {spent:?}",
            world.hosts, world.net.napts, world.now
        )
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.facts().hash(state);
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.facts() == other.facts()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.world.picture())
    }
}
