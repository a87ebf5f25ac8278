//! The agent is killed, and another takes up what it finds in the data path.

use migration::State;
use wire::request::RequestType;

use crate::world::{Fate, Side, World, address, millis};

fn restart_both(world: &mut World) {
    let now = world.now;
    world.a.restart_agent(now);
    world.b.restart_agent(now);
    world.settle();
}

#[test]
fn an_adopted_connection_moves() {
    let mut world = World::new();
    let connection = world.connect();
    restart_both(&mut world);
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    world.lose(Side::A, "10.0.1.2");
    world.write(Side::A, connection, b"while away");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    assert_eq!(world.b.received(connection), b"while away");
}

#[test]
fn an_adopted_moved_connection_moves_again() {
    for mover in [Side::A, Side::B] {
        let mut world = World::new();
        let connection = world.connect();
        world.lose(Side::A, "10.0.1.2");
        world.gain(Side::A, "192.168.7.9");
        world.run(millis(500));
        let port = world.wire(Side::A, connection).local.port;
        restart_both(&mut world);
        world.run(millis(500));
        world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
        world.assert_data_flows(connection);
        assert_eq!(
            world.a.agent.ports.in_use(),
            1,
            "port {port} is known to be taken"
        );

        match mover {
            Side::A => {
                world.lose(Side::A, "192.168.7.9");
                world.gain(Side::A, "172.16.0.9");
                world.run(millis(500));
                world.assert_resumed(connection, "172.16.0.9", "203.0.113.3");
            }
            Side::B => {
                world.lose(Side::B, "203.0.113.3");
                world.gain(Side::B, "198.51.100.7");
                world.run(millis(500));
                world.assert_resumed(connection, "192.168.7.9", "198.51.100.7");
            }
        }
        world.assert_data_flows(connection);
    }
}

#[test]
fn a_connection_that_is_parked_when_the_agent_dies_resumes_under_the_next() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.write(Side::A, connection, b"while away");
    let now = world.now;
    world.a.restart_agent(now);
    world.run(millis(1000));
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(500));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    assert_eq!(world.b.received(connection), b"while away");
}

#[test]
fn a_move_while_no_agent_runs_is_made_up_for() {
    let mut world = World::new();
    let connection = world.connect();
    world.a.crash_agent();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    let now = world.now;
    world.a.start_agent(now);
    world.run(millis(500));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn an_agent_that_dies_within_a_handshake_leaves_nothing_undecided() {
    // The agent that hears this segment is dead by then; its data path is not.
    let stages = [
        (RequestType::Msyn, Side::B),
        (RequestType::MsynAck, Side::A),
        (RequestType::MigrateAck, Side::B),
        (RequestType::MigrateAck, Side::A),
    ];
    for (stage, dies) in stages {
        let mut world = World::new();
        let connection = world.connect();
        world.lose(Side::A, "10.0.1.2");
        world.write(Side::A, connection, b"while away");
        let delayed = move |segment: &wire::Segment| match segment.migrate.is_some_and(|r| r.r#type == stage)
        {
            true => Fate::After(millis(50)),
            false => Fate::Arrives,
        };
        world.interfere(delayed);
        world.gain(Side::A, "192.168.7.9");
        world.run(millis(20));
        world.host(dies).crash_agent();
        world.run(millis(1000));
        let now = world.now;
        world.host(dies).start_agent(now);
        world.leave_alone();
        let what = format!("{stage} and the agent of {dies:?} dead");
        world.until(&what, millis(30_000), |world| {
            // The kernel's own timer goes on.
            world.time_out(Side::A, connection);
            world.b.received(connection) == b"while away"
        });
        world.run(millis(10_000));
        world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
        world.assert_data_flows(connection);
    }
}

#[test]
fn what_ended_while_no_agent_ran_is_released_by_the_next() {
    let mut world = World::new();
    let moved = world.connect();
    let unmoved_at = world.connect_unanswered(true);
    world.run(millis(200));
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(500));
    for side in [Side::A, Side::B] {
        world.host(side).crash_agent();
        // The ring is full by then: nobody is told.
        world.host(side).agent.datapath.limits.events = 0;
        for connection in [moved, unmoved_at] {
            let own = world.host(side).own(connection);
            world.host(side).agent.datapath.change_state(&own, 7);
        }
    }
    let now = world.now;
    world.a.start_agent(now);
    world.b.start_agent(now);
    world.run(millis(1_200_000));
    for host in [&world.a, &world.b] {
        assert_eq!(
            host.agent.datapath.leftovers(),
            Vec::<String>::new(),
            "{}",
            host.name
        );
        assert!(
            host.parked.is_empty() && host.agent.retired.is_empty(),
            "{}: {:?}",
            host.name,
            host.parked
        );
        assert_eq!(host.agent.ports.in_use(), 0, "{}", host.name);
    }
}

#[test]
fn an_unmoved_connection_that_ended_while_no_agent_ran_is_released_too() {
    let mut world = World::new();
    let connection = world.connect();
    world.a.crash_agent();
    world.a.agent.datapath.limits.events = 0;
    world.a.agent.datapath.change_state(&connection, 7);
    let now = world.now;
    world.a.start_agent(now);
    world.run(millis(1_200_000));
    assert_eq!(world.a.agent.datapath.leftovers(), Vec::<String>::new());
}

#[test]
fn a_kept_address_that_nobody_needs_any_more_is_released_by_the_next_agent() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(500));
    world.b.abort(connection);
    world.run(millis(100));
    // All its traces go, then the agent dies before it has let go of the address.
    world.a.crash_agent();
    world.a.agent.datapath.forget_everything();
    assert!(world.a.parked.contains(&address("10.0.1.2")));
    let now = world.now;
    world.a.start_agent(now);
    world.run(millis(1000));
    assert!(world.a.parked.is_empty(), "{:?}", world.a.parked);
}

#[test]
fn connections_that_came_up_while_no_agent_ran_get_keys() {
    let mut world = World::new();
    world.connect();
    world.a.crash_agent();
    let late = world.connect_unanswered(true);
    let now = world.now;
    world.a.start_agent(now);
    world.run(millis(200));
    assert_eq!(world.state(Side::A, late), Some(State::Established));
    assert_eq!(world.state(Side::B, late), Some(State::Established));
}
