//! Every topology, and reports, repetitions, stale copies, probes and lost streams in any order: when the streams work
//! again, exactly one decision is in force that can succeed, and both ends know what they need; or none can, and both
//! wait.

mod deeds;

use std::collections::VecDeque;
use std::time::Duration;

use proptest::prelude::*;

use migration::server::{
    Destination, DestinationAction, FailureCause, Finding, Report, ServerAction, ServerEvent, Side,
    WithdrawReason,
};
use migration::{Endpoint, server};

use self::deeds::{Deed, Place, deed, place};
use super::bench::{Bench, address, name, report};

/// One agent, as far as the server can tell.
struct Agent {
    before: Place,
    now: Place,
    counter: u64,
    report: Option<Report>,
    sent: Vec<(Report, Place)>,
    heard: Option<Destination>,
    connected: bool,
    up: VecDeque<ServerEvent>,
    down: VecDeque<ServerAction>,
}

struct World {
    bench: Bench,
    agents: [Agent; 2],
    proxied: bool,
    /// Probes that were asked for and not answered.
    probes: VecDeque<(Side, std::net::IpAddr)>,
}

impl World {
    fn new(before: [Place; 2], proxied: bool) -> Self {
        let agent = |before| Agent {
            before,
            now: before,
            counter: 0,
            report: None,
            sent: Vec::new(),
            heard: None,
            connected: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
        };
        let mut world = Self {
            bench: Bench::new(),
            agents: before.map(agent),
            proxied,
            probes: VecDeque::new(),
        };
        world.connect(Side::First);
        world.connect(Side::Second);
        world
    }

    fn agent(&mut self, side: Side) -> &mut Agent {
        &mut self.agents[side.index()]
    }

    /// What this end says of its move, from where it was before.
    fn write(&mut self, side: Side, waiting: bool) {
        let peer = self.agents[side.other().index()].before;
        let proxied = self.proxied;
        let agent = self.agent(side);
        agent.counter += 1;
        let mut said = report(side, agent.counter, &agent.now.own());
        said.source_before = address(&agent.before.own());
        said.destination_before = address(&peer.observed());
        if proxied {
            said.destination_before = address("192.0.2.99");
            said.connections[0].destination_before = 7000;
        }
        said.connections[0].source_after = 20_000 + agent.counter as u16;
        said.mapping.behaviour = agent.now.behaviour();
        said.waiting = waiting;
        if waiting {
            said.connections[0].source_after = 0;
        }
        agent.report = Some(said);
        // A destination answers the report before this one, or none.
        agent.heard = None;
        self.send_report(side);
    }

    fn send_report(&mut self, side: Side) {
        let agent = self.agent(side);
        let (Some(report), true) = (agent.report.clone(), agent.connected) else {
            return;
        };
        let place = agent.now;
        agent.sent.push((report.clone(), place));
        agent.up.push_back(heard(side, report, place));
    }

    fn connect(&mut self, side: Side) {
        let agent = self.agent(side);
        if agent.connected {
            return;
        }
        agent.connected = true;
        agent.up.push_back(ServerEvent::PeerPresent {
            agent: name(side),
            local: Endpoint::new(address(&agent.now.own()), 50_000),
            observed: Endpoint::new(address(&agent.now.observed()), 61_000),
        });
        self.send_report(side);
    }

    /// The stream breaks: what was under way is lost, either way.
    fn cut(&mut self, side: Side) {
        let agent = self.agent(side);
        agent.connected = false;
        agent.up.clear();
        agent.down.clear();
        let observed = Endpoint::new(address(&agent.now.observed()), 61_000);
        self.server(ServerEvent::PeerGone {
            agent: name(side),
            observed,
        });
    }

    fn server(&mut self, event: ServerEvent) {
        let before = self
            .bench
            .record
            .decision
            .as_ref()
            .map(|decision| decision.number);
        self.bench.tell(event);
        let out = self.bench.out.clone();
        let tells = out
            .iter()
            .filter(|action| matches!(action, ServerAction::Tell { .. }))
            .count();
        let decision = self.bench.record.decision.as_ref();
        let pending = decision.is_some_and(|decision| decision.what == server::Try::Proxy);
        if decision.map(|decision| decision.number) != before && decision.is_some() && !pending {
            assert!(tells >= 2, "a new decision is told to both: {out:?}");
        }
        for action in out {
            match action {
                ServerAction::ProbeReachability { agent, address } => {
                    let side = self.bench.record.side_of(&agent).expect("an end");
                    self.probes.push_back((side, address));
                }
                ServerAction::AskProxy { decision, .. } => {
                    self.server(ServerEvent::ProxyAnswered {
                        decision,
                        grants: Vec::new(),
                    });
                }
                ServerAction::Tell { ref agent, .. }
                | ServerAction::TellWaiting { ref agent, .. }
                | ServerAction::Cancel { ref agent, .. } => {
                    let side = self.bench.record.side_of(agent).expect("an end");
                    let agent = self.agent(side);
                    if agent.connected {
                        agent.down.push_back(action);
                    }
                }
                ServerAction::Refuse { .. } | ServerAction::NoWay | ServerAction::Forget => {}
            }
        }
    }

    fn up(&mut self, side: Side) -> bool {
        let event = self.agent(side).up.pop_front();
        event.map(|event| self.server(event)).is_some()
    }

    fn down(&mut self, side: Side) -> bool {
        let Some(action) = self.agent(side).down.pop_front() else {
            return false;
        };
        let agent = self.agent(side);
        match action {
            ServerAction::Tell { destination, .. } => {
                let counter = agent.report.as_ref().map_or(0, |report| report.move_counter);
                if destination.move_counter == counter {
                    agent.heard = Some(*destination);
                }
            }
            ServerAction::Cancel {
                decision, forgotten, ..
            } => {
                if agent
                    .heard
                    .as_ref()
                    .is_some_and(|heard| heard.decision <= decision)
                {
                    agent.heard = None;
                }
                if forgotten && agent.report.is_some() {
                    self.write(side, false);
                }
            }
            // Nothing is in force for this report: a destination heard before the stream broke no longer is.
            ServerAction::TellWaiting { .. } => agent.heard = None,
            _ => {}
        }
        true
    }

    fn probe(&mut self) -> bool {
        let Some((side, address)) = self.probes.pop_front() else {
            return false;
        };
        let place = self.agent(side).now;
        let reachable = matches!(place, Place::Open(_)) && super::bench::address(&place.own()) == address;
        self.server(ServerEvent::Reachability {
            agent: name(side),
            address,
            reachable,
        });
        true
    }

    fn fail(&mut self, side: Side) {
        let agent = self.agent(side);
        if let (Some(heard), true) = (&agent.heard, agent.connected) {
            let decision = heard.decision;
            let failed = ServerEvent::TryFailed {
                agent: name(side),
                decision,
                cause: FailureCause::NoAnswer,
                labels: Vec::new(),
            };
            agent.up.push_back(failed);
        }
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Move(side, to) => {
                self.cut(side);
                let agent = self.agent(side);
                agent.now = to;
                agent.heard = None;
                self.write(side, false);
            }
            Deed::Up(side) => {
                self.up(side);
            }
            Deed::Down(side) => {
                self.down(side);
            }
            Deed::Repeat(side) => self.send_report(side),
            Deed::Stale(side, which) => {
                let sent = &self.agent(side).sent;
                if !sent.is_empty() {
                    let (report, place) = sent[which as usize % sent.len()].clone();
                    self.server(heard(side, report, place));
                }
            }
            Deed::Cut(side) => self.cut(side),
            Deed::Connect(side) => self.connect(side),
            Deed::Probe => {
                self.probe();
            }
            Deed::GiveUpTrying(side) => self.fail(side),
            Deed::Wait(seconds) => {
                self.bench.now = self.bench.now + Duration::from_secs(u64::from(seconds % 20));
                self.server(ServerEvent::TimerFired);
            }
        }
    }

    /// The streams work, nothing is lost any more, everything under way arrives.
    fn settle(&mut self) {
        for side in Side::BOTH {
            // What was lost is not known to be lost: everything is said again over a new stream.
            self.cut(side);
            self.connect(side);
        }
        self.drain();
    }

    fn drain(&mut self) {
        while Side::BOTH
            .into_iter()
            .any(|side| self.up(side) || self.down(side))
            || self.probe()
        {}
    }

    /// Whether what this end has heard can succeed, by what is true.
    fn can_succeed(&self, heard: &Destination, side: Side) -> bool {
        let [own, peer] = [side, side.other()].map(|side| self.agents[side.index()].now);
        match heard.action {
            DestinationAction::SendMsyn => matches!(peer, Place::Open(_)),
            DestinationAction::AwaitMsyn => matches!(own, Place::Open(_)),
            DestinationAction::Simultaneous => own.is_foreseen() && peer.is_foreseen(),
            DestinationAction::SameNapt => true,
            DestinationAction::Proxy | DestinationAction::Open => false,
        }
    }

    fn some_way(&self) -> bool {
        let [a, b] = [self.agents[0].now, self.agents[1].now];
        let one_napt = a.is_napt() && b.is_napt() && a.observed() == b.observed();
        let open = |place: Place| matches!(place, Place::Open(_));
        open(a) || open(b) || one_napt || (a.is_foreseen() && b.is_foreseen())
    }
}

fn heard(side: Side, report: Report, place: Place) -> ServerEvent {
    ServerEvent::ReportHeard {
        agent: name(side),
        local: Endpoint::new(report.source_after, 50_000),
        observed: Endpoint::new(address(&place.observed()), 61_000),
        report,
    }
}

fn found_before(place: Place, proxied: bool) -> Finding {
    match (proxied, place) {
        (true, _) => Finding::Proxied,
        (false, Place::Napt { .. }) => Finding::BehindNapt,
        (false, _) => Finding::Outside,
    }
}

fn complementary(a: DestinationAction, b: DestinationAction) -> bool {
    use DestinationAction::{AwaitMsyn, SendMsyn};
    matches!((a, b), (SendMsyn, AwaitMsyn) | (AwaitMsyn, SendMsyn))
        || (a == b && a != SendMsyn && a != AwaitMsyn)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_one_decision_that_can_succeed_and_both_ends_know_what_they_need(
        before in (place(Side::First), place(Side::Second)),
        proxied in any::<bool>(),
        deeds in proptest::collection::vec(deed(), 0..60),
    ) {
        let mut world = World::new([before.0, before.1], proxied);
        for deed in deeds {
            world.deed(deed);
        }
        // Whoever has not moved has noticed by now that its peer is gone, and waits.
        for side in Side::BOTH {
            if world.agent(side).report.is_none() {
                world.write(side, true);
            }
        }
        world.settle();
        for _ in 0..12 {
            let Some(heard) = world.agents[0].heard.clone() else { break };
            if world.can_succeed(&heard, Side::First) {
                break;
            }
            world.fail(Side::First);
            world.drain();
        }
        if world.bench.record.rests_until.is_some() {
            // Everything was tried before the last cut, perhaps with messages that were lost: once more from the top.
            world.bench.now = world.bench.now + world.bench.rules.rest;
            world.server(ServerEvent::TimerFired);
            world.drain();
            for _ in 0..12 {
                let Some(heard) = world.agents[0].heard.clone() else { break };
                if world.can_succeed(&heard, Side::First) {
                    break;
                }
                world.fail(Side::First);
                world.drain();
            }
        }
        let told = [world.agents[0].heard.clone(), world.agents[1].heard.clone()];
        if !world.some_way() {
            prop_assert_eq!(&told, &[None, None]);
            prop_assert_eq!(&world.bench.record.decision, &None);
            prop_assert!(world.bench.record.ends.iter().all(|end| end.held.is_some()), "both wait");
            return Ok(());
        }
        let [Some(a), Some(b)] = told else {
            return Err(TestCaseError::fail(format!("not both know: {:?}", world.bench.record)));
        };
        let decision = world.bench.record.decision.clone().expect("one in force");
        prop_assert_eq!([a.decision, b.decision], [decision.number; 2]);
        prop_assert!(complementary(a.action, b.action), "{:?} {:?}", a.action, b.action);
        prop_assert!(world.can_succeed(&a, Side::First) && world.can_succeed(&b, Side::Second));
        for (side, told) in [(Side::First, &a), (Side::Second, &b)] {
            let (own, peer) = (&world.agents[side.index()], &world.agents[side.other().index()]);
            prop_assert_eq!(told.peer_address, address(&peer.now.observed()));
            let [own_ports, peer_ports] = [own, peer].map(|agent| agent.report.as_ref().expect("it reported").connections[0]);
            prop_assert_eq!(told.connections.len(), 1);
            prop_assert_eq!(told.connections[0].destination, peer_ports.source_now());
            prop_assert_eq!(told.connections[0].source_before, own_ports.source_before);
            prop_assert_eq!(told.observed.address, address(&own.now.observed()));
            // One NAPT before the move: they knew each other by its outside address, at different ports.
            prop_assert_eq!(told.self_before, found_before(own.before, world.proxied));
            prop_assert_eq!(told.peer_before, found_before(peer.before, world.proxied));
        }
        // It works, and nothing is left of it.
        for side in Side::BOTH {
            let agent = world.agent(side);
            let (counter, number) = (agent.counter, decision.number);
            agent.report = None;
            agent.up.push_back(ServerEvent::WithdrawHeard {
                agent: name(side),
                move_counter: counter,
                reason: WithdrawReason::Resumed,
                decision: number,
            });
        }
        world.drain();
        prop_assert!(world.bench.record.ends.iter().all(|end| end.held.is_none()));
        prop_assert_eq!(&world.bench.record.decision, &None);
    }
}
