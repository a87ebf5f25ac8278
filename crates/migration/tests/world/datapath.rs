//! The datapath of one host as the machine may rely on it: it drops what is not genuine, steals handshake
//! segments, commits by Migrate-Ack alone, keeps the highest committed number, and lets unproven tuples carry
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use migration::{Event, ReqNo, Tuple};

use super::network::{Kind, Segment};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    pub req_no: ReqNo,
    pub seq: u32,
    pub ack: u32,
}

/// Pinned: it outlives the agent.
#[derive(Clone, Debug)]
pub struct Datapath {
    pub committed: ReqNo,
    pub wire: Tuple,
    pub parked: bool,
    /// Whether the first ordinary segment on the wire tuple was told.
    pub told: bool,
    pub answers: BTreeMap<Tuple, Answer>,
    /// The words of the Migrate-Ack that committed the wire tuple.
    last_answer: Option<Answer>,
    /// Heard though not the wire tuple.
    pub heard: BTreeMap<Tuple, ReqNo>,
    /// Tuples on which our MSYNs went out.
    pub captures: BTreeSet<Tuple>,
    pub tokens: BTreeSet<ReqNo>,
    /// Committed here, and not yet read from the ring buffer.
    pub unread: BTreeSet<Tuple>,
}

/// What becomes of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Verdict {
    /// For the ring buffer.
    pub event: Option<Event>,
    /// For the kernel's socket.
    pub to_kernel: bool,
}

impl Datapath {
    pub fn new(identity: Tuple) -> Self {
        Self {
            committed: ReqNo::UNMOVED,
            wire: identity,
            parked: false,
            told: true,
            answers: BTreeMap::new(),
            last_answer: None,
            heard: BTreeMap::new(),
            captures: BTreeSet::new(),
            tokens: BTreeSet::from([ReqNo::UNMOVED]),
            unread: BTreeSet::new(),
        }
    }

    /// Makes an attempt the wire tuple unless a higher one is; either way its tuple is heard.
    pub fn commit(&mut self, req_no: ReqNo, tuple: Tuple) -> bool {
        self.tokens.insert(req_no);
        if req_no <= self.committed {
            if tuple != self.wire {
                self.heard.insert(tuple, req_no);
            }
            return false;
        }
        if self.wire != tuple {
            self.heard.insert(self.wire, self.committed);
        }
        self.heard.remove(&tuple);
        (self.committed, self.wire, self.parked, self.told) = (req_no, tuple, false, false);
        self.last_answer = None;
        true
    }

    pub fn forget(&mut self, req_no: ReqNo, tuple: Tuple) {
        if tuple == self.wire {
            self.answers
                .retain(|at, answer| *at != tuple || answer.req_no != req_no);
            return;
        }
        self.heard.remove(&tuple);
        self.captures.remove(&tuple);
        if self
            .answers
            .get(&tuple)
            .is_some_and(|answer| answer.req_no == req_no)
        {
            self.answers.remove(&tuple);
        }
    }

    /// An arriving segment, by its tuple as this host sees it. The kernel snapshot in an `MsynHeard` is filled in
    /// by the driver.
    pub fn hear(&mut self, segment: Segment, tuple: Tuple) -> Verdict {
        let Segment { kind, genuine, .. } = segment;
        let (from, to) = (tuple.remote, tuple.local);
        let known = |token_of: ReqNo| genuine && self.tokens.contains(&token_of);
        let event = match kind {
            Kind::Msyn {
                req_no,
                token_of,
                seq,
                rcv_nxt,
            } => known(token_of).then_some(Event::MsynHeard {
                from,
                to,
                req_no,
                token_of,
                seq,
                rcv_nxt,
                tcp: super::host::NO_SNAPSHOT,
            }),
            Kind::MsynAck {
                req_no,
                token_of,
                seq,
                ack,
                rcv_nxt,
            } => known(token_of).then_some(Event::MsynAckHeard {
                from,
                to,
                req_no,
                seq,
                ack,
                rcv_nxt,
            }),
            Kind::MigrateAck {
                req_no,
                token_of,
                seq,
                ack,
            } => {
                if known(token_of) {
                    self.acknowledge(tuple, req_no, seq, ack)
                } else {
                    None
                }
            }
            Kind::MigrateReset { token_of } => known(token_of).then_some(Event::MigrateResetHeard),
            Kind::StrangeSynAck { ack } => {
                self.captures
                    .contains(&tuple)
                    .then_some(Event::StrangeSynAck { from, to, ack })
            }
            Kind::Rst => (tuple == self.wire).then_some(Event::ResetHeard { exact: genuine }),
            Kind::Data { .. } | Kind::Ack { .. } | Kind::Fin { .. } => {
                return self.ordinary(tuple, genuine);
            }
        };
        Verdict {
            event,
            to_kernel: false,
        }
    }

    fn acknowledge(&mut self, tuple: Tuple, req_no: ReqNo, seq: u32, ack: u32) -> Option<Event> {
        let fits = |answer: &Answer| {
            answer.req_no == req_no && answer.ack == seq && answer.seq.wrapping_add(1) == ack
        };
        if let Some(answer) = self.answers.get(&tuple).copied().filter(fits) {
            self.answers.remove(&tuple);
            self.unread.insert(tuple);
            if self.commit(req_no, tuple) {
                self.last_answer = Some(answer);
            }
            return Some(Event::Committed { req_no, wire: tuple });
        }
        let again = tuple == self.wire && self.last_answer.as_ref().is_some_and(fits);
        again.then_some(Event::Committed { req_no, wire: tuple })
    }

    fn ordinary(&mut self, tuple: Tuple, genuine: bool) -> Verdict {
        if !genuine {
            return Verdict::default();
        }
        if tuple == self.wire {
            let first = !std::mem::replace(&mut self.told, true);
            let event = first.then_some(Event::PeerSegmentOn {
                req_no: self.committed,
            });
            return Verdict {
                event,
                to_kernel: true,
            };
        }
        Verdict {
            event: None,
            to_kernel: self.heard.contains_key(&tuple),
        }
    }
}
