//! Asking for what is on no board: agents' lists, counters of NAPTs and links.
use std::collections::HashMap;

use super::judge::Facts;
use super::run::Stage;
use crate::agents::Answer;
use crate::language::ast::*;

/// The facts one condition needs, asked for before the board is held.
pub struct Gathered<'a> {
    stage: &'a Stage,
    agent: Option<Answer>,
    invalid: HashMap<String, Result<u64, String>>,
    /// Whether a change of every fact it needs wakes who waits.
    pub announced: bool,
}

impl<'a> Gathered<'a> {
    pub fn gather(stage: &'a Stage, condition: &Condition) -> Gathered<'a> {
        let mut gathered = Gathered {
            stage,
            agent: None,
            invalid: HashMap::new(),
            announced: true,
        };
        match &condition.subject {
            Subject::Program(_) => {}
            Subject::Agent { host, list } => {
                gathered.agent = Some(stage.agents.ask(&host.text, *list));
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
