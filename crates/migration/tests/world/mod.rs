//! Two machines, their hosts, and the network between them, under one clock.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod datapath;
pub mod host;
pub mod kernel;
pub mod network;
pub mod quiescence;
mod restart;
pub mod segment;

use std::net::IpAddr;
use std::time::Duration;

use migration::{Endpoint, Event, Policy, ReqNo, ResetAnswer, Role, State, TcpState, Timestamp, Tuple};

use host::{DELAY, Host, Notice};
use network::{ATTACKER, Kind, Network, Place, Segment};

#[derive(Clone, Debug)]
pub struct World {
    pub hosts: [Host; 2],
    pub net: Network,
    pub now: Timestamp,
    /// Whether there is a mobility server that tells one end where the other is.
    pub server: bool,
    next_address: u16,
}

/// Where a host goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    Public,
    /// Behind one of its two NAPTs.
    Napt(bool),
}

impl World {
    /// Host 0 has connected to host 1; both are public unless `behind` says that the first is not.
    pub fn new(behind: bool) -> Self {
        let mut net = Network::new();
        let server = Place::Public(IpAddr::from([203, 0, 113, 3]));
        let port = Endpoint::new(server.address(), 80);
        let (place, seen) = match behind {
            false => (Place::Public(IpAddr::from([203, 0, 113, 2])), None),
            true => (
                Place::Behind {
                    inside: inside(),
                    napt: 0,
                },
                Some(0),
            ),
        };
        let client = Endpoint::new(place.address(), 40_000);
        let observed = seen.map_or(client, |napt| net.translate(napt, client, port));
        let policy = Policy::default();
        Self {
            hosts: [
                Host::new(Role::Initiator, Tuple::new(client, port), place, policy),
                Host::new(Role::Acceptor, Tuple::new(port, observed), server, policy),
            ],
            net,
            now: Timestamp::from_millis(1_000),
            server: true,
            next_address: 0,
        }
    }

    /// The host gets a place there; another one behind a NAPT is lost, since both have the same private address.
    pub fn attach(&mut self, h: usize, to: Where) {
        let place = match to {
            Where::Public => {
                self.next_address += 1;
                let [high, low] = self.next_address.to_be_bytes();
                Place::Public(IpAddr::from([100, h as u8, high, low]))
            }
            Where::Napt(second) => Place::Behind {
                inside: inside(),
                napt: 2 * h + usize::from(second),
            },
        };
        if !place.is_public() {
            self.detach_where(h, |place| !place.is_public());
        } else if self.hosts[h].places.len() >= 2 {
            let oldest = self.hosts[h].places[0];
            self.detach_where(h, |place| place == oldest);
        }
        self.hosts[h].places.push(place);
        self.hosts[h].notices.push_back(Notice::Usable {
            place,
            candidates: None,
        });
    }

    /// The host loses the place it got first.
    pub fn detach(&mut self, h: usize) {
        if let Some(&first) = self.hosts[h].places.first() {
            self.detach_where(h, |place| place == first);
        }
    }

    fn detach_where(&mut self, h: usize, which: impl Fn(Place) -> bool) {
        let host = &mut self.hosts[h];
        for place in host.places.extract_if(.., |place| which(*place)) {
            host.notices.push_back(Notice::Event(Event::AddressLost {
                local: place.address(),
            }));
        }
    }

    /// Where the other host can be reached by a host that knows everything: a public address, or what the NAPT
    /// shows of its wire endpoint.
    pub fn destination(&self, of: usize) -> Option<Endpoint> {
        let host = &self.hosts[of];
        let local = host.machine.wire().local;
        let public = host.places.iter().rev().find(|place| place.is_public());
        public.map(|place| Endpoint::new(place.address(), local.port))
    }

    /// A destination from the user or from a mobility server.
    pub fn command(&mut self, h: usize) {
        let peer = self
            .destination(1 - h)
            .unwrap_or(self.hosts[h].machine.wire().remote);
        if let Some(&place) = self.hosts[h].places.last() {
            self.hosts[h].notices.push_back(Notice::Command { place, peer });
        }
    }

    /// Both are told to send to each other on one tuple at the same time.
    pub fn simultaneous(&mut self) {
        let ports = [self.net.fresh_port(), self.net.fresh_port()];
        let public = |h: usize| self.hosts[h].places.iter().rev().find(|place| place.is_public());
        let (Some(first), Some(second)) = (public(0), public(1)) else {
            return;
        };
        let ends = [
            Endpoint::new(first.address(), ports[0]),
            Endpoint::new(second.address(), ports[1]),
        ];
        for h in 0..2 {
            self.hosts[h].notices.push_back(Notice::Exactly {
                local: ends[h],
                peer: ends[1 - h],
            });
        }
    }

    /// Whether one end can repair the connection alone: its attempts, or the tuple it has committed and the peer
    /// has not, lead to where the peer is.
    pub fn can_help_itself(&self) -> bool {
        let leads = |h: usize, local: Endpoint, remote: Endpoint| {
            let there = |place: &Place| *place == Place::Public(remote.address);
            self.hosts[h].place_of(local).is_some() && self.hosts[1 - h].places.iter().any(there)
        };
        (0..2).any(|h| {
            let (mine, theirs) = (&self.hosts[h].machine, &self.hosts[1 - h].machine);
            let ahead = mine.committed() > theirs.committed() && !mine.is_confirmed();
            let repairs = |attempt: &migration::Attempt| {
                mine.is_parked()
                    && attempt
                        .destinations()
                        .iter()
                        .any(|&remote| leads(h, attempt.from, remote))
            };
            let tries = mine.attempts().iter().any(repairs);
            (ahead && leads(h, mine.wire().local, mine.wire().remote)) || tries
        })
    }

    /// The segment reaches whoever owns its destination.
    pub fn deliver(&mut self, segment: Segment) {
        for h in 0..2 {
            let places = self.hosts[h].places.clone();
            for place in places {
                if let Some(to) = self.net.route(place, segment.src, segment.dst) {
                    return self.hosts[h].hear(segment, to, &mut self.net, self.now);
                }
            }
        }
        if segment.genuine {
            self.net.stranger_answers(segment, self.now + DELAY);
        }
    }

    pub fn drain(&mut self, h: usize, from_ring: bool) -> bool {
        self.hosts[h].drain_one(from_ring, &mut self.net, self.now)
    }

    /// Everything both drivers have been told.
    pub fn drain_all(&mut self) {
        while (0..2).any(|h| self.drain(h, false) || self.drain(h, true)) {}
    }

    /// Time passes; alarms and retransmission timers ring, nothing is delivered.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        for host in &mut self.hosts {
            host.ring_alarm(&mut self.net, self.now);
            host.kernel_timer(&mut self.net, self.now);
        }
    }

    pub fn write(&mut self, h: usize) {
        let (now, host) = (self.now, &mut self.hosts[h]);
        if host.kernel.write(now) {
            host.transmit(host.kernel.head(), &mut self.net, now);
        }
    }

    pub fn close(&mut self, h: usize) {
        let (now, host) = (self.now, &mut self.hosts[h]);
        if let Some(tcp_state) = host.kernel.close(now) {
            host.ring.push_back(Event::LocalClose {
                tcp_state,
                reset: false,
            });
            host.transmit(host.kernel.head(), &mut self.net, now);
        }
    }

    /// The application aborts.
    pub fn abort(&mut self, h: usize) {
        let (now, host) = (self.now, &mut self.hosts[h]);
        if !host.kernel.is_dead() {
            host.transmit(Kind::Rst, &mut self.net, now);
            host.kernel.tcp = TcpState::Closed;
            host.ring.push_back(Event::LocalClose {
                tcp_state: TcpState::Closed,
                reset: true,
            });
        }
    }

    /// The peer's agent answers the question about a reset, truthfully or not knowing.
    pub fn answer_reset(&mut self, h: usize, knows: bool) {
        if !std::mem::take(&mut self.hosts[h].question) {
            return;
        }
        let answer = match (knows, self.hosts[1 - h].kernel.is_dead()) {
            (false, _) => ResetAnswer::Unknown,
            (true, true) => ResetAnswer::Genuine,
            (true, false) => ResetAnswer::NotMine,
        };
        self.hosts[h]
            .notices
            .push_back(Notice::Event(Event::ResetAnswer(answer)));
    }

    /// Somebody without keys sends what could be a segment of the peer, from the peer's endpoint or an own one.
    pub fn forge(&mut self, h: usize, what: u8, from_peer: bool) {
        let machine = &self.hosts[h].machine;
        let wire = machine.wire();
        let peers = ReqNo::next_for(machine.role().peer(), machine.highest_seen()).unwrap_or(ReqNo(1));
        let (req_no, token_of) = (ReqNo(peers.0 + 2 * u32::from(what / 8)), machine.known());
        let kind = match what % 8 {
            0 => Kind::Msyn {
                req_no,
                token_of,
                seq: 5,
                rcv_nxt: 5,
            },
            1 => Kind::MsynAck {
                req_no: machine.highest_seen(),
                token_of,
                seq: 5,
                ack: 5,
                rcv_nxt: 5,
            },
            2 => match self.hosts[h].datapath.answers.iter().next() {
                Some((_, answer)) => {
                    let (seq, ack) = (answer.ack, answer.seq.wrapping_add(1));
                    Kind::MigrateAck {
                        req_no: answer.req_no,
                        token_of,
                        seq,
                        ack,
                    }
                }
                None => Kind::MigrateAck {
                    req_no,
                    token_of,
                    seq: 5,
                    ack: 5,
                },
            },
            3 => Kind::MigrateReset { token_of },
            4 => Kind::Rst,
            5 => Kind::StrangeSynAck { ack: 5 },
            6 => Kind::Data { number: 1 },
            _ => Kind::Ack { below: u32::MAX },
        };
        let to = self.hosts[h].place_of(wire.local);
        let dst = match to {
            Some(Place::Behind { napt, .. }) if self.net.is_mapped(napt, wire.local, wire.remote) => {
                self.net.translate(napt, wire.local, wire.remote)
            }
            _ => wire.local,
        };
        let src = if from_peer {
            wire.remote
        } else {
            Endpoint::new(ATTACKER, 1)
        };
        self.net.in_flight.push_back((
            self.now + DELAY,
            Segment {
                src,
                dst,
                kind,
                genuine: false,
            },
        ));
    }

    /// What holds after every step.
    pub fn check(&self) {
        for (host, other) in [(&self.hosts[0], &self.hosts[1]), (&self.hosts[1], &self.hosts[0])] {
            assert_ne!(
                host.datapath.wire.remote.address, ATTACKER,
                "a forgery was accepted"
            );
            if host.has_ended() || other.has_ended() || host.kernel.is_dead() || other.kernel.is_dead() {
                continue;
            }
            if !(host.ring.is_empty() && other.ring.is_empty()) {
                continue;
            }
            assert!(
                other.datapath.tokens.contains(&host.machine.known()),
                "the peer does not know the token that the {:?} uses",
                host.role
            );
            let mut tokens = host.machine.tokens();
            assert!(
                tokens.all(|token| host.datapath.tokens.contains(&token)),
                "a token is not heard"
            );
            let heard = host.machine.tokens().any(|token| token == other.machine.known());
            assert!(heard, "the machine would not hear the token that its peer uses");
            assert_eq!(
                host.datapath.committed,
                host.machine.committed(),
                "machine and datapath differ"
            );
            assert_eq!(
                host.datapath.wire,
                host.machine.wire(),
                "machine and datapath differ"
            );
            assert_eq!(
                host.datapath.parked,
                host.machine.is_parked(),
                "machine and datapath differ"
            );
            let (mine, theirs) = (host.machine.committed(), other.machine.committed());
            if mine > theirs {
                assert_eq!(mine.role(), Some(host.role), "only a mover can be ahead");
                let content = host.machine.is_confirmed() && other.machine.is_confirmed();
                let same = host.datapath.wire.remote == other.datapath.wire.local;
                assert!(!content || same, "two wire tuples, and nobody sees it");
            }
        }
    }

    /// What both ends believe, for a failure message.
    pub fn picture(&self) -> String {
        let end = |h: usize| {
            let host = &self.hosts[h];
            let m = &host.machine;
            format!(
                "{:?} {:?}: {} committed {} seen {} known {} confirmed {} parked {} wire {}\n  places {:?}\n  attempts \
                 {:?}\n  answered {:?}\n  outstanding {} alarm {:?} question {}\n",
                self.now,
                host.role,
                m.state(),
                m.committed(),
                m.highest_seen(),
                m.known(),
                m.is_confirmed(),
                m.is_parked(),
                m.wire(),
                host.places,
                m.attempts(),
                m.answered(),
                host.kernel.outstanding(),
                host.alarm,
                host.question,
            )
        };
        format!("{}{}", end(0), end(1))
    }

    pub fn state(&self, h: usize) -> State {
        self.hosts[h].machine.state()
    }
}

/// The private address that every NAPT gives out first.
fn inside() -> IpAddr {
    IpAddr::from([192, 168, 1, 2])
}
