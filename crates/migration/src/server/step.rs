//! One event, one step.

mod deciding;

use std::net::IpAddr;

use wire::Endpoint;

use crate::time::Timestamp;

use super::event::{
    ProxyGrant, ServerAction, ServerActions, ServerEvent, ServerRefusal, Waiting, WithdrawReason,
};
use super::findings::{Position, Standing, position, standing};
use super::plan::{Meanwhile, Try, plan};
use super::ports::{self, Matched};
use super::record::{Decision, Held, PairRecord, Presence, Reachability, Side};
use super::report::{AgentName, MappingBehaviour, Relayed, Report};
use super::rules::Rules;

/// Advances one pair by one event. No IO, no clock, no randomness.
///
/// # Units
/// `now`: one clock for all servers of a store, time since the Unix epoch.
/// # Errors
/// None. An event that does not fit changes nothing and yields [`ServerAction::Refuse`] with the reason.
/// # Source
/// docs/protocol.md, "The mobility server"; Shimizu 2002, 3.1.2, 3.1.4, 3.1.5.
pub fn step(
    record: PairRecord,
    event: ServerEvent,
    rules: &Rules,
    now: Timestamp,
) -> (PairRecord, ServerActions) {
    let mut turn = Turn {
        record,
        rules,
        now,
        out: ServerActions::new(),
        failed: None,
    };
    match event {
        ServerEvent::ReportHeard {
            agent,
            report,
            local,
            observed,
        } => turn.report_heard(agent, report, local, observed),
        ServerEvent::WithdrawHeard {
            agent,
            move_counter,
            reason,
            decision,
        } => turn.withdraw_heard(agent, move_counter, reason, decision),
        ServerEvent::TryFailed {
            agent,
            decision,
            cause: _,
            labels,
        } => turn.try_failed(agent, decision, labels),
        ServerEvent::PeerPresent {
            agent,
            local,
            observed,
        } => turn.present(agent, Presence { local, observed }),
        ServerEvent::PeerGone { agent, observed } => turn.gone(agent, observed),
        ServerEvent::Reachability {
            agent,
            address,
            reachable,
        } => turn.probed(
            agent,
            Reachability {
                address,
                reachable: Some(reachable),
            },
        ),
        ServerEvent::ProxyAnswered { decision, grants } => turn.proxy_answered(decision, grants),
        ServerEvent::RelayLeaving { addresses } => turn.relay_leaving(addresses),
        ServerEvent::TimerFired => turn.timer_fired(),
    }
    turn.finish()
}

/// One step while it is taken.
pub(super) struct Turn<'a> {
    pub(super) record: PairRecord,
    rules: &'a Rules,
    now: Timestamp,
    out: ServerActions,
    /// The decision that has failed in this step.
    failed: Option<Decision>,
}

/// Two ends that can be brought together.
pub(super) struct Match {
    pub(super) standings: [Standing; 2],
    /// The connections that both have reported.
    pub(super) connections: Vec<Matched>,
    /// Those that one of them alone has, by their place in its report: the other is only present, or has noticed nothing
    /// of these yet.
    pub(super) alone: Vec<(Side, usize)>,
    counters: [u64; 2],
}

impl Turn<'_> {
    fn report_heard(&mut self, agent: AgentName, report: Report, local: Endpoint, observed: Endpoint) {
        let Some(side) = self.side(&agent, Some(&report)) else {
            return;
        };
        if let Err(reason) = report.check() {
            return self.refuse(agent, reason.into());
        }
        let end = self.record.end(side);
        let held = end.held.as_ref();
        let newest = held.map_or(end.settled, |held| held.report.move_counter);
        let got = report.move_counter;
        let again = held.is_some_and(|held| held.report.move_counter == got);
        if got < newest || got <= end.settled {
            return self.refuse(agent, ServerRefusal::Stale { got, newest });
        }
        let keep = report.keep.unwrap_or(self.rules.keep).min(self.rules.keep_max);
        let mut learnt = false;
        let (report, arrival) = match held {
            // The same again, over another stream perhaps: a report is repeated until it is answered. What a probe has
            // shown since of the NAPT counts.
            Some(held) if again => {
                let known = held.report.mapping;
                learnt = report.mapping != known && report.mapping.behaviour != MappingBehaviour::Unknown;
                let mapping = if learnt { report.mapping } else { known };
                let report = Report {
                    mapping,
                    ..held.report.clone()
                };
                (report, held.arrival)
            }
            Some(held) => (held.report.moved_on(report), self.next_arrival()),
            None => (report, self.next_arrival()),
        };
        let end = self.record.end_mut(side);
        end.held = Some(Held {
            report,
            local,
            observed,
            arrival,
            expires: self.now + keep,
        });
        // Who speaks is there.
        end.present = Some(Presence { local, observed });
        if !again {
            end.reachability = None;
        }
        if learnt {
            // There may be a try that could not be made before.
            self.record.rests_until = None;
        }
        self.answer(side);
    }

    fn withdraw_heard(&mut self, agent: AgentName, counter: u64, reason: WithdrawReason, decision: u64) {
        let Some(side) = self.side(&agent, None) else {
            return;
        };
        let held = self.record.end(side).held.as_ref();
        if held.is_none_or(|held| held.report.move_counter != counter) {
            // Of an older report, or of one that never came and must not count when it does.
            let newest = held.map_or(u64::MAX, |held| held.report.move_counter);
            let end = self.record.end_mut(side);
            if counter < newest {
                end.settled = end.settled.max(counter);
            }
            return;
        }
        let crossed = self.told().is_some_and(|told| told.number > decision);
        if reason == WithdrawReason::Resumed && crossed {
            // The peer has moved again meanwhile.
            return self.tell(side);
        }
        let other = side.other();
        let matched = self.counters() == self.record.tried_for;
        self.settle(side);
        let untold = self.told().is_none();
        if reason == WithdrawReason::Resumed && matched && self.record.end(other).held.is_some() {
            self.settle(other);
            if untold {
                self.cancel(other, self.record.decisions);
            }
        }
        self.drop_decision(&[other]);
        if self.record.end(other).held.is_some() {
            self.tell_waiting(other);
        }
    }

    fn try_failed(&mut self, agent: AgentName, number: u64, labels: Vec<u64>) {
        if self.side(&agent, None).is_none() || self.told().is_none_or(|told| told.number != number) {
            return;
        }
        if !labels.is_empty() {
            self.record.narrowed = labels;
        }
        self.escalate();
    }

    fn present(&mut self, agent: AgentName, stream: Presence) {
        let Some(side) = self.side(&agent, None) else {
            return;
        };
        self.record.end_mut(side).present = Some(stream);
        if self.record.decision.is_none() {
            self.record.begin_anew();
        }
        if self.told().is_some() {
            self.tell(side);
        }
        self.decide();
    }

    /// What was decided stays in force: streams break and come back.
    fn gone(&mut self, agent: AgentName, observed: Endpoint) {
        let Some(side) = self.side(&agent, None) else {
            return;
        };
        let end = self.record.end_mut(side);
        if end.present.is_some_and(|stream| stream.observed == observed) {
            end.present = None;
        }
    }

    fn probed(&mut self, agent: AgentName, probe: Reachability) {
        let Some(side) = self.side(&agent, None) else {
            return;
        };
        let end = self.record.end_mut(side);
        let before = end.reachability;
        if before.is_none_or(|before| before.address != probe.address) {
            return;
        }
        end.reachability = Some(probe);
        if before != end.reachability && self.record.decision.is_none() {
            self.record.rests_until = None;
        }
        self.decide();
    }

    fn proxy_answered(&mut self, number: u64, grants: Vec<ProxyGrant>) {
        let Some(decision) = self
            .record
            .decision
            .as_mut()
            .filter(|decision| decision.number == number)
        else {
            return;
        };
        let known = decision.grants.len();
        for grant in grants {
            if !decision.grants.iter().any(|one| one.label == grant.label) {
                decision.grants.push(grant);
            }
        }
        match decision.what {
            Try::Proxy if decision.grants.is_empty() => self.escalate(),
            Try::Proxy if decision.grants.len() > known => {
                decision.made = self.now;
                self.tell_both();
            }
            // Kept for the case that the direct try fails.
            _ => {}
        }
    }

    /// A proxy is drained: what works through it goes through another one before it is gone.
    fn relay_leaving(&mut self, addresses: Vec<IpAddr>) {
        if self.meanwhile() != Meanwhile::Relayed || !self.is_at(&addresses) {
            return;
        }
        self.record.leaving = addresses;
        self.record.begin_anew();
        self.decide();
    }

    /// Whether all that is reported goes through a proxy with one of these addresses.
    pub(super) fn is_at(&self, addresses: &[IpAddr]) -> bool {
        let mut reports = Side::BOTH.into_iter().filter_map(|side| self.report(side));
        !addresses.is_empty() && reports.all(|report| addresses.contains(&report.destination_before))
    }

    /// How the connections do while a better way is looked for.
    pub(super) fn meanwhile(&self) -> Meanwhile {
        let reports = || Side::BOTH.into_iter().filter_map(|side| self.report(side));
        let all = |relayed: &[Relayed]| reports().all(|report| relayed.contains(&report.relayed));
        if all(&[Relayed::Works]) {
            return match self.is_at(&self.record.leaving) {
                true => Meanwhile::Leaving,
                false => Meanwhile::Relayed,
            };
        }
        match all(&[Relayed::Works, Relayed::Moves]) {
            true => Meanwhile::Returning,
            false => Meanwhile::Nothing,
        }
    }

    fn timer_fired(&mut self) {
        let now = self.now;
        for side in Side::BOTH {
            if self
                .record
                .end(side)
                .held
                .as_ref()
                .is_some_and(|held| held.expires <= now)
            {
                self.settle(side);
                self.drop_decision(&Side::BOTH);
            }
        }
        let patience = self.rules.try_patience;
        if self
            .record
            .decision
            .as_ref()
            .is_some_and(|decision| decision.made + patience <= now)
        {
            self.escalate();
        }
        if self.record.rests_until.is_some_and(|until| until <= now) {
            self.record.begin_anew();
            self.record.narrowed.clear();
            self.decide();
        }
        let linger = self.rules.linger;
        if self.record.is_empty() && self.record.empty_since.is_some_and(|since| since + linger <= now) {
            self.out.push(ServerAction::Forget);
        }
    }

    pub(super) fn concerns(&self, narrowed: &[u64], label: u64) -> bool {
        narrowed.is_empty() || narrowed.contains(&label)
    }

    /// The decision in force, if the ends know it.
    pub(super) fn told(&self) -> Option<&Decision> {
        let pending = |decision: &Decision| decision.what == Try::Proxy && decision.grants.is_empty();
        self.record
            .decision
            .as_ref()
            .filter(|decision| !pending(decision))
    }

    pub(super) fn report(&self, side: Side) -> Option<&Report> {
        self.record.end(side).held.as_ref().map(|held| &held.report)
    }

    fn counters(&self) -> [u64; 2] {
        Side::BOTH.map(|side| self.report(side).map_or(0, |report| report.move_counter))
    }

    fn next_arrival(&mut self) -> u64 {
        self.record.arrivals += 1;
        self.record.arrivals
    }

    /// The report of this end is not in force any more, and never will be again.
    fn settle(&mut self, side: Side) {
        let end = self.record.end_mut(side);
        if let Some(held) = end.held.take() {
            end.settled = end.settled.max(held.report.move_counter);
        }
    }

    /// Nothing is decided any more; `whom` hears of it.
    fn drop_decision(&mut self, whom: &[Side]) {
        let told = self.told().map(|told| told.number);
        self.record.decision = None;
        if let Some(number) = told {
            for &side in whom {
                self.cancel(side, number);
            }
        }
    }

    fn cancel(&mut self, side: Side, decision: u64) {
        let agent = self.record.name(side).clone();
        let forgotten = self.report(side).is_none();
        self.out.push(ServerAction::Cancel {
            agent,
            decision,
            forgotten,
        });
    }

    fn tell_both(&mut self) {
        for side in Side::BOTH {
            self.tell(side);
        }
    }

    fn tell(&mut self, side: Side) {
        if let Some(destination) = self.destination(side) {
            let agent = self.record.name(side).clone();
            let destination = Box::new(destination);
            self.out.push(ServerAction::Tell { agent, destination });
        }
    }

    fn tell_waiting(&mut self, side: Side) {
        let end = self.record.end(side);
        let (Some(held), Some(standing)) = (&end.held, standing(end, None)) else {
            return;
        };
        let waiting = Waiting {
            pair: self.record.key.pair,
            move_counter: held.report.move_counter,
            observed: held.observed,
            self_after: standing.position.finding(),
            peer_present: self.record.end(side.other()).present.is_some(),
        };
        let agent = self.record.name(side).clone();
        self.out.push(ServerAction::TellWaiting { agent, waiting });
    }

    /// Which end speaks; refused when it is none, or names another pair or peer.
    fn side(&mut self, agent: &AgentName, report: Option<&Report>) -> Option<Side> {
        let side = self.record.side_of(agent);
        let fits = |side: &Side| {
            report.is_none_or(|report| {
                report.pair == self.record.key.pair && report.peer == *self.record.name(side.other())
            })
        };
        let side = side.filter(fits);
        if side.is_none() {
            self.refuse(agent.clone(), ServerRefusal::NotYours);
        }
        side
    }

    fn refuse(&mut self, agent: AgentName, reason: ServerRefusal) {
        self.out.push(ServerAction::Refuse { agent, reason });
    }

    fn finish(mut self) -> (PairRecord, ServerActions) {
        self.record.empty_since = match self.record.is_empty() {
            true => self.record.empty_since.or(Some(self.now)),
            false => None,
        };
        (self.record, self.out)
    }
}
