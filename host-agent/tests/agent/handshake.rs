//! What the wire does to the three segments of a resumption.

use std::time::Duration;

use migration::State;
use wire::request::RequestType;
use wire::segment::Segment;

use crate::world::{Fate, Side, World, millis};

const HANDSHAKE: [RequestType; 3] = [RequestType::Msyn, RequestType::MsynAck, RequestType::MigrateAck];

fn kind(segment: &Segment) -> Option<RequestType> {
    segment.migrate.map(|request| request.r#type)
}

/// What becomes of the segments of this kind: the first `count` of them have this fate.
fn first(count: usize, of: RequestType, fate: Fate) -> impl FnMut(&Segment) -> Fate {
    let mut left = count;
    move |segment| match kind(segment) == Some(of) && left > 0 {
        true => {
            left -= 1;
            fate
        }
        false => Fate::Arrives,
    }
}

/// One move of one end under this interference; the connection must be whole again within `limit`.
fn moves_under(mover: Side, limit: Duration, interference: impl FnMut(&Segment) -> Fate + 'static) -> World {
    let mut world = World::new();
    let connection = world.connect();
    let (old, new) = match mover {
        Side::A => ("10.0.1.2", "192.168.7.9"),
        Side::B => ("203.0.113.3", "198.51.100.7"),
    };
    world.lose(mover, old);
    world.write(mover, connection, b"while away");
    world.interfere(interference);
    world.gain(mover, new);
    world.until("both ends on the new tuple", limit, |world| {
        let (a, b) = (world.wire(Side::A, connection), world.wire(Side::B, connection));
        let settled = |world: &mut World, side| world.state(side, connection) == Some(State::Established);
        a == b.reversed() && a != connection && settled(world, Side::A) && settled(world, Side::B)
    });
    world.leave_alone();
    // Whatever is still under way comes too late to do harm.
    world.run(millis(10_000));
    match mover {
        Side::A => world.assert_resumed(connection, new, "203.0.113.3"),
        Side::B => world.assert_resumed(connection, "10.0.1.2", new),
    }
    assert_eq!(
        world.host(mover.other()).received(connection),
        b"while away",
        "{}",
        world.story()
    );
    world.assert_data_flows(connection);
    world
}

#[test]
fn each_segment_may_be_lost_six_times() {
    for mover in [Side::A, Side::B] {
        for of in HANDSHAKE {
            for times in 1..=6 {
                let mut world = moves_under(mover, millis(20_000), first(times, of, Fate::Lost));
                let attempts = world.host(mover).agent.timeline.counts()["msyn"];
                assert!(
                    attempts == 1 || times > 4,
                    "{times} x {of}: repeating is enough\n{}",
                    world.story()
                );
            }
        }
    }
}

#[test]
fn each_segment_may_come_twice() {
    for mover in [Side::A, Side::B] {
        for of in HANDSHAKE {
            let world = moves_under(mover, millis(1000), first(1, of, Fate::Twice));
            let counts = ["reset_held", "strange_answer"]
                .map(|name| world.a.agent.timeline.counts().get(name).copied());
            assert_eq!(counts, [None, None]);
        }
    }
}

#[test]
fn each_segment_may_come_after_the_commit() {
    for mover in [Side::A, Side::B] {
        for of in HANDSHAKE {
            for delay in [300, 700, 5000] {
                moves_under(mover, millis(10_000), first(1, of, Fate::After(millis(delay))));
            }
        }
    }
}

#[test]
fn data_may_overtake_the_migrate_ack() {
    let world = moves_under(
        Side::A,
        millis(5000),
        first(1, RequestType::MigrateAck, Fate::After(millis(50))),
    );
    assert!(
        world.b.agent.datapath.counter("unproven_dropped") > 0,
        "it arrived on an unproven tuple"
    );
}

#[test]
fn a_path_that_loses_every_third_segment_only_costs_time() {
    for offset in 0..3 {
        let mut count = offset;
        moves_under(Side::A, millis(20_000), move |_| {
            count += 1;
            if count % 3 == 0 { Fate::Lost } else { Fate::Arrives }
        });
    }
}

#[test]
fn the_peer_goes_on_with_the_old_tuple_until_the_migrate_ack_comes() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    world.interfere(|segment| match kind(segment) {
        Some(RequestType::MigrateAck) => Fate::After(millis(500)),
        _ => Fate::Arrives,
    });
    let now = world.now;
    world
        .a
        .migrate(connection, crate::world::address("192.168.7.9"), None, now);
    world.settle();
    assert_eq!(world.state(Side::B, connection), Some(State::SynRecv));
    assert_eq!(world.wire(Side::B, connection), connection.reversed());
    world.write(Side::B, connection, b"on the old tuple");
    world.settle();
    assert_eq!(
        world.a.received(connection),
        b"on the old tuple",
        "which A still hears"
    );
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
}

#[test]
fn an_msyn_of_an_earlier_move_does_not_pull_the_connection_back() {
    let mut world = World::new();
    let connection = world.connect();
    let mut delayed = false;
    world.interfere(
        move |segment| match kind(segment) == Some(RequestType::Msyn) && !delayed {
            true => {
                delayed = true;
                Fate::After(millis(5000))
            }
            false => Fate::Arrives,
        },
    );
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    world.lose(Side::A, "192.168.7.9");
    world.gain(Side::A, "172.16.0.9");
    world.run(millis(1000));
    world.assert_resumed(connection, "172.16.0.9", "203.0.113.3");
    world.run(millis(10_000));
    world.assert_resumed(connection, "172.16.0.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn crossed_attempts_of_both_ends_end_on_one_tuple() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    world.gain(Side::B, "198.51.100.7");
    world.interfere(|_| Fate::After(millis(20)));
    let now = world.now;
    world
        .a
        .migrate(connection, crate::world::address("192.168.7.9"), None, now);
    world.b.migrate(
        connection.reversed(),
        crate::world::address("198.51.100.7"),
        None,
        now,
    );
    world.run(millis(10_000));
    world.leave_alone();
    world.run(millis(10_000));
    let (a, b) = (world.wire(Side::A, connection), world.wire(Side::B, connection));
    assert_eq!(a, b.reversed(), "{}", world.story());
    assert_ne!(a, connection);
    world.assert_data_flows(connection);
}
