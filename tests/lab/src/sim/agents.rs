//! What agents do beside their machines: they attend at a mobility server, report, obey, withdraw. The server's rules
//! are the real ones; the way to it takes a while and fails where the host has no way out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use migration::server::{
    AgentName, ConnectionPorts, Destination, DestinationAction, FailureCause, Mapping, MappingBehaviour,
    PairId, PairKey, PairRecord, Relayed, Report, Rules, ServerAction, ServerEvent, ServerRefusal,
    WithdrawReason, step,
};
use migration::{Endpoint, Timestamp};

use super::host::Notice;
use super::network::Place;
use super::roaming::World;

/// A report that is not answered is said again.
const REPEAT: Duration = Duration::from_secs(5);
/// A try that has not worked by then has failed.
const PATIENCE: Duration = Duration::from_secs(8);
/// How often an agent looks at its connections.
const LOOK: Duration = Duration::from_millis(200);

/// One end of a pair.
#[derive(Default)]
struct End {
    counter: u64,
    report: Option<Report>,
    said: Timestamp,
    told: Option<(Destination, Timestamp)>,
    failed: u64,
    /// Where the stream comes from.
    stream: Option<Place>,
}

struct Pair {
    nodes: [usize; 2],
    record: PairRecord,
    ends: [End; 2],
}

/// A message on its way.
enum Letter {
    ToServer(usize, ServerEvent),
    ToAgent(usize, usize, ServerAction),
}

/// All agents and the mobility server.
#[derive(Default)]
pub struct Agents {
    /// Without one, ends are on their own.
    pub has_server: bool,
    pairs: Vec<Pair>,
    letters: BTreeMap<(Timestamp, u64), Letter>,
    order: u64,
    look: Option<Timestamp>,
    /// Decisions that were told, for the curious.
    pub decisions: u64,
}

impl Agents {
    pub fn next_time(&self) -> Option<Timestamp> {
        let letters = self.letters.first_key_value().map(|(&(at, _), _)| at);
        let rules = Rules::default();
        let timeouts = self
            .pairs
            .iter()
            .filter_map(|pair| pair.record.next_timeout(&rules));
        letters.into_iter().chain(timeouts).chain(self.look).min()
    }

    /// Two hosts have a connection: their agents make a pair.
    pub fn introduce(world: &mut World, a: usize, b: usize) {
        let agents = &mut world.agents;
        let known = agents.pairs.iter().any(|pair| pair.nodes == [a.min(b), a.max(b)]);
        let names = [name(a.min(b)), name(a.max(b))];
        let id = PairId([agents.pairs.len() as u8; 16]);
        let Some(key) = PairKey::new(id, &names[0], &names[1]).filter(|_| agents.has_server && !known) else {
            return;
        };
        agents.pairs.push(Pair {
            nodes: [a.min(b), a.max(b)],
            record: PairRecord::new(key),
            ends: Default::default(),
        });
        let now = world.now();
        world.agents.look = world.agents.look.or(Some(now));
        Self::attend(world, a);
        Self::attend(world, b);
    }

    /// The host makes its stream to the server anew.
    pub fn attend(world: &mut World, node: usize) {
        for p in 0..world.agents.pairs.len() {
            for h in 0..2 {
                if world.agents.pairs[p].nodes[h] != node {
                    continue;
                }
                let place = world.place(node);
                let end = &mut world.agents.pairs[p].ends[h];
                end.stream = place;
                end.said = Timestamp::START;
                if let Some((local, observed)) = stream(world, place) {
                    let agent = name(node);
                    world.post_up(
                        p,
                        node,
                        ServerEvent::PeerPresent {
                            agent,
                            local,
                            observed,
                        },
                    );
                }
            }
        }
    }

    /// Everything due: letters arrive, the server's timers ring, agents look at their connections.
    pub fn act(world: &mut World) {
        let now = world.now();
        while let Some(entry) = world
            .agents
            .letters
            .first_entry()
            .filter(|entry| entry.key().0 <= now)
        {
            match entry.remove() {
                Letter::ToServer(p, event) => world.server(p, event),
                Letter::ToAgent(p, h, action) => world.agent(p, h, action),
            }
        }
        for p in 0..world.agents.pairs.len() {
            let due = world.agents.pairs[p].record.next_timeout(&Rules::default());
            if due.is_some_and(|due| due <= now) {
                world.server(p, ServerEvent::TimerFired);
            }
        }
        if world.agents.look.is_some_and(|look| look <= now) {
            world.agents.look = Some(now + LOOK);
            for p in 0..world.agents.pairs.len() {
                for h in 0..2 {
                    if world.is_awake(world.agents.pairs[p].nodes[h]) {
                        world.look(p, h);
                    }
                }
            }
        }
    }
}

fn name(node: usize) -> AgentName {
    AgentName(format!("agent-{node:03}"))
}

fn node_of(name: &AgentName) -> Option<usize> {
    name.0.strip_prefix("agent-")?.parse().ok()
}

/// The two ends of a stream to the server from there.
fn stream(world: &World, place: Option<Place>) -> Option<(Endpoint, Endpoint)> {
    let place = place?;
    let observed = world.net.observed(place)?;
    Some((
        Endpoint::new(place.address(), 50_000),
        Endpoint::new(observed, 50_000),
    ))
}

impl World {
    fn post_up(&mut self, p: usize, node: usize, event: ServerEvent) {
        if self.is_awake(node) && stream(self, self.place(node)).is_some() {
            self.post(Letter::ToServer(p, event));
        }
    }

    fn post(&mut self, letter: Letter) {
        let at = self.now() + self.net.random.millis(5, 60);
        self.agents.order += 1;
        self.agents.letters.insert((at, self.agents.order), letter);
    }

    fn server(&mut self, p: usize, event: ServerEvent) {
        let record = self.agents.pairs[p].record.clone();
        let number = record.decisions;
        let (record, actions) = step(record, event, &Rules::default(), self.now());
        self.agents.decisions += record.decisions - number;
        self.agents.pairs[p].record = record;
        for action in actions {
            match action {
                ServerAction::ProbeReachability { agent, address } => {
                    let reachable = node_of(&agent).is_some_and(|node| self.is_reachable(node, address));
                    self.post(Letter::ToServer(
                        p,
                        ServerEvent::Reachability {
                            agent,
                            address,
                            reachable,
                        },
                    ));
                }
                ServerAction::AskProxy { decision, .. } => {
                    self.post(Letter::ToServer(
                        p,
                        ServerEvent::ProxyAnswered {
                            decision,
                            grants: Vec::new(),
                        },
                    ));
                }
                ServerAction::Forget => {
                    let key = self.agents.pairs[p].record.key.clone();
                    self.agents.pairs[p].record = PairRecord::new(key);
                }
                ServerAction::Tell { ref agent, .. }
                | ServerAction::Cancel { ref agent, .. }
                | ServerAction::Refuse {
                    ref agent,
                    reason: ServerRefusal::Stale { .. },
                } => {
                    let to = node_of(agent);
                    if let Some(h) = self.agents.pairs[p]
                        .nodes
                        .iter()
                        .position(|&node| Some(node) == to)
                    {
                        self.post(Letter::ToAgent(p, h, action));
                    }
                }
                ServerAction::TellWaiting { .. } | ServerAction::NoWay | ServerAction::Refuse { .. } => {}
            }
        }
    }

    fn is_reachable(&self, node: usize, address: IpAddr) -> bool {
        let here = |place: Place| place.address() == address && self.net.observed(place) == Some(address);
        self.is_awake(node) && self.place(node).is_some_and(here)
    }

    /// The server says something to an agent, if the stream it says it on still is.
    fn agent(&mut self, p: usize, h: usize, action: ServerAction) {
        let node = self.agents.pairs[p].nodes[h];
        if !self.is_awake(node) || stream(self, self.place(node)).is_none() {
            return;
        }
        let now = self.now();
        let end = &mut self.agents.pairs[p].ends[h];
        match action {
            ServerAction::Tell { destination, .. } => {
                let counter = end.report.as_ref().map_or(0, |report| report.move_counter);
                let again = end
                    .told
                    .as_ref()
                    .is_some_and(|(told, _)| told.decision == destination.decision);
                if destination.move_counter != counter {
                    // Of a report that is withdrawn: nothing to do, and the server has to know.
                    if end.report.is_none() {
                        let (agent, move_counter, decision) =
                            (name(node), destination.move_counter, destination.decision);
                        let reason = WithdrawReason::Resumed;
                        self.post_up(
                            p,
                            node,
                            ServerEvent::WithdrawHeard {
                                agent,
                                move_counter,
                                reason,
                                decision,
                            },
                        );
                    }
                    return;
                }
                end.told = Some(((*destination).clone(), now));
                if !again {
                    self.obey(p, h, &destination);
                }
            }
            ServerAction::Cancel {
                decision, forgotten, ..
            } => {
                end.told.take_if(|(told, _)| told.decision <= decision);
                if forgotten {
                    end.report = None;
                }
            }
            // The word that it was forgotten has got lost: it is reported anew, above what the server has heard.
            ServerAction::Refuse {
                reason: ServerRefusal::Stale { got, newest },
                ..
            } if end
                .report
                .as_ref()
                .is_some_and(|report| report.move_counter == got) =>
            {
                end.report = None;
                end.counter = end.counter.max(newest);
            }
            _ => {}
        }
    }

    fn obey(&mut self, p: usize, h: usize, destination: &Destination) {
        let nodes = self.agents.pairs[p].nodes;
        let Some(place) = self.place(nodes[h]) else { return };
        let private = self.place(nodes[1 - h]).map(Place::address);
        for told in &destination.connections {
            let Some(c) = (told.label as usize)
                .checked_sub(1)
                .filter(|c| *c < self.connections.len())
            else {
                continue;
            };
            let Some(end) = self.connections[c]
                .nodes
                .iter()
                .position(|&node| node == nodes[h])
            else {
                continue;
            };
            if !self.connections[c].is_troubled(end) && destination.move_counter != 0 {
                continue;
            }
            let peer = Endpoint::new(destination.peer_address, told.destination);
            let notice = match destination.action {
                DestinationAction::SendMsyn => Notice::Command { place, peer },
                // What is sealed for the peer is its private address.
                DestinationAction::SameNapt => match private {
                    Some(private) => Notice::Command {
                        place,
                        peer: Endpoint::new(private, told.destination),
                    },
                    None => continue,
                },
                DestinationAction::Simultaneous => {
                    let port = if told.source_after == 0 {
                        told.source_before
                    } else {
                        told.source_after
                    };
                    Notice::Exactly {
                        local: Endpoint::new(place.address(), port),
                        peer,
                    }
                }
                DestinationAction::AwaitMsyn | DestinationAction::Proxy | DestinationAction::Open => continue,
            };
            self.connections[c].ends[end].notices.push_back(notice);
            self.drain(c);
        }
        let what = format!("{:?} to {}", destination.action, destination.peer_address);
        self.note(format!(
            "agent {} is told: {what} (decision {})",
            nodes[h], destination.decision
        ));
    }

    /// An agent looks at the connections of a pair: does it need the server, or does it not any more?
    fn look(&mut self, p: usize, h: usize) {
        let (nodes, now) = (self.agents.pairs[p].nodes, self.now());
        let node = nodes[h];
        let ends: Vec<(usize, usize)> = self.ends_of(nodes, h);
        let troubled = ends.iter().any(|&(c, end)| self.connections[c].is_troubled(end));
        let Some(place) = self.place(node) else { return };
        let end = &mut self.agents.pairs[p].ends[h];
        if !troubled {
            let decision = end.told.take().map_or(0, |(told, _)| told.decision);
            if let Some(report) = end.report.take() {
                let (agent, reason, move_counter) =
                    (name(node), WithdrawReason::Resumed, report.move_counter);
                self.post_up(
                    p,
                    node,
                    ServerEvent::WithdrawHeard {
                        agent,
                        move_counter,
                        reason,
                        decision,
                    },
                );
            }
            return;
        }
        let current = end
            .report
            .as_ref()
            .is_some_and(|report| report.source_after == place.address());
        if !current || end.stream != Some(place) {
            end.counter += 1;
            (end.told, end.stream, end.said) = (None, Some(place), Timestamp::START);
            let counter = end.counter;
            let report = self.write_report(p, h, counter, place, &ends);
            self.agents.pairs[p].ends[h].report = Some(report);
        }
        let end = &mut self.agents.pairs[p].ends[h];
        if (end.said == Timestamp::START || now.since(end.said) >= REPEAT)
            && let Some(report) = end.report.clone()
        {
            end.said = now;
            if let Some((local, observed)) = stream(self, Some(place)) {
                self.post_up(
                    p,
                    node,
                    ServerEvent::ReportHeard {
                        agent: name(node),
                        report,
                        local,
                        observed,
                    },
                );
            }
        }
        let end = &mut self.agents.pairs[p].ends[h];
        if let Some((told, since)) = &end.told
            && now.since(*since) >= PATIENCE
            && end.failed < told.decision
        {
            end.failed = told.decision;
            let (decision, cause) = (told.decision, FailureCause::NoAnswer);
            let event = ServerEvent::TryFailed {
                agent: name(node),
                decision,
                cause,
                labels: Vec::new(),
            };
            self.post_up(p, node, event);
        }
    }

    fn ends_of(&self, nodes: [usize; 2], h: usize) -> Vec<(usize, usize)> {
        let connections = self.connections.iter().enumerate().filter(|(_, connection)| {
            let mut both = connection.nodes;
            both.sort();
            both == nodes && !connection.ends.iter().any(|end| end.has_ended())
        });
        let end = |(c, connection): (usize, &super::roaming::Connection)| {
            Some((c, connection.nodes.iter().position(|&node| node == nodes[h])?))
        };
        connections.filter_map(end).collect()
    }

    fn write_report(
        &mut self,
        p: usize,
        h: usize,
        counter: u64,
        place: Place,
        ends: &[(usize, usize)],
    ) -> Report {
        let behaviour = match self.net.napt_of(place) {
            None => MappingBehaviour::None,
            Some(napt) if self.net.keeps_ports(napt) => MappingBehaviour::PortPreserving,
            Some(_) => MappingBehaviour::Random,
        };
        let connections = ends.iter().map(|&(c, end)| {
            let machine = &self.connections[c].ends[end].machine;
            ConnectionPorts {
                source_before: machine.wire().local.port,
                destination_before: machine.wire().remote.port,
                source_after: self.net.fresh_port(),
                destination_after: 0,
                label: c as u64 + 1,
                req_no: machine.committed().0,
            }
        });
        let connections = connections.collect();
        let (c, end) = ends[0];
        let wire = self.connections[c].ends[end].machine.wire();
        let pair = &self.agents.pairs[p];
        Report {
            pair: pair.record.key.pair,
            peer: name(pair.nodes[1 - h]),
            move_counter: counter,
            source_before: wire.local.address,
            destination_before: wire.remote.address,
            source_after: place.address(),
            connections,
            confirmed_source: None,
            sealed: Vec::new(),
            waiting: wire.local.address == place.address(),
            keep: None,
            mapping: Mapping {
                behaviour,
                outside: None,
            },
            relayed: Relayed::No,
        }
    }
}
