//! An agent is killed; another one finds what is pinned.

use migration::{Adopted, Event, Machine, Timestamp};

use super::host::{Host, Notice};

impl Host {
    /// The agent is killed and another takes over what is pinned. What was in the ring buffer is lost.
    pub fn restart(&mut self, now: Timestamp) {
        if self.has_ended() || self.kernel.is_dead() {
            return;
        }
        let adopted = Adopted {
            committed: self.datapath.committed,
            highest_seen: self.stored.max(self.datapath.committed),
            wire: self.datapath.wire,
            confirmed: self.datapath.committed == self.stored_confirmed
                || self.datapath.committed.role() == Some(self.role.peer()),
            known: self.stored_known,
            parked: self.datapath.parked,
            lingering: self
                .datapath
                .heard
                .iter()
                .map(|(&tuple, &req_no)| (req_no, tuple))
                .collect(),
            tcp_state: self.kernel.tcp,
        };
        let tokens = self.datapath.tokens.clone();
        self.machine = Machine::adopt(self.role, adopted, self.policy, now).with_tokens(tokens);
        self.alarm = self.machine.next_alarm().map(|(at, _)| at);
        self.datapath.answers.clear();
        self.datapath.captures.clear();
        self.ring.clear();
        self.datapath.unread.clear();
        self.question = false;
        // It looks at the socket and the addresses of now, and tries again what was parked.
        if self.kernel.is_backed_off() {
            self.ring.push_back(Event::RetransmissionTimeout);
        }
        let wire = self.datapath.wire.local.address;
        self.notices.clear();
        let here = self.places.iter().any(|place| place.address() == wire);
        if !here {
            self.notices
                .push_back(Notice::Event(Event::AddressLost { local: wire }));
        }
        if self.datapath.parked || !here {
            for &place in &self.places {
                self.notices.push_back(Notice::Usable {
                    place,
                    candidates: None,
                });
            }
        }
    }
}
