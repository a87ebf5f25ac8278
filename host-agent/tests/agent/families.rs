//! A host comes up in a network of the other family.

use crate::world::{Fate, Side, World, address, millis};

const OLD: &str = "10.0.1.2";
const NEW: &str = "2001:db8:2::2";
const PEER: &str = "203.0.113.3";
const PEER_6: &str = "2001:db8:ff::3";

/// A peer with both families, known to have both.
fn dual_stack() -> World {
    let mut world = World::at(OLD, PEER);
    world.gain(Side::B, PEER_6);
    world
}

#[test]
fn an_ipv4_connection_continues_where_there_is_only_ipv6_and_comes_back() {
    let mut world = dual_stack();
    let connection = world.connect();
    world.lose(Side::A, OLD);
    world.write(Side::A, connection, b"while away");
    world.gain(Side::A, NEW);
    world.run(millis(100));
    world.assert_resumed(connection, NEW, PEER_6);
    assert_eq!(world.b.received(connection), b"while away");
    world.assert_data_flows(connection);
    assert!(
        world.a.agent.grows() && world.b.agent.grows(),
        "both ends leave room for the longer header"
    );

    world.lose(Side::A, NEW);
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    world.assert_resumed(connection, "192.168.7.9", PEER);
    world.assert_data_flows(connection);
}

#[test]
fn the_family_of_the_connection_is_tried_first_and_the_other_one_soon() {
    let mut world = dual_stack();
    let connection = world.connect();
    world.lose(Side::A, OLD);
    world.trace.clear();
    // The new network answers over IPv6 only.
    world.interfere(|segment| match segment.tuple().is_ipv4() {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    world.gain(Side::A, "192.168.7.9");
    world.gain(Side::A, NEW);
    let tried = |world: &World| -> Vec<bool> {
        world
            .trace
            .iter()
            .map(|(segment, _)| segment.tuple().is_ipv4())
            .collect()
    };
    assert_eq!(tried(&world), [true], "IPv4 is alone for a moment");
    world.run(millis(500));
    world.assert_resumed(connection, NEW, PEER_6);
    world.assert_data_flows(connection);
}

#[test]
fn a_peer_without_ipv6_is_looked_for_behind_a_nat64() {
    let mut world = World::at(OLD, PEER);
    world.a.agent.nat64 = vec!["64:ff9b::/96".parse().unwrap()];
    let connection = world.connect();
    world.lose(Side::A, OLD);
    world.trace.clear();
    world.gain(Side::A, NEW);
    let msyn = &world.trace[0].0;
    assert_eq!(msyn.source.address, address(NEW));
    assert_eq!(msyn.destination.address, address("64:ff9b::203.0.113.3"));
    assert_eq!(msyn.destination.port, connection.remote.port);
}

#[test]
fn a_prefix_that_is_found_while_another_is_tried_is_tried_too() {
    let mut world = World::at(OLD, PEER);
    let configured: Vec<_> = ["64:ff9b::/96".parse().unwrap()].into();
    world.a.agent.nat64 = configured.clone();
    let connection = world.connect();
    world.lose(Side::A, OLD);
    world.gain(Side::A, NEW);
    world.trace.clear();
    let found = ["2001:db8:64::/96".parse().unwrap()].into();
    world.a.agent.nat64_found(found, configured);
    world.run(millis(200));
    let wanted = address("2001:db8:64::203.0.113.3");
    let tried = world
        .trace
        .iter()
        .any(|(segment, _)| segment.destination.address == wanted);
    assert!(tried);
    assert_eq!(world.trace[0].0.destination.port, connection.remote.port);
}

#[test]
fn private_addresses_of_the_peer_mean_something_on_its_own_link_only() {
    let mut world = World::at(OLD, PEER);
    world.gain(Side::B, "fd00::3");
    world.gain(Side::B, PEER_6);
    let connection = world.connect();
    let places = world.a.agent.other_places(connection);
    let only = |text: &str| {
        let place = places
            .iter()
            .find(|place| place.endpoint.address == address(text));
        place.expect("a place").on_link_only
    };
    assert!(only("fd00::3"));
    assert!(!only(PEER_6));
}
