//! Something is used up: ports, maps, the event ring. It is said and counted, and what works goes on working.

use datapath::fake::Limits;
use migration::State;

use crate::world::{Side, World, millis};

#[test]
fn without_a_free_wire_port_a_connection_waits_for_one() {
    let mut world = World::new();
    world.a.with_ports((61_000, 61_001));
    let connections: Vec<_> = (0..3).map(|_| world.connect_unanswered(true)).collect();
    world.run(millis(200));
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    assert!(world.a.agent.timeline.counts()["wire_ports_exhausted"] >= 1);
    let states = connections
        .iter()
        .map(|connection| world.state(Side::A, *connection).unwrap());
    let resumed = states.filter(|state| *state == State::Established).count();
    assert_eq!(resumed, 2);
    assert_eq!(world.a.agent.ports.in_use(), 2);

    // Another address has the same ports to give.
    world.gain(Side::A, "10.0.0.9");
    world.run(millis(1000));
    for connection in connections {
        assert_eq!(world.state(Side::A, connection), Some(State::Established));
        world.assert_data_flows(connection);
    }
}

#[test]
fn a_full_map_is_counted_and_leaves_the_connection_plain() {
    let maps: [fn(&mut Limits); 2] = [|limits| limits.sessions = 0, |limits| limits.tokens = 0];
    for shrink in maps {
        let mut world = World::new();
        shrink(&mut world.a.agent.datapath.limits);
        let connection = world.connect();
        assert!(
            world
                .a
                .agent
                .timeline
                .counts()
                .get("datapath_error")
                .is_some_and(|count| *count > 0)
        );
        world.write(Side::A, connection, b"plain");
        world.run(millis(1000));
        assert_eq!(world.b.received(connection), b"plain");
    }
}

#[test]
fn new_connections_for_which_there_is_no_room_take_none_from_those_that_are_moving() {
    // Whichever the agent comes to first: the first one has its session, and moves.
    let mut world = World::new();
    let first = world.connect();
    let limits = &mut world.a.agent.datapath.limits;
    (limits.sessions, limits.wires) = (1, 1);
    let others: Vec<_> = (0..8).map(|_| world.connect_unanswered(true)).collect();
    world.run(millis(200));
    assert_eq!(world.a.agent.sessions.len(), 1);
    assert_eq!(world.a.agent.timeline.counts().get("stays_plain"), Some(&8));
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    world.assert_resumed(first, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(first);
    for other in others {
        assert_eq!(world.wire(Side::A, other), other, "it stays where it was");
    }
}

#[test]
fn a_full_map_of_moved_connections_is_counted() {
    let mut world = World::new();
    world.a.agent.datapath.limits.wires = 1;
    let first = world.connect_unanswered(true);
    let second = world.connect_unanswered(true);
    world.run(millis(200));
    world.lose(Side::A, "10.0.1.2");
    assert!(world.a.agent.datapath.counter("map_full") >= 1);
    assert!(world.a.agent.timeline.counts()["datapath_error"] >= 1);
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    let moved = [first, second]
        .into_iter()
        .filter(|connection| world.wire(Side::A, *connection) != *connection);
    let moved: Vec<_> = moved.collect();
    assert_eq!(moved.len(), 1);
    world.assert_data_flows(moved[0]);
}

#[test]
fn a_full_map_of_arrivals_is_counted() {
    let mut world = World::new();
    let connection = world.connect();
    world.a.agent.datapath.limits.arrivals = 0;
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    assert!(world.a.agent.timeline.counts()["datapath_error"] >= 1);
    assert!(world.state(Side::A, connection).is_some());
}

#[test]
fn a_map_that_is_full_in_the_middle_of_a_move_costs_time_and_no_connection() {
    fn room_of<'a>(limits: &'a mut Limits, map: &str) -> &'a mut usize {
        match map {
            "arrivals" => &mut limits.arrivals,
            "wires" => &mut limits.wires,
            _ => &mut limits.tokens,
        }
    }
    for side in [Side::A, Side::B] {
        for map in ["arrivals", "wires", "tokens"] {
            let mut world = World::new();
            let connection = world.connect();
            world.lose(Side::A, "10.0.1.2");
            world.write(Side::A, connection, b"while away");
            let limits = &mut world.host(side).agent.datapath.limits;
            let room = std::mem::take(room_of(limits, map));
            world.gain(Side::A, "192.168.7.9");
            world.run(millis(3000));
            *room_of(&mut world.host(side).agent.datapath.limits, map) = room;
            world.until(
                &format!("the connection goes on after {map} of {side:?} were full"),
                millis(120_000),
                |world| world.b.received(connection) == b"while away",
            );
            assert!(world.a.stack.reset.is_empty() && world.b.stack.reset.is_empty());
            world.run(millis(5000));
            world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
            world.assert_data_flows(connection);
        }
    }
}

#[test]
fn lost_events_are_counted_and_the_handshake_is_repeated() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.b.agent.datapath.limits.events = 0;
    world.gain(Side::A, "192.168.7.9");
    assert!(world.b.agent.datapath.counter("event_lost") >= 1);
    world.run(millis(200));
    world.b.agent.datapath.limits.events = 100;
    world.run(millis(3000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_packet_that_cannot_be_sent_is_counted_and_sent_again() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.a.agent.datapath.unreachable = true;
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(600));
    assert!(world.a.agent.timeline.counts()["send_failed"] >= 2);
    world.a.agent.datapath.unreachable = false;
    world.run(millis(3000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_host_that_has_met_no_agent_does_not_look_at_all_its_sockets() {
    let mut world = World::new();
    world.run(millis(20_000));
    assert_eq!(world.a.agent.datapath.listings, 0);
    world.connect();
    world.run(millis(20_000));
    assert!(world.a.agent.datapath.listings > 0, "now it has");
}
