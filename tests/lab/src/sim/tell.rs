//! Telling a story in the simulated world: steps in order, conditions judged at every event.

mod judging;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use migration::{Endpoint, Policy, State, Timestamp};

use super::random::Random;
use super::roaming::{Connection, World};
use crate::language::Scenario;
use crate::language::Sign;
use crate::language::ast::{
    Action, AgentList, Condition, Deed, HostChange, LinkChange, Measure, NaptChange, Program, ProgramChange,
    ProgramStart, Step, Subject, Talk, Talking, Term, What, When,
};
use crate::story::judge::compare;

/// A line that only the other world can tell.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: not for sim: {what}; run it in namespaces, without --world sim")]
pub struct NotForSim {
    /// Where.
    pub line: usize,
    /// What it is.
    pub what: String,
}

/// How a story went.
#[derive(Clone, Debug)]
pub struct Told {
    /// None: well. Else the line and what was wrong.
    pub failure: Option<(usize, String)>,
    /// Virtual time that passed.
    pub duration: Duration,
    /// What happened, in order.
    pub timeline: Vec<(Timestamp, String)>,
    /// How often the mobility server decided anything.
    pub decisions: u64,
}

enum Stop {
    Failed(String),
    NotForSim(String),
}

/// How long `after` waits when the line does not say, as in the other world.
const AFTER: Duration = Duration::from_secs(60);
const PORT: u16 = 7000;

/// Tells one scenario, with a mobility server.
///
/// # Errors
/// [`NotForSim`] for the first line that cannot be simulated.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Told, NotForSim> {
    tell(scenario, seed, true)
}

/// Tells one scenario in which both ends are on their own.
///
/// # Errors
/// [`NotForSim`] for the first line that cannot be simulated.
pub fn run_without_server(scenario: &Scenario, seed: u64) -> Result<Told, NotForSim> {
    tell(scenario, seed, false)
}

fn tell(scenario: &Scenario, seed: u64, has_server: bool) -> Result<Told, NotForSim> {
    let mut families = scenario
        .links
        .iter()
        .flat_map(|link| &link.ends)
        .flat_map(|end| &end.addresses);
    let first = families.next().map(|prefix| prefix.is_ipv6());
    if families.any(|prefix| Some(prefix.is_ipv6()) != first) {
        let what = "addresses of both families".to_owned();
        return Err(NotForSim { line: 1, what });
    }
    let mut teller = Teller::new(scenario, seed);
    teller.world.agents.has_server = has_server;
    let mut failure = None;
    for step in &scenario.steps {
        match teller.step(step) {
            Ok(()) => {}
            Err(Stop::NotForSim(what)) => {
                return Err(NotForSim {
                    line: step.line,
                    what,
                });
            }
            Err(Stop::Failed(reason)) => {
                failure = Some((step.line, reason));
                break;
            }
        }
    }
    Ok(Told {
        failure,
        duration: teller.world.now().since(Timestamp::START),
        timeline: std::mem::take(&mut teller.world.timeline),
        decisions: teller.world.agents.decisions,
    })
}

struct Teller<'a> {
    scenario: &'a Scenario,
    world: World,
    /// Programs that could not connect.
    unconnected: Vec<String>,
}

impl<'a> Teller<'a> {
    fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let mut policies = BTreeMap::new();
        for agent in &scenario.agents {
            let node = scenario.nodes.iter().position(|node| node.name == agent.host);
            let wait = agent
                .settings
                .get("timeouts.mig_wait")
                .and_then(|text| text.parse().ok());
            if let (Some(node), Some(seconds)) = (node, wait) {
                let mig_wait = Duration::from_secs_f64(seconds);
                policies.insert(
                    node,
                    Policy {
                        mig_wait,
                        ..Policy::default()
                    },
                );
            }
        }
        let mut world = World::new(scenario, seed, policies);
        // What no line says: how far it is, and what is lost on the way.
        let mut random = Random::new(seed ^ 0x6c69_6e6b);
        for link in &mut world.net.links {
            link.delay += random.millis(0, 8);
            link.loss = link.loss.max(0.01 * random.below(4) as f64);
        }
        let mut teller = Self {
            scenario,
            world,
            unconnected: Vec::new(),
        };
        for (link, described) in scenario.links.iter().enumerate() {
            if !described.down {
                teller.plug(link, true);
            }
        }
        teller
    }

    fn step(&mut self, step: &Step) -> Result<(), Stop> {
        match &step.when {
            When::Next => {}
            When::At(at) => self.pass_until(Timestamp(*at)),
            When::After { condition, limit } => self.wait_for(condition, limit.unwrap_or(AFTER))?,
        }
        match &step.what {
            What::Do(action) => {
                self.world.note(step.text.clone());
                self.act(action)
            }
            What::Within(limit, condition) => self.wait_for(condition, *limit),
            What::Expect(conditions) => {
                conditions
                    .iter()
                    .try_for_each(|condition| match self.judge(condition)? {
                        true => Ok(()),
                        false => Err(Stop::Failed(format!("does not hold: {}", condition.text))),
                    })
            }
        }
    }

    fn pass_until(&mut self, until: Timestamp) {
        while let Some(next) = self.world.next_time().filter(|&next| next <= until) {
            self.world.happen(next);
        }
        self.world.happen(until);
    }

    fn wait_for(&mut self, condition: &Condition, limit: Duration) -> Result<(), Stop> {
        let end = self.world.now() + limit;
        loop {
            if self.judge(condition)? {
                return Ok(());
            }
            match self.world.next_time().filter(|&next| next <= end) {
                Some(next) => self.world.happen(next),
                None => {
                    return Err(Stop::Failed(format!(
                        "not within {limit:?}: {}{}",
                        condition.text,
                        self.picture()
                    )));
                }
            }
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), Stop> {
        match action {
            Action::Link { link, change } => {
                let at = self.link(&link.text)?;
                self.link_change(at, change)
            }
            Action::Host { host, change } => {
                let node = self.node(&host.text)?;
                self.host_change(node, change)
            }
            Action::Napt { napt, change } => {
                let napt = self.node(&napt.text)?;
                let outage = match change {
                    NaptChange::Flush => Duration::ZERO,
                    // The model's NAPTs map in one way.
                    NaptChange::Ports(_) => return Ok(()),
                    NaptChange::Reboot { outage } => *outage,
                };
                self.world.forget_mappings(napt, outage);
                Ok(())
            }
            Action::Start(start) => self.start(start),
            Action::Program {
                name,
                change: ProgramChange::Speak,
            } => {
                for c in 0..self.world.connections.len() {
                    if self.world.connections[c].name == name.text {
                        self.world.write(c, 0);
                    }
                }
                Ok(())
            }
            Action::Program { .. } => not("a real program"),
            Action::Server { .. } => not("a server that stops or starts"),
            Action::Tell { .. } => not("a command"),
            Action::RedisKill { .. } => not("a store"),
            Action::Relay { .. } => not("a relay"),
            Action::Agent { .. } => not("an agent that stops or starts"),
        }
    }

    fn link_change(&mut self, link: usize, change: &LinkChange) -> Result<(), Stop> {
        match change {
            LinkChange::Up => self.plug(link, true),
            LinkChange::Down { keep: true } => self.world.net.links[link].up = false,
            LinkChange::Down { keep: false } => self.plug(link, false),
            LinkChange::Blackhole { from } => {
                let from = from.as_ref().map(|name| self.node(&name.text)).transpose()?;
                self.world.net.links[link].blackhole = Some(from);
            }
            LinkChange::Heal => self.world.net.links[link].blackhole = None,
            LinkChange::Shape(change) => {
                let state = &mut self.world.net.links[link];
                state.delay = change.delay.unwrap_or(state.delay);
                state.loss = change.loss.unwrap_or(state.loss);
            }
            LinkChange::Interfere(interference) if matches!(interference.deed, Deed::Record(_)) => {
                return not("recording and replaying");
            }
            LinkChange::Interfere(interference) => self.world.net.interfere(link, interference.clone()),
            LinkChange::Replay { .. } | LinkChange::Storm { .. } => return not("recording and replaying"),
        }
        Ok(())
    }

    /// The cable is plugged or pulled: the hosts at its ends get or lose what the file says they have there.
    fn plug(&mut self, link: usize, up: bool) {
        self.world.net.links[link].up = up;
        for end in &self.scenario.links[link].ends {
            if let Some(node) = self.world.net.node(&end.node.text)
                && self.scenario.nodes[node].kind == crate::language::ast::Kind::Host
            {
                match up {
                    true => self.join(node, link),
                    false => self.world.depart(node, link),
                }
            }
        }
    }

    fn join(&mut self, node: usize, link: usize) {
        let name = &self.scenario.nodes[node].name;
        let ends = self.scenario.links[link]
            .ends
            .iter()
            .filter(|end| end.node == *name);
        let addresses: Vec<IpAddr> = ends
            .flat_map(|end| &end.addresses)
            .map(|prefix| prefix.address)
            .collect();
        self.world.net.links[link].up = true;
        for address in addresses {
            self.world.arrive(node, link, address);
        }
    }

    fn host_change(&mut self, node: usize, change: &HostChange) -> Result<(), Stop> {
        match change {
            HostChange::Move { from, to, gap } => {
                let (from, to) = (self.link(&from.text)?, self.link(&to.text)?);
                self.world.depart(node, from);
                self.pass_until(self.world.now() + *gap);
                self.join(node, to);
                Ok(())
            }
            HostChange::Sleep(how_long) => {
                self.world.sleep(node, *how_long);
                Ok(())
            }
            HostChange::Address { .. } => not("single addresses that come and go"),
            HostChange::Route { .. } => not("routes"),
        }
    }

    fn start(&mut self, start: &ProgramStart) -> Result<(), Stop> {
        match &start.program {
            Program::Serve { .. } => Ok(()),
            Program::Talk(talk) => {
                if matches!(talk.what, Talking::Visits(_)) {
                    return not("visits, which are many connections");
                }
                let node = self.node(&start.host.text)?;
                let has_agent = |name: &str| self.scenario.agents.iter().any(|agent| agent.host.text == name);
                if !has_agent(&start.host.text) || !has_agent(&talk.to.text) {
                    return not("a host without an agent");
                }
                let address = talk.address.or_else(|| self.address_now(talk));
                let count = match talk.what {
                    Talking::Echo { count, .. } => count,
                    _ => None,
                };
                for _ in 0..talk.connections.max(1) {
                    let to = address.map(|address| Endpoint::new(address, PORT));
                    let made =
                        to.and_then(|to| self.world.connect(&start.name.text, node, to, talk.what, count));
                    if made.is_none() {
                        self.unconnected.push(start.name.text.clone());
                    }
                }
                match &start.outcome {
                    Some(_) => not("waiting for a program's end in its own line"),
                    None => Ok(()),
                }
            }
            _ => not("a real program"),
        }
    }

    fn address_now(&self, talk: &Talk) -> Option<IpAddr> {
        let node = self.world.net.node(&talk.to.text)?;
        let places = self.world.places.get(&node)?;
        let mut addresses = places.iter().map(|place| place.address());
        addresses.find(|address| address.is_ipv6() == talk.ipv6)
    }

    /// Where every connection stands, for a failure.
    fn picture(&self) -> String {
        let mut text = String::new();
        for connection in &self.world.connections {
            for (h, end) in connection.ends.iter().enumerate() {
                let (m, node) = (&end.machine, &self.scenario.nodes[connection.nodes[h]].name);
                text += &format!(
                    "\n    {} at {node}: {}, committed {}, {}confirmed, wire {}, received {}",
                    connection.name,
                    m.state(),
                    m.committed(),
                    if m.is_confirmed() { "" } else { "not " },
                    m.wire(),
                    end.kernel.received,
                );
            }
        }
        text
    }

    fn node(&self, name: &str) -> Result<usize, Stop> {
        self.world
            .net
            .node(name)
            .ok_or_else(|| Stop::NotForSim(format!("`{name}` is not in its network")))
    }

    fn link(&self, name: &str) -> Result<usize, Stop> {
        self.world
            .net
            .link(name)
            .ok_or_else(|| Stop::NotForSim(format!("`{name}` is not in its network")))
    }
}

fn not<T>(what: &str) -> Result<T, Stop> {
    Err(Stop::NotForSim(what.to_owned()))
}
