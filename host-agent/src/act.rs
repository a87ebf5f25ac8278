//! Actions: the only place where a connection's machine touches the data path.

mod bridging;
mod reporting;
mod resets;
mod sending;

use datapath::{Arrival, ArrivalState, Datapath, Path, TcpState};
use migration::{Action, AskReason, Report, State, Timestamp};
use wire::flags::Flags;
use wire::handshake::{Standing, SynOptions};
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::agent::{Agent, Effect};
use crate::sessions::{KeySet, Restoring};

/// The hops of an MSYN that is to get through our own NAPT and not to the peer's, which may answer it by a reset, before
/// the peer's own MSYN has opened the way there.
const SHORT_WAY: u8 = 2;

impl<D: Datapath> Agent<D> {
    /// Performs one action for one connection.
    pub(crate) fn perform(&mut self, identity: Tuple, action: Action, now: Timestamp) {
        match action {
            Action::Park { req_no, wire } => self.park(identity, req_no, wire, now),
            Action::StoreReqNo { .. } | Action::StoreKnown { .. } => self.store(identity),
            Action::SendMsyn {
                from,
                to,
                req_no,
                token_of,
                seq,
                rcv_nxt,
                tries,
            } => {
                let tuple = Tuple::new(from, to);
                self.expect(identity, tuple, req_no, ArrivalState::Attempted, 0, 0);
                if tries == 1 {
                    self.timeline
                        .note(identity, "msyn", format!("{from} -> {to} number {}", req_no.0));
                }
                let brief = self.opens(identity, to) || tries == 1 && self.crosses(identity, req_no);
                self.send_request(
                    identity,
                    false,
                    tuple,
                    token_of,
                    req_no,
                    |tuple, standing, syn| {
                        let standing = Standing {
                            seq,
                            rcv_nxt,
                            ..standing
                        };
                        let mut segment = Segment::msyn(tuple, standing, syn);
                        if brief {
                            segment.hop_limit = SHORT_WAY;
                        }
                        segment
                    },
                );
            }
            Action::InstallAnswered {
                req_no,
                tuple,
                seq,
                ack,
            } => {
                self.expect(
                    identity,
                    tuple,
                    req_no,
                    ArrivalState::Answered,
                    ack,
                    seq.wrapping_add(1),
                );
                // The data path may commit from now on: it must look, and the socket be routed its way. One that
                // has moved before is: a walk would take its processor from the handshakes that follow.
                self.settle(identity);
            }
            Action::SendMsynAck {
                from,
                to,
                req_no,
                token_of,
                seq,
                ack,
                rcv_nxt,
            } => {
                self.send_request(
                    identity,
                    true,
                    Tuple::new(from, to),
                    token_of,
                    req_no,
                    |tuple, standing, syn| {
                        Segment::msyn_ack(
                            tuple,
                            Standing {
                                seq,
                                rcv_nxt,
                                ..standing
                            },
                            ack,
                            syn,
                        )
                    },
                );
            }
            Action::Commit { req_no, wire } => self.commit(identity, req_no, wire),
            Action::SendMigrateAck {
                from,
                to,
                req_no,
                token_of,
                seq,
                ack,
            } => {
                self.send_request(
                    identity,
                    false,
                    Tuple::new(from, to),
                    token_of,
                    req_no,
                    |tuple, standing, _| Segment::migrate_ack(tuple, Standing { seq, ..standing }, ack),
                );
                self.bridge(identity, Tuple::new(from, to), req_no, (seq, ack), false);
            }
            Action::Kick { req_no: _ } => self.kick(identity, now),
            Action::Confirmed { req_no } => {
                tracing::debug!(connection = %identity, number = req_no.0, "the peer uses the new tuple");
            }
            // What a machine does not hold any more is taken from the data path when the step is settled.
            Action::Forget { .. } | Action::RetireTokens { .. } | Action::WakeAt(..) => {}
            Action::Linger {
                req_no,
                tuple,
                until: _,
            } => {
                self.expect(identity, tuple, req_no, ArrivalState::Linger, 0, 0);
            }
            Action::RaiseTimeouts => self.raise(identity),
            Action::RestoreTimeouts => self.restore_later(identity),
            Action::MarkSuspect => self.watch(identity),
            Action::AskPeerAboutReset => self.query(identity),
            Action::DeliverReset => self.deliver_reset(identity),
            Action::DropReset => {
                if let Some(managed) = self.sessions.get_mut(&identity) {
                    managed.held_reset = None;
                }
                self.timeline
                    .note(identity, "reset_dropped", "the peer did not send it");
            }
            Action::SendMigrateReset { from, to, token_of } => {
                self.send_request(
                    identity,
                    false,
                    Tuple::new(from, to),
                    token_of,
                    ReqNo::UNMOVED,
                    |tuple, standing, _| Segment::migrate_reset(tuple, standing, standing.rcv_nxt),
                );
            }
            Action::SendReset { from, to, seq } => {
                let reset = Segment::bare(Tuple::new(from, to), Flags::RST, seq, 0, 0);
                self.emit(identity, &reset);
            }
            Action::AskForEndpoint { why, .. } => {
                if why == AskReason::ResetInDoubt {
                    tracing::debug!(connection = %identity, "a reset is in doubt: probing the peer");
                }
                self.effects.push(Effect::FindWayOut(identity));
            }
            Action::Tombstone { .. } => {}
            Action::Report(report) => self.report(identity, report, now),
            Action::Release => self.release(identity),
            Action::Bury => self.bury(identity),
            Action::Refuse(refusal) => {
                tracing::debug!(connection = %identity, %refusal, "refused");
                self.timeline.count("refused");
            }
        }
    }

    /// Whether an attempt crosses one of the peer's.
    fn crosses(&self, identity: Tuple, req_no: ReqNo) -> bool {
        let managed = self.sessions.get(&identity);
        managed.is_some_and(|managed| {
            let mut attempts = managed.machine.attempts().iter();
            attempts.any(|attempt| attempt.req_no == req_no && attempt.crossing)
        })
    }

    /// Whether what is sent there has to open the way through our NAPT only.
    fn opens(&self, identity: Tuple, to: Endpoint) -> bool {
        let managed = self.sessions.get(&identity);
        managed.is_some_and(|managed| managed.opening == Some(to) && !managed.machine.troubled())
    }

    fn park(&mut self, identity: Tuple, req_no: ReqNo, wire: Tuple, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        managed.detached_at = Some(now);
        managed.usable_at = None;
        self.write_for(identity, |datapath| datapath.park(&identity, &wire, req_no));
    }

    fn store(&mut self, identity: Tuple) {
        let Some(session) = self.sessions.get(&identity).map(|managed| managed.session()) else {
            return;
        };
        self.write_for(identity, |datapath| datapath.put_session(&identity, &session));
    }

    /// Says what may arrive on a tuple.
    fn expect(
        &mut self,
        identity: Tuple,
        tuple: Tuple,
        req_no: ReqNo,
        state: ArrivalState,
        seq: u32,
        ack: u32,
    ) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let path = managed.paths.get(&tuple.local).copied().unwrap_or_default();
        let mut answered = managed.machine.answered().iter();
        if state == ArrivalState::Attempted && answered.any(|answered| answered.tuple == tuple) {
            // The peer's attempt on this very tuple has crossed ours, and its Migrate-Ack must find what it is to have.
            return;
        }
        let known = self.datapath.arrival(&tuple);
        if state == ArrivalState::Linger && known.is_some_and(|arrival| arrival.identity != identity) {
            // Another connection's peer is reached there now.
            return;
        }
        managed.tuples.insert(tuple, req_no);
        // The data path may have committed it since; that stands.
        let committed = known.is_some_and(|arrival| {
            arrival.req_no == req_no
                && arrival.state == ArrivalState::Committed
                && arrival.identity == identity
        });
        if committed && matches!(state, ArrivalState::Answered | ArrivalState::Attempted) {
            return;
        }
        let arrival = Arrival {
            identity,
            path,
            req_no,
            state,
            expect_seq: seq,
            expect_ack: ack,
            confirm: state == ArrivalState::Committed,
        };
        self.write_for(identity, |datapath| datapath.put_arrival(&tuple, &arrival));
    }

    /// Whatever made it suspect: the tick looks whether it goes on.
    fn watch(&mut self, identity: Tuple) {
        let tcp = self.datapath.read_tcp(&identity).ok().flatten();
        if let Some(managed) = self.sessions.get_mut(&identity) {
            managed.suspected_at = managed.suspected_at.or(tcp);
        }
        self.ask_for_walk();
    }

    fn commit(&mut self, identity: Tuple, req_no: ReqNo, wire: Tuple) {
        self.expect(identity, wire, req_no, ArrivalState::Committed, 0, 0);
        let path = self.path(identity, wire.local);
        self.write_for(identity, |datapath| {
            datapath.commit(&identity, &wire, &path, req_no)
        });
        self.settle(identity);
    }

    fn path(&self, identity: Tuple, local: Endpoint) -> Path {
        self.sessions
            .get(&identity)
            .and_then(|managed| managed.paths.get(&local))
            .copied()
            .unwrap_or_default()
    }

    fn raise(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        managed.restoring = None;
        managed.flags.raise = true;
        self.ask_for_walk();
    }

    /// The kernel's timeouts wait until the peer has acknowledged something: restored at once they would kill
    /// a connection that has been silent for longer than they allow.
    fn restore_later(&mut self, identity: Tuple) {
        let tcp = self.datapath.read_tcp(&identity).ok().flatten();
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        managed.suspected_at = None;
        if let Some(tcp) = tcp.filter(|_| managed.flags.raise || managed.restoring.is_none()) {
            managed.flags.raise = true;
            managed.restoring = Some(Restoring {
                snd_una: tcp.snd_una,
                outstanding: tcp.packets_out > 0,
            });
        }
    }
}
