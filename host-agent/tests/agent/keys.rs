//! Which connections get keys, and whose.

use datapath::Datapath;
use migration::State;
use wire::request::RequestType;
use wire::tuple::Tuple;

use crate::world::{Fate, Side, World, millis, seen_by};

#[test]
fn a_connection_whose_ends_both_offer_migration_gets_keys_at_both() {
    let mut world = World::new();
    let connection = world.connect();
    let keys = [Side::A, Side::B].map(|side| {
        assert_eq!(
            world.state(side, connection),
            Some(State::Established),
            "{side:?}"
        );
        assert_eq!(world.host(side).agent.datapath.load(), (1, 0), "{side:?}");
        world.host(side).agent.sessions[&seen_by(side, connection)]
            .keys()
            .keys
            .clone()
    });
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn a_peer_whose_certificate_is_refused_stays_plain() {
    let mut world = World::new();
    world.trusting = false;
    let connection = world.connect();
    world.run(millis(10_000));
    for side in [Side::A, Side::B] {
        let host = world.host(side);
        assert!(host.agent.sessions.is_empty());
        assert_eq!(host.agent.datapath.leftovers(), Vec::<String>::new());
        assert_eq!(
            host.agent.timeline.counts().get("pair_failed_unknown_authority"),
            Some(&1),
            "{side:?}"
        );
    }
    assert_eq!(world.a.agent.unpaired.len(), 1);
    world.write(Side::A, connection, b"plain");
    world.run(millis(100));
    assert_eq!(world.b.received(connection), b"plain");
    assert!(world.trace.iter().all(|(segment, _)| segment.migrate.is_none()));

    // The move ends it, as without an agent: nothing is parked, nothing tried.
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    assert_eq!(world.count(RequestType::Msyn), 0);
    assert!(world.a.parked.is_empty());
}

#[test]
fn a_peer_that_did_not_offer_migration_stays_plain() {
    let mut world = World::new();
    let connection = world.connect_unanswered(false);
    world.write(Side::A, connection, b"plain");
    world.run(millis(5000));
    assert_eq!(world.b.received(connection), b"plain");
    assert!(world.a.agent.sessions.is_empty() && world.a.agent.unpaired.is_empty());
    assert_eq!(world.a.agent.pairs.all().count(), 0, "nobody was dialled");
}

#[test]
fn a_connection_that_waited_for_keys_gets_them_when_the_pair_is_agreed() {
    let mut world = World::new();
    world.trusting = false;
    let connection = world.connect();
    assert_eq!(world.state(Side::A, connection), None);
    world.exchange(Side::B);
    world.settle();
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    assert_eq!(world.state(Side::B, connection), Some(State::Established));
    assert!(world.a.agent.unpaired.is_empty());
}

#[test]
fn a_host_that_moves_before_its_first_exchange_is_recognised_by_its_token() {
    for mover in [Side::A, Side::B] {
        let mut world = World::new();
        world.trusting = false;
        let connection = world.connect();
        let (gone, new, a, b) = match mover {
            Side::A => ("10.0.1.2", "192.168.7.9", "192.168.7.9", "203.0.113.3"),
            Side::B => ("203.0.113.3", "198.51.100.7", "10.0.1.2", "198.51.100.7"),
        };
        world.lose(mover, gone);
        world.trusting = true;
        world.gain(mover, new);
        world.run(millis(10_000));
        world.assert_resumed(connection, a, b);
        world.assert_data_flows(connection);
        let counts = world.host(mover.other()).agent.timeline.counts();
        assert_eq!(counts.get("recognised"), Some(&1));
    }
}

#[test]
fn made_up_tokens_delay_the_genuine_one_by_a_second_and_no_more() {
    let mut world = World::new();
    world.trusting = false;
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.trusting = true;
    let (now, new) = (world.now, "192.168.7.9".parse().unwrap());
    for number in 0..1000 {
        let wire = Tuple::new(connection.remote, wire::tuple::Endpoint::new(new, 40_000));
        let token = wire::Token(number);
        let made_up = datapath::Event::UnknownToken { wire, token };
        world.b.agent.datapath_event(made_up, now);
    }
    let counts = world.b.agent.timeline.counts();
    assert_eq!(counts.get("unknown_token_not_compared"), Some(&990));
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(10_000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
    let counts = world.b.agent.timeline.counts();
    assert_eq!(counts.get("recognised"), Some(&1));
}

/// A connection between A and B for which A has two keys: another agent at B's address has spoken last.
fn with_a_neighbour() -> (World, Tuple) {
    let mut world = World::new();
    world.trusting = false;
    world.connect();
    world.exchange(Side::B);
    world.exchange_with_neighbour(Side::A);
    let connection = world.connect();
    assert_eq!(world.a.agent.sessions[&connection].candidates.len(), 2);
    (world, connection)
}

#[test]
fn of_several_agents_at_one_address_the_mac_tells_which_it_is() {
    let (mut world, connection) = with_a_neighbour();
    world.lose(Side::B, "203.0.113.3");
    world.gain(Side::B, "198.51.100.7");
    world.run(millis(200));
    world.assert_resumed(connection, "10.0.1.2", "198.51.100.7");
    world.assert_data_flows(connection);
}

#[test]
fn of_several_agents_at_one_address_each_is_tried_by_the_end_that_moves() {
    let (mut world, connection) = with_a_neighbour();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn of_several_agents_at_one_address_each_is_remembered_by_the_next_agent_here() {
    for mover in [Side::A, Side::B] {
        let (mut world, connection) = with_a_neighbour();
        let now = world.now;
        world.a.restart_agent(now);
        world.settle();
        let (a, b) = match mover {
            Side::A => {
                world.lose(Side::A, "10.0.1.2");
                world.gain(Side::A, "192.168.7.9");
                ("192.168.7.9", "203.0.113.3")
            }
            Side::B => {
                world.lose(Side::B, "203.0.113.3");
                world.gain(Side::B, "198.51.100.7");
                ("10.0.1.2", "198.51.100.7")
            }
        };
        world.run(millis(1000));
        world.assert_resumed(connection, a, b);
        world.assert_data_flows(connection);
    }
}

/// The label by which a side reports a connection.
fn label(world: &mut World, side: Side, connection: Tuple) -> Option<u64> {
    let sessions = &world.host(side).agent.sessions;
    let managed = sessions.get(&seen_by(side, connection))?;
    Some(managed.keys().keys.label())
}

/// From now on no MSYN-ACK arrives.
fn lose_answers(world: &mut World) {
    world.interfere(|segment| {
        let answer = segment
            .migrate
            .is_some_and(|request| request.r#type == RequestType::MsynAck);
        if answer { Fate::Lost } else { Fate::Arrives }
    });
}

#[test]
fn ends_that_know_each_other_by_addresses_of_different_exchanges_have_keys_in_common() {
    let mut world = World::new();
    world.exchange(Side::A);
    // B does not know A by its next address, so that only A has keys for what A opens from there.
    world.trusting = false;
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    let connection = world.connect();
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    assert_eq!(world.state(Side::B, connection), None);

    // The next exchange shows B where A is. A knows B by another address than the connection's now.
    world.lose(Side::B, "203.0.113.3");
    world.gain(Side::B, "198.51.100.7");
    world.exchange(Side::A);
    world.settle();
    let labels = [Side::A, Side::B].map(|side| label(&mut world, side, connection));
    assert!(labels[0].is_some(), "{}", world.story());
    assert_eq!(labels[0], labels[1], "the servers would not match it");
    world.run(millis(5000));
    world.assert_resumed(connection, "192.168.7.9", "198.51.100.7");
    world.assert_data_flows(connection);
}

#[test]
fn a_connection_that_has_seen_many_exchanges_has_the_keys_of_the_newest() {
    let mut world = World::new();
    let connection = world.connect();
    for _ in 0..9 {
        world.exchange(Side::A);
    }
    let newest = world.a.agent.pairs.all().map(|pair| pair.epoch).max();
    for side in [Side::A, Side::B] {
        let managed = &world.host(side).agent.sessions[&seen_by(side, connection)];
        assert!(managed.candidates.len() <= 4);
        assert_eq!(Some(managed.keys().epoch), newest, "{side:?}");
    }
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn keys_that_only_the_data_path_has_kept_across_a_restart_are_known_again() {
    for restarted in [Side::A, Side::B] {
        let mut world = World::new();
        let connection = world.connect();
        // What the peer knows is no longer among the newest two, and not what is noted with the connection.
        for _ in 0..3 {
            world.half_an_exchange(restarted);
        }
        let now = world.now;
        world.host(restarted).restart_agent(now);
        world.settle();
        let mover = restarted.other();
        let (gone, new, a, b) = match mover {
            Side::A => ("10.0.1.2", "192.168.7.9", "192.168.7.9", "203.0.113.3"),
            Side::B => ("203.0.113.3", "198.51.100.7", "10.0.1.2", "198.51.100.7"),
        };
        world.lose(mover, gone);
        world.gain(mover, new);
        world.run(millis(1000));
        world.assert_resumed(connection, a, b);
        world.assert_data_flows(connection);
    }
}

#[test]
fn a_segment_under_keys_that_nobody_remembers_proves_nothing() {
    let mut world = World::new();
    let connection = world.connect();
    // So many that B forgets the one which A knows, but what an earlier agent has told the data path of it.
    for _ in 0..3 {
        world.half_an_exchange(Side::B);
    }
    world.b.crash_agent();
    for _ in 0..20 {
        world.half_an_exchange(Side::B);
    }
    let now = world.now;
    world.b.start_agent(now);
    world.settle();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    assert!(!world.b.agent.sessions[&connection.reversed()].proven);
    assert_eq!(
        world.b.agent.timeline.counts().get("token_without_keys"),
        Some(&1)
    );
    // The next exchange gives both what they need.
    world.exchange(Side::A);
    world.run(millis(10_000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_token_of_an_exchange_that_has_given_way_brings_its_keys_back() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(|_| Fate::Lost);
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    // B alone sees where A is now, and has had too many exchanges since to hold the keys of the first.
    for _ in 0..6 {
        world.half_an_exchange(Side::B);
    }
    world.leave_alone();
    world.run(millis(2000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
    assert_eq!(world.b.agent.timeline.counts().get("recognised"), Some(&1));
}

#[test]
fn ends_of_which_one_has_proof_of_earlier_keys_agree_on_the_newest() {
    let mut world = World::new();
    let connection = world.connect();
    // A's MSYN arrives, and B's answer does not: B has proof of the keys, A has not.
    lose_answers(&mut world);
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(300));
    assert!(world.b.agent.sessions[&connection.reversed()].proven);
    world.lose(Side::B, "203.0.113.3");
    world.gain(Side::B, "198.51.100.7");
    world.exchange(Side::A);
    world.settle();
    let labels = [Side::A, Side::B].map(|side| label(&mut world, side, connection));
    assert!(labels[0].is_some(), "{}", world.story());
    assert_eq!(labels[0], labels[1], "the servers would not match it");
}

#[test]
fn a_migrate_ack_under_keys_that_were_in_force_commits_with_them() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(|segment| {
        let third = segment
            .migrate
            .is_some_and(|request| request.r#type == RequestType::MigrateAck);
        if third {
            Fate::After(millis(100))
        } else {
            Fate::Arrives
        }
    });
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(50));
    let before = label(&mut world, Side::A, connection);
    // A has moved. At B the exchange comes in between.
    world.exchange(Side::A);
    assert_ne!(label(&mut world, Side::B, connection), before);
    world.leave_alone();
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    for side in [Side::A, Side::B] {
        assert_eq!(label(&mut world, side, connection), before, "{side:?}");
    }
}

/// A connection that has moved, and both ends of which another agent drives now. Since the move there have been exchanges.
fn moved_and_adopted() -> (World, Tuple) {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(1000));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    for _ in 0..3 {
        world.exchange(Side::A);
    }
    let now = world.now;
    world.a.restart_agent(now);
    world.b.restart_agent(now);
    world.settle();
    (world, connection)
}

#[test]
fn a_moved_connection_keeps_its_keys_whatever_the_next_agents_try() {
    let (mut world, connection) = moved_and_adopted();
    let before = label(&mut world, Side::A, connection);
    // A's MSYNs come, under the keys in force and under newer ones: its agent cannot know. B's answers get lost.
    lose_answers(&mut world);
    world.lose(Side::A, "192.168.7.9");
    world.gain(Side::A, "192.168.7.10");
    world.run(millis(300));
    assert!(world.count(RequestType::Msyn) > 1);
    for side in [Side::A, Side::B] {
        assert_eq!(label(&mut world, side, connection), before, "{side:?}");
    }
    // What was newer then is not among the newest any more, so that only what is noted tells the next agent.
    for _ in 0..3 {
        world.exchange(Side::A);
    }
    let now = world.now;
    world.b.restart_agent(now);
    world.leave_alone();
    world.run(millis(5000));
    world.assert_resumed(connection, "192.168.7.10", "203.0.113.3");
    world.assert_data_flows(connection);
    for side in [Side::A, Side::B] {
        assert_eq!(label(&mut world, side, connection), before, "{side:?}");
    }
}

#[test]
fn ends_of_a_moved_connection_that_note_different_keys_agree_at_the_next_move() {
    for mover in [Side::A, Side::B] {
        let (mut world, connection) = moved_and_adopted();
        // However it came about: B counts with the keys of an exchange that A has among others.
        let sessions = &mut world.b.agent.sessions;
        let managed = sessions.get_mut(&connection.reversed()).expect("a connection");
        managed.chosen = managed.candidates.len() - 1;
        assert_ne!(managed.chosen, 0);
        let (gone, new, a, b) = match mover {
            Side::A => ("192.168.7.9", "192.168.7.10", "192.168.7.10", "203.0.113.3"),
            Side::B => ("203.0.113.3", "198.51.100.7", "192.168.7.9", "198.51.100.7"),
        };
        world.lose(mover, gone);
        world.gain(mover, new);
        world.run(millis(3000));
        world.assert_resumed(connection, a, b);
        world.assert_data_flows(connection);
        let labels = [Side::A, Side::B].map(|side| label(&mut world, side, connection));
        assert_eq!(labels[0], labels[1], "the servers would not match it");
    }
}

#[test]
fn keys_of_a_moved_connection_that_only_the_data_path_has_kept_are_known_again() {
    let (mut world, connection) = moved_and_adopted();
    let before = label(&mut world, Side::A, connection);
    // B's agent has told the tokens of all of its candidates, and notes the wrong one when it is killed.
    let sessions = &mut world.b.agent.sessions;
    let managed = sessions.get_mut(&connection.reversed()).expect("a connection");
    managed.chosen = managed.candidates.len() - 1;
    let noted = managed.session();
    let datapath = &mut world.b.agent.datapath;
    datapath
        .put_session(&connection.reversed(), &noted)
        .expect("room");
    for _ in 0..3 {
        world.exchange(Side::A);
    }
    let now = world.now;
    world.b.restart_agent(now);
    world.settle();
    world.lose(Side::A, "192.168.7.9");
    world.gain(Side::A, "192.168.7.10");
    world.run(millis(3000));
    world.assert_resumed(connection, "192.168.7.10", "203.0.113.3");
    world.assert_data_flows(connection);
    for side in [Side::A, Side::B] {
        assert_eq!(label(&mut world, side, connection), before, "{side:?}");
    }
}
