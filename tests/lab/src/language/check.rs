//! What a scenario means, once every line can be read: names exist, kinds fit, events can reach their links.
use std::collections::HashMap;

use super::ast::*;
use super::diagnostic::Diagnostic;

pub fn check(scenario: &Scenario) -> Vec<Diagnostic> {
    let mut check = Check {
        scenario,
        mistakes: Vec::new(),
        programs: HashMap::new(),
        recordings: Vec::new(),
    };
    check.nodes();
    check.links();
    for route in &scenario.routes {
        check.route(route);
    }
    for sysctl in &scenario.sysctls {
        sysctl.node.iter().for_each(|node| check.node(node));
    }
    for agent in &scenario.agents {
        check.host(&agent.host);
    }
    check.servers();
    for host in &scenario.multipath {
        check.host(host);
    }
    for step in &scenario.steps {
        check.step(step);
    }
    check.mistakes
}

struct Check<'a> {
    scenario: &'a Scenario,
    mistakes: Vec<Diagnostic>,
    /// Programs started so far, by name.
    programs: HashMap<&'a str, &'a Program>,
    recordings: Vec<&'a str>,
}

impl<'a> Check<'a> {
    fn refuse(&mut self, at: &Name, message: impl Into<String>, expected: impl Into<String>) {
        let expected = expected.into();
        let mistake = Diagnostic::new(at.place, message);
        self.mistakes.push(if expected.is_empty() {
            mistake
        } else {
            mistake.expecting(expected)
        });
    }

    fn has_agent(&mut self, host: &Name) {
        self.host(host);
        let scenario = self.scenario;
        if !scenario.agents.iter().any(|agent| agent.host == *host) {
            self.refuse(
                host,
                format!("{host} has no agent"),
                format!("a line `agent {host}` before the story"),
            );
        }
    }

    fn servers(&mut self) {
        let scenario = self.scenario;
        scenario.redis.iter().for_each(|redis| self.host(&redis.host));
        if scenario.redis.len() > 1 {
            self.refuse(&scenario.redis[1].name, "there is a Redis cluster already", "one");
        }
        for (index, server) in scenario.servers.iter().enumerate() {
            self.host(&server.host);
            let twice = |other: &ServerStart| other.name == server.name;
            if scenario.servers[..index].iter().any(twice) {
                self.refuse(
                    &server.name,
                    format!("there is a server `{}` already", server.name),
                    "a name of its own",
                );
            }
        }
        let mute = |server: &ServerStart| server.dead || server.lies.is_some();
        if !scenario.servers.is_empty() && scenario.servers.iter().all(mute) {
            let first = &scenario.servers[0].name;
            self.refuse(
                first,
                "every server is dead or lies: agents cannot enrol",
                "one server that runs at first",
            );
        }
    }

    fn nodes(&mut self) {
        let scenario = self.scenario;
        for (index, node) in scenario.nodes.iter().enumerate() {
            if scenario.nodes[..index]
                .iter()
                .any(|earlier| earlier.name == node.name)
            {
                self.refuse(
                    &node.name,
                    format!("`{}` exists already", node.name),
                    "a name of its own",
                );
            }
            if let Kind::Napt(rule) = &node.kind {
                if let Some(outside) = &rule.outside {
                    let touches = scenario
                        .link(&outside.text)
                        .is_some_and(|l| l.end_at(&node.name.text).is_some());
                    if !touches {
                        self.refuse(outside, format!("no link `{outside}` ends at {}", node.name), "");
                    }
                } else if scenario.outside_of(node).is_none() {
                    let message = format!("which link of {} is its outside?", node.name);
                    self.refuse(
                        &node.name,
                        message,
                        "exactly one link to a router, or `outside=LINK`",
                    );
                }
            }
        }
    }

    fn links(&mut self) {
        let scenario = self.scenario;
        let mut owners: HashMap<std::net::IpAddr, &Name> = HashMap::new();
        for (index, link) in scenario.links.iter().enumerate() {
            if scenario.links[..index]
                .iter()
                .any(|earlier| earlier.name == link.name)
            {
                self.refuse(
                    &link.name,
                    format!("a link `{}` exists already", link.name),
                    "a name of its own",
                );
            }
            if link.name.text.len() > 13 {
                let message = format!("`{}` is too long for a network device", link.name);
                self.refuse(&link.name, message, "at most 13 characters");
            }
            if link.name.text == "lo" || link.name.text == "all" || link.name.text == "default" {
                self.refuse(&link.name, "the kernel uses this name itself", "another name");
            }
            for end in &link.ends {
                self.node(&end.node);
            }
            if link.ends[0].node == link.ends[1].node {
                self.refuse(
                    &link.ends[1].node,
                    "both ends of the link are the same node",
                    "two nodes",
                );
            }
            // Private addresses may appear once behind every NAPT, so only one node may not repeat itself and
            // no two neighbours may share one.
            owners.clear();
            for end in &link.ends {
                for prefix in &end.addresses {
                    if owners.insert(prefix.address, &end.node).is_some() {
                        self.refuse(
                            &end.node,
                            format!("{} is given twice on this link", prefix.address),
                            "",
                        );
                    }
                }
            }
            if link.plain
                && (link.shape
                    != Shape {
                        mtu: link.shape.mtu,
                        ..Shape::default()
                    }
                    || link.down)
            {
                self.refuse(
                    &link.name,
                    "a plain link has no rate, delay or loss and is never down",
                    "",
                );
            }
        }
    }

    fn route(&mut self, route: &Route) {
        self.node(&route.node);
        let mut own = self
            .scenario
            .links_of(&route.node.text)
            .flat_map(|(link, end)| &link.ends[end].addresses);
        if !own.any(|prefix| prefix.contains(route.via)) {
            let message = format!("{} is on no link of {}", route.via, route.node);
            self.refuse(&route.node, message, "the address of a neighbour");
        }
    }

    fn node(&mut self, name: &Name) {
        if self.scenario.node(&name.text).is_none() {
            let known: Vec<&str> = self
                .scenario
                .nodes
                .iter()
                .map(|node| node.name.text.as_str())
                .collect();
            self.refuse(
                name,
                format!("there is no host, router or NAPT `{name}`"),
                one_of(&known),
            );
        }
    }

    fn host(&mut self, name: &Name) {
        match self.scenario.node(&name.text) {
            Some(Node { kind: Kind::Host, .. }) => {}
            // Programs run beside a relay, too: a host agent, for those that it anchors.
            Some(_) if self.scenario.relays.iter().any(|relay| relay.node == *name) => {}
            Some(_) => self.refuse(name, format!("`{name}` is not a host"), "a host"),
            None => self.node(name),
        }
    }

    fn relay(&mut self, name: &Name) {
        if !self.scenario.relays.iter().any(|relay| relay.node == *name) {
            self.refuse(
                name,
                format!("there is no relay `{name}`"),
                format!("a line `relay {name}` or `proxy {name}` before the story"),
            );
        }
    }

    fn server(&mut self, name: &Name) {
        if !self.scenario.servers.iter().any(|server| server.name == *name) {
            self.refuse(
                name,
                format!("there is no server `{name}`"),
                format!("a line `server {name} on HOST` before the story"),
            );
        }
    }

    fn link(&mut self, name: &Name) -> Option<&'a Link> {
        let link = self.scenario.link(&name.text);
        if link.is_none() {
            let known: Vec<&str> = self
                .scenario
                .links
                .iter()
                .map(|link| link.name.text.as_str())
                .collect();
            self.refuse(name, format!("there is no link `{name}`"), one_of(&known));
        }
        link
    }

    fn link_of(&mut self, host: &Name, link: &Name) {
        let Some(found) = self.link(link) else { return };
        if found.end_at(&host.text).is_none() {
            self.refuse(link, format!("link `{link}` does not end at {host}"), "");
        }
    }

    fn step(&mut self, step: &'a Step) {
        if let When::After { condition, .. } = &step.when {
            self.condition(condition);
        }
        match &step.what {
            What::Do(action) => self.action(action),
            What::Within(_, condition) => self.condition(condition),
            What::Expect(conditions) => conditions.iter().for_each(|condition| self.condition(condition)),
        }
    }

    fn action(&mut self, action: &'a Action) {
        match action {
            Action::Link { link, change } => self.link_change(link, change),
            Action::Host { host, change } => {
                self.host_or_node(host);
                match change {
                    HostChange::Move { from, to, .. } => {
                        self.link_of(host, from);
                        self.link_of(host, to);
                    }
                    HostChange::Address { link, .. } => self.link_of(host, link),
                    HostChange::Route { .. } | HostChange::Sleep(_) => {}
                }
            }
            Action::Napt { napt, .. } => match self.scenario.node(&napt.text) {
                Some(Node {
                    kind: Kind::Napt(_), ..
                }) => {}
                _ => self.refuse(napt, format!("`{napt}` is no NAPT"), "the name of a NAPT"),
            },
            Action::Program { name, change } => self.program_change(name, change),
            Action::Start(start) => self.start(start),
            Action::RedisKill { redis } => {
                if !self.scenario.redis.iter().any(|known| known.name == *redis) {
                    self.refuse(
                        redis,
                        format!("there is no Redis cluster `{redis}`"),
                        format!("a line `redis {redis} on HOST` before the story"),
                    );
                }
            }
            Action::Tell {
                whom: Addressee::Server(server),
                ..
            }
            | Action::Server { server, .. } => {
                if !self.scenario.servers.iter().any(|known| known.name == *server) {
                    self.refuse(
                        server,
                        format!("there is no server `{server}`"),
                        format!("a line `server {server} on HOST` before the story"),
                    );
                }
            }
            Action::Relay { relay, change } => {
                self.relay(relay);
                if let RelayChange::Prefer(PreferredPath::Link(link)) = change {
                    self.link(link);
                }
            }
            Action::Agent { hosts, .. } => hosts.iter().for_each(|host| self.has_agent(host)),
            Action::Tell {
                whom: Addressee::Agent(host),
                ..
            } => self.has_agent(host),
        }
    }

    /// Addresses and routes may change anywhere; only a subject that is no node at all is refused.
    fn host_or_node(&mut self, name: &Name) {
        self.node(name);
    }

    fn link_change(&mut self, name: &Name, change: &'a LinkChange) {
        let Some(link) = self.link(name) else { return };
        if link.plain {
            self.refuse(
                name,
                format!("link `{name}` is plain: no event can touch it"),
                "a link without `plain`",
            );
        }
        let from = match change {
            LinkChange::Blackhole { from } | LinkChange::Replay { from, .. } => from,
            LinkChange::Interfere(interference) => &interference.from,
            _ => &None,
        };
        if let Some(from) = from
            && link.end_at(&from.text).is_none()
        {
            let ends = [link.ends[0].node.text.as_str(), link.ends[1].node.text.as_str()];
            self.refuse(
                from,
                format!("`{from}` is not at an end of {name}"),
                one_of(&ends),
            );
        }
        match change {
            LinkChange::Interfere(Interference {
                deed: Deed::Record(recording),
                ..
            }) => {
                self.recordings.push(&recording.text);
            }
            LinkChange::Replay { recording, .. } | LinkChange::Storm { recording, .. }
                if !self.recordings.contains(&recording.text.as_str()) =>
            {
                self.refuse(
                    recording,
                    format!("nothing is recorded as `{recording}` before this line"),
                    "",
                );
            }
            _ => {}
        }
    }

    fn program_change(&mut self, name: &Name, change: &ProgramChange) {
        match (self.programs.get(name.text.as_str()), change) {
            (None, _) => self.unknown_program(name),
            (
                Some(Program::Talk(Talk {
                    what: Talking::Idle, ..
                })),
                ProgramChange::Speak,
            ) => {}
            (Some(_), ProgramChange::Speak) => {
                self.refuse(
                    name,
                    format!("`{name}` is no idle connection"),
                    "a program started by `idle`",
                );
            }
            _ => {}
        }
    }

    fn start(&mut self, start: &'a ProgramStart) {
        self.node(&start.host);
        match &start.program {
            Program::Talk(talk) => {
                self.node(&talk.to);
                let address = self.scenario.address_of(&talk.to.text, talk.ipv6);
                if talk.address.is_none() && address.is_none() && self.scenario.node(&talk.to.text).is_some()
                {
                    let family = if talk.ipv6 { "IPv6" } else { "IPv4" };
                    self.refuse(&talk.to, format!("{} has no {family} address", talk.to), "");
                }
            }
            Program::Ssh { to, .. } => self.node(to),
            _ => {}
        }
        if self.programs.insert(&start.name.text, &start.program).is_some() {
            self.refuse(
                &start.name,
                format!("a program `{}` was started before", start.name),
                "another `as=NAME`",
            );
        }
    }

    fn unknown_program(&mut self, name: &Name) {
        let mut known: Vec<&str> = self.programs.keys().copied().collect();
        known.sort_unstable();
        self.refuse(
            name,
            format!("no program `{name}` is started before this line"),
            one_of(&known),
        );
    }

    fn condition(&mut self, condition: &Condition) {
        match &condition.subject {
            Subject::Program(name) if !self.programs.contains_key(name.text.as_str()) => {
                self.unknown_program(name)
            }
            Subject::Agent { host, .. } => self.host(host),
            Subject::Relay { relay, .. } => self.relay(relay),
            Subject::Server { server, .. } => self.server(server),
            _ => {}
        }
        for term in &condition.terms {
            match term {
                Term::Compare {
                    measure: Measure::Invalid(napt),
                    ..
                } => match self.scenario.node(&napt.text) {
                    Some(Node {
                        kind: Kind::Napt(_), ..
                    }) => {}
                    _ => self.refuse(napt, format!("`{napt}` is no NAPT"), "the name of a NAPT"),
                },
                Term::Compare {
                    measure: Measure::Rst(host),
                    ..
                } => self.node(host),
                _ => {}
            }
        }
    }
}

fn one_of(known: &[&str]) -> String {
    match known {
        [] => String::new(),
        _ => format!("one of: {}", known.join(", ")),
    }
}
