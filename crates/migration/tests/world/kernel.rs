//! The kernel's socket, as little of TCP as the machine depends on: numbers that grow, retransmission, FINs.

use std::time::Duration;

use migration::{TcpSnapshot, TcpState, Timestamp};

use super::network::Kind;

#[derive(Clone, Debug)]
pub struct Kernel {
    pub tcp: TcpState,
    isn: u32,
    /// Segments written and acknowledged; the FIN counts as one.
    pub sent: u32,
    pub acked: u32,
    pub received: u32,
    fin: Option<u32>,
    pub rto_due: Option<Timestamp>,
    backoff: u32,
}

/// What the socket does about a segment.
#[derive(Default, Debug)]
pub struct Reaction {
    pub reply: Option<Kind>,
    pub changed: Option<TcpState>,
    pub progress: bool,
}

impl Kernel {
    pub fn new(isn: u32) -> Self {
        Self {
            tcp: TcpState::Established,
            isn,
            sent: 0,
            acked: 0,
            received: 0,
            fin: None,
            rto_due: None,
            backoff: 0,
        }
    }

    pub fn snapshot(&self) -> TcpSnapshot {
        TcpSnapshot {
            snd_una: self.isn.wrapping_add(self.acked),
            snd_nxt: self.isn.wrapping_add(self.sent),
            rcv_nxt: self.received,
            rto: Duration::from_millis(200),
        }
    }

    pub fn is_dead(&self) -> bool {
        self.tcp == TcpState::Closed
    }

    pub fn outstanding(&self) -> bool {
        self.acked < self.sent && !self.is_dead()
    }

    pub fn is_backed_off(&self) -> bool {
        self.outstanding() && self.backoff > 0
    }

    /// The application writes; false when it cannot.
    pub fn write(&mut self, now: Timestamp) -> bool {
        let open = matches!(self.tcp, TcpState::Established | TcpState::CloseWait);
        if open {
            self.sent += 1;
            self.arm(now);
        }
        open
    }

    /// The application closes; the new state when that changes anything.
    pub fn close(&mut self, now: Timestamp) -> Option<TcpState> {
        let next = match self.tcp {
            TcpState::Established => TcpState::FinWait1,
            TcpState::CloseWait => TcpState::LastAck,
            _ => return None,
        };
        self.sent += 1;
        self.fin = Some(self.sent);
        self.tcp = next;
        self.arm(now);
        Some(next)
    }

    /// The head of line, or a probe with what was acknowledged already.
    pub fn head(&self) -> Kind {
        let number = (self.acked + 1).min(self.sent);
        if self.fin == Some(number) {
            Kind::Fin { number }
        } else {
            Kind::Data { number }
        }
    }

    fn arm(&mut self, now: Timestamp) {
        if self.rto_due.is_none() {
            self.rto_due = Some(now + Duration::from_millis(200));
            self.backoff = 0;
        }
    }

    /// Whether the retransmission timer has run out.
    pub fn timed_out(&mut self, now: Timestamp) -> bool {
        if self.rto_due.is_none_or(|due| due > now) {
            return false;
        }
        if !self.outstanding() {
            self.rto_due = None;
            return false;
        }
        self.backoff = (self.backoff + 1).min(5);
        self.rto_due = Some(now + Duration::from_millis(200 << self.backoff));
        true
    }

    pub fn hear(&mut self, kind: Kind, now: Timestamp) -> Reaction {
        if self.is_dead() {
            return Reaction {
                reply: Some(Kind::Rst),
                ..Reaction::default()
            };
        }
        match kind {
            Kind::Data { number } => self.hear_data(number, false),
            Kind::Fin { number } => self.hear_data(number, true),
            Kind::Ack { below } => self.hear_ack(below, now),
            _ => Reaction::default(),
        }
    }

    fn hear_data(&mut self, number: u32, fin: bool) -> Reaction {
        let fresh = number == self.received + 1;
        let mut changed = None;
        if fresh {
            self.received = number;
            if fin {
                changed = match self.tcp {
                    TcpState::Established => Some(TcpState::CloseWait),
                    TcpState::FinWait1 => Some(TcpState::Closing),
                    TcpState::FinWait2 => Some(TcpState::TimeWait),
                    _ => None,
                };
                self.tcp = changed.unwrap_or(self.tcp);
            }
        }
        Reaction {
            reply: Some(Kind::Ack { below: self.received }),
            changed,
            progress: fresh,
        }
    }

    fn hear_ack(&mut self, below: u32, now: Timestamp) -> Reaction {
        let fresh = below > self.acked && below <= self.sent;
        let mut changed = None;
        if fresh {
            self.acked = below;
            self.rto_due = None;
            if self.outstanding() {
                self.arm(now);
            }
            if self.fin == Some(below) {
                changed = match self.tcp {
                    TcpState::FinWait1 => Some(TcpState::FinWait2),
                    TcpState::Closing => Some(TcpState::TimeWait),
                    TcpState::LastAck => Some(TcpState::Closed),
                    _ => None,
                };
                self.tcp = changed.unwrap_or(self.tcp);
            }
        }
        // A window of more than one segment: the next outstanding one follows at once.
        let reply = (fresh && self.outstanding()).then(|| self.head());
        Reaction {
            reply,
            changed,
            progress: fresh,
        }
    }
}
