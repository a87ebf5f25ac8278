//! A scenario drawn and told, without running it.
use std::fmt::Write;

use crate::language::Scenario;
use crate::language::ast::*;
use crate::language::units::{show_duration, show_size};
use crate::network::plan;

/// The topology as a picture, then the story line by line.
pub fn explain(scenario: &Scenario) -> String {
    let mut text = String::new();
    if let Some(title) = &scenario.title {
        let _ = writeln!(text, "{title}\n");
    }
    text += &picture(scenario);
    text += "\nThe story\n";
    for step in &scenario.steps {
        let _ = writeln!(text, "  {:>4}  {}", step.line, step.text);
    }
    text
}

/// `rate=20mbit delay=5ms`, or `unshaped`.
pub fn shape(shape: &Shape) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = shape.rate {
        parts.push(format!("rate={}", rate_text(rate)));
    }
    if !shape.delay.is_zero() {
        parts.push(format!("delay={}", show_duration(shape.delay)));
    }
    if shape.loss > 0.0 {
        parts.push(format!("loss={}%", shape.loss * 100.0));
    }
    if let Some(mtu) = shape.mtu {
        parts.push(format!("mtu={mtu}"));
    }
    if let Some(queue) = shape.queue {
        parts.push(format!("queue={}", show_size(queue)));
    }
    if parts.is_empty() {
        "unshaped".to_owned()
    } else {
        parts.join(" ")
    }
}

fn rate_text(rate: u64) -> String {
    match rate {
        0..1_000_000 => format!("{}kbit", rate as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{}mbit", rate as f64 / 1e6),
        _ => format!("{}gbit", rate as f64 / 1e9),
    }
}

/// Every node once, its links below it as branches, each drawn where it is first met.
fn picture(scenario: &Scenario) -> String {
    let mut picture = Picture {
        scenario,
        text: String::new(),
        nodes: Vec::new(),
        links: Vec::new(),
    };
    // Routers are the middle of the picture.
    let middle = scenario.nodes.iter().filter(|node| node.kind == Kind::Router);
    for node in middle.chain(&scenario.nodes) {
        if !picture.nodes.contains(&node.name.text.as_str()) {
            picture.nodes.push(&node.name.text);
            let _ = writeln!(picture.text, "{}", label(node, scenario));
            picture.branches(node, "");
        }
    }
    picture.text
}

struct Picture<'a> {
    scenario: &'a Scenario,
    text: String,
    nodes: Vec<&'a str>,
    links: Vec<&'a str>,
}

impl<'a> Picture<'a> {
    fn branches(&mut self, node: &'a Node, indent: &str) {
        let scenario = self.scenario;
        let branches: Vec<(&Link, usize)> = scenario
            .links_of(&node.name.text)
            .filter(|(link, _)| !self.links.contains(&link.name.text.as_str()))
            .collect();
        // All branches of a node belong to it, before any of them branches on.
        self.links
            .extend(branches.iter().map(|(link, _)| link.name.text.as_str()));
        let far_names = branches
            .iter()
            .map(|(link, end)| link.ends[1 - end].node.text.as_str());
        let new: Vec<bool> = far_names
            .clone()
            .map(|name| !self.nodes.contains(&name))
            .collect();
        self.nodes.extend(far_names);
        for (position, (link, end)) in branches.iter().enumerate() {
            let last = position + 1 == branches.len();
            let far = &link.ends[1 - end];
            let Some(far_node) = scenario.node(&far.node.text) else {
                continue;
            };
            let seen = !new[position];
            let (branch, below) = if last {
                ("└─", "  ")
            } else {
                ("├─", "│ ")
            };
            let _ = write!(self.text, "{indent}{branch}{}─ ", wire(link, *end));
            let shown = if seen {
                format!("→ {}", far.node)
            } else {
                label(far_node, scenario)
            };
            let _ = writeln!(self.text, "{} {shown}", addresses(far));
            if !seen {
                self.branches(far_node, &format!("{indent}{below}"));
            }
        }
    }
}

fn wire(link: &Link, end: usize) -> String {
    let mut text = format!("{} ─ {}", addresses(&link.ends[end]), link.name);
    if link.shape != Shape::default() {
        text += &format!(" [{}]", shape(&link.shape));
    }
    if link.down {
        text += " (down)";
    }
    text
}

fn addresses(end: &End) -> String {
    let all: Vec<String> = end.addresses.iter().map(ToString::to_string).collect();
    if all.is_empty() {
        "·".to_owned()
    } else {
        all.join(" ")
    }
}

fn label(node: &Node, scenario: &Scenario) -> String {
    let agent = if scenario.agents.iter().any(|agent| agent.host == node.name) {
        " + agent"
    } else {
        ""
    };
    match &node.kind {
        Kind::Host if scenario.is_multipath(&node.name.text) => {
            format!("{}{agent} + multipath", node.name)
        }
        Kind::Host if scenario.relays.iter().any(|relay| relay.node == node.name) => {
            format!("{} + proxy", node.name)
        }
        Kind::Host => format!("{}{agent}", node.name),
        Kind::Router if scenario.relays.iter().any(|relay| relay.node == node.name) => {
            format!("({} + relay)", node.name)
        }
        Kind::Router => format!("({})", node.name),
        Kind::Napt(rule) => {
            let ports = match rule.ports {
                Ports::Kept => "ports kept",
                Ports::Random => "random ports",
                Ports::FullyRandom => "fully random ports",
                Ports::EndpointIndependent => "ports kept, open from outside",
            };
            let outside = scenario
                .outside_of(node)
                .map_or("", |link| link.name.text.as_str());
            let nat64 = rule
                .nat64
                .map_or(String::new(), |prefix| format!(", NAT64 {prefix}"));
            format!("[{}: NAPT, {ports}{nat64}, outside {outside}]", node.name)
        }
    }
}

/// Which links the emulator carries and which routes everybody gets.
pub fn details(scenario: &Scenario) -> String {
    let mut text = String::from("\nLinks\n");
    for link in &scenario.links {
        let kind = if plan::is_emulated(scenario, link) {
            "emulated"
        } else {
            "plain pair"
        };
        let _ = writeln!(text, "  {:<12} {kind}, {}", link.name.text, shape(&link.shape));
    }
    text += "\nRoutes\n";
    for node in &scenario.nodes {
        for (link, end) in scenario.links_of(&node.name.text) {
            let ends = [&link.ends[end].addresses, &link.ends[1 - end].addresses];
            for route in plan::routes(scenario, node, link, ends[0], ends[1]) {
                let to = route.to.map_or_else(|| "default".to_owned(), |to| to.to_string());
                let _ = writeln!(
                    text,
                    "  {:<12} {to} via {} on {}",
                    node.name.text, route.via, link.name
                );
            }
        }
    }
    text
}
