//! Whether a condition holds now.

use super::*;

impl Teller<'_> {
    pub(super) fn judge(&self, condition: &Condition) -> Result<bool, Stop> {
        match &condition.subject {
            Subject::Program(name) => self.judge_program(&name.text, &condition.terms),
            Subject::Agent {
                host,
                list: AgentList::Connections,
            } => self.judge_agent(&host.text, &condition.terms),
            Subject::Agent { .. } => not("an agent's status"),
            Subject::Relay { .. } => not("a relay"),
            Subject::Server { .. } => not("a server's lists"),
            Subject::Run => condition
                .terms
                .iter()
                .try_fold(true, |all, term| Ok(all && self.judge_run(term)?)),
        }
    }

    fn judge_program(&self, name: &str, terms: &[Term]) -> Result<bool, Stop> {
        let own: Vec<&Connection> = self
            .world
            .connections
            .iter()
            .filter(|connection| connection.name == name)
            .collect();
        let failed = self.unconnected.iter().any(|other| other == name);
        let reset = own
            .iter()
            .any(|connection| connection.ends.iter().any(|end| end.reset_delivered));
        if own.is_empty() && !failed {
            return not("a program that was not started here");
        }
        let done = !own.is_empty() && !failed && own.iter().all(|connection| connection.is_done());
        if (failed || reset) && !terms.iter().any(|term| matches!(term, Term::Error(_))) {
            let what = if failed { "could not connect" } else { "was reset" };
            return Err(Stop::Failed(format!("{name} {what}{}", self.picture())));
        }
        terms.iter().try_fold(true, |all, term| {
            let holds = match term {
                Term::Done | Term::Same => done,
                Term::Running => !done && !reset,
                Term::Connected => !failed,
                Term::Compare {
                    measure: Measure::Bytes,
                    sign,
                    value,
                } => {
                    let bytes: u64 = own
                        .iter()
                        .map(|connection| connection.arrived() * connection.unit)
                        .sum();
                    compare(bytes as f64, *sign, *value)
                }
                Term::Compare {
                    measure: Measure::Answers,
                    sign,
                    value,
                } => {
                    let answers: u64 = own.iter().map(|connection| connection.arrived()).sum();
                    compare(answers as f64, *sign, *value)
                }
                Term::Compare {
                    measure: Measure::Connections,
                    sign,
                    value,
                } => compare(own.len() as f64, *sign, *value),
                Term::Compare {
                    measure: Measure::Reconnects,
                    sign,
                    value,
                } => compare(0.0, *sign, *value),
                _ => return not("what is asked of the program"),
            };
            Ok(all && holds)
        })
    }

    fn judge_agent(&self, host: &str, terms: &[Term]) -> Result<bool, Stop> {
        let node = self.node(host)?;
        let ends = self.world.connections.iter().flat_map(|connection| {
            (0..2)
                .filter(move |&h| connection.nodes[h] == node)
                .map(move |h| &connection.ends[h])
        });
        let mut listed = Vec::new();
        let mut total = 0;
        for end in ends.filter(|end| !end.has_ended()) {
            total += 1;
            let mut fits = true;
            for term in terms {
                let Term::Field { key, sign, value } = term else {
                    continue;
                };
                let shown = match key.as_str() {
                    "state" => match end.machine.state() {
                        State::MigWait(_) => "MigWait".to_owned(),
                        state => state.to_string(),
                    },
                    "path" => {
                        let place = end.place_of(end.machine.wire().local);
                        place
                            .map(|place| self.scenario.links[place.link].name.text.clone())
                            .unwrap_or_default()
                    }
                    _ => return not(&format!("the agent's field {key}")),
                };
                fits &= match sign {
                    Sign::Equal => shown == *value,
                    Sign::NotEqual => shown != *value,
                    _ => return not("this comparison of an agent's field"),
                };
            }
            if fits {
                listed.push(end);
            }
        }
        let count = terms.iter().find_map(|term| match term {
            Term::Compare {
                measure: Measure::Count,
                sign,
                value,
            } => Some((*sign, *value)),
            _ => None,
        });
        Ok(match count {
            Some((sign, value)) => compare(listed.len() as f64, sign, value),
            None => total > 0 && listed.len() == total,
        })
    }

    fn judge_run(&self, term: &Term) -> Result<bool, Stop> {
        let Term::Compare { measure, sign, value } = term else {
            return not("what is asked of the run");
        };
        let resets = self
            .world
            .connections
            .iter()
            .filter(|connection| connection.ends.iter().any(|end| end.reset_delivered));
        let measured = match measure {
            Measure::Resets => resets.count() as f64,
            Measure::Errors => (resets.count() + self.unconnected.len()) as f64,
            // There is no kernel here that could leak or mistrust anything.
            Measure::Leaks | Measure::Invalid(_) | Measure::Rst(_) => 0.0,
            _ => return not("what is asked of the run"),
        };
        Ok(compare(measured, *sign, *value))
    }
}
