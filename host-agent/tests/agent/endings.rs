//! The end of a connection, and that nothing of it stays behind.

use migration::State;
use wire::tuple::Tuple;

use crate::world::{Fate, Side, World, address, millis};

const ESTABLISHED_FIN: [(Side, u32); 6] = [
    // A closes first: FIN-WAIT-1 and CLOSE-WAIT, FIN-WAIT-2 and LAST-ACK, then nothing at either end.
    (Side::A, 4),
    (Side::B, 8),
    (Side::A, 5),
    (Side::B, 9),
    (Side::A, 7),
    (Side::B, 7),
];

/// Both applications close; the kernels exchange their FINs.
fn close(world: &mut World, connection: Tuple) {
    for (side, state) in ESTABLISHED_FIN {
        let host = world.host(side);
        let own = host.own(connection);
        host.agent.datapath.change_state(&own, state);
        world.settle();
    }
}

fn nothing_is_left(world: &World) {
    for host in [&world.a, &world.b] {
        assert_eq!(
            host.agent.datapath.leftovers(),
            Vec::<String>::new(),
            "{}",
            host.name
        );
        assert!(host.agent.sessions.is_empty(), "{}", host.name);
        assert_eq!(host.agent.ports.in_use(), 0, "wire ports of {}", host.name);
        assert!(
            host.parked.is_empty() && host.agent.retired.is_empty(),
            "{}: {:?}",
            host.name,
            host.parked
        );
        assert_eq!(host.agent.next_alarm(), None, "{}", host.name);
        assert_eq!(host.agent.datapath.load(), (0, 0), "{}", host.name);
    }
}

fn a_moves(world: &mut World, from: &str, to: &str) {
    world.lose(Side::A, from);
    world.run(millis(100));
    world.gain(Side::A, to);
    world.run(millis(500));
}

#[test]
fn a_connection_that_never_moved_leaves_nothing_once_both_ends_are_sure() {
    let mut world = World::new();
    let connection = world.connect();
    close(&mut world, connection);
    assert!(world.b.agent.sessions.is_empty(), "after LAST-ACK at once");
    world.run(millis(61_000));
    nothing_is_left(&world);
}

#[test]
fn a_connection_that_closes_before_it_has_keys_leaves_nothing() {
    let mut world = World::new();
    let connection = world.connect();
    close(&mut world, connection);
    let short = world.connect_unanswered(true);
    // Within the same tick: the agents have not looked yet.
    for side in [Side::A, Side::B] {
        let host = world.host(side);
        let own = host.own(short);
        host.agent.datapath.change_state(&own, 7);
    }
    world.run(millis(61_000));
    nothing_is_left(&world);
}

#[test]
fn a_connection_that_closes_while_it_gets_its_keys_leaves_nothing() {
    let mut world = World::new();
    let connection = world.connect();
    close(&mut world, connection);
    let short = world.connect_unanswered(true);
    world.a.agent.datapath.close_before_it_is_stored(short);
    world.b.agent.datapath.close_before_it_is_stored(short.reversed());
    world.run(millis(61_000));
    nothing_is_left(&world);
}

#[test]
fn a_moved_connection_leaves_nothing_after_its_end() {
    let mut world = World::new();
    let connection = world.connect();
    a_moves(&mut world, "10.0.1.2", "192.168.7.9");
    a_moves(&mut world, "192.168.7.9", "172.16.0.9");
    world.assert_resumed(connection, "172.16.0.9", "203.0.113.3");
    close(&mut world, connection);
    let wire = world.wire(Side::A, connection);
    assert_eq!(
        wire.local.address,
        address("172.16.0.9"),
        "a repeated FIN is still translated"
    );
    world.run(millis(122_000));
    assert_eq!(world.a.agent.ports.in_use(), 0, "released before the keys go");
    assert!(world.a.parked.is_empty());
    world.run(millis(1_100_000));
    nothing_is_left(&world);
}

#[test]
fn a_connection_that_moved_often_leaves_nothing() {
    let mut world = World::new();
    let connection = world.connect();
    let mut here = "10.0.1.2".to_string();
    for number in 3..20 {
        let next = format!("10.0.{number}.2");
        a_moves(&mut world, &here, &next);
        here = next;
    }
    world.assert_resumed(connection, &here, "203.0.113.3");
    let tokens = world
        .a
        .agent
        .datapath
        .leftovers()
        .iter()
        .filter(|left| left.starts_with("tokens"))
        .count();
    assert!(tokens <= 2, "{tokens} tokens of a live connection");
    world.b.abort(connection);
    world.run(millis(1_200_000));
    nothing_is_left(&world);
}

#[test]
fn connections_that_were_reset_leave_nothing() {
    for side in [Side::A, Side::B] {
        let mut world = World::new();
        let connection = world.connect();
        a_moves(&mut world, "10.0.1.2", "192.168.7.9");
        world.host(side).abort(connection);
        world.run(millis(1000));
        assert_eq!(world.state(Side::A, connection), Some(State::Closed));
        world.run(millis(1_200_000));
        nothing_is_left(&world);
    }
}

#[test]
fn a_connection_that_ends_while_its_host_is_away_leaves_nothing() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.a.abort(connection);
    // Networks come and go while the dead connection is still known.
    for number in 1..8 {
        let text = format!("192.168.{number}.2");
        world.gain(Side::A, &text);
        world.run(millis(1000));
        world.lose(Side::A, &text);
        world.run(millis(1000));
    }
    world.gain(Side::A, "192.168.9.2");
    world.run(millis(1_200_000));
    nothing_is_left(&world);
}

#[test]
fn attempts_that_nobody_answers_give_their_ports_back() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.interfere(|segment| match segment.migrate.is_some() {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    for number in 1..30 {
        let text = format!("192.168.{number}.2");
        world.gain(Side::A, &text);
        world.run(millis(3000));
        world.lose(Side::A, &text);
    }
    assert!(
        world.a.agent.ports.in_use() <= 4,
        "{} ports in use",
        world.a.agent.ports.in_use()
    );
    world.leave_alone();
    world.gain(Side::A, "192.168.77.2");
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.77.2", "203.0.113.3");
    assert_eq!(world.a.agent.ports.in_use(), 1);
    close(&mut world, connection);
    world.run(millis(1_300_000));
    nothing_is_left(&world);
}

#[test]
fn a_kept_address_goes_with_the_last_connection_that_needs_it() {
    let mut world = World::new();
    let first = world.connect();
    let second = world.connect();
    a_moves(&mut world, "10.0.1.2", "192.168.7.9");
    close(&mut world, first);
    world.run(millis(1_300_000));
    assert!(
        world.a.parked.contains(&address("10.0.1.2")),
        "the second still needs it"
    );
    world.assert_data_flows(second);
    close(&mut world, second);
    world.run(millis(1_300_000));
    nothing_is_left(&world);
}

#[test]
fn an_address_that_is_lost_after_the_end_of_its_connections_is_not_kept() {
    let mut world = World::new();
    let connection = world.connect();
    a_moves(&mut world, "10.0.1.2", "192.168.7.9");
    a_moves(&mut world, "192.168.7.9", "10.0.1.2");
    world.b.abort(connection);
    world.run(millis(70_000));
    assert_eq!(
        world.state(Side::A, connection),
        Some(State::Closed),
        "only its keys are left"
    );
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1_300_000));
    nothing_is_left(&world);
}

#[test]
fn a_connection_that_ends_in_the_middle_of_a_move_leaves_nothing() {
    for lost in [wire::RequestType::MsynAck, wire::RequestType::MigrateAck] {
        for ends in [Side::A, Side::B] {
            let mut world = World::new();
            let connection = world.connect();
            world.lose(Side::A, "10.0.1.2");
            world.interfere(move |segment| {
                match segment.migrate.is_some_and(|request| request.r#type == lost) {
                    true => Fate::Lost,
                    false => Fate::Arrives,
                }
            });
            world.gain(Side::A, "192.168.7.9");
            world.host(ends).abort(connection);
            world.run(millis(100));
            world.leave_alone();
            world.run(millis(2_300_000));
            nothing_is_left(&world);
        }
    }
}
