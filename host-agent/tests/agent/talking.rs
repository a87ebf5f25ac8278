//! What agents tell each other over their line: believed where it fits, counted where it makes no sense.

use std::net::SocketAddr;

use host_agent::lines::{Line, LineEvent};
use identity::Message;
use identity::message::ResetVerdict;
use migration::State;
use tokio::sync::mpsc::Receiver;
use uuid::Uuid;
use wire::flags::Flags;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::Tuple;

use crate::world::{AGENT_PORT, Fate, Side, World, address, millis};

/// The line of A to B's agent, with the test in the place of B's agent.
struct Peer {
    pair_id: Uuid,
    serial: u64,
    heard: Receiver<Message>,
}

impl Peer {
    /// Opens the line from where the connection is on the wire now.
    fn of(world: &mut World, connection: Tuple) -> Peer {
        let wire = world.wire(Side::A, connection);
        let pair_id = world.a.agent.sessions[&connection].keys().pair_id;
        let there = SocketAddr::new(wire.remote.address, AGENT_PORT);
        let (line, heard) = Line::new(true, wire.local.address, there);
        let serial = line.serial;
        let now = world.now;
        world.a.agent.line_event(LineEvent::Opened { pair_id, line }, now);
        Peer {
            pair_id,
            serial,
            heard,
        }
    }

    fn says(&self, world: &mut World, message: Message) {
        let now = world.now;
        let (pair_id, serial) = (self.pair_id, self.serial);
        let said = LineEvent::Said {
            pair_id,
            serial,
            message,
        };
        world.a.agent.line_event(said, now);
        world.settle();
    }

    /// The number of the question about a reset that A has asked.
    fn question(&mut self) -> u64 {
        loop {
            match self.heard.try_recv().expect("a question about the reset") {
                Message::AskReset { question, .. } => return question,
                _ => continue,
            }
        }
    }
}

fn counted(world: &World, what: &str) -> u64 {
    world.a.agent.timeline.counts().get(what).copied().unwrap_or(0)
}

fn hold_a_reset(world: &mut World, connection: Tuple) {
    let tcp = world.a.agent.datapath.socket(&connection).expect("a socket").tcp;
    let reset = Segment::bare(connection.reversed(), Flags::RST, tcp.rcv_nxt, tcp.snd_nxt, 0);
    world.inject(reset);
    assert_eq!(
        world.a.agent.datapath.counter("reset_held"),
        1,
        "{}",
        world.story()
    );
}

fn no_answers(segment: &Segment) -> Fate {
    match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::Query | RequestType::Answer) => Fate::Lost,
        _ => Fate::Arrives,
    }
}

fn observed(connection: Tuple, world: &World, req_no: u32, tuple: Tuple) -> Message {
    let isns = world.a.agent.sessions[&connection].isns;
    Message::ObservedTuple {
        isn_initiator: isns.0,
        isn_acceptor: isns.1,
        req_no,
        tuple,
    }
}

#[test]
fn a_peer_that_sees_the_connection_elsewhere_than_the_line_is_noted() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(200));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    // Both agree on where the line is; the connection comes from there too, or from somewhere else.
    let peer = Peer::of(&mut world, connection);
    let seen = world
        .a
        .agent
        .pairs
        .by_id(&peer.pair_id)
        .expect("the pair")
        .self_observed
        .address;
    let req_no = world.a.agent.sessions[&connection].machine.committed().0;
    let there = world.wire(Side::B, connection);
    let agreed = Tuple::new(there.local, wire::tuple::Endpoint::new(seen, there.remote.port));
    let message = observed(connection, &world, req_no, agreed);
    peer.says(&mut world, message);
    assert_eq!(
        (
            counted(&world, "observed_agrees"),
            counted(&world, "observed_differs")
        ),
        (1, 0)
    );
    let detour = Tuple::new(
        there.local,
        wire::tuple::Endpoint::new(address("198.18.0.1"), there.remote.port),
    );
    let message = observed(connection, &world, req_no, detour);
    peer.says(&mut world, message);
    assert_eq!(counted(&world, "observed_differs"), 1, "{}", world.story());
    // It is said, and costs nobody the connection.
    world.assert_data_flows(connection);
}

#[test]
fn what_a_peer_saw_before_the_last_move_is_not_compared() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(200));
    let peer = Peer::of(&mut world, connection);
    let message = observed(connection, &world, 0, connection.reversed());
    peer.says(&mut world, message);
    assert_eq!(counted(&world, "observed_late"), 1);
    assert_eq!(counted(&world, "observed_differs"), 0);
}

#[test]
fn nonsense_instead_of_an_answer_does_not_end_a_healthy_connection() {
    let mut world = World::new();
    let connection = world.connect();
    let other = world.connect();
    world.interfere(no_answers);
    let mut peer = Peer::of(&mut world, connection);
    hold_a_reset(&mut world, connection);
    let question = peer.question();
    let isns = world.a.agent.sessions[&other].isns;
    let verdicts = [
        ResetVerdict::Genuine,
        ResetVerdict::NotMine,
        ResetVerdict::Unknown,
    ];
    for (number, verdict) in verdicts.into_iter().cycle().take(300).enumerate() {
        // An answer to what nobody asked, a question about nothing, numbers that name nothing or something else.
        let question = question.wrapping_add(1 + number as u64);
        for message in [
            Message::ResetAnswer { question, verdict },
            Message::AskReset {
                question,
                isn_initiator: number as u32,
                isn_acceptor: 7,
                tuple: other,
            },
            Message::Unheard {
                isn_initiator: isns.1,
                isn_acceptor: isns.0,
            },
            Message::ObservedTuple {
                isn_initiator: number as u32,
                isn_acceptor: number as u32,
                req_no: u32::MAX,
                tuple: connection,
            },
            Message::Pong { number: u64::MAX },
        ] {
            peer.says(&mut world, message);
        }
    }
    assert!(counted(&world, "answer_without_question") >= 300);
    // The peer says that it does not know the connection: that is no confirmation.
    peer.says(
        &mut world,
        Message::ResetAnswer {
            question,
            verdict: ResetVerdict::Unknown,
        },
    );
    world.run(millis(10_000));
    assert!(world.a.stack.reset.is_empty(), "{}", world.story());
    world.leave_alone();
    for connection in [connection, other] {
        assert_eq!(world.state(Side::A, connection), Some(State::Established));
        world.assert_data_flows(connection);
    }
}

#[test]
fn an_answer_counts_for_the_connection_that_was_asked_about_and_from_its_own_peer() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(no_answers);
    let mut peer = Peer::of(&mut world, connection);
    hold_a_reset(&mut world, connection);
    let question = peer.question();
    // Another pair's agent has guessed the question.
    let stranger = Peer {
        pair_id: Uuid::from_u128(777),
        serial: peer.serial,
        heard: tokio::sync::mpsc::channel(1).1,
    };
    let genuine = Message::ResetAnswer {
        question,
        verdict: ResetVerdict::Genuine,
    };
    stranger.says(&mut world, genuine.clone());
    assert!(world.a.stack.reset.is_empty(), "{}", world.story());
    peer.says(&mut world, genuine);
    world.run(millis(50));
    assert_eq!(world.a.stack.reset, [connection], "{}", world.story());
}

#[test]
fn a_garbled_answer_is_no_answer() {
    let mut world = World::new();
    let connection = world.connect();
    world.assert_data_flows(connection);
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::Answer) => Fate::Lost,
        _ => Fate::Arrives,
    });
    hold_a_reset(&mut world, connection);
    let answers: Vec<Segment> = world
        .trace
        .iter()
        .filter(|(segment, _)| {
            segment
                .migrate
                .is_some_and(|request| request.r#type == RequestType::Answer)
        })
        .map(|(segment, _)| segment.clone())
        .collect();
    let answer = answers.first().expect("B has answered");
    let dropped = |world: &World| counted(world, "reset_dropped");
    world.leave_alone();
    for bit in 0..32 {
        let mut garbled = answer.clone();
        garbled.seq ^= 1 << bit;
        world.inject(garbled);
        let mut garbled = answer.clone();
        garbled.ack ^= 1 << bit;
        world.inject(garbled);
    }
    assert_eq!(dropped(&world), 0, "{}", world.story());
    let forged = world.a.agent.datapath.counter("bad_mac");
    assert!(forged >= 64, "{forged}: {}", world.story());
    // The right one still counts.
    world.inject(answer.clone());
    assert_eq!(dropped(&world), 1, "{}", world.story());
    world.assert_data_flows(connection);
}

const MINUTE: std::time::Duration = std::time::Duration::from_secs(60);

fn waits(world: &mut World, connection: Tuple) -> bool {
    matches!(
        world.state(Side::A, connection),
        Some(State::MigWait(_) | State::Suspect | State::MigSent)
    )
}

#[test]
fn a_host_that_says_goodnight_is_waited_for_as_long_as_it_asks() {
    let mut world = World::new();
    let connection = world.connect();
    let mut peer = Peer::of(&mut world, connection);
    let now = world.now;
    assert_eq!(
        world.a.agent.going_to_sleep(120 * MINUTE, now),
        (1, 1),
        "one peer, and it is told"
    );
    let said = std::iter::from_fn(|| peer.heard.try_recv().ok());
    let asked = said.filter_map(|message| match message {
        Message::GoingToSleep { longest } => Some(longest),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [120 * MINUTE]);
    world.lose(Side::A, "10.0.1.2");
    world.run(119 * MINUTE);
    assert!(waits(&mut world, connection), "{}", world.story());
    world.run(2 * MINUTE);
    assert!(!waits(&mut world, connection), "this end ends it like the other");
}

#[test]
fn a_peer_that_sleeps_is_waited_for_until_it_is_heard_again() {
    let mut world = World::new();
    let connection = world.connect();
    let peer = Peer::of(&mut world, connection);
    let longest = 600 * MINUTE;
    peer.says(&mut world, Message::GoingToSleep { longest });
    peer.says(&mut world, Message::Ping { number: 1 });
    world.lose(Side::B, "203.0.113.3");
    world.write(Side::A, connection, b"are you there?");
    world.run(millis(100));
    world.time_out(Side::A, connection);
    world.run(60 * MINUTE);
    assert!(waits(&mut world, connection), "drowsy words are no awakening");
    peer.says(&mut world, Message::Ping { number: 2 });
    world.run(14 * MINUTE);
    assert!(waits(&mut world, connection), "it has just been heard");
    world.run(2 * MINUTE);
    assert!(!waits(&mut world, connection), "and is waited for like everybody");
    assert_eq!(counted(&world, "peer_awake"), 1);
}

#[test]
fn nobody_is_waited_for_longer_than_configured_nor_for_more_connections() {
    let mut world = World::new();
    let connection = world.connect();
    let other = world.connect();
    world.a.agent.sleeping.bedtime.longest = 60 * MINUTE;
    world.a.agent.sleeping.bedtime.of_a_peer = 1;
    let peer = Peer::of(&mut world, connection);
    let longest = 24 * 60 * MINUTE;
    peer.says(&mut world, Message::GoingToSleep { longest });
    world.lose(Side::A, "10.0.1.2");
    world.run(16 * MINUTE);
    let waiting = [connection, other].map(|connection| waits(&mut world, connection));
    assert_eq!(waiting.iter().filter(|waits| **waits).count(), 1, "one of two");
    world.run(46 * MINUTE);
    let waiting = [connection, other].map(|connection| waits(&mut world, connection));
    assert_eq!(waiting, [false; 2]);
}
