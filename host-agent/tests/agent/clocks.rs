//! The clock jumps: a host that was suspended finds every timer of before overdue.

use std::time::Duration;

use wire::request::RequestType;

use crate::world::{Fate, Side, World, millis};

const JUMPS: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(60),
    // As long as a connection waits, all but a little.
    Duration::from_secs(880),
];

#[test]
fn a_clock_that_jumps_ahead_in_any_phase_of_a_move_ends_no_connection() {
    let phases = [
        None,
        Some(RequestType::Msyn),
        Some(RequestType::MsynAck),
        Some(RequestType::MigrateAck),
    ];
    for phase in phases {
        for jump in JUMPS {
            let mut world = World::new();
            let connection = world.connect();
            world.lose(Side::A, "10.0.1.2");
            world.write(Side::A, connection, b"while away");
            // The phase lasts: its segment gets lost once.
            let mut lost = phase;
            world.interfere(move |segment| {
                let kind = segment.migrate.map(|request| request.r#type);
                match lost.is_some() && kind == lost {
                    true => {
                        lost = None;
                        Fate::Lost
                    }
                    false => Fate::Arrives,
                }
            });
            if phase.is_none() {
                world.now = world.now + jump;
            }
            world.gain(Side::A, "192.168.7.9");
            world.now = world.now + jump;
            world.until(
                &format!("the connection goes on, {phase:?} lost and {jump:?} later"),
                millis(30_000),
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
fn a_clock_that_jumps_ahead_while_nobody_moves_changes_nothing() {
    for jump in JUMPS {
        let mut world = World::new();
        let connection = world.connect();
        let before = world.wire(Side::A, connection);
        world.now = world.now + jump;
        world.run(millis(5000));
        assert_eq!(world.wire(Side::A, connection), before, "{}", world.story());
        world.assert_data_flows(connection);
    }
}
