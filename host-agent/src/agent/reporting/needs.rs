//! Which connections the servers are told of, and why: what a step of a connection's machine means for its report.

use super::*;

/// A connection through a proxy has to have worked for so long before a direct path is wished for: until then the other
/// end may not have finished, and its report is still in force.
const BETTER_AFTER: Duration = Duration::from_secs(2);
/// Only a silence of this length makes an end that has not moved ask the servers: timeouts are common.
const WAITING_AFTER: Duration = Duration::from_secs(1);

impl Reporting {
    /// Whether a connection is reported only because a direct path would be better.
    fn is_wished(&self, identity: &Tuple) -> bool {
        let pair = self.in_trouble.get(identity);
        let trouble = pair.and_then(|pair| self.troubles.get(pair));
        let need = trouble.and_then(|trouble| trouble.needs.get(identity));
        matches!(need, Some(Need::Better(_)))
    }
}

impl<D: Datapath> Agent<D> {
    /// Silences that have lasted long enough are looked at once more.
    pub(super) fn note_silent(&mut self, now: Timestamp) {
        let reporting = &mut self.reporting;
        let due = reporting
            .silent
            .iter()
            .filter(|(_, since)| now.since(**since) >= WAITING_AFTER)
            .map(|(identity, _)| *identity);
        let due: Vec<Tuple> = due
            .filter(|identity| !reporting.in_trouble.contains_key(identity) || reporting.is_wished(identity))
            .collect();
        reporting.touched.extend(due);
        let due = reporting
            .relayed
            .iter()
            .filter(|(_, since)| now.since(**since) >= BETTER_AFTER)
            .map(|(identity, _)| *identity);
        let due: Vec<Tuple> = due
            .filter(|identity| !reporting.in_trouble.contains_key(identity))
            .collect();
        reporting.touched.extend(due);
    }

    /// Puts one connection where it belongs; says which pairs this concerns.
    pub(super) fn classify(&mut self, identity: Tuple, now: Timestamp) -> Vec<Uuid> {
        let before = self.reporting.in_trouble.get(&identity).copied();
        let after = self.need_of(identity, now);
        let after = after.map(|need| self.with_port(identity, need));
        if !matches!(after, Some(Need::Better(_))) {
            self.take_back_offer(identity);
        }
        let mut changed: Vec<Uuid> = before.into_iter().collect();
        let pair = self.sessions.get(&identity).map(|managed| managed.keys().pair_id);
        let after = after.zip(pair);
        if let Some(pair) = before
            && after.is_none_or(|(_, now_of)| now_of != pair)
        {
            self.reporting.in_trouble.remove(&identity);
            if let Some(trouble) = self.reporting.troubles.get_mut(&pair) {
                trouble.needs.remove(&identity);
            }
        }
        if let Some((need, pair)) = after {
            self.reporting.in_trouble.insert(identity, pair);
            let trouble = self.reporting.troubles.entry(pair).or_default();
            trouble.needs.insert(identity, need);
            changed.push(pair);
        }
        changed
    }

    /// A connection that would go on directly would do so from a port of its own: a NAPT has made something of the present
    /// one already.
    fn with_port(&mut self, identity: Tuple, need: Need) -> Need {
        let Need::Better(here) = need else { return need };
        let offered = self.sessions.get(&identity).and_then(|managed| managed.offered);
        if let Some(offered) = offered.filter(|offered| offered.address == here.address) {
            return Need::Better(offered);
        }
        self.take_back_offer(identity);
        let fresh = self.ports.take(here.address);
        if let Some(managed) = self.sessions.get_mut(&identity) {
            managed.offered = fresh;
        }
        Need::Better(fresh.unwrap_or(here))
    }

    fn take_back_offer(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let unused = managed
            .offered
            .take()
            .filter(|offered| !managed.paths.contains_key(offered));
        if let Some(offered) = unused {
            self.ports.give_back(offered);
        }
    }

    fn need_of(&mut self, identity: Tuple, now: Timestamp) -> Option<Need> {
        let managed = self.sessions.get(&identity).filter(|managed| managed.is_live());
        let Some(managed) = managed else {
            self.reporting.silent.remove(&identity);
            self.reporting.relayed.remove(&identity);
            return None;
        };
        let machine = &managed.machine;
        let relayed = managed.is_relayed();
        if !machine.troubled() {
            self.reporting.silent.remove(&identity);
            if !relayed {
                self.reporting.relayed.remove(&identity);
                return None;
            }
            let here = machine.wire().local;
            let since = *self.reporting.relayed.entry(identity).or_insert(now);
            return (now.since(since) >= BETTER_AFTER).then_some(Need::Better(here));
        }
        self.reporting.relayed.remove(&identity);
        let usable = |address: IpAddr| self.network.device_of(address).is_some();
        let here = machine.wire().local;
        // It has left the proxy, and is not heard yet: that is what was wished for.
        let leaves = !machine.is_parked() && !machine.is_confirmed() && machine.state() != State::Suspect;
        if leaves && usable(here.address) && self.reporting.is_wished(&identity) {
            let since = *self.reporting.silent.entry(identity).or_insert(now);
            if now.since(since) < WAITING_AFTER {
                return Some(Need::Better(here));
            }
        }
        let attempt = machine
            .attempts()
            .iter()
            .rev()
            .find(|attempt| usable(attempt.from.address));
        if machine.is_parked() || !machine.is_confirmed() {
            self.reporting.silent.remove(&identity);
            return match attempt.map(|attempt| attempt.from) {
                Some(from) => Some(Need::Moved(from)),
                None if !machine.is_parked() && usable(here.address) => Some(Need::Moved(here)),
                None => Some(Need::Away),
            };
        }
        let silent = machine.state() == State::Suspect || attempt.is_some();
        if !silent || !usable(here.address) {
            return None;
        }
        let since = *self.reporting.silent.entry(identity).or_insert(now);
        let waits = now.since(since) >= WAITING_AFTER || attempt.is_some();
        waits.then_some(Need::Waiting(here.address))
    }
}
