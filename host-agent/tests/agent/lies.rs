//! Servers that lie: denied is what they can deny, and nothing more.

use migration::State;
use proto::mobility::v1 as said;
use said::destination::Action;

use host_agent::server::bytes_of;

use crate::servers::{both_moved, destination, msyns_to, report, say, world};
use crate::world::{Fate, Side, address, millis};

#[test]
fn addresses_that_no_peer_can_have_are_not_sent_to() {
    for wrong in [
        "127.0.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "255.255.255.255",
        "192.0.2.7",
        "fe80::1",
        "::1",
    ] {
        let (mut world, _) = world();
        both_moved(&mut world);
        let own = report(&mut world, Side::A).unwrap();
        world.trace.clear();
        say(&mut world, Side::A, destination(&own, wrong, Action::SendMsyn, 3));
        assert_eq!(msyns_to(&world, wrong), 0, "{wrong}");
        let failed = world.a.agent.take_failed();
        assert_eq!(failed.len(), 1, "{wrong}");
        assert_eq!(failed[0].what.decision, 3);
        assert_eq!(failed[0].what.cause(), said::try_failed::Cause::RefusedAddress);
    }
}

#[test]
fn a_server_that_names_ever_new_addresses_is_soon_not_followed() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let own = report(&mut world, Side::A).unwrap();
    for last in 1..=40 {
        say(
            &mut world,
            Side::A,
            destination(&own, &format!("100.64.0.{last}"), Action::SendMsyn, last),
        );
    }
    let tried = (1..=40)
        .filter(|last| msyns_to(&world, &format!("100.64.0.{last}")) > 0)
        .count();
    assert!((1..=6).contains(&tried), "{tried} strangers got a segment");
    assert!(world.a.agent.sessions.values().all(|managed| managed.is_live()));
}

#[test]
fn a_server_that_lies_all_the_time_does_not_keep_an_end_from_where_the_peer_was_last() {
    let (mut world, connection) = world();
    world.interfere(|_| Fate::Lost);
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.0.2.7");
    let own = report(&mut world, Side::A).unwrap();
    for decision in 1..=60 {
        let action = match decision % 2 {
            0 => Action::Simultaneous,
            _ => Action::SendMsyn,
        };
        let place = format!("100.64.0.{}", decision % 6);
        say(&mut world, Side::A, destination(&own, &place, action, decision));
    }
    // The peer can be reached from now on; nobody but A itself tries.
    world.leave_alone();
    for decision in 61..=90 {
        let place = format!("100.64.0.{}", decision % 6);
        say(
            &mut world,
            Side::A,
            destination(&own, &place, Action::SendMsyn, decision),
        );
    }
    world.assert_data_flows(connection);
    // What the lies have begun comes to nothing.
    world.run(millis(30_000));
    world.assert_resumed(connection, "192.0.2.7", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_lie_about_an_unmoved_peer_disturbs_nothing() {
    let (mut world, connection) = world();
    let label = world.a.agent.sessions[&connection].keys().keys.label();
    let pair_id = world.a.agent.sessions[&connection]
        .keys()
        .pair_id
        .as_bytes()
        .to_vec();
    let lie = said::Destination {
        pair_id,
        decision: 1,
        action: Action::SendMsyn.into(),
        peer_address: bytes_of(address("100.64.0.1")),
        connections: vec![said::ConnectionDestination {
            destination_port: 80,
            label,
            ..Default::default()
        }],
        ..Default::default()
    };
    say(&mut world, Side::A, lie);
    world.assert_data_flows(connection);
    world.run(millis(30_000));
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    world.assert_data_flows(connection);
}

#[test]
fn what_is_not_of_this_host_or_of_an_older_report_is_not_followed() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let own = report(&mut world, Side::A).unwrap();
    world.trace.clear();
    let mut other_pair = destination(&own, "198.51.100.9", Action::SendMsyn, 1);
    other_pair.pair_id = vec![9; 16];
    say(&mut world, Side::A, other_pair);
    let mut older = destination(&own, "198.51.100.9", Action::SendMsyn, 1);
    older.move_counter -= 1;
    say(&mut world, Side::A, older);
    for length in [0, 3, 17] {
        let mut damaged = destination(&own, "198.51.100.9", Action::SendMsyn, 1);
        damaged.peer_address = vec![1; length];
        say(&mut world, Side::A, damaged);
        let mut damaged = destination(&own, "198.51.100.9", Action::SendMsyn, 1);
        damaged.pair_id = vec![1; length];
        say(&mut world, Side::A, damaged);
    }
    assert_eq!(msyns_to(&world, "198.51.100.9"), 0);
}
