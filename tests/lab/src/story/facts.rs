//! Asking for what is on no board: agents' lists, counters of NAPTs and links.
use std::collections::HashMap;
use std::net::SocketAddr;

use super::judge::Facts;
use super::run::Stage;
use crate::agents::Answer;
use crate::language::ast::*;

/// The facts one condition needs, asked for before the board is held.
pub struct Gathered<'a> {
    stage: &'a Stage,
    agent: Option<Answer>,
    /// What a relay or a server has answered.
    relay: Option<Answer>,
    invalid: HashMap<String, Result<u64, String>>,
    /// Whether a change of every fact it needs wakes who waits.
    pub announced: bool,
}

impl<'a> Gathered<'a> {
    pub fn gather(stage: &'a Stage, condition: &Condition) -> Gathered<'a> {
        let mut gathered = Gathered {
            stage,
            agent: None,
            relay: None,
            invalid: HashMap::new(),
            announced: true,
        };
        match &condition.subject {
            Subject::Program(_) => {}
            Subject::Agent { host, list } => {
                gathered.agent = Some(stage.agents.ask(&host.text, *list).map(|mut entries| {
                    entries
                        .iter_mut()
                        .for_each(|entry| name_path(stage, &host.text, entry));
                    entries
                }));
                gathered.announced = false;
            }
            Subject::Relay { relay, list } => {
                gathered.relay = Some(stage.relays.ask(&relay.text, *list).map(|mut entries| {
                    entries
                        .iter_mut()
                        .for_each(|entry| name_carrier(stage, &relay.text, entry));
                    entries
                }));
                gathered.announced = false;
            }
            Subject::Server { server, list } => {
                gathered.relay = Some(stage.servers.ask(&server.text, *list));
                gathered.announced = false;
            }
            Subject::Run => gathered.announced = false,
        }
        for term in &condition.terms {
            if let Term::Compare {
                measure: Measure::Invalid(napt),
                ..
            } = term
            {
                gathered
                    .invalid
                    .insert(napt.text.clone(), stage.invalid(&napt.text));
            }
        }
        gathered
    }
}

impl Facts for Gathered<'_> {
    fn agent(&self, _: &str, _: AgentList) -> Answer {
        self.agent
            .clone()
            .unwrap_or_else(|| Err("the agent was not asked".to_owned()))
    }

    fn relay(&self) -> Answer {
        self.relay
            .clone()
            .unwrap_or_else(|| Err("the relay was not asked".to_owned()))
    }

    fn leaks(&self) -> (u64, Vec<String>) {
        self.stage.network.leaks()
    }

    fn invalid(&self, napt: &str) -> Result<u64, String> {
        self.invalid
            .get(napt)
            .cloned()
            .unwrap_or_else(|| Err(format!("{napt} was not asked")))
    }

    fn fill_in(&self, pattern: &str, host: &str) -> String {
        match self.stage.network.station(host) {
            Ok(station) => self.stage.fill_in(pattern, station),
            Err(_) => pattern.to_owned(),
        }
    }

    fn rst(&self, host: &str) -> u64 {
        self.stage.network.resets(host)
    }
}

/// Gives a connection the field `path`: the link whose address it has on the wire now.
fn name_path(stage: &Stage, host: &str, entry: &mut serde_json::Value) {
    let local = entry
        .get("wire_local")
        .and_then(|local| local.as_str()?.parse::<SocketAddr>().ok());
    let Some(local) = local else { return };
    let scenario = &stage.network.scenario;
    let mut links = scenario.links_of(host);
    let link = links.find(|(link, end)| {
        let addresses = &stage.network.links[&link.name.text].addresses[*end];
        addresses.iter().any(|prefix| prefix.address == local.ip())
    });
    if let (Some((link, _)), Some(fields)) = (link, entry.as_object_mut()) {
        fields.insert("path".to_owned(), link.name.text.clone().into());
    }
}

/// Gives a subflow the field `path`: the link on which its far end has the address that the relay sees.
fn name_carrier(stage: &Stage, relay: &str, entry: &mut serde_json::Value) {
    let remote = entry
        .get("remote")
        .and_then(|remote| remote.as_str()?.parse::<SocketAddr>().ok());
    let Some(remote) = remote else { return };
    let link = stage.network.scenario.links.iter().find(|link| {
        let others = link.ends.iter().filter(|end| end.node.text != relay);
        let mut addresses = others.flat_map(|end| &end.addresses);
        addresses.any(|prefix| prefix.address == remote.ip())
    });
    if let (Some(link), Some(fields)) = (link, entry.as_object_mut()) {
        fields.insert("path".to_owned(), link.name.text.clone().into());
    }
}
