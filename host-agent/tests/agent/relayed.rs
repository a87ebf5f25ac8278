//! Two ends that cannot reach each other, and a proxy that both can reach.

use host_agent::server::bytes_of;
use migration::Timestamp;
use proto::mobility::v1 as said;
use said::destination::Action;
use said::server_message::Body;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::servers::{destination, report, say};
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

/// A server says to both that the proxy relays; `keys`: those of the right legs. Gives back what it has said.
fn told(world: &mut World, keys: [bool; 2]) -> Vec<said::Destination> {
    let mut all = Vec::new();
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
        all.push(destination.clone());
        world.host(side).told(Body::Destination(destination), now);
        world.run(millis(20));
    }
    all
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
fn who_is_well_at_the_port_that_a_server_names_once_more_does_not_move() {
    let (mut world, connection) = both_moved(|_| false);
    let said = told(&mut world, [true, true]);
    let mut world = resumes(world, connection);
    let wires = [Side::A, Side::B].map(|side| world.wire(side, connection));
    world.trace.clear();
    for (side, destination) in [Side::A, Side::B].into_iter().zip(said) {
        // As to an end that is there and has reported nothing: a stream that comes back hears it again.
        let again = said::Destination {
            move_counter: 0,
            ..destination
        };
        let now = world.now;
        world.host(side).told(Body::Destination(again), now);
        world.run(millis(3_000));
    }
    assert_eq!(world.count(RequestType::Msyn), 0, "{}", world.story());
    assert_eq!([Side::A, Side::B].map(|side| world.wire(side, connection)), wires);
    world.assert_data_flows(connection);
}

#[test]
fn who_is_relayed_asks_for_a_direct_path_by_itself_ever_less_often() {
    let (mut world, connection) = both_moved(|_| false);
    told(&mut world, [true, true]);
    let mut world = resumes(world, connection);
    let mut wishes: Vec<(u64, Timestamp)> = Vec::new();
    for _ in 0..5_000 {
        world.run(millis(100));
        let now = world.now;
        let reports = world.a.wanted(now).reports.into_values().map(|one| one.report);
        for report in reports.filter(|report| report.relayed() == said::mobility_report::Relayed::Works) {
            if wishes.last().is_none_or(|(last, _)| *last < report.move_counter) {
                wishes.push((report.move_counter, now));
            }
        }
    }
    let pauses = wishes.windows(2).map(|two| two[1].1.since(two[0].1).as_secs());
    assert_eq!(pauses.collect::<Vec<_>>(), [60, 120, 240]);
    assert!(is_relayed(&mut world, Side::A, connection), "the relay goes on");
}

#[test]
fn who_opens_its_napt_beside_the_relay_reaches_nobody_and_goes_on_through_it() {
    const ELSEWHERE: &str = "203.0.113.77";
    let (mut world, connection) = both_moved(|_| false);
    told(&mut world, [true, true]);
    let mut world = resumes(world, connection);
    assert_eq!(report(&mut world, Side::A), None, "not at once");
    world.run(millis(3_000));
    let own = report(&mut world, Side::A).expect("it wishes for a direct path");
    world.trace.clear();
    say(&mut world, Side::A, destination(&own, ELSEWHERE, Action::Open, 2));
    world.run(millis(3_000));
    let there = world.trace.iter().map(|(segment, _)| segment);
    let there = there.filter(|segment| segment.destination.address == address(ELSEWHERE));
    let hops: Vec<u8> = there.map(|segment| segment.hop_limit).collect();
    assert!(!hops.is_empty() && hops.iter().all(|hops| *hops == 2), "{hops:?}");
    assert!(is_relayed(&mut world, Side::A, connection));
    world.assert_data_flows(connection);
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
