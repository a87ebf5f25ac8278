//! What is decided when both ends can be brought together, and what when a decision has failed.

use super::*;

/// So many addresses of proxies are avoided at most: after that what is left counts as tried.
const MOST_AVOIDED: usize = 16;

impl Turn<'_> {
    /// Says something to who has just reported: a destination if there is one, or that it has to wait.
    pub(super) fn answer(&mut self, side: Side) {
        let before = self.told().map(|told| told.number);
        self.decide();
        match self.told().map(|told| told.number) {
            Some(_) if before == self.told().map(|told| told.number) => self.tell(side),
            Some(_) => {}
            None => self.tell_waiting(side),
        }
    }

    /// Makes a decision if there is one to make, and lets go of one that does not fit any more.
    pub(super) fn decide(&mut self) {
        self.probe_where_needed();
        let Some(found) = self.find_match() else {
            return self.drop_decision(&Side::BOTH);
        };
        if found.counters != self.record.tried_for {
            self.record.begin_anew();
            self.record.narrowed.clear();
            self.record.tried_for = found.counters;
        } else if self.record.rests_until.is_some() {
            return;
        }
        if !self.is_at(&self.record.leaving) {
            self.record.leaving.clear();
        }
        let meanwhile = self.meanwhile();
        let tries = plan(&found.standings[0], &found.standings[1], meanwhile);
        let in_force = self
            .record
            .decision
            .as_ref()
            .filter(|decision| decision.counters == found.counters);
        if in_force.is_some_and(|decision| tries.contains(&decision.what)) {
            return;
        }
        let Some(&what) = tries.iter().find(|what| !self.record.tried.contains(what)) else {
            self.drop_decision(&Side::BOTH);
            let (rest, works) = match meanwhile {
                Meanwhile::Relayed | Meanwhile::Leaving => (self.rules.rest_relayed, true),
                Meanwhile::Nothing | Meanwhile::Returning => (self.rules.rest, false),
            };
            self.record.rests_until = Some(self.now + rest);
            if !works {
                self.out.push(ServerAction::NoWay);
            }
            return;
        };
        self.record.tried.push(what);
        let from = [0, 1].map(|at| found.standings[at].observed.address);
        let pending = self.pending(from);
        self.record.decisions += u64::from(pending.is_none());
        let number = pending.unwrap_or(self.record.decisions);
        let relays = match what {
            Try::Proxy => true,
            // So that it costs no wait when the direct try fails.
            Try::Simultaneous | Try::SameNapt => meanwhile == Meanwhile::Nothing,
            Try::Send(_) | Try::Open(_) | Try::Relay => false,
        };
        // What was granted before for these very ends serves, and only the rest is asked for.
        let ready = match relays {
            true => self.granted_for(&found, from),
            false => Vec::new(),
        };
        let asked: Vec<u64> = match pending {
            Some(_) => self
                .record
                .decision
                .iter()
                .flat_map(|one| one.asked.clone())
                .collect(),
            None => ready.iter().map(|grant| grant.label).collect(),
        };
        let mut missing = match relays {
            true => self.labels(&found),
            false => Vec::new(),
        };
        missing.retain(|label| !asked.contains(label));
        let tells = what != Try::Proxy || !ready.is_empty();
        if !tells {
            // Nothing can be told before the proxy has answered, and what was told before has failed.
            self.drop_decision(&Side::BOTH);
        }
        self.record.decision = Some(Decision {
            number,
            made: self.now,
            what,
            counters: found.counters,
            labels: self.record.narrowed.clone(),
            grants: ready,
            asked_for: Some(from).filter(|_| relays || pending.is_some()),
            asked: [asked, missing.clone()].concat(),
        });
        if tells {
            self.tell_both();
        }
        if !missing.is_empty() {
            self.out.push(ServerAction::AskProxy {
                decision: number,
                labels: missing,
                from,
                avoid: self.record.avoided.clone(),
            });
        }
    }

    /// The number under which a proxy is being asked for these very ends, if nobody has heard of it yet: what it answers
    /// serves, though another report has come meanwhile.
    fn pending(&self, from: [IpAddr; 2]) -> Option<u64> {
        let decision = self.record.decision.as_ref()?;
        let waits = decision.what == Try::Proxy && decision.grants.is_empty();
        let for_these = decision.asked_for == Some(from) && decision.labels.is_empty();
        (waits && for_these && self.record.narrowed.is_empty()).then_some(decision.number)
    }

    /// What a proxy has granted beside a direct try, for the same ends. What both were told to use is not handed out again:
    /// an end that works there already would move without need.
    fn granted_for(&self, found: &Match, from: [IpAddr; 2]) -> Vec<ProxyGrant> {
        let in_force = self.record.decision.as_ref();
        let in_force =
            in_force.filter(|decision| decision.asked_for == Some(from) && decision.what != Try::Proxy);
        let failed = self.failed.as_ref();
        let failed = failed.filter(|failed| failed.counters == found.counters && failed.what != Try::Proxy);
        let wanted = self.labels(found);
        let granted = in_force.or(failed).map(|decision| decision.grants.iter());
        let granted = granted.into_iter().flatten().copied();
        granted.filter(|grant| wanted.contains(&grant.label)).collect()
    }

    /// What is in force has failed.
    pub(super) fn escalate(&mut self) {
        let told: Vec<Side> = self.told().map(|_| Side::BOTH.to_vec()).unwrap_or_default();
        self.failed = self.record.decision.take();
        self.avoid_the_proxy();
        let number = self.failed.as_ref().map(|decision| decision.number);
        self.decide();
        if self.told().is_none()
            && let Some(number) = number
        {
            for side in told {
                self.cancel(side, number);
                if self.record.end(side).held.is_some() {
                    self.tell_waiting(side);
                }
            }
        }
    }

    /// A proxy at which nothing came about, though it has granted ports, is passed over, and another one is tried.
    fn avoid_the_proxy(&mut self) {
        let failed = self.failed.iter().filter(|failed| failed.what == Try::Proxy);
        let granted = failed.flat_map(|failed| failed.grants.iter().flat_map(|grant| grant.legs));
        let mut others: Vec<IpAddr> = granted.map(|leg| leg.address).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|address| !self.record.avoided.contains(address));
        if !others.is_empty() && self.record.avoided.len() < MOST_AVOIDED {
            self.record.avoided.extend(others);
            self.record.tried.retain(|what| *what != Try::Proxy);
        }
    }

    /// Both ends, if they can be brought together.
    pub(in crate::server) fn find_match(&self) -> Option<Match> {
        let reports = Side::BOTH.map(|side| self.report(side));
        let (connections, alone) = match reports {
            [Some(first), Some(second)] => {
                let only = |side, own: &Report, other| {
                    // Through a proxy an end does not know the other's own port: both have to say theirs.
                    let named = match own.relayed {
                        Relayed::No => ports::only_in(own, other),
                        Relayed::Moves | Relayed::Works => Vec::new(),
                    };
                    named.into_iter().map(move |at| (side, at))
                };
                let alone = only(Side::First, first, second).chain(only(Side::Second, second, first));
                (ports::matching(first, second), alone.collect())
            }
            [Some(only), None] => (Vec::new(), places(Side::First, only)),
            [None, Some(only)] => (Vec::new(), places(Side::Second, only)),
            [None, None] => (Vec::new(), Vec::new()),
        };
        if connections.is_empty() && alone.is_empty() {
            return None;
        }
        let first = standing(self.record.end(Side::First), reports[1])?;
        let second = standing(self.record.end(Side::Second), reports[0])?;
        Some(Match {
            standings: [first, second],
            connections,
            alone,
            counters: self.counters(),
        })
    }

    /// Asks for a probe of every end whose address is its own, once for each report.
    fn probe_where_needed(&mut self) {
        for side in Side::BOTH {
            let end = self.record.end(side);
            let (claimed, stream) = match (&end.held, end.present) {
                (Some(held), _) => (
                    held.report.source_after,
                    Presence {
                        local: held.local,
                        observed: held.observed,
                    },
                ),
                (None, Some(stream)) if self.report(side.other()).is_some() => (stream.local.address, stream),
                (None, _) => continue,
            };
            let probe = end.reachability.filter(|probe| probe.address == claimed);
            let place = position(claimed, stream.local.address, stream.observed.address, probe);
            if place == Position::Unprobed && probe.is_none() {
                self.record.end_mut(side).reachability = Some(Reachability {
                    address: claimed,
                    reachable: None,
                });
                let agent = self.record.name(side).clone();
                self.out.push(ServerAction::ProbeReachability {
                    agent,
                    address: claimed,
                });
            }
        }
    }

    pub(super) fn labels(&self, found: &Match) -> Vec<u64> {
        let label = |side: Side, place: usize| {
            let named = self.report(side)?.connections.get(place)?;
            Some(named.label)
        };
        let matched = found.connections.iter().map(|matched| (Side::First, matched.a));
        let labels = matched
            .chain(found.alone.iter().copied())
            .filter_map(|(side, place)| label(side, place));
        labels
            .filter(|label| self.concerns(&self.record.narrowed, *label))
            .collect()
    }
}

/// The places of all connections of the only report that there is.
fn places(side: Side, only: &Report) -> Vec<(Side, usize)> {
    (0..only.connections.len()).map(|at| (side, at)).collect()
}
