//! What an end is told: the mobility destination (3.1.5 of the source).

use super::event::{ConnectionDestination, Destination, DestinationAction};
use super::findings::{self, Finding};
use super::plan::Try;
use super::record::{Decision, Side};
use super::report::ConnectionPorts;
use super::step::{Match, Turn};

impl Turn<'_> {
    /// The decision in force as this end has to hear it.
    pub(super) fn destination(&self, side: Side) -> Option<Destination> {
        let decision = self.told()?;
        let found = self.find_match()?;
        let other = side.other();
        let [own, peer] = [side, other].map(|side| found.standings[side.index()]);
        let action = match decision.what {
            Try::Send(sender) if sender == side => DestinationAction::SendMsyn,
            Try::Send(_) | Try::Relay => DestinationAction::AwaitMsyn,
            Try::Simultaneous => DestinationAction::Simultaneous,
            Try::SameNapt => DestinationAction::SameNapt,
            Try::Open(opener) if opener == side => DestinationAction::Open,
            // Its NAPT, too, lets in only whom it has seen sent to: the first MSYN opens it.
            Try::Open(_) => DestinationAction::Simultaneous,
            Try::Proxy => DestinationAction::Proxy,
        };
        let grants = decision.grants.iter().filter(|_| decision.what == Try::Proxy);
        let proxy = grants.map(|grant| grant.legs[side.index()].address).next();
        let (self_before, peer_before) = self.found_before(side, &found);
        Some(Destination {
            pair: self.record.key.pair,
            move_counter: decision.counters[side.index()],
            decision: decision.number,
            action,
            peer_address: proxy.unwrap_or(peer.address),
            connections: self.connections(side, decision, &found),
            sealed: self
                .report(other)
                .map(|report| report.sealed.clone())
                .unwrap_or_default(),
            observed: own.observed,
            self_before,
            self_after: own.position.finding(),
            peer_before,
            peer_after: peer.position.finding(),
            peer_mapping: peer.mapping,
        })
    }

    /// Before the move nothing is known of an end that has not said where it was.
    fn found_before(&self, side: Side, found: &Match) -> (Finding, Finding) {
        let (Some(first), Some(second)) = (self.report(Side::First), self.report(Side::Second)) else {
            return (Finding::Unknown, Finding::Unknown);
        };
        let (first, second) = findings::before(first, second, &found.connections);
        match side {
            Side::First => (first, second),
            Side::Second => (second, first),
        }
    }

    fn connections(&self, side: Side, decision: &Decision, found: &Match) -> Vec<ConnectionDestination> {
        let place = |of: Side, place: usize| self.report(of)?.connections.get(place);
        let matched = found.connections.iter().map(|matched| {
            let ends = [place(Side::First, matched.a), place(Side::Second, matched.b)];
            (ends[side.index()], ends[side.other().index()])
        });
        let alone = found.alone.iter().map(|&(of, at)| match of == side {
            true => (place(of, at), None),
            false => (None, place(of, at)),
        });
        matched
            .chain(alone)
            .filter_map(|(own, peer)| self.connection(side, decision, own, peer))
            .collect()
    }

    fn connection(
        &self,
        side: Side,
        decision: &Decision,
        own: Option<&ConnectionPorts>,
        peer: Option<&ConnectionPorts>,
    ) -> Option<ConnectionDestination> {
        let label = own
            .map_or(0, |own| own.label)
            .max(peer.map_or(0, |peer| peer.label));
        if !self.concerns(&decision.labels, label) {
            return None;
        }
        let (source_before, source_after) = match (own, peer) {
            (Some(own), _) => (own.source_before, own.source_after),
            // It has not reported: the peer knows its port, and it has not moved.
            (None, peer) => (peer?.destination_before, 0),
        };
        let direct = match (peer, own) {
            (Some(peer), _) => peer.source_now(),
            (None, own) => match own?.destination_after {
                0 => own?.destination_before,
                port => port,
            },
        };
        let (destination, lease) = match decision.what {
            Try::Proxy => {
                let grant = decision.grants.iter().find(|grant| grant.label == label)?;
                (grant.legs[side.index()].port, Some(grant.lease))
            }
            _ => (direct, None),
        };
        Some(ConnectionDestination {
            source_before,
            source_after,
            destination,
            label,
            lease,
            peer_req_no: peer.map(|peer| peer.req_no),
        })
    }
}
