//! What a full map refused is written again.
//!
//! A map may be full in the middle of a move and have room a second later, when others have ended. What could not be
//! written then is still true, and a connection must not be lost for want of it: once a second the data path is
//! compared with what the machine holds, for those connections that were refused something.

use std::time::Duration;

use datapath::{Arrival, ArrivalState, Datapath, DatapathError};
use migration::Timestamp;
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use super::*;

/// How soon a write that was refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);

impl<D: Datapath> Agent<D> {
    /// Writes what belongs to one connection; a failure is said once, and what is missing is written later.
    pub(crate) fn write_for(
        &mut self,
        identity: Tuple,
        write: impl FnOnce(&mut D) -> Result<(), DatapathError>,
    ) {
        if let Err(error) = write(&mut self.datapath) {
            self.refused(identity, &error);
        }
    }

    /// The data path did not take something of a connection.
    pub(super) fn refused(&mut self, identity: Tuple, error: &DatapathError) {
        self.timeline.count("datapath_error");
        if self.unwritten.insert(identity) {
            tracing::error!(connection = %identity, %error, "the data path refused; this is tried again every second");
        }
    }

    /// A connection that has just been taken up, and for which there was no room, stays plain: held nevertheless it would take
    /// the room of one that was there before it as soon as both move.
    pub(super) fn stays_plain(&mut self, identity: Tuple) -> bool {
        let refused = self.unwritten.contains(&identity);
        if refused {
            self.bury(identity);
            self.timeline.count("stays_plain");
        }
        refused
    }

    /// Once a second: what was refused.
    pub(super) fn write_again(&mut self, now: Timestamp) {
        if self.unwritten.is_empty() || self.rewritten_at.is_some_and(|at| now.since(at) < AGAIN) {
            return;
        }
        self.rewritten_at = Some(now);
        let refused: Vec<Tuple> = self.unwritten.drain().collect();
        for identity in refused {
            self.write_missing(identity);
        }
    }

    fn write_missing(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get(&identity).filter(|managed| !managed.released) else {
            return;
        };
        let machine = managed.machine.clone();
        let paths = managed.paths.clone();
        let path_of = |tuple: &Tuple| paths.get(&tuple.local).copied().unwrap_or_default();
        for (tuple, req_no) in managed.wanted_tuples() {
            if self.datapath.arrival(&tuple).is_some() {
                continue;
            }
            let answered = machine
                .answered()
                .iter()
                .find(|answered| answered.tuple == tuple && answered.req_no == req_no);
            let (state, expect_seq, expect_ack) = match answered {
                Some(answered) => (ArrivalState::Answered, answered.ack, answered.seq.wrapping_add(1)),
                None if tuple == machine.wire() && req_no == machine.committed() => {
                    (ArrivalState::Committed, 0, 0)
                }
                None if machine
                    .lingering()
                    .iter()
                    .any(|lingering| lingering.tuple == tuple) =>
                {
                    (ArrivalState::Linger, 0, 0)
                }
                None => (ArrivalState::Attempted, 0, 0),
            };
            let arrival = Arrival {
                identity,
                path: path_of(&tuple),
                req_no,
                state,
                expect_seq,
                expect_ack,
                confirm: state == ArrivalState::Committed,
            };
            self.write_for(identity, |datapath| datapath.put_arrival(&tuple, &arrival));
        }
        let (wire, committed) = (machine.wire(), machine.committed());
        let written = self.datapath.wire(&identity);
        if machine.is_parked() && written.is_none() {
            self.write_for(identity, |datapath| datapath.park(&identity, &wire, committed));
        } else if !machine.is_parked()
            && committed != ReqNo::UNMOVED
            && written.is_none_or(|state| state.wire != wire || state.req_no < committed)
        {
            let path = path_of(&wire);
            self.write_for(identity, |datapath| {
                datapath.commit(&identity, &wire, &path, committed)
            });
        }
        self.settle(identity);
    }
}
