//! One host: places on the network, the kernel's socket, the pinned datapath, and a driver that performs what
//! the machine asks for and checks that it asks for nothing it must not.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use migration::{
    Action, Endpoint, Event, Machine, Policy, ReqNo, Role, State, TcpSnapshot, TcpState, Timestamp, Tuple,
    step,
};

use super::datapath::{Answer, Datapath};
use super::kernel::Kernel;
use super::network::{Kind, Network, Place};

/// Stands in an event until the driver fills in the kernel's own.
pub const NO_SNAPSHOT: TcpSnapshot = TcpSnapshot {
    snd_una: 0,
    snd_nxt: 0,
    rcv_nxt: 0,
    rto: Duration::ZERO,
};

/// How long a segment takes when nothing happens to it.
pub const DELAY: Duration = Duration::from_millis(5);

/// What the driver learns elsewhere than from the datapath's ring buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    Event(Event),
    /// An address can be used; the driver adds port, candidates and snapshot when it gets to it.
    Usable {
        place: Place,
        candidates: Option<Vec<Endpoint>>,
    },
    /// A destination for the peer with an agreed port, for a simultaneous attempt.
    Exactly {
        local: Endpoint,
        peer: Endpoint,
    },
    /// A destination for the peer.
    Command {
        place: Place,
        peer: Endpoint,
    },
}

#[derive(Clone, Debug)]
pub struct Host {
    pub role: Role,
    pub machine: Machine,
    pub places: Vec<Place>,
    pub kernel: Kernel,
    pub datapath: Datapath,
    pub ring: VecDeque<Event>,
    pub notices: VecDeque<Notice>,
    pub alarm: Option<Timestamp>,
    /// A question about a reset is with the peer's agent.
    pub question: bool,
    pub reset_delivered: bool,
    pub ever_parked: bool,
    pub buried: bool,
    pub(super) stored: ReqNo,
    pub(super) stored_known: ReqNo,
    pub(super) stored_confirmed: ReqNo,
    /// The sequence number of every attempt.
    attempts: BTreeMap<ReqNo, u32>,
    pub(super) policy: Policy,
}

impl Host {
    pub fn new(role: Role, identity: Tuple, place: Place, policy: Policy) -> Self {
        Self {
            role,
            machine: Machine::new(role, identity, policy),
            places: vec![place],
            kernel: Kernel::new(if role == Role::Initiator {
                u32::MAX - 3
            } else {
                7_000
            }),
            datapath: Datapath::new(identity),
            ring: VecDeque::new(),
            notices: VecDeque::new(),
            alarm: None,
            question: false,
            reset_delivered: false,
            ever_parked: false,
            buried: false,
            stored: ReqNo::UNMOVED,
            stored_known: ReqNo::UNMOVED,
            stored_confirmed: ReqNo::UNMOVED,
            attempts: BTreeMap::new(),
            policy,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(self.machine.state(), State::Closed | State::Buried)
    }

    pub fn place_of(&self, endpoint: Endpoint) -> Option<Place> {
        self.places
            .iter()
            .copied()
            .find(|place| place.address() == endpoint.address)
    }

    /// Takes one event from the ring buffer (or one notice) through the machine; false when there is none.
    pub fn drain_one(&mut self, from_ring: bool, net: &mut Network, now: Timestamp) -> bool {
        let event = if from_ring {
            self.ring.pop_front()
        } else {
            match self.notices.pop_front() {
                Some(notice) => match self.event_of(notice, net) {
                    Some(event) => Some(event),
                    None => return true,
                },
                None => None,
            }
        };
        let Some(event) = event else { return false };
        if let Event::Committed { wire, .. } = &event {
            self.datapath.unread.remove(wire);
        }
        self.step(event, net, now);
        true
    }

    fn event_of(&mut self, notice: Notice, net: &mut Network) -> Option<Event> {
        let random = u64::from(net.fresh_port()).wrapping_mul(0x2545_f491_4f6c_dd1d);
        let tcp = self.kernel.snapshot();
        match notice {
            Notice::Event(event) => Some(event),
            Notice::Usable { place, candidates } => {
                self.places.contains(&place).then(|| Event::AddressUsable {
                    local: Endpoint::new(place.address(), net.fresh_port()),
                    candidates: candidates.unwrap_or_else(|| vec![self.machine.wire().remote]),
                    tcp,
                    random,
                })
            }
            Notice::Exactly { local, peer } => self.place_of(local).map(|_| Event::MigrateCommand {
                local,
                peer,
                crossing: false,
                tcp,
                random,
            }),
            Notice::Command { place, peer } => self.places.contains(&place).then(|| Event::MigrateCommand {
                local: Endpoint::new(place.address(), net.fresh_port()),
                peer,
                crossing: false,
                tcp,
                random,
            }),
        }
    }

    pub fn step(&mut self, mut event: Event, net: &mut Network, now: Timestamp) {
        if let Event::MsynHeard { tcp, .. } = &mut event {
            *tcp = self.kernel.snapshot();
        }
        let before = self.machine.committed();
        let (machine, actions) = step(self.machine.clone(), event, now);
        self.machine = machine;
        assert!(
            self.machine.committed() >= before,
            "the committed number goes back"
        );
        for action in actions {
            self.perform(action, net, now);
        }
    }

    fn perform(&mut self, action: Action, net: &mut Network, now: Timestamp) {
        let arrives = now + DELAY;
        match action {
            Action::Park { req_no, .. } => {
                self.datapath.parked |= req_no == self.datapath.committed;
                self.ever_parked = true;
            }
            Action::StoreReqNo { req_no } => {
                assert!(req_no > self.stored, "a stored number does not grow");
                self.stored = req_no;
            }
            Action::StoreKnown { req_no } => self.stored_known = req_no,
            Action::SendMsyn {
                from,
                to,
                req_no,
                token_of,
                seq,
                rcv_nxt,
                ..
            } => {
                assert_eq!(req_no.role(), Some(self.role), "a number of the other side");
                assert!(req_no <= self.stored, "sent before it was stored");
                assert_eq!(
                    *self.attempts.entry(req_no).or_insert(seq),
                    seq,
                    "a repetition has the same seq"
                );
                self.datapath.captures.insert(Tuple::new(from, to));
                net.send(
                    &self.places,
                    from,
                    to,
                    Kind::Msyn {
                        req_no,
                        token_of,
                        seq,
                        rcv_nxt,
                    },
                    arrives,
                );
            }
            Action::InstallAnswered {
                req_no,
                tuple,
                seq,
                ack,
            } => {
                assert_eq!(req_no.role(), Some(self.role.peer()), "answered an own number");
                assert!(req_no <= self.stored, "answered before it was stored");
                self.datapath.answers.insert(tuple, Answer { req_no, seq, ack });
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
                let kind = Kind::MsynAck {
                    req_no,
                    token_of,
                    seq,
                    ack,
                    rcv_nxt,
                };
                net.send(&self.places, from, to, kind, arrives);
            }
            Action::Commit { req_no, wire } => {
                self.datapath.commit(req_no, wire);
            }
            Action::SendMigrateAck {
                from,
                to,
                req_no,
                token_of,
                seq,
                ack,
            } => {
                net.send(
                    &self.places,
                    from,
                    to,
                    Kind::MigrateAck {
                        req_no,
                        token_of,
                        seq,
                        ack,
                    },
                    arrives,
                );
            }
            Action::Kick { req_no } => {
                if req_no == self.datapath.committed {
                    self.transmit(self.kernel.head(), net, now);
                }
            }
            Action::Forget { req_no, tuple } => self.datapath.forget(req_no, tuple),
            Action::Linger { req_no, tuple, .. } => {
                if tuple != self.datapath.wire {
                    self.datapath.heard.insert(tuple, req_no);
                }
            }
            Action::RetireTokens { below } => self.datapath.tokens.retain(|&token| token >= below),
            Action::AskPeerAboutReset => self.question = true,
            Action::DropReset => self.question = false,
            Action::DeliverReset => {
                self.question = false;
                self.reset_delivered = true;
                if !self.kernel.is_dead() {
                    self.kernel.tcp = TcpState::Closed;
                    self.ring.push_back(Event::LocalClose {
                        tcp_state: TcpState::Closed,
                        reset: false,
                    });
                }
            }
            Action::SendMigrateReset { from, to, token_of } => {
                net.send(&self.places, from, to, Kind::MigrateReset { token_of }, arrives);
            }
            Action::SendReset { from, to, .. } => net.send(&self.places, from, to, Kind::Rst, arrives),
            Action::AskForEndpoint {
                address, candidates, ..
            } => {
                let place = self
                    .places
                    .iter()
                    .find(|place| place.address() == address)
                    .or(self.places.first());
                if let Some(&place) = place {
                    self.notices.push_back(Notice::Usable {
                        place,
                        candidates: Some(candidates),
                    });
                }
            }
            Action::WakeAt(at, _) => self.alarm = Some(at),
            Action::Bury => self.buried = true,
            Action::Confirmed { req_no } => self.stored_confirmed = req_no,
            Action::RaiseTimeouts
            | Action::RestoreTimeouts
            | Action::MarkSuspect
            | Action::Tombstone { .. }
            | Action::Report(_)
            | Action::Release
            | Action::Refuse(_) => {}
        }
    }

    /// An ordinary segment of the kernel, by the datapath.
    pub fn transmit(&mut self, kind: Kind, net: &mut Network, now: Timestamp) {
        if !self.datapath.parked {
            let Tuple { local, remote } = self.datapath.wire;
            net.send(&self.places, local, remote, kind, now + DELAY);
        }
    }

    /// A segment that the network brings.
    pub fn hear(
        &mut self,
        segment: super::network::Segment,
        to: Endpoint,
        net: &mut Network,
        now: Timestamp,
    ) {
        if self.buried {
            return;
        }
        let verdict = self.datapath.hear(segment, Tuple::new(to, segment.src));
        self.ring.extend(verdict.event);
        if !verdict.to_kernel {
            return;
        }
        let reaction = self.kernel.hear(segment.kind, now);
        if reaction.progress {
            self.ring.push_back(Event::Progress);
        }
        if let Some(tcp_state) = reaction.changed {
            self.ring.push_back(Event::LocalClose {
                tcp_state,
                reset: false,
            });
        }
        if let Some(reply) = reaction.reply {
            self.transmit(reply, net, now);
        }
    }

    pub fn ring_alarm(&mut self, net: &mut Network, now: Timestamp) {
        if self.alarm.is_some_and(|at| at <= now) {
            self.alarm = None;
            self.step(Event::TimerFired, net, now);
            let next = self.machine.next_alarm();
            assert!(
                next.is_none_or(|(at, _)| at > now),
                "an alarm that rings for ever: {next:?}"
            );
            assert_eq!(self.alarm, next.map(|(at, _)| at), "the alarm is not set again");
        }
    }

    pub fn kernel_timer(&mut self, net: &mut Network, now: Timestamp) {
        if self.kernel.timed_out(now) {
            self.ring.push_back(Event::RetransmissionTimeout);
            self.transmit(self.kernel.head(), net, now);
        }
    }
}
