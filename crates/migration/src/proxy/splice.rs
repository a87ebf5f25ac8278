//! From two MSYNs to one connection, and what an end's later MSYNs change.

use wire::handshake::SynOptions;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

/// One of a lease's two agents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Leg {
    /// The ticket's first.
    First,
    /// The ticket's second.
    Second,
}

impl Leg {
    /// Both, in order.
    pub const BOTH: [Leg; 2] = [Leg::First, Leg::Second];

    /// The other one.
    pub fn other(self) -> Leg {
        match self {
            Leg::First => Leg::Second,
            Leg::Second => Leg::First,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// An authentic MSYN at a leg.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knock {
    /// `local`: the relay's end; `remote`: where it came from.
    pub wire: Tuple,
    /// The connection's token, echoed in the answer.
    pub token: Token,
    /// The attempt.
    pub req_no: ReqNo,
    /// SND.NXT-1 of its sender.
    pub seq: u32,
    /// RCV.NXT of its sender.
    pub rcv_nxt: u32,
    /// Unscaled.
    pub window: u16,
    /// Window scale and segment size of its sender.
    pub syn: SynOptions,
    /// Nothing translates between its sender and the relay.
    pub outside: bool,
}

/// An MSYN-ACK, as the other end would have written it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// `local`: the relay's end, from which it is sent.
    pub wire: Tuple,
    /// That of the MSYN it answers.
    pub token: Token,
    /// The other end's attempt.
    pub req_no: ReqNo,
    /// The other end's.
    pub seq: u32,
    /// One more than the MSYN's sequence number.
    pub ack: u32,
    /// The other end's.
    pub rcv_nxt: u32,
    /// The other end's.
    pub window: u16,
    /// The other end's scale, and the smaller segment size.
    pub syn: SynOptions,
}

/// Why an MSYN changes nothing and is not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Of an attempt that a later one has replaced, or another MSYN under the number of a known attempt.
    #[error("the attempt is older than one that is known")]
    Stale,
    /// Both legs from one address and port: they could not be told apart.
    #[error("both ends come from the same address and port")]
    SameEndpoint,
}

/// What happened to a lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An MSYN whose MAC fits the leg's key.
    Knocked {
        /// Whose.
        leg: Leg,
        /// What it says.
        knock: Knock,
        /// Which legs have sent ordinary segments: they have committed.
        committed: [bool; 2],
    },
    /// A third segment from a place that the leg has not been followed to yet.
    ThirdPassed {
        /// Whose.
        leg: Leg,
        /// From there.
        from: Endpoint,
        /// Of this attempt.
        req_no: ReqNo,
    },
}

/// What has to be done, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Segments on `from` go to `to`; both as the relay sees them.
    Install {
        /// Who sends there.
        leg: Leg,
        /// Where they arrive.
        from: Tuple,
        /// Where they go.
        to: Tuple,
        /// Its third segment is to be told: nothing but an MSYN shows yet that the leg is there.
        pending: bool,
    },
    /// The leg has moved: all that the other leg sends goes to this tuple from now on.
    Turn {
        /// Who moved.
        leg: Leg,
        /// Where it is.
        to: Tuple,
        /// Nothing translates between it and the relay.
        outside: bool,
    },
    /// An MSYN-ACK to a leg.
    Answer {
        /// To whom.
        leg: Leg,
        /// What.
        answer: Answer,
    },
    /// Nothing is done.
    Refuse(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct End {
    /// The MSYN that counts: the connection goes there.
    here: Option<Knock>,
    /// One from elsewhere whose third segment has not passed.
    coming: Option<Knock>,
    /// An MSYN was heard that has no answer yet.
    owed: bool,
}

impl End {
    fn latest(&self) -> Option<Knock> {
        self.coming.or(self.here)
    }
}

/// One relayed connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Splice {
    ends: [End; 2],
    spliced: bool,
}

impl Splice {
    /// Nobody has knocked.
    pub fn new() -> Self {
        Self::default()
    }

    /// As an earlier run left it: the MSYNs that counted, and whether they were spliced.
    pub fn adopted(heard: [Option<Knock>; 2], spliced: bool) -> Self {
        let end = |here| End {
            here,
            coming: None,
            owed: false,
        };
        Self {
            ends: heard.map(end),
            spliced: spliced && heard.iter().all(Option::is_some),
        }
    }

    /// Whether the data path passes segments.
    pub fn is_spliced(&self) -> bool {
        self.spliced
    }

    /// The MSYN of a leg that counts.
    pub fn here(&self, leg: Leg) -> Option<Knock> {
        self.ends[leg.index()].here
    }

    /// Advances by one event. Total: what does not fit is refused.
    ///
    /// # Source
    /// docs/protocol.md, "Through a symmetric proxy"; Shimizu 2002, 3.3.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Knocked {
                leg,
                knock,
                committed,
            } => self.knocked(leg, knock, committed),
            Event::ThirdPassed { leg, from, req_no } => self.third_passed(leg, from, req_no),
        }
    }

    fn knocked(&mut self, leg: Leg, knock: Knock, committed: [bool; 2]) -> Vec<Action> {
        if let Some(refusal) = self.refusal(leg, &knock) {
            return vec![Action::Refuse(refusal)];
        }
        let end = &mut self.ends[leg.index()];
        if !self.spliced {
            end.here = Some(knock);
            end.owed = true;
            return self.splice();
        }
        let mut actions = Vec::new();
        let moved = end.here.is_none_or(|here| here.wire != knock.wire);
        match moved {
            true => end.coming = Some(knock),
            false => {
                end.here = Some(knock);
                end.coming = None;
            }
        }
        let (Some(known), Some(other)) = (self.ends[leg.index()].latest(), self.other(leg)) else {
            return actions;
        };
        if moved {
            let to = self.ends[leg.other().index()].here.unwrap_or(other).wire;
            actions.push(Action::Install {
                leg,
                from: known.wire,
                to,
                pending: true,
            });
        }
        actions.push(Action::Answer {
            leg,
            answer: answer(&known, &other, committed[leg.other().index()]),
        });
        actions
    }

    fn refusal(&self, leg: Leg, knock: &Knock) -> Option<Refusal> {
        let stale = self.ends[leg.index()].latest().is_some_and(|known| {
            knock.req_no < known.req_no || (knock.req_no == known.req_no && knock.seq != known.seq)
        });
        if stale {
            return Some(Refusal::Stale);
        }
        let other = self.ends[leg.other().index()];
        let same = |known: Option<Knock>| known.is_some_and(|known| known.wire.remote == knock.wire.remote);
        (same(other.here) || same(other.coming)).then_some(Refusal::SameEndpoint)
    }

    fn other(&self, leg: Leg) -> Option<Knock> {
        self.ends[leg.other().index()].latest()
    }

    /// Both directions before any answer: what an end sends once it is answered has to get through.
    fn splice(&mut self) -> Vec<Action> {
        let (Some(first), Some(second)) = (self.ends[0].here, self.ends[1].here) else {
            return Vec::new();
        };
        self.spliced = true;
        let install = |leg, from: Knock, to: Knock| Action::Install {
            leg,
            from: from.wire,
            to: to.wire,
            pending: false,
        };
        let mut actions = vec![
            install(Leg::First, first, second),
            install(Leg::Second, second, first),
        ];
        for (leg, known, other) in [(Leg::First, first, second), (Leg::Second, second, first)] {
            if std::mem::take(&mut self.ends[leg.index()].owed) {
                actions.push(Action::Answer {
                    leg,
                    answer: answer(&known, &other, false),
                });
            }
        }
        actions
    }

    fn third_passed(&mut self, leg: Leg, from: Endpoint, req_no: ReqNo) -> Vec<Action> {
        let end = &mut self.ends[leg.index()];
        let Some(coming) = end
            .coming
            .filter(|coming| coming.wire.remote == from && coming.req_no == req_no)
        else {
            return Vec::new();
        };
        end.here = Some(coming);
        end.coming = None;
        vec![Action::Turn {
            leg,
            to: coming.wire,
            outside: coming.outside,
        }]
    }
}

/// The answer to `known` from what `other` has said last.
///
/// An end that has not committed waits for a third segment that acknowledges exactly its MSYN: its own sequence number
/// is the only right one. One that has committed has sent since then, and nobody here knows how much; what the mover
/// expects next is then where its new NAPT will see the connection go on.
fn answer(known: &Knock, other: &Knock, committed: bool) -> Answer {
    Answer {
        wire: known.wire,
        token: known.token,
        req_no: other.req_no,
        seq: match committed {
            true => known.rcv_nxt.wrapping_sub(1),
            false => other.seq,
        },
        ack: known.seq.wrapping_add(1),
        rcv_nxt: other.rcv_nxt,
        window: other.window,
        syn: SynOptions {
            window_scale: other.syn.window_scale,
            mss: other.syn.mss.min(known.syn.mss),
        },
    }
}
