//! Two machines with the rules of a symmetric proxy between them: the beginning, and every move after it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use migration::proxy::{self, Knock, Leg, Splice};
use migration::{
    Action, Endpoint, Event, Machine, Policy, ReqNo, Role, State, TcpSnapshot, Timestamp, Tuple, step,
};
use wire::handshake::SynOptions;
use wire::token::Token;

fn at(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>()
        .map(|socket| Endpoint::new(socket.ip(), socket.port()))
        .expect("an endpoint")
}

/// Where the proxy has its port.
const PROXY: &str = "10.7.7.7:20000";

/// A Migrate-Ack on its way.
#[derive(Clone, Copy, Debug)]
struct Third {
    req_no: ReqNo,
    seq: u32,
    ack: u32,
}

struct End {
    machine: Machine,
    place: Endpoint,
    tcp: TcpSnapshot,
    /// What commits in the data path: on this tuple, under this number, these numbers.
    expected: Vec<(Tuple, ReqNo, u32, u32)>,
    ordinary: bool,
}

/// Both ends and the proxy.
struct Relay {
    ends: [End; 2],
    splice: Splice,
    ways: BTreeMap<(usize, Endpoint), (Endpoint, bool)>,
    thirds: VecDeque<(usize, Endpoint, Third)>,
    now: Timestamp,
    /// Migrate-Acks that get lost from now on.
    lose: usize,
    /// Ends whose data path hears the next Migrate-Ack before it was told to commit by it.
    late: [bool; 2],
}

impl Relay {
    /// Both have moved behind NAPTs, and know the proxy.
    fn new() -> Self {
        let identities = [
            Tuple::new(at("10.0.0.1:40000"), at("10.0.3.2:80")),
            Tuple::new(at("10.0.3.2:80"), at("10.0.0.1:40000")),
        ];
        // B's last 300 bytes, and the acknowledgement of A's last 100, were lost in the move.
        let numbers = [(900, 1_000, 5_000), (5_000, 5_300, 1_000)];
        let end = |which: usize| {
            let role = [Role::Initiator, Role::Acceptor][which];
            let (snd_una, snd_nxt, rcv_nxt) = numbers[which];
            End {
                machine: Machine::new(role, identities[which], Policy::default()),
                place: identities[which].local,
                tcp: TcpSnapshot {
                    snd_una,
                    snd_nxt,
                    rcv_nxt,
                    rto: Duration::from_millis(200),
                },
                expected: Vec::new(),
                ordinary: false,
            }
        };
        Self {
            ends: [end(0), end(1)],
            splice: Splice::new(),
            ways: BTreeMap::new(),
            thirds: VecDeque::new(),
            now: Timestamp::from_millis(10_000),
            lose: 0,
            late: [false; 2],
        }
    }

    fn relayed() -> Self {
        Self::relayed_while([false; 2], 0)
    }

    fn relayed_while(late: [bool; 2], lose: usize) -> Self {
        let mut relay = Self {
            late,
            lose,
            ..Self::new()
        };
        for which in [0, 1] {
            relay.leave(which);
            relay.ends[which].place = at(["192.168.1.2:7000", "192.168.2.2:7000"][which]);
            let (local, tcp) = (relay.ends[which].place, relay.ends[which].tcp);
            let proxy = at(PROXY);
            let named = Event::RelayNamed {
                local,
                proxy,
                tcp,
                random: 0,
            };
            relay.tell(which, named);
        }
        relay.settle();
        relay
    }

    fn leave(&mut self, which: usize) {
        let local = self.ends[which].machine.wire().local.address;
        self.ends[which].place = at("0.0.0.0:1");
        self.tell(which, Event::AddressLost { local });
    }

    fn arrive(&mut self, which: usize, place: &str) {
        let local = at(place);
        self.ends[which].place = local;
        let tcp = self.ends[which].tcp;
        let candidates = vec![self.ends[which].machine.wire().remote];
        let usable = Event::AddressUsable {
            local,
            candidates,
            tcp,
            random: 0,
        };
        self.tell(which, usable);
    }

    fn tell(&mut self, which: usize, event: Event) {
        let machine = self.ends[which].machine.clone();
        let (machine, actions) = step(machine, event, self.now);
        self.ends[which].machine = machine;
        for action in actions {
            match action {
                Action::SendMsyn {
                    from,
                    to,
                    req_no,
                    seq,
                    rcv_nxt,
                    ..
                } if to == at(PROXY) && from == self.ends[which].place => {
                    self.knock(which, from, req_no, seq, rcv_nxt);
                }
                Action::SendMigrateAck {
                    from,
                    req_no,
                    seq,
                    ack,
                    ..
                } if from == self.ends[which].place => {
                    self.thirds.push_back((which, from, Third { req_no, seq, ack }));
                }
                Action::InstallAnswered {
                    req_no,
                    tuple,
                    seq,
                    ack,
                } => {
                    self.ends[which]
                        .expected
                        .push((tuple, req_no, ack, seq.wrapping_add(1)));
                }
                Action::Kick { .. } => self.ends[which].ordinary = true,
                _ => {}
            }
        }
    }

    fn knock(&mut self, which: usize, from: Endpoint, req_no: ReqNo, seq: u32, rcv_nxt: u32) {
        let knock = Knock {
            wire: Tuple::new(at(PROXY), from),
            token: Token(0),
            req_no,
            seq,
            rcv_nxt,
            window: 64_240,
            syn: SynOptions {
                window_scale: 7,
                mss: 1_460,
            },
            outside: false,
        };
        let committed = [0, 1].map(|end: usize| self.ends[end].ordinary);
        let leg = Leg::BOTH[which];
        self.proxy(proxy::Event::Knocked {
            leg,
            knock,
            committed,
        });
    }

    fn proxy(&mut self, event: proxy::Event) {
        for action in self.splice.step(event) {
            match action {
                proxy::Action::Install {
                    leg,
                    from,
                    to,
                    pending,
                } => {
                    self.ways.insert((leg.index(), from.remote), (to.remote, pending));
                }
                proxy::Action::Turn { leg, to, .. } => {
                    let other = leg.other().index();
                    for ((sender, _), way) in &mut self.ways {
                        if *sender == other {
                            way.0 = to.remote;
                        }
                    }
                    let others = self.splice.here(leg.other()).expect("it has knocked").wire.remote;
                    self.ways
                        .retain(|(sender, from), _| *sender != leg.index() || *from == to.remote);
                    self.ways.insert((leg.index(), to.remote), (others, false));
                }
                proxy::Action::Answer { leg, answer } => {
                    let which = leg.index();
                    if answer.wire.remote == self.ends[which].place {
                        let event = Event::RelayAnswered {
                            from: answer.wire.local,
                            to: answer.wire.remote,
                            req_no: answer.req_no,
                            seq: answer.seq,
                            ack: answer.ack,
                        };
                        self.tell(which, event);
                    }
                }
                proxy::Action::Refuse(refusal) => panic!("{refusal}"),
            }
        }
    }

    fn pass(&mut self, which: usize, from: Endpoint, third: Third) {
        if self.lose > 0 {
            self.lose -= 1;
            return;
        }
        let Some(&(to, pending)) = self.ways.get(&(which, from)) else {
            return;
        };
        if pending {
            let leg = Leg::BOTH[which];
            let req_no = third.req_no;
            self.proxy(proxy::Event::ThirdPassed { leg, from, req_no });
        }
        let other = 1 - which;
        if to != self.ends[other].place {
            return;
        }
        let wire = Tuple::new(to, at(PROXY));
        let fits = (wire, third.req_no, third.seq, third.ack);
        let late = std::mem::take(&mut self.late[other]);
        let event = match self.ends[other].expected.contains(&fits) && !late {
            true => Event::Committed {
                req_no: third.req_no,
                wire,
            },
            false => Event::RelayedAckHeard {
                from: at(PROXY),
                to,
                req_no: third.req_no,
                seq: third.seq,
                ack: third.ack,
                tcp: self.ends[other].tcp,
            },
        };
        self.tell(other, event);
    }

    /// Lets pass what is on its way.
    fn settle(&mut self) {
        for _ in 0..200 {
            let Some((which, from, third)) = self.thirds.pop_front() else {
                return;
            };
            self.pass(which, from, third);
        }
        panic!("they answer each other for ever");
    }

    fn wait(&mut self, how_long: Duration) {
        let end = self.now + how_long;
        loop {
            let alarm = |which: usize| self.ends[which].machine.next_alarm().map(|(at, _)| (at, which));
            let next = [0, 1].into_iter().filter_map(alarm).min();
            let Some((at, which)) = next.filter(|(at, _)| *at <= end) else {
                break;
            };
            self.now = at;
            self.tell(which, Event::TimerFired);
            self.settle();
        }
        self.now = end;
    }

    #[track_caller]
    fn works(&self) {
        for (which, end) in self.ends.iter().enumerate() {
            let wire = end.machine.wire();
            assert_eq!(wire, Tuple::new(end.place, at(PROXY)), "end {which}");
            assert!(
                !end.machine.is_parked() && end.machine.is_confirmed(),
                "end {which}"
            );
            assert!(end.machine.attempts().is_empty(), "end {which}");
            assert_eq!(end.machine.state(), State::Established, "end {which}");
            let (to, pending) = self.ways[&(which, end.place)];
            assert_eq!((to, pending), (self.ends[1 - which].place, false), "end {which}");
        }
    }
}

#[test]
fn both_ends_meet_at_the_proxy() {
    Relay::relayed().works();
}

#[test]
fn a_migrate_ack_that_overtakes_an_agent_commits() {
    for late in [[true, false], [false, true], [true, true]] {
        let relay = Relay::relayed_while(late, 0);
        relay.works();
        let committed = |relay: &Relay| [0, 1].map(|end: usize| relay.ends[end].machine.committed());
        assert_eq!(
            committed(&relay),
            committed(&Relay::relayed()),
            "as if it had come after"
        );
        // What is lost is asked for again by who has not heard it.
        for lose in 1..4 {
            let mut relay = Relay::relayed_while(late, lose);
            relay.wait(Duration::from_secs(10));
            relay.works();
        }
    }
}

#[test]
fn an_end_that_moves_goes_on_through_the_same_port() {
    for which in [0, 1] {
        let mut relay = Relay::relayed();
        let other = relay.ends[1 - which].machine.wire();
        relay.leave(which);
        relay.arrive(which, "192.168.9.2:7100");
        relay.settle();
        relay.works();
        assert_eq!(
            relay.ends[1 - which].machine.wire(),
            other,
            "nothing changes there"
        );
        let committed = [0, 1].map(|end: usize| relay.ends[end].machine.committed());
        assert_eq!(committed[0], committed[1], "both know the move's number");
    }
}

#[test]
fn a_move_survives_the_loss_of_any_of_its_migrate_acks() {
    for lost in 1..6 {
        let mut relay = Relay::relayed();
        relay.leave(0);
        relay.arrive(0, "192.168.9.2:7100");
        relay.lose = lost;
        relay.settle();
        relay.wait(Duration::from_secs(20));
        relay.works();
    }
}

#[test]
fn both_ends_move_while_they_are_relayed() {
    for (first, lost) in [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2), (0, 3), (1, 4)] {
        let mut relay = Relay::relayed();
        relay.leave(0);
        relay.leave(1);
        relay.arrive(first, "192.168.8.2:7100");
        relay.settle();
        relay.lose = lost;
        relay.arrive(1 - first, "192.168.9.2:7100");
        relay.settle();
        relay.wait(Duration::from_secs(20));
        relay.works();
    }
}

#[test]
fn one_after_the_other_and_once_more() {
    let mut relay = Relay::relayed();
    for (turn, which) in [0, 1, 1, 0, 0, 1].into_iter().enumerate() {
        relay.leave(which);
        relay.arrive(which, &format!("192.168.{}.2:7100", 20 + turn));
        relay.settle();
        relay.wait(Duration::from_secs(90));
        relay.works();
    }
}

#[test]
fn the_number_of_another_attempt_commits_nothing() {
    let mut relay = Relay::relayed();
    relay.leave(0);
    relay.arrive(0, "192.168.9.2:7100");
    relay.thirds.clear();
    let end = &relay.ends[0];
    let (to, own) = (end.place, end.machine.attempts()[0].req_no);
    let (seq, ack, tcp) = (end.tcp.rcv_nxt, end.tcp.snd_nxt, end.tcp);
    let said = |req_no: ReqNo, seq: u32, ack: u32| Event::RelayedAckHeard {
        from: at(PROXY),
        to,
        req_no,
        seq,
        ack,
        tcp,
    };
    let lies = [
        said(ReqNo(own.0 + 2), seq, ack),
        said(own, seq + 1, ack),
        said(own, seq, ack + 1),
        // The peer's last number, said again.
        said(ReqNo(1), seq, ack),
        said(ReqNo(own.0 + 1), seq.wrapping_add(1 << 31), ack),
        said(ReqNo(own.0 + 1), seq, ack.wrapping_add(9)),
    ];
    for lie in lies {
        relay.tell(0, lie.clone());
        assert!(relay.ends[0].machine.is_parked(), "{lie:?}");
    }
    relay.tell(0, said(own, seq, ack));
    assert!(!relay.ends[0].machine.is_parked());
}
