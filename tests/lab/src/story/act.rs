//! What a step does to the world.
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::Stage;
use super::start::LISTENING;
use crate::emulator::{Order, interference};
use crate::language::ast::*;
use crate::network::{napt, plan};

impl Stage {
    pub fn perform(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Link { link, change } => self.link_change(&link.text, change),
            Action::Host { host, change } => self.host_change(&host.text, change),
            Action::Napt { napt, change } => self.napt_change(&napt.text, change),
            Action::Program { name, change } => match change {
                ProgramChange::Kill => {
                    self.programs.kill(&name.text);
                    Ok(())
                }
                ProgramChange::Type(text) => {
                    self.timeline.note(&name.text, format!("type {text:?}"));
                    self.programs.type_into(&name.text, text)
                }
                ProgramChange::Speak => {
                    self.timeline.note(&name.text, "speak");
                    self.programs.type_into(&name.text, "speak\n")
                }
            },
            Action::Start(start) => self.start(start),
            Action::Server { change, server } => self.server_change(&server.text, *change),
            Action::Tell { whom, words } => self.tell(whom, words),
            Action::RedisKill { .. } => self.redis.kill_a_master(&self.programs),
            Action::Relay { relay, change } => self.relay_change(&relay.text, change),
            Action::Agent { change, hosts } => hosts
                .iter()
                .try_for_each(|host| self.agent_change(&host.text, *change)),
        }
    }

    fn link_change(&mut self, link: &str, change: &LinkChange) -> Result<(), String> {
        let scenario = Arc::clone(&self.network.scenario);
        let end = |from: &Option<Name>| {
            from.as_ref()
                .and_then(|from| scenario.link(link).and_then(|link| link.end_at(&from.text)))
        };
        let whose = |from: &Option<Name>| {
            from.as_ref()
                .map_or_else(String::new, |from| format!(" from {from}"))
        };
        match change {
            LinkChange::Up => {
                self.timeline.note(link, "up");
                self.network.plug(link, true, false)
            }
            LinkChange::Down { keep } => {
                self.timeline
                    .note(link, if *keep { "down (addresses kept)" } else { "down" });
                self.network.plug(link, false, *keep)
            }
            LinkChange::Blackhole { from } => {
                self.timeline.note(link, format!("blackhole{}", whose(from)));
                self.network.live(link)?.order(link, Order::Blackhole(end(from)))
            }
            LinkChange::Heal => {
                self.timeline.note(link, "heal");
                self.network.live(link)?.order(link, Order::Heal)
            }
            LinkChange::Shape(change) => {
                self.network.reshape(link, change)?;
                let shape = self.network.live(link)?.shape;
                self.timeline.note(link, crate::explain::shape(&shape));
                Ok(())
            }
            LinkChange::Interfere(interference) => {
                let order = Order::Interfere(interference.clone(), end(&interference.from));
                self.network.live(link)?.order(link, order)
            }
            LinkChange::Replay {
                recording,
                from,
                flip,
            } => {
                let recorded = self.network.recordings.get(&recording.text);
                let mut recorded = recorded.ok_or_else(|| format!("nothing was recorded as {recording}"))?;
                if let Some(change) = flip
                    && !interference::flip(&mut recorded.frame, *change)
                {
                    return Err(format!("{recording} has no bit {}", change.bit));
                }
                let end = end(from)
                    .or((recorded.link == link).then_some(recorded.end))
                    .unwrap_or_default();
                let live = self.network.live(link)?;
                let to = plan::hardware_address(live.index, 1 - end);
                self.timeline
                    .note(link, format!("replay {recording}{}", whose(from)));
                live.order(
                    link,
                    Order::Replay {
                        recording: recorded,
                        end,
                        to,
                    },
                )
            }
            LinkChange::Storm {
                recording,
                resets,
                over,
            } => self.storm(link, &recording.text, *resets, *over),
        }
    }

    fn storm(&mut self, link: &str, name: &str, resets: u32, over: Duration) -> Result<(), String> {
        let recorded = self.network.recordings.get(name);
        let mut recorded = recorded.ok_or_else(|| format!("nothing was recorded as {name}"))?;
        recorded.frame =
            interference::reset_behind(&recorded.frame).ok_or_else(|| format!("{name} is no TCP segment"))?;
        let end = recorded.end;
        let to = plan::hardware_address(self.network.live(link)?.index, 1 - end);
        self.timeline
            .note(link, format!("{resets} resets behind {name} within {over:?}"));
        let begun = Instant::now();
        let mut sent = 0;
        while sent < resets {
            self.pause(begun + over.mul_f64(f64::from(sent) / f64::from(resets)))?;
            // Some at a time: a clock that wakes for each would be late for most.
            let due = (begun.elapsed().as_secs_f64() / over.as_secs_f64() * f64::from(resets)) as u32 + 1;
            for _ in sent..due.min(resets) {
                let order = Order::Replay {
                    recording: recorded.clone(),
                    end,
                    to,
                };
                self.network.live(link)?.order(link, order)?;
            }
            sent = due.min(resets).max(sent + 1);
        }
        Ok(())
    }

    fn host_change(&mut self, host: &str, change: &HostChange) -> Result<(), String> {
        match change {
            HostChange::Move { from, to, gap } => {
                self.timeline.note(host, format!("leaves {from}"));
                self.network.depart(host, &from.text)?;
                if !gap.is_zero() {
                    self.pause(Instant::now() + *gap)?;
                }
                self.timeline.note(host, format!("joins {to}"));
                self.network.arrive(host, &to.text)?;
                let address = |ipv6| {
                    self.network
                        .address_now(host, ipv6)
                        .map(|address| address.to_string())
                };
                let addresses: Vec<String> = [false, true].into_iter().filter_map(address).collect();
                self.timeline
                    .note(host, format!("has {} on {to}", addresses.join(" ")));
                Ok(())
            }
            HostChange::Sleep(_) => Err(format!(
                "{host} cannot sleep alone: all hosts share this machine's kernel; run the story with --world sim"
            )),
            HostChange::Address { link, remove, add } => {
                let shown: Vec<String> = remove
                    .iter()
                    .map(|prefix| format!("-{prefix}"))
                    .chain(add.iter().map(|prefix| format!("+{prefix}")))
                    .collect();
                self.timeline
                    .note(host, format!("address {link} {}", shown.join(" ")));
                self.network
                    .leave(host, &link.text, remove)
                    .map_err(|error| error.to_string())?;
                self.network
                    .join(host, &link.text, add)
                    .map_err(|error| error.to_string())
            }
            HostChange::Route { to, via } => {
                let shown = to.map_or_else(|| "default".to_owned(), |to| to.to_string());
                let said = via.map_or_else(
                    || format!("route del {shown}"),
                    |via| format!("route {shown} via {via}"),
                );
                self.timeline.note(host, said);
                self.network
                    .route(host, *to, *via)
                    .map_err(|error| error.to_string())
            }
        }
    }

    fn napt_change(&mut self, name: &str, change: &NaptChange) -> Result<(), String> {
        let station = self.network.station(name)?.clone();
        match change {
            NaptChange::Flush => {
                self.timeline.note(name, "flush");
                napt::flush(&station).map_err(|error| error.to_string())
            }
            NaptChange::Ports(ports) => {
                self.timeline
                    .note(name, format!("masquerades otherwise: {ports:?}"));
                let scenario = Arc::clone(&self.network.scenario);
                let node = scenario.node(name);
                let Some((Kind::Napt(rule), outside)) =
                    node.and_then(|node| Some((&node.kind, scenario.outside_of(node)?)))
                else {
                    return Err(format!("`{name}` is no NAPT"));
                };
                let rule = NaptRule {
                    ports: *ports,
                    ..rule.clone()
                };
                napt::install(&station, &rule, &outside.name.text).map_err(|error| error.to_string())
            }
            NaptChange::Reboot { outage } => {
                self.timeline.note(name, "reboot");
                let scenario = Arc::clone(&self.network.scenario);
                let links: Vec<&str> = scenario
                    .links_of(name)
                    .map(|(link, _)| link.name.text.as_str())
                    .collect();
                for link in &links {
                    self.network.live(link)?.order(link, Order::Blackhole(None))?;
                }
                self.pause(Instant::now() + *outage)?;
                napt::flush(&station).map_err(|error| error.to_string())?;
                for link in &links {
                    self.network.live(link)?.order(link, Order::Heal)?;
                }
                self.timeline.note(name, "is back");
                Ok(())
            }
        }
    }

    /// A command of host-agent or mobility-server runs to its end.
    fn tell(&mut self, whom: &Addressee, words: &[String]) -> Result<(), String> {
        if !self.agents.exist() {
            return Ok(());
        }
        let (who, said) = match whom {
            Addressee::Agent(host) => (host, self.agents.tell(&host.text, words)?),
            Addressee::Server(server) => (server, self.servers.tell(&server.text, words)?),
        };
        let first = said.lines().next().unwrap_or_default();
        self.timeline
            .note(&who.text, format!("is told: {} ({first})", words.join(" ")));
        Ok(())
    }

    pub fn server_change(&mut self, server: &str, change: AgentChange) -> Result<(), String> {
        if !self.agents.exist() {
            return Ok(());
        }
        let Some(host) = self.servers.host_of(server) else {
            return Err(format!("there is no server {server}"));
        };
        let station = self.network.station(&host)?.clone();
        let running = self.servers.program(server);
        if let (AgentChange::Kill | AgentChange::Stop | AgentChange::Restart, Some(program)) =
            (change, &running)
        {
            match change {
                AgentChange::Kill => self.programs.kill(program),
                _ => self.programs.terminate(program),
            }
            self.ended(program, LISTENING)?;
        }
        match change {
            AgentChange::Start | AgentChange::Restart => {
                self.servers
                    .start(server, &station, &mut self.programs, self.slow)
            }
            AgentChange::Kill | AgentChange::Stop => Ok(()),
        }
    }

    pub fn relay_change(&mut self, node: &str, change: &RelayChange) -> Result<(), String> {
        let change = match change {
            RelayChange::Process(change) => *change,
            RelayChange::Prefer(path) => {
                let (addresses, said) = self.preferred(node, path);
                let count = self.relays.prefer(node, &addresses)?;
                self.timeline
                    .note(node, format!("prefer {said} ({count} connections)"));
                return Ok(());
            }
        };
        let station = self.network.station(node)?.clone();
        let running = self.relays.program(node);
        if let (AgentChange::Kill | AgentChange::Stop | AgentChange::Restart, Some(program)) =
            (change, &running)
        {
            match change {
                AgentChange::Kill => self.programs.kill(program),
                _ => self.programs.terminate(program),
            }
            self.ended(program, LISTENING)?;
        }
        match change {
            AgentChange::Start | AgentChange::Restart => {
                self.relays.start(&station, &mut self.programs, self.slow)
            }
            AgentChange::Kill | AgentChange::Stop => Ok(()),
        }
    }

    /// The addresses a path has for the relay, and what it is called.
    fn preferred(&self, relay: &str, path: &PreferredPath) -> (Vec<std::net::IpAddr>, String) {
        match path {
            PreferredPath::All => (Vec::new(), "all".to_owned()),
            PreferredPath::Address(address) => (vec![*address], address.to_string()),
            PreferredPath::Link(name) => {
                let ends = self.network.scenario.link(&name.text).map(|link| &link.ends);
                let others = ends.into_iter().flatten().filter(|end| end.node.text != relay);
                let addresses = others.flat_map(|end| &end.addresses);
                let addresses = addresses.map(|prefix| prefix.address).collect();
                (addresses, name.text.clone())
            }
        }
    }

    pub fn agent_change(&mut self, host: &str, change: AgentChange) -> Result<(), String> {
        if !self.agents.exist() {
            return Ok(());
        }
        let station = self.network.station(host)?.clone();
        let running = self.agents.program(host);
        if let (AgentChange::Kill | AgentChange::Stop | AgentChange::Restart, Some(program)) =
            (change, &running)
        {
            match change {
                AgentChange::Kill => self.programs.kill(program),
                _ => self.programs.terminate(program),
            }
            self.ended(program, LISTENING)?;
        }
        match change {
            AgentChange::Start | AgentChange::Restart => {
                self.agents.start(&station, &mut self.programs, self.slow)
            }
            AgentChange::Kill | AgentChange::Stop => Ok(()),
        }
    }
}
