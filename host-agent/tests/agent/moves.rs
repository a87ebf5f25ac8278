//! A connection's host moves, and both ends go on.

use migration::{State, WaitReason};
use wire::request::RequestType;

use crate::world::{Fate, Side, World, address, millis};

#[test]
fn a_lost_address_parks_its_connections_and_a_new_one_resumes_them() {
    let mut world = World::new();
    let connection = world.connect();
    world.write(Side::A, connection, b"before");

    world.lose(Side::A, "10.0.1.2");
    assert_eq!(
        world.state(Side::A, connection),
        Some(State::MigWait(WaitReason::NoAddress))
    );
    assert!(
        world.a.parked.contains(&address("10.0.1.2")),
        "the address is kept for the connection"
    );
    world.write(Side::A, connection, b", while away");
    assert!(world.a.agent.datapath.counter("parked") > 0);
    world.run(millis(8000));
    assert_eq!(world.b.received(connection), b"before");

    world.gain(Side::A, "192.168.7.9");
    world.run(millis(50));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    assert_eq!(
        world.b.received(connection),
        b"before, while away",
        "the head of the line went without a timeout"
    );
    world.assert_data_flows(connection);
    assert_eq!(world.a.agent.ports.in_use(), 1);
}

#[test]
fn a_move_whose_messages_netlink_lost_is_found_when_stock_is_taken() {
    let mut world = World::new();
    let connection = world.connect();
    world.write(Side::A, connection, b"before");

    world.overrun(Side::A, "10.0.1.2", "192.168.7.9");
    world.run(millis(50));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn the_handshake_is_three_segments_and_then_the_head_of_the_line() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.write(Side::A, connection, b"head");
    world.write(Side::A, connection, b"more");
    world.trace.clear();
    world.gain(Side::A, "192.168.7.9");

    let sent: Vec<_> = world.trace.iter().map(|(segment, _)| segment).collect();
    let kinds: Vec<_> = sent
        .iter()
        .map(|segment| segment.migrate.map(|request| request.r#type))
        .collect();
    let handshake = [RequestType::Msyn, RequestType::MsynAck, RequestType::MigrateAck].map(Some);
    assert_eq!(kinds[..3], handshake, "{}", world.story());
    assert!(kinds[3..].iter().all(Option::is_none));
    let from_a: Vec<_> = sent[3..]
        .iter()
        .filter(|segment| segment.source == sent[0].source)
        .collect();
    assert_eq!(from_a[0].payload, b"", "first where A stands");
    assert_eq!(
        from_a[1].payload,
        b"head",
        "then what the peer waits for: {}",
        world.story()
    );
}

#[test]
fn an_idle_connection_resumes_too_and_probes() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.run(millis(1000));
    world.gain(Side::A, "192.168.7.9");
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    assert_eq!(world.a.received(connection), b"", "a probe is no data");
    world.assert_data_flows(connection);
}

#[test]
fn the_acceptor_moves_as_well_as_the_initiator() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::B, "203.0.113.3");
    world.write(Side::B, connection, b"while away");
    world.gain(Side::B, "198.51.100.7");
    world.assert_resumed(connection, "10.0.1.2", "198.51.100.7");
    assert_eq!(world.a.received(connection), b"while away");
    world.assert_data_flows(connection);
}

#[test]
fn ipv6_connections_move() {
    let mut world = World::at("2001:db8:1::2", "2001:db8:f::3");
    let connection = world.connect();
    world.lose(Side::A, "2001:db8:1::2");
    world.gain(Side::A, "2001:db8:7::9");
    world.assert_resumed(connection, "2001:db8:7::9", "2001:db8:f::3");
    world.assert_data_flows(connection);
}

#[test]
fn five_moves_in_a_row_and_home_again() {
    let mut world = World::new();
    let connection = world.connect();
    let route = [
        "192.168.1.5",
        "172.16.0.9",
        "192.168.7.9",
        "100.64.3.4",
        "10.0.1.2",
    ];
    let mut here = "10.0.1.2";
    for (number, next) in route.into_iter().enumerate() {
        world.lose(Side::A, here);
        world.run(millis(300));
        world.gain(Side::A, next);
        world.run(millis(300));
        world.assert_resumed(connection, next, "203.0.113.3");
        world.assert_data_flows(connection);
        assert_eq!(world.a.agent.sessions[&connection].moves, number as u32 + 1);
        here = next;
    }
    let home = world.wire(Side::A, connection);
    assert_ne!(
        home.local.port, connection.local.port,
        "each attempt has a tuple of its own"
    );
}

#[test]
fn the_ends_move_in_turn() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.assert_data_flows(connection);
    world.lose(Side::B, "203.0.113.3");
    world.gain(Side::B, "198.51.100.7");
    world.assert_resumed(connection, "192.168.7.9", "198.51.100.7");
    world.lose(Side::A, "192.168.7.9");
    world.gain(Side::A, "10.0.1.2");
    world.assert_resumed(connection, "10.0.1.2", "198.51.100.7");
    world.assert_data_flows(connection);
}

#[test]
fn both_ends_away_at_once_find_each_other_when_one_comes_home() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.lose(Side::B, "203.0.113.3");
    world.gain(Side::A, "192.168.7.9");
    world.gain(Side::B, "198.51.100.7");
    world.run(millis(20_000));
    assert_eq!(
        world.state(Side::A, connection),
        Some(State::MigWait(WaitReason::NoAnswer)),
        "{}",
        world.story()
    );

    world.lose(Side::B, "198.51.100.7");
    world.gain(Side::B, "203.0.113.3");
    world.until("resumed", millis(10_000), |world| {
        world.state(Side::A, connection) == Some(State::Established)
            && world.state(Side::B, connection) == Some(State::Established)
    });
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_second_address_takes_over_at_once() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    assert_eq!(
        world.wire(Side::A, connection),
        connection,
        "a second address moves nothing by itself"
    );
    world.lose(Side::A, "10.0.1.2");
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_connection_moves_on_command_without_an_interruption() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    // The answer takes a while: meanwhile the old tuple carries on.
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::MsynAck) => Fate::After(millis(100)),
        _ => Fate::Arrives,
    });
    let now = world.now;
    world.a.migrate(connection, address("192.168.7.9"), None, now);
    world.settle();
    assert_eq!(world.state(Side::A, connection), Some(State::MigSent));
    world.write(Side::A, connection, b"not parked");
    world.settle();
    assert_eq!(world.b.received(connection), b"not parked");
    world.run(millis(200));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_move_over_a_path_that_lets_nothing_back_does_not_stop_a_healthy_connection() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    world.interfere(
        |segment| match segment.destination.address == address("192.168.7.9") {
            true => Fate::Lost,
            false => Fate::Arrives,
        },
    );
    let now = world.now;
    world.a.migrate(connection, address("192.168.7.9"), None, now);
    for _ in 0..200 {
        world.run(millis(100));
        world.assert_data_flows(connection);
    }
    assert_eq!(world.wire(Side::A, connection), connection);
    assert_eq!(world.wire(Side::B, connection), connection.reversed());
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    assert_eq!(
        world.a.agent.ports.in_use(),
        0,
        "the attempt was given up, and its port with it"
    );
}

#[test]
fn two_hundred_connections_move_together() {
    let mut world = World::new();
    let connections: Vec<_> = (0..200).map(|_| world.connect_unanswered(true)).collect();
    world.run(millis(200));
    world.lose(Side::A, "10.0.1.2");
    world.run(millis(1000));
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    let mut ports: Vec<u16> = Vec::new();
    for connection in connections {
        world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
        ports.push(world.wire(Side::A, connection).local.port);
    }
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 200, "no two on one port");
}

#[test]
fn a_connection_that_nobody_takes_up_is_given_up_and_both_ends_are_told() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.run(millis(899_000));
    assert!(world.a.stack.reset.is_empty(), "patience is fifteen minutes");
    world.run(millis(2_000));
    assert_eq!(world.a.stack.reset, [connection]);
    assert_eq!(world.a.agent.timeline.counts().get("timed_out"), Some(&1));
    assert_eq!(world.state(Side::A, connection), Some(State::Closed));
    // It comes back too late and says so.
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    assert_eq!(world.b.stack.reset, [connection.reversed()], "{}", world.story());
}

#[test]
fn an_answered_attempt_is_forgotten_when_the_address_it_came_to_goes() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "10.0.1.3");
    // B reaches A at its second address; the Migrate-Ack is still under way when that address goes.
    world.gain(Side::B, "198.51.100.7");
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::MigrateAck) => Fate::After(millis(20)),
        _ => Fate::Arrives,
    });
    let (now, to) = (
        world.now,
        wire::Endpoint::new(address("10.0.1.3"), connection.local.port),
    );
    world
        .b
        .migrate(connection.reversed(), address("198.51.100.7"), Some(to), now);
    world.settle();
    assert_eq!(world.state(Side::A, connection), Some(State::SynRecv));
    world.lose(Side::A, "10.0.1.3");
    assert_eq!(
        world.state(Side::A, connection),
        Some(State::Established),
        "{}",
        world.story()
    );
    let left = world
        .a
        .agent
        .datapath
        .leftovers()
        .into_iter()
        .find(|left| left.starts_with("arrivals"));
    assert_eq!(left, None, "nothing commits there any more");
    // B hears nothing there, and finds A where it was heard last.
    world.until("resumed", millis(60_000), |world| {
        world.wire(Side::A, connection) != connection
    });
    world.run(millis(1000));
    world.assert_resumed(connection, "10.0.1.2", "198.51.100.7");
    world.assert_data_flows(connection);
}
