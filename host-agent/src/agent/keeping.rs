//! The data path holds what the machines hold: nothing less, and nothing for longer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use datapath::Datapath;
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use super::*;
use crate::agent::relaying::PROXY;

impl<D: Datapath> Agent<D> {
    /// Brings the data path to what a connection's machine now holds.
    pub(crate) fn settle(&mut self, identity: Tuple) {
        self.reporting.touch(identity);
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let suspect = managed.machine.state() == migration::State::Suspect;
        // Until it has moved, the routing alone knows the way of one that is anchored here.
        let suspect = suspect && !self.network.is_anchored(identity.local.address);
        let mark = !managed.released && (managed.is_active() || suspect || managed.pinned);
        if managed.flags.mark != mark {
            managed.flags.mark = mark;
            self.walk = true;
        }
        let wanted = managed.wanted_tuples();
        let gone: Vec<Tuple> = managed
            .tuples
            .keys()
            .filter(|tuple| !wanted.contains_key(*tuple))
            .copied()
            .collect();
        for tuple in gone {
            managed.tuples.remove(&tuple);
            self.datapath.remove_arrival(&tuple, &identity);
            let free = !wanted.keys().any(|kept| kept.local == tuple.local)
                && !managed
                    .machine
                    .attempts()
                    .iter()
                    .any(|attempt| attempt.from == tuple.local);
            if free {
                managed.paths.remove(&tuple.local);
                if tuple.local != identity.local && managed.offered != Some(tuple.local) {
                    self.ports.give_back(tuple.local);
                }
            }
        }
        managed.note_relayed();
        let mut refused = None;
        let legs = managed.legs.clone();
        let numbers: BTreeSet<ReqNo> = managed.machine.tokens().collect();
        let keys: Vec<_> = managed.candidates.iter().map(|set| set.keys.clone()).collect();
        for number in managed.tokens.difference(&numbers).copied().collect::<Vec<_>>() {
            for set in &keys {
                self.datapath.remove_token(set.token(number), &identity);
            }
            managed.tokens.remove(&number);
        }
        for number in numbers {
            if !managed.tokens.insert(number) {
                continue;
            }
            for (index, set) in keys.iter().enumerate() {
                let stored = self.datapath.put_token(
                    set.token(number),
                    &identity,
                    set.incoming(managed.role),
                    index as u32,
                );
                if let Err(error) = stored {
                    managed.tokens.remove(&number);
                    refused = Some(error);
                }
            }
            // The proxy repeats the token of the MSYN that it answers, and each key set has said one.
            for leg in &legs {
                for set in &keys {
                    let key = leg.key.to_agent();
                    let stored = self.datapath.put_token(set.token(number), &identity, &key, PROXY);
                    refused = stored.err().or(refused);
                }
            }
        }
        if let Err(error) = self.datapath.put_session(&identity, &managed.session()) {
            refused = Some(error);
        }
        let next = managed.machine.next_alarm().map(|(at, _)| at);
        let before = std::mem::replace(&mut managed.alarm, next);
        let active = managed.is_active();
        let grows = active && managed.grows();
        if before != next {
            before.map(|at| self.alarms.remove(&(at, identity)));
            self.alarms.extend(next.map(|at| (at, identity)));
        }
        if active {
            self.active.insert(identity)
        } else {
            self.active.remove(&identity)
        };
        match grows {
            true => self.growing.insert(identity),
            false => self.growing.remove(&identity),
        };
        if let Some(error) = refused {
            self.refused(identity, &error);
        }
        self.keep_leg(identity);
        self.update_load();
    }

    /// Takes a connection up.
    pub(super) fn hold(&mut self, managed: Managed) {
        let address = managed.identity.local.address;
        *self.holders.entry(address).or_default() += 1;
        if self.network.is_anchored(address) {
            let source = datapath::Source {
                ifindex: 0,
                usable: true,
            };
            self.write(|datapath| datapath.put_source(address, source));
        }
        if managed.is_active() {
            self.active.insert(managed.identity);
        }
        self.sessions.insert(managed.identity, managed);
    }

    /// Whether a connection is moved or moving.
    pub(crate) fn moves(&self) -> bool {
        !self.active.is_empty()
    }

    pub(super) fn update_load(&mut self) {
        let load = (self.sessions.len() as u32, self.active.len() as u32);
        if load != self.load {
            self.load = load;
            self.write(|datapath| datapath.set_load(load.0, load.1));
        }
    }

    /// Sockets are walked at most once a batch.
    pub(crate) fn ask_for_walk(&mut self) {
        self.walk = true;
    }

    pub(super) fn walk_if_due(&mut self) {
        if std::mem::take(&mut self.walk) {
            self.datapath.reconcile();
        }
    }

    /// Performs a write; a failure is logged and does not stop anything.
    pub(crate) fn write(&mut self, write: impl FnOnce(&mut D) -> Result<(), datapath::DatapathError>) {
        if let Err(error) = write(&mut self.datapath) {
            self.timeline.count("datapath_error");
            tracing::error!(%error, "the data path refused");
        }
    }

    /// Forgets a connection altogether.
    pub(crate) fn bury(&mut self, identity: Tuple) {
        self.release(identity);
        let Some(managed) = self.sessions.remove(&identity) else {
            return;
        };
        for number in &managed.tokens {
            for set in &managed.candidates {
                self.datapath.remove_token(set.keys.token(*number), &identity);
            }
        }
        self.datapath.remove_session(&identity);
        if managed.kept_leg.is_some() {
            self.datapath.remove_leg(&identity);
        }
        managed.alarm.map(|at| self.alarms.remove(&(at, identity)));
        self.active.remove(&identity);
        self.growing.remove(&identity);
        self.unwritten.remove(&identity);
        self.update_load();
    }

    /// Frees what a connection held but its keys.
    pub(crate) fn release(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        if std::mem::replace(&mut managed.released, true) {
            return;
        }
        if let Some(offered) = managed.offered.take() {
            managed.paths.entry(offered).or_default();
        }
        for tuple in std::mem::take(&mut managed.tuples).into_keys() {
            self.datapath.remove_arrival(&tuple, &identity);
            managed.paths.entry(tuple.local).or_default();
        }
        for local in std::mem::take(&mut managed.paths)
            .into_keys()
            .filter(|local| *local != identity.local)
        {
            self.ports.give_back(local);
        }
        self.datapath.remove_wire(&identity);
        self.datapath.remove_heads(&identity);
        let address = identity.local.address;
        let left = self
            .holders
            .get(&address)
            .map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            self.holders.insert(address, left);
            return;
        }
        self.holders.remove(&address);
        if self.network.is_anchored(address) {
            self.datapath.remove_source(address);
        }
        self.let_go(address);
    }

    /// No connection needs a kept address any more.
    pub(super) fn let_go(&mut self, address: IpAddr) {
        if self.retired.remove(&address) {
            if self.network.device_of(address).is_none() {
                self.datapath.remove_source(address);
            }
            self.effects.push(Effect::Release(address));
        }
    }
}
