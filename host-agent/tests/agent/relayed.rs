//! Two ends that cannot reach each other, and a proxy that both can reach.

use host_agent::server::bytes_of;
use proto::mobility::v1 as said;
use said::destination::Action;
use said::server_message::Body;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::world::{Fate, Proxy, Side, World, address, millis, seen_by};

const PROXY: &str = "100.64.8.2";

fn is(segment: &Segment, r#type: RequestType) -> bool {
    segment.migrate.is_some_and(|request| request.r#type == r#type)
}

/// Nothing gets from one end to the other but through the proxy; of that, `lost` says what does not.
fn behind_napts(mut lost: impl FnMut(&Segment) -> bool + 'static) -> impl FnMut(&Segment) -> Fate + 'static {
    move |segment| {
        let ends = [segment.source.address, segment.destination.address];
        match ends.contains(&address(PROXY)) && !lost(segment) {
            true => Fate::Arrives,
            false => Fate::Lost,
        }
    }
}

/// Both hosts have moved at once; a proxy waits.
fn both_moved(lost: impl FnMut(&Segment) -> bool + 'static) -> (World, Tuple) {
    let mut world = World::new();
    world.a.use_servers();
    world.b.use_servers();
    let connection = world.connect();
    world.write(Side::A, connection, b"before");
    world.interfere(behind_napts(lost));
    world.lose(Side::A, "10.0.1.2");
    world.lose(Side::B, "203.0.113.3");
    world.run(millis(500));
    world.proxy = Some(Proxy::new(Endpoint::new(address(PROXY), 20_000)));
    world.gain(Side::A, "192.0.2.7");
    world.gain(Side::B, "198.51.100.9");
    world.run(millis(100));
    (world, connection)
}

/// A server says to both that the proxy relays; `keys`: those of the right legs.
fn told(world: &mut World, keys: [bool; 2]) {
    for (at, side) in [Side::A, Side::B].into_iter().enumerate() {
        let now = world.now;
        let wanted = world.host(side).wanted(now);
        let Some(own) = wanted.reports.into_values().next().map(|one| one.report) else {
            panic!("a report of {side:?}")
        };
        let proxy = world.proxy.as_ref().expect("a proxy");
        let mut key = *proxy.keys[at].as_bytes();
        key[0] ^= u8::from(!keys[at]);
        let label = own.connections[0].label;
        let destination = said::Destination {
            pair_id: own.pair_id.clone(),
            move_counter: own.move_counter,
            decision: 1,
            action: Action::Proxy.into(),
            peer_address: bytes_of(address(PROXY)),
            connections: vec![said::ConnectionDestination {
                destination_port: proxy.at.port.into(),
                label,
                ..said::ConnectionDestination::default()
            }],
            leg_keys: [(label, key.to_vec())].into(),
            ..said::Destination::default()
        };
        world.host(side).told(Body::Destination(destination), now);
        world.run(millis(20));
    }
}

fn is_relayed(world: &mut World, side: Side, connection: Tuple) -> bool {
    let identity = seen_by(side, connection);
    let wire = world.wire(side, connection);
    let rows = world.host(side).agent.connection_rows();
    let row = rows
        .iter()
        .find(|row| row.local == identity.local.to_string())
        .expect("a row");
    assert_eq!(row.route == "relayed", wire.remote.address == address(PROXY));
    row.route == "relayed"
}

fn resumes(mut world: World, connection: Tuple) -> World {
    world.until("both ends are relayed", millis(8_000), |world| {
        is_relayed(world, Side::A, connection) && is_relayed(world, Side::B, connection)
    });
    world.run(millis(300));
    world.assert_data_flows(connection);
    world
}

#[test]
fn two_ends_behind_napts_meet_at_the_proxy_that_a_server_names() {
    let (mut world, connection) = both_moved(|_| false);
    told(&mut world, [true, true]);
    let mut world = resumes(world, connection);
    // And then there is nothing left to say about it.
    world.trace.clear();
    world.run(millis(20_000));
    assert_eq!(world.count(RequestType::MigrateAck), 0, "{}", world.story());
    assert_eq!(world.count(RequestType::Msyn), 0, "{}", world.story());
}

#[test]
fn whatever_the_handshake_loses_through_the_proxy_is_said_again() {
    for kind in [RequestType::Msyn, RequestType::MsynAck, RequestType::MigrateAck] {
        for which in ["192.0.2.7", "198.51.100.9", ""] {
            let mut left = 3;
            let (mut world, connection) = both_moved(move |segment| {
                let ends = [segment.source.address, segment.destination.address];
                let meant = which.is_empty() || ends.contains(&address(which));
                let lost = left > 0 && meant && is(segment, kind);
                left -= i32::from(lost);
                lost
            });
            told(&mut world, [true, true]);
            resumes(world, connection);
        }
    }
}

#[test]
fn a_proxy_alone_moves_nothing() {
    // It answers both, and passes on nothing: each end waits for a segment that only the other can sign.
    let (mut world, connection) = both_moved(|segment| is(segment, RequestType::MigrateAck));
    told(&mut world, [true, true]);
    world.run(millis(6_000));
    assert!(world.count(RequestType::MsynAck) >= 2, "{}", world.story());
    for side in [Side::A, Side::B] {
        assert!(!is_relayed(&mut world, side, connection));
    }
}

#[test]
fn a_leg_with_another_key_is_not_served_and_the_other_end_goes_on_waiting() {
    let (mut world, connection) = both_moved(|_| false);
    told(&mut world, [true, false]);
    world.run(millis(6_000));
    // The last of them would be the proxy's.
    assert_eq!(world.count(RequestType::MigrateAck), 0, "{}", world.story());
    assert!(!is_relayed(&mut world, Side::A, connection));
    // Nobody has come: the server is told, and may name another.
    world.run(millis(10_000));
    let now = world.now;
    world.a.wanted(now);
    assert_eq!(world.a.agent.take_failed().len(), 1);
}

#[test]
fn an_agent_that_takes_over_knows_which_connections_are_relayed() {
    let (mut world, connection) = both_moved(|_| false);
    told(&mut world, [true, true]);
    let mut world = resumes(world, connection);
    let now = world.now;
    world.a.restart_agent(now);
    world.run(millis(500));
    assert!(is_relayed(&mut world, Side::A, connection));
    world.assert_data_flows(connection);
}
