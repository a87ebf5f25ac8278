//! Actions: the only place where a connection's machine touches the data path.

use datapath::{Arrival, ArrivalState, Datapath, Path, TcpState};
use migration::{Action, AskReason, Report, State, Timestamp};
use wire::flags::Flags;
use wire::handshake::{Standing, SynOptions};
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::agent::{Agent, Effect};
use crate::sessions::Restoring;

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
                self.send_request(identity, tuple, token_of, req_no, |tuple, standing, syn| {
                    Segment::msyn(
                        tuple,
                        Standing {
                            seq,
                            rcv_nxt,
                            ..standing
                        },
                        syn,
                    )
                });
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
                // The data path may commit from now on: it must look, and the socket be routed its way.
                self.settle(identity);
                self.ask_for_walk();
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
                    Tuple::new(from, to),
                    token_of,
                    req_no,
                    |tuple, standing, _| Segment::migrate_ack(tuple, Standing { seq, ..standing }, ack),
                );
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

    fn park(&mut self, identity: Tuple, req_no: ReqNo, wire: Tuple, now: Timestamp) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        managed.detached_at = Some(now);
        managed.usable_at = None;
        self.write(|datapath| datapath.park(&identity, &wire, req_no));
    }

    fn store(&mut self, identity: Tuple) {
        let Some(session) = self.sessions.get(&identity).map(|managed| managed.session()) else {
            return;
        };
        self.write(|datapath| datapath.put_session(&identity, &session));
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
        managed.tuples.insert(tuple, req_no);
        // The data path may have committed it since; that stands.
        let committed = self.datapath.arrival(&tuple).is_some_and(|arrival| {
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
        self.write(|datapath| datapath.put_arrival(&tuple, &arrival));
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
        self.write(|datapath| datapath.commit(&identity, &wire, &path, req_no));
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

    /// Composes, signs and sends a segment with a Migrate-Request.
    fn send_request(
        &mut self,
        identity: Tuple,
        tuple: Tuple,
        token_of: ReqNo,
        req_no: ReqNo,
        compose: impl FnOnce(Tuple, Standing, SynOptions) -> Segment,
    ) {
        let tcp = self
            .datapath
            .read_tcp(&identity)
            .ok()
            .flatten()
            .unwrap_or_default();
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let ifindex = managed.paths.get(&tuple.local).map(|path| path.ifindex);
        let mtu = ifindex
            .and_then(|ifindex| self.network.mtu(ifindex))
            .unwrap_or(1500);
        let headers = if tuple.is_ipv4() { 40 } else { 60 };
        let syn = SynOptions {
            window_scale: tcp.receive_scale.unwrap_or(0),
            mss: mtu.saturating_sub(headers).min(u32::from(u16::MAX)) as u16,
        };
        let standing = Standing {
            token: managed.keys().keys.token(token_of),
            req_no,
            seq: tcp.snd_nxt,
            rcv_nxt: tcp.rcv_nxt,
            window: tcp.window_field(),
        };
        let mut segment = compose(tuple, standing, syn);
        if segment.flags.contains(Flags::SYN) {
            segment.window = tcp.receive_window.min(u32::from(u16::MAX)) as u16;
        }
        if let Err(error) = segment.sign(managed.key_out(), ReqNo::UNMOVED) {
            tracing::error!(%error, "cannot sign a segment");
            return;
        }
        self.emit(identity, &segment);
    }

    fn emit(&mut self, identity: Tuple, segment: &Segment) {
        let ifindex = self.path(identity, segment.source).ifindex;
        tracing::trace!(connection = %identity, %segment, "send");
        match segment.emit() {
            Ok(packet) => self.send(&packet, ifindex),
            Err(error) => tracing::error!(%error, "cannot compose a segment"),
        }
    }

    fn send(&mut self, packet: &[u8], ifindex: u32) {
        if let Err(error) = self.datapath.send(packet, (ifindex != 0).then_some(ifindex)) {
            // The path went away again, or the neighbour is not resolved yet: retries follow.
            self.timeline.count("send_failed");
            tracing::debug!(%error, "not sent");
        }
    }

    /// What lets data flow at once: a pure ACK that says where we stand, then the head of the line, or a probe.
    fn kick(&mut self, identity: Tuple, now: Timestamp) {
        let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
            return;
        };
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let wire = managed.machine.wire();
        if let Some(detached) = managed.detached_at.take() {
            managed.last_outage = Some(now.since(detached));
        }
        let first = managed.usable_at.take().map(|usable| now.since(usable));
        if let Some(took) = first {
            managed.last_resumption = Some(took);
        }
        let ifindex = self.path(identity, wire.local).ifindex;
        let window = tcp.window_field();
        // What we would echo is as old as the outage, and would pass for the round-trip time: echo nothing.
        let tcp = TcpState {
            timestamps: tcp.timestamps.map(|(value, _)| (value, 0)),
            ..tcp
        };
        let ack = Segment::pure_ack(wire, tcp.snd_nxt, tcp.rcv_nxt, window, tcp.timestamps);
        self.emit_by(&ack, ifindex);
        let frames = self.head_of_line(identity, wire, &tcp);
        if frames.is_empty() && tcp.packets_out == 0 {
            let probe = Segment::probe(wire, tcp.snd_una, tcp.rcv_nxt, window, tcp.timestamps);
            self.emit_by(&probe, ifindex);
        } else if frames.is_empty() {
            self.hurry(identity, &tcp);
        }
        frames.iter().for_each(|frame| self.send(frame, ifindex));
    }

    /// Data is outstanding and no cached segment of it is at hand: the kernel is told to take back the doublings
    /// of its retransmission timer.
    fn hurry(&mut self, identity: Tuple, tcp: &TcpState) {
        self.timeline.count("no_head");
        for _ in 0..tcp.backoff {
            match wire::unreachable::unreachable(identity, tcp.snd_una) {
                Ok(packet) => self.write(|datapath| datapath.deliver(&packet)),
                Err(error) => tracing::error!(%error, "cannot compose an ICMP error"),
            }
        }
    }

    fn emit_by(&mut self, segment: &Segment, ifindex: u32) {
        match segment.emit() {
            Ok(packet) => self.send(&packet, ifindex),
            Err(error) => tracing::error!(%error, "cannot compose a segment"),
        }
    }

    /// The cached segment at SND.UNA, and the last one that was parked, whose arrival makes the peer say what is
    /// missing in between. Whole, in as many pieces as the path needs: the kernel takes a segment that is
    /// acknowledged in part for one still in flight, and waits.
    fn head_of_line(&self, identity: Tuple, wire: Tuple, tcp: &TcpState) -> Vec<Vec<u8>> {
        if tcp.packets_out == 0 {
            return Vec::new();
        }
        let heads = self.datapath.heads(&identity);
        let in_flight = |seq: u32| seq.wrapping_sub(tcp.snd_una) < tcp.snd_nxt.wrapping_sub(tcp.snd_una);
        let head = heads.head.filter(|frame| frame.seq == tcp.snd_una);
        let last = heads.last.filter(|frame| in_flight(frame.seq));
        let mtu = self
            .network
            .mtu(self.path(identity, wire.local).ifindex)
            .unwrap_or(1500) as usize;
        head.into_iter()
            .chain(last)
            .filter_map(|frame| wire::frame::cut_frame(&frame.bytes, wire, mtu, tcp.timestamps).ok())
            .flatten()
            .collect()
    }

    fn query(&mut self, identity: Tuple) {
        let Some(managed) = self.sessions.get(&identity) else {
            return;
        };
        let (wire, known) = (managed.machine.wire(), managed.machine.known());
        self.timeline
            .note(identity, "reset_held", "asking the peer's agent");
        self.send_request(identity, wire, known, ReqNo::UNMOVED, |tuple, standing, _| {
            Segment::query(tuple, standing, standing.rcv_nxt)
        });
    }

    /// "Is the reset I hold yours?" — the connection lives if its socket does.
    pub(crate) fn answer_query(&mut self, heard: datapath::event::Heard) {
        let alive = self.datapath.read_tcp(&heard.identity).ok().flatten().is_some();
        let Some(managed) = self.sessions.get_mut(&heard.identity) else {
            return;
        };
        let known = managed.machine.known();
        let tuple = heard.wire;
        managed.paths.entry(tuple.local).or_insert(Path {
            ifindex: heard.ifindex,
            next_hop: None,
        });
        self.send_request(
            heard.identity,
            tuple,
            known,
            ReqNo::UNMOVED,
            |tuple, standing, _| {
                if alive {
                    Segment::answer(tuple, standing, standing.rcv_nxt)
                } else {
                    // No socket knows the numbers any more: the question has them.
                    let standing = Standing {
                        seq: heard.ack,
                        rcv_nxt: heard.seq,
                        ..standing
                    };
                    Segment::migrate_reset(tuple, standing, heard.seq)
                }
            },
        );
    }

    /// Gives our kernel a reset that fits exactly, as if the peer's had come through.
    fn deliver_reset(&mut self, identity: Tuple) {
        let tcp = self.datapath.read_tcp(&identity).ok().flatten();
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        let held = managed.held_reset.take();
        let Some(tcp) = tcp else { return };
        let flags = Flags(held.map_or(Flags::RST.0 | Flags::ACK.0, |held| held.flags));
        let reset = Segment::bare(identity.reversed(), flags, tcp.rcv_nxt, tcp.snd_nxt, 0);
        self.timeline.note(identity, "reset_delivered", "");
        match reset.emit() {
            Ok(packet) => self.write(|datapath| datapath.deliver(&packet)),
            Err(error) => tracing::error!(%error, "cannot compose a reset"),
        }
    }

    fn report(&mut self, identity: Tuple, report: Report, now: Timestamp) {
        match report {
            Report::Changed { from, to } => {
                let Some(managed) = self.sessions.get_mut(&identity) else {
                    return;
                };
                let wire = managed.machine.wire();
                let resumed = matches!(from, State::MigSent | State::SynRecv | State::MigWait(_))
                    && !matches!(
                        to,
                        State::MigSent | State::SynRecv | State::MigWait(_) | State::Closed | State::Buried
                    );
                self.timeline.note(identity, "state", format!("{from} -> {to}"));
                tracing::debug!(connection = %identity, %from, %to, "state");
                if resumed && let Some(managed) = self.sessions.get_mut(&identity) {
                    managed.moves += 1;
                    let outage = managed
                        .last_outage
                        .or(managed.detached_at.map(|at| now.since(at)));
                    let took = managed.last_resumption;
                    let detail = format!(
                        "on {wire}{}{}",
                        took.map_or(String::new(), |took| format!(
                            ", {:.1} ms after the address",
                            took.as_secs_f64() * 1e3
                        )),
                        outage.map_or(String::new(), |outage| format!(
                            ", outage {:.2} s",
                            outage.as_secs_f64()
                        )),
                    );
                    self.timeline.note(identity, "resumed", detail.clone());
                    tracing::info!(connection = %identity, "resumed {detail}");
                }
            }
            Report::Unanswered { req_no } => {
                self.timeline
                    .note(identity, "unanswered", format!("number {}", req_no.0));
            }
            Report::Withdrawn { req_no } => {
                self.timeline
                    .note(identity, "withdrawn", format!("number {}", req_no.0));
            }
            Report::ResetUndecided => {
                self.timeline
                    .note(identity, "reset_undecided", "nobody answered for it: delivered");
                tracing::warn!(connection = %identity, "a reset was delivered that nobody answered for");
            }
            Report::TimedOut { reason } => {
                self.timeline.note(identity, "timed_out", reason.to_string());
                tracing::warn!(connection = %identity, %reason, "gave up: the connection is reset");
            }
            Report::PeerReset => self
                .timeline
                .note(identity, "peer_reset", "the peer's connection is gone"),
        }
    }
}
