//! One tuple for two connections: because a NAPT has given a port away, or because somebody writes another's address on
//! an MSYN.

use std::net::SocketAddr;
use std::time::Duration;

use datapath::Datapath;
use host_agent::lines::{Line, LineEvent};
use identity::Message;
use migration::State;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::world::{AGENT_PORT, Fate, Napt, Side, World, address, millis};

const INSIDE: &str = "192.168.7.9";
const OUTSIDE: &str = "198.51.100.7";

/// Two connections that have moved behind a NAPT, and where B reaches them.
fn behind_a_napt() -> (World, [Tuple; 2], [Endpoint; 2]) {
    let mut world = World::new();
    let connections = [world.connect(), world.connect()];
    world.napt = Some(Napt::new(address(INSIDE), address(OUTSIDE)));
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, INSIDE);
    world.run(millis(2000));
    let reached = connections.map(|connection| world.wire(Side::B, connection).remote);
    assert!(reached.iter().all(|reached| reached.address == address(OUTSIDE)));
    assert_ne!(reached[0], reached[1]);
    (world, connections, reached)
}

/// A tries to resume a connection from where it is; nothing that it sends for that arrives.
fn lost_msyn(world: &mut World, connection: Tuple, from: &str) -> Segment {
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::Msyn) => Fate::Lost,
        _ => Fate::Arrives,
    });
    world.trace.clear();
    let now = world.now;
    world.a.migrate(connection, address(from), None, now);
    world.settle();
    let (msyn, _) = world.trace.last().expect("an MSYN").clone();
    let source = msyn.source;
    world.interfere(move |segment| match segment.source == source {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    msyn
}

/// B's agent hears from A's that its host goes to sleep.
fn says_goodnight(world: &mut World, connection: Tuple) {
    let wire = world.wire(Side::B, connection);
    let pair_id = world.b.agent.sessions[&connection.reversed()].keys().pair_id;
    let there = SocketAddr::new(wire.remote.address, AGENT_PORT);
    let (line, _heard) = Line::new(false, wire.local.address, there);
    let (serial, now) = (line.serial, world.now);
    world.b.agent.line_event(LineEvent::Opened { pair_id, line }, now);
    let message = Message::GoingToSleep {
        longest: Duration::from_secs(3600),
    };
    let said = LineEvent::Said {
        pair_id,
        serial,
        message,
    };
    world.b.agent.line_event(said, now);
    assert_eq!(world.b.agent.sleeping.pairs(), 1);
}

fn counted(world: &World, what: &str) -> u64 {
    world.b.agent.timeline.counts().get(what).copied().unwrap_or(0)
}

/// Where the first one was reached the second is from now on, and stays, though the first leaves that tuple later.
fn belongs_to_the_second(world: &mut World, [first, second]: [Tuple; 2], reached: Endpoint) {
    world.assert_data_flows(second);
    let now = world.now;
    world.a.migrate(first, address(INSIDE), None, now);
    world.run(millis(3000));
    assert_ne!(world.wire(Side::B, first).remote, reached);
    world.assert_data_flows(first);
    world.run(millis(70_000));
    world.assert_data_flows(second);
    world.assert_data_flows(first);
    assert!(world.a.stack.reset.is_empty() && world.b.stack.reset.is_empty());
}

#[test]
fn a_port_that_a_napt_gives_away_is_passed_over_while_it_may_be_in_use() {
    let (mut world, [first, second], [reached, _]) = behind_a_napt();
    let old = world.wire(Side::A, second);
    world.interfere(move |segment| match segment.source == old.local {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    world.write(Side::A, second, b"lost");
    world.time_out(Side::A, second);
    assert_eq!(world.state(Side::A, second), Some(State::Suspect));
    world.napt.as_mut().expect("it").reboot(reached.port);
    let now = world.now;
    world.a.migrate(second, address(INSIDE), None, now);
    world.until("the second has another port", millis(30_000), |world| {
        world.wire(Side::A, second) != old
    });
    assert!(counted(&world, "tuple_contested") >= 6, "{}", world.story());
    assert_eq!(world.wire(Side::B, first).remote, reached);
    assert_eq!(world.wire(Side::B, second).remote.port, reached.port + 1);
    world.leave_alone();
    world.time_out(Side::A, second);
    world.run(millis(1000));
    assert_eq!(world.state(Side::A, second), Some(State::Established));
    world.assert_data_flows(second);
}

#[test]
fn a_port_of_a_host_that_sleeps_is_given_to_whom_a_napt_has_given_it() {
    let (mut world, [first, second], [reached, _]) = behind_a_napt();
    says_goodnight(&mut world, first);
    world.napt.as_mut().expect("it").reboot(reached.port);
    let now = world.now;
    world.a.migrate(second, address(INSIDE), None, now);
    world.run(millis(3000));
    assert_eq!(world.wire(Side::B, second).remote, reached, "{}", world.story());
    belongs_to_the_second(&mut world, [first, second], reached);
}

#[test]
fn an_msyn_with_the_address_of_another_connection_stops_nothing() {
    let (mut world, [first, second], [reached, own]) = behind_a_napt();
    let msyn = lost_msyn(&mut world, second, INSIDE);
    let forged = Segment {
        source: reached,
        ..msyn
    };
    for _ in 0..5 {
        world.inject(forged.clone());
        world.assert_data_flows(first);
    }
    assert!(counted(&world, "tuple_contested") > 0);
    let answers = |segment: &Segment| segment.destination == reached && segment.migrate.is_some();
    assert!(
        !world.trace.iter().any(|(segment, _)| answers(segment)),
        "who asks learns nothing"
    );
    world.leave_alone();
    world.run(millis(30_000));
    for connection in [first, second] {
        world.assert_data_flows(connection);
    }
    assert_eq!(world.wire(Side::B, first).remote, reached);
    assert_ne!(
        world.wire(Side::B, second).remote,
        own,
        "its own attempt has succeeded"
    );
}

#[test]
fn an_msyn_with_the_address_of_a_connection_that_has_never_moved_stops_nothing() {
    let mut world = World::new();
    let (still, moved) = (world.connect(), world.connect());
    let plain = world.connect_unanswered(false);
    let now = world.now;
    world.a.migrate(moved, address("10.0.1.2"), None, now);
    world.run(millis(2000));
    let msyn = lost_msyn(&mut world, moved, "10.0.1.2");
    for connection in [still, plain] {
        let forged = Segment {
            source: connection.local,
            ..msyn.clone()
        };
        for _ in 0..5 {
            world.inject(forged.clone());
            world.assert_data_flows(connection);
        }
        assert!(world.b.agent.datapath.arrival(&connection.reversed()).is_none());
    }
    assert_eq!(counted(&world, "tuple_contested"), 10);
    world.leave_alone();
    world.run(millis(30_000));
    for connection in [still, plain, moved] {
        world.assert_data_flows(connection);
    }
    assert!(world.a.stack.reset.is_empty() && world.b.stack.reset.is_empty());
}
