//! One record under test, and reports as two agents would send them.

use std::net::IpAddr;
use std::time::Duration;

use migration::server::{
    AgentName, ConnectionPorts, Destination, DestinationAction, Mapping, MappingBehaviour, PairId, PairKey,
    PairRecord, Relayed, Report, Rules, ServerAction, ServerActions, ServerEvent, Side, WithdrawReason, step,
};
use migration::{Endpoint, Timestamp};

pub const PAIR: PairId = PairId([7; 16]);

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn alice() -> AgentName {
    AgentName::from("spiffe://deployment/agent/alice")
}

pub fn bob() -> AgentName {
    AgentName::from("spiffe://deployment/agent/bob")
}

pub fn name(side: Side) -> AgentName {
    match side {
        Side::First => alice(),
        Side::Second => bob(),
    }
}

/// A report of alice (10.1.0.1 port 40000 before) or of bob (203.0.113.2 port 443 before), both in the open.
pub fn report(side: Side, counter: u64, after: &str) -> Report {
    let (own, peer) = match side {
        Side::First => (("198.51.100.1", 40_000), ("203.0.113.2", 443)),
        Side::Second => (("203.0.113.2", 443), ("198.51.100.1", 40_000)),
    };
    Report {
        pair: PAIR,
        peer: name(side.other()),
        move_counter: counter,
        source_before: address(own.0),
        destination_before: address(peer.0),
        source_after: address(after),
        connections: vec![ConnectionPorts {
            source_before: own.1,
            destination_before: peer.1,
            source_after: own.1 + 1,
            destination_after: 0,
            label: 99,
            req_no: 0,
        }],
        confirmed_source: None,
        sealed: vec![side as u8 + 1],
        waiting: false,
        keep: None,
        mapping: Mapping::default(),
        relayed: Relayed::No,
    }
}

pub fn predictable(mut report: Report) -> Report {
    report.mapping.behaviour = MappingBehaviour::PortPreserving;
    report
}

/// One record and what was asked for last.
pub struct Bench {
    pub record: PairRecord,
    pub now: Timestamp,
    pub out: ServerActions,
    pub rules: Rules,
}

impl Bench {
    pub fn new() -> Self {
        let key = PairKey::new(PAIR, &alice(), &bob()).expect("two names");
        Self {
            record: PairRecord::new(key),
            now: Timestamp::from_millis(1_000_000),
            out: Vec::new(),
            rules: Rules::default(),
        }
    }

    pub fn tell(&mut self, event: ServerEvent) -> &ServerActions {
        let (record, out) = step(self.record.clone(), event, &self.rules, self.now);
        self.record = record;
        self.out = out;
        &self.out
    }

    /// The report arrives over a stream from `observed`, made at the address that it reports.
    pub fn report(&mut self, side: Side, report: Report, observed: &str) -> &ServerActions {
        let local = Endpoint::new(report.source_after, 50_000);
        self.report_over(side, report, local, observed)
    }

    pub fn report_over(
        &mut self,
        side: Side,
        report: Report,
        local: Endpoint,
        observed: &str,
    ) -> &ServerActions {
        let observed = Endpoint::new(address(observed), 61_000);
        self.tell(ServerEvent::ReportHeard {
            agent: name(side),
            report,
            local,
            observed,
        })
    }

    /// An end in the open that has moved to `after`.
    pub fn open(&mut self, side: Side, counter: u64, after: &str) -> &ServerActions {
        self.report(side, report(side, counter, after), after)
    }

    pub fn present(&mut self, side: Side, local: &str, observed: &str) -> &ServerActions {
        self.tell(ServerEvent::PeerPresent {
            agent: name(side),
            local: Endpoint::new(address(local), 50_000),
            observed: Endpoint::new(address(observed), 61_000),
        })
    }

    pub fn probe(&mut self, side: Side, at: &str, reachable: bool) -> &ServerActions {
        self.tell(ServerEvent::Reachability {
            agent: name(side),
            address: address(at),
            reachable,
        })
    }

    pub fn withdraw(
        &mut self,
        side: Side,
        counter: u64,
        reason: WithdrawReason,
        decision: u64,
    ) -> &ServerActions {
        self.tell(ServerEvent::WithdrawHeard {
            agent: name(side),
            move_counter: counter,
            reason,
            decision,
        })
    }

    pub fn fail(&mut self, side: Side) -> &ServerActions {
        let decision = self.record.decisions;
        self.tell(ServerEvent::TryFailed {
            agent: name(side),
            decision,
            cause: migration::server::FailureCause::NoAnswer,
            labels: Vec::new(),
        })
    }

    pub fn wait(&mut self, how_long: Duration) -> &ServerActions {
        self.now = self.now + how_long;
        self.tell(ServerEvent::TimerFired)
    }

    /// What this end was told in the last step.
    pub fn told(&self, side: Side) -> Option<&Destination> {
        self.out.iter().find_map(|action| match action {
            ServerAction::Tell { agent, destination } if *agent == name(side) => Some(&**destination),
            _ => None,
        })
    }

    /// What either end was told to do in the last step.
    pub fn told_to(&self) -> [Option<DestinationAction>; 2] {
        Side::BOTH.map(|side| self.told(side).map(|told| told.action))
    }

    pub fn waits(&self, side: Side) -> bool {
        let waiting = |action: &ServerAction| matches!(action, ServerAction::TellWaiting { agent, .. } if *agent == name(side));
        self.out.iter().any(waiting)
    }

    pub fn cancelled(&self, side: Side) -> Option<bool> {
        self.out.iter().find_map(|action| match action {
            ServerAction::Cancel { agent, forgotten, .. } if *agent == name(side) => Some(*forgotten),
            _ => None,
        })
    }

    pub fn probes(&self) -> Vec<(AgentName, IpAddr)> {
        let probe = |action: &ServerAction| match action {
            ServerAction::ProbeReachability { agent, address } => Some((agent.clone(), *address)),
            _ => None,
        };
        self.out.iter().filter_map(probe).collect()
    }

    pub fn proxy_asked(&self) -> Option<u64> {
        self.out.iter().find_map(|action| match action {
            ServerAction::AskProxy { decision, .. } => Some(*decision),
            _ => None,
        })
    }

    pub fn refuses(&self, side: Side) -> bool {
        let refused = |action: &ServerAction| matches!(action, ServerAction::Refuse { agent, .. } if *agent == name(side));
        self.out.iter().any(refused)
    }
}
