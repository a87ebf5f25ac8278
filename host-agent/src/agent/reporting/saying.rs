//! What is said of a pair: a report when it is new, nothing while it stands, a withdrawal after the last connection.

use super::*;

/// Connections in one report, at most.
const MAX_CONNECTIONS: usize = 16_384;
/// Addresses that are told to the peer alone, at most.
const MAX_CANDIDATES: usize = 16;
/// Withdrawals that are remembered for streams that come back.
const MAX_WITHDRAWN: usize = 64;

impl<D: Datapath> Agent<D> {
    pub(super) fn review_pair(&mut self, id: Uuid, now: Timestamp) {
        let Some(trouble) = self.reporting.troubles.get(&id) else {
            return;
        };
        if trouble.needs.is_empty() {
            return self.withdraw(id);
        }
        let mut froms: BTreeMap<(IpAddr, bool), usize> = BTreeMap::new();
        for (_, need) in trouble.pressing() {
            match need {
                Need::Moved(from) => *froms.entry((from.address, false)).or_default() += 1,
                Need::Better(from) => {
                    *froms.entry((from.address, trouble.is_real())).or_default() += 1;
                }
                Need::Waiting(from) => *froms.entry((*from, true)).or_default() += 1,
                Need::Away => {}
            }
        }
        // Most of a pair's connections move together; the others are told by their labels.
        let Some(((from, waiting), _)) = froms.into_iter().max_by_key(|(_, count)| *count) else {
            return;
        };
        let was_real = trouble
            .report
            .as_ref()
            .is_none_or(|(report, ..)| report.relayed() != said::mobility_report::Relayed::Works);
        let known = trouble
            .report
            .as_ref()
            .filter(|(report, address, _)| *address == from && report.waiting == waiting)
            .is_some_and(|(.., named)| {
                trouble
                    .pressing()
                    .take(MAX_CONNECTIONS)
                    .all(|(one, _)| named.contains_key(one))
            })
            && trouble.is_real() == was_real;
        if known {
            if !was_real && self.goes_elsewhere(id) {
                self.renew_soon(id, now);
            }
            return;
        }
        let Some(pair) = self.pairs.by_id(&id).cloned() else {
            return;
        };
        let servers = self.servers_of(&pair);
        if servers.is_empty() {
            return;
        }
        let counter = self.reporting.counter.take();
        let Some(report) = self.compose(&pair, from, waiting, counter) else {
            return;
        };
        let pressing = self
            .reporting
            .troubles
            .get(&id)
            .into_iter()
            .flat_map(Trouble::pressing);
        let named: HashMap<Tuple, Endpoint> = pressing
            .filter_map(|(identity, _)| {
                let managed = self.sessions.get(identity)?;
                Some((*identity, managed.machine.wire().remote))
            })
            .collect();
        self.timeline.note(
            "",
            "report",
            format!(
                "{counter} for {}: {} connections, {} {from}",
                pair.peer_name,
                report.connections.len(),
                match report.relayed() {
                    said::mobility_report::Relayed::Works => "relayed at",
                    _ if waiting => "waiting at",
                    _ => "now at",
                },
            ),
        );
        self.reporting.tries.forget(id);
        self.reporting.wanted.reports.insert(
            id,
            Reported {
                report: report.clone(),
                servers,
            },
        );
        if let Some(trouble) = self.reporting.troubles.get_mut(&id) {
            trouble.report = Some((report, from, named));
        }
    }

    /// Whether what was reported as relayed goes through another proxy by now: the former one's port is free.
    fn goes_elsewhere(&self, id: Uuid) -> bool {
        let trouble = self.reporting.troubles.get(&id);
        let Some((.., named)) = trouble.and_then(|trouble| trouble.report.as_ref()) else {
            return false;
        };
        named.iter().any(|(identity, reported)| {
            let managed = self.sessions.get(identity);
            managed.is_some_and(|managed| {
                managed.is_live() && managed.is_relayed() && managed.machine.wire().remote != *reported
            })
        })
    }

    fn compose(
        &self,
        pair: &Pair,
        from: IpAddr,
        waiting: bool,
        counter: u64,
    ) -> Option<said::MobilityReport> {
        let trouble = self.reporting.troubles.get(&pair.pair_id)?;
        let mut connections = Vec::with_capacity(trouble.needs.len());
        let mut before: BTreeMap<(IpAddr, IpAddr, IpAddr), usize> = BTreeMap::new();
        // All of them, or it is said of none.
        let mut relayed = said::mobility_report::Relayed::Works;
        for (identity, need) in trouble.pressing().take(MAX_CONNECTIONS) {
            let Some(managed) = self.sessions.get(identity) else {
                continue;
            };
            let wire = managed.machine.wire();
            let unmoved = managed.machine.committed() == wire::reqno::ReqNo::UNMOVED;
            let peer_direct = self
                .datapath
                .connection(identity)
                .filter(|connection| unmoved && connection.peer_direct_port != 0)
                .map_or(wire.remote.port, |connection| connection.peer_direct_port);
            relayed = match need {
                Need::Better(_) => relayed,
                Need::Moved(_) | Need::Waiting(_) if managed.returns() => {
                    relayed.min(said::mobility_report::Relayed::Moves)
                }
                _ => said::mobility_report::Relayed::No,
            };
            let after = match need {
                Need::Moved(from) | Need::Better(from) if from.port != wire.local.port => from.port,
                _ => 0,
            };
            connections.push(said::ConnectionPorts {
                source_port_before: u32::from(wire.local.port),
                destination_port_before: u32::from(peer_direct),
                source_port_after: u32::from(after),
                destination_port_after: 0,
                label: managed.keys().keys.label(),
                req_no: managed.machine.committed().0,
            });
            let addresses = (identity.local.address, wire.remote.address, wire.local.address);
            *before.entry(addresses).or_default() += 1;
        }
        let ((source_before, destination_before, confirmed), _) =
            before.into_iter().max_by_key(|(_, count)| *count)?;
        let candidates = said::SealedCandidates {
            move_counter: counter,
            addresses: self
                .network
                .usable()
                .take(MAX_CANDIDATES)
                .map(|(address, _)| bytes_of(address))
                .collect(),
        };
        let me = self.reporting.me.as_ref()?;
        let sealed = sealed::seal(pair, me, &candidates.encode_to_vec()).unwrap_or_default();
        Some(said::MobilityReport {
            pair_id: pair.pair_id.as_bytes().to_vec(),
            peer: pair.peer.to_string(),
            move_counter: counter,
            source_before: bytes_of(source_before),
            destination_before: bytes_of(destination_before),
            source_after: bytes_of(from),
            connections,
            confirmed_source: match confirmed == source_before {
                true => Vec::new(),
                false => bytes_of(confirmed),
            },
            sealed,
            waiting,
            keep_seconds: u32::try_from(self.policy.mig_wait.as_secs()).unwrap_or(u32::MAX),
            mapping: self.reporting.mapping_of(from).cloned(),
            relayed: relayed.into(),
        })
    }

    fn withdraw(&mut self, id: Uuid) {
        let Some(trouble) = self.reporting.troubles.remove(&id) else {
            return;
        };
        self.reporting.wanted.reports.remove(&id);
        let Some((report, _, named)) = trouble.report else {
            return;
        };
        let alive = named.keys().any(|identity| {
            self.sessions
                .get(identity)
                .is_some_and(|managed| managed.is_live())
        });
        let reason = match alive {
            true => said::withdraw::Reason::Resumed,
            false => said::withdraw::Reason::Closed,
        };
        self.timeline.note(
            "",
            "report_withdrawn",
            format!("{} {reason:?}", report.move_counter),
        );
        let heard = self.reporting.tries.heard(id);
        self.reporting.tries.forget(id);
        self.say_withdrawn(id, report.move_counter, reason, heard);
    }

    /// Whether none of a pair's connections goes through a proxy, or would if it were well.
    fn is_direct(&self, id: Uuid) -> bool {
        let live = self.sessions.values().filter(|managed| managed.is_live());
        live.filter(|managed| managed.keys().pair_id == id)
            .all(|managed| !managed.is_relayed() && !managed.machine.troubled())
    }

    pub(in crate::agent) fn say_withdrawn(
        &mut self,
        id: Uuid,
        counter: u64,
        reason: said::withdraw::Reason,
        heard: BTreeMap<String, u64>,
    ) {
        let direct = self.is_direct(id);
        let withdrawn = &mut self.reporting.wanted.withdrawn;
        withdrawn.retain(|known| {
            known.withdraw.pair_id != id.as_bytes() || known.withdraw.move_counter != counter
        });
        if withdrawn.len() >= MAX_WITHDRAWN {
            withdrawn.remove(0);
        }
        withdrawn.push(Withdrawn {
            withdraw: said::Withdraw {
                pair_id: id.as_bytes().to_vec(),
                move_counter: counter,
                reason: reason.into(),
                decision: 0,
                direct,
            },
            heard,
        });
    }
}
