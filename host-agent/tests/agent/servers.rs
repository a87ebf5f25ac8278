//! What the mobility servers are told, and what becomes of what they say.

use host_agent::server::wanted::{Reported, Wanted};
use host_agent::server::{address_of, bytes_of};
use identity::sealed;
use prost::Message;
use proto::mobility::v1 as said;
use said::destination::Action;
use said::server_message::Body;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::Tuple;

use crate::world::{Fate, SERVER, Side, World, address, millis};

/// Two hosts that use a server, and a connection between them.
pub fn world() -> (World, Tuple) {
    let mut world = World::new();
    world.a.use_servers();
    world.b.use_servers();
    let connection = world.connect();
    (world, connection)
}

fn wanted(world: &mut World, side: Side) -> Wanted {
    let now = world.now;
    world.host(side).wanted(now)
}

pub fn report(world: &mut World, side: Side) -> Option<said::MobilityReport> {
    let wanted = wanted(world, side);
    assert!(wanted.reports.len() < 2);
    wanted
        .reports
        .into_values()
        .next()
        .map(|Reported { report, .. }| report)
}

/// What a server would answer to `own` when the peer is at `peer`.
pub fn destination(
    own: &said::MobilityReport,
    peer: &str,
    action: Action,
    decision: u64,
) -> said::Destination {
    said::Destination {
        pair_id: own.pair_id.clone(),
        move_counter: own.move_counter,
        decision,
        action: action.into(),
        peer_address: bytes_of(address(peer)),
        connections: own
            .connections
            .iter()
            .map(|ports| said::ConnectionDestination {
                source_port_before: ports.source_port_before,
                source_port_after: ports.source_port_after,
                destination_port: ports.destination_port_before,
                label: ports.label,
                peer_req_no: None,
            })
            .collect(),
        ..said::Destination::default()
    }
}

pub fn say(world: &mut World, side: Side, destination: said::Destination) {
    let now = world.now;
    world.host(side).told(Body::Destination(destination), now);
    world.run(millis(200));
}

pub fn msyns_to(world: &World, to: &str) -> usize {
    let there = |segment: &Segment| {
        segment.destination.address == address(to)
            && segment
                .migrate
                .is_some_and(|request| request.r#type == RequestType::Msyn)
    };
    world.trace.iter().filter(|(segment, _)| there(segment)).count()
}

/// Both hosts have moved, and neither knows where the other is.
pub fn both_moved(world: &mut World) {
    world.lose(Side::A, "10.0.1.2");
    world.lose(Side::B, "203.0.113.3");
    world.run(millis(500));
    world.gain(Side::A, "192.0.2.7");
    world.gain(Side::B, "198.51.100.9");
    world.run(millis(100));
}

#[test]
fn a_report_starts_with_the_first_msyn_and_ends_with_the_resumption() {
    let (mut world, connection) = world();
    assert_eq!(
        wanted(&mut world, Side::A),
        Wanted {
            from: Some(address("10.0.1.2")),
            ..wanted(&mut world, Side::A)
        }
    );
    assert!(!wanted(&mut world, Side::A).needs(SERVER), "nothing is wrong");

    world.interfere(|_| Fate::Lost);
    world.lose(Side::A, "10.0.1.2");
    assert_eq!(report(&mut world, Side::A), None, "no address, no report");
    world.gain(Side::A, "192.0.2.7");
    let report = report(&mut world, Side::A).expect("a report at once");
    assert_eq!(address_of(&report.source_before), Some(address("10.0.1.2")));
    assert_eq!(address_of(&report.source_after), Some(address("192.0.2.7")));
    assert_eq!(
        address_of(&report.destination_before),
        Some(address("203.0.113.3"))
    );
    assert!(report.confirmed_source.is_empty() && !report.waiting);
    let [ports] = &report.connections[..] else {
        panic!("one connection")
    };
    assert_eq!(ports.source_port_before, u32::from(connection.local.port));
    assert!(
        (61_000..=62_999).contains(&ports.source_port_after),
        "the MSYN's port"
    );

    world.leave_alone();
    world.run(millis(3000));
    world.assert_resumed(connection, "192.0.2.7", "203.0.113.3");
    let after = wanted(&mut world, Side::A);
    assert!(after.reports.is_empty());
    let [withdrawn] = &after.withdrawn[..] else {
        panic!("one withdrawal")
    };
    assert_eq!(withdrawn.withdraw.move_counter, report.move_counter);
    assert_eq!(withdrawn.withdraw.reason(), said::withdraw::Reason::Resumed);
}

#[test]
fn both_ends_name_a_connection_alike_and_nobody_else_can() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let (a, b) = (
        report(&mut world, Side::A).unwrap(),
        report(&mut world, Side::B).unwrap(),
    );
    assert_eq!(a.connections[0].label, b.connections[0].label);
    assert_ne!(a.connections[0].label, 0);
    assert_eq!(a.pair_id, b.pair_id);
    assert_eq!(
        a.connections[0].source_port_before,
        b.connections[0].destination_port_before
    );
    // What is sealed, the peer reads.
    let (at_a, at_b) = (
        world.a.agent.pairs.all().next().unwrap(),
        world.b.agent.pairs.all().next().unwrap(),
    );
    let text = sealed::open(at_b, &a.sealed).unwrap();
    let candidates = said::SealedCandidates::decode(&text[..]).unwrap();
    assert_eq!(candidates.addresses, [bytes_of(address("192.0.2.7"))]);
    assert_eq!(candidates.move_counter, a.move_counter);
    assert!(sealed::open(at_a, &a.sealed).is_err());
}

#[test]
fn connections_under_the_exchange_that_crossed_and_does_not_count_are_reported_with_the_pair() {
    // Which of the two exchanges counts does not depend on which was first.
    for (first, second, name) in [(Side::B, Side::A, 8_u128), (Side::A, Side::B, 7)] {
        let mut world = World::new();
        world.a.use_servers();
        world.b.use_servers();
        world.trusting = false;
        let connection = world.connect();
        world.exchange(first);
        world.crossing_exchange(second);
        world.settle();
        both_moved(&mut world);
        let own = report(&mut world, Side::A).expect("a report of the older connection");
        assert_eq!(own.pair_id, name.to_be_bytes(), "{first:?}");
        let theirs = report(&mut world, Side::B).expect("one of the peer");
        assert_eq!(own.pair_id, theirs.pair_id);
        assert_eq!(own.connections[0].label, theirs.connections[0].label);
        say(
            &mut world,
            Side::A,
            destination(&own, "198.51.100.9", Action::SendMsyn, 1),
        );
        world.assert_resumed(connection, "192.0.2.7", "198.51.100.9");
        world.assert_data_flows(connection);
    }
}

#[test]
fn two_hosts_that_moved_at_once_meet_where_a_server_says() {
    let (mut world, connection) = world();
    world.write(Side::A, connection, b"before");
    both_moved(&mut world);
    let own = report(&mut world, Side::A).unwrap();
    assert!(report(&mut world, Side::B).is_some());
    say(
        &mut world,
        Side::A,
        destination(&own, "198.51.100.9", Action::SendMsyn, 1),
    );
    world.assert_resumed(connection, "192.0.2.7", "198.51.100.9");
    world.assert_data_flows(connection);
    for side in [Side::A, Side::B] {
        assert_eq!(report(&mut world, side), None);
        let withdrawn = wanted(&mut world, side).withdrawn;
        let heard = withdrawn[0].heard.get(SERVER).copied();
        assert_eq!(
            heard,
            (side == Side::A).then_some(1),
            "the decision that was heard is named"
        );
    }
}

#[test]
fn what_was_resumed_since_the_peer_reported_it_is_not_moved_once_more() {
    for (peer_req_no, again) in [(Some(0), false), (None, true), (Some(8), true)] {
        let (mut world, connection) = world();
        both_moved(&mut world);
        let own = report(&mut world, Side::A).expect("a report");
        let mut told = destination(&own, "198.51.100.9", Action::SendMsyn, 1);
        say(&mut world, Side::A, told.clone());
        world.assert_resumed(connection, "192.0.2.7", "198.51.100.9");
        let managed = &world.a.agent.sessions[&connection];
        let (number, there) = (managed.machine.committed(), managed.machine.wire().remote);

        // The peer's report still names it, for the sake of another connection. This end has reported nothing.
        (told.move_counter, told.decision) = (0, 2);
        told.connections[0].destination_port = u32::from(there.port);
        told.connections[0].peer_req_no = peer_req_no;
        world.trace.clear();
        say(&mut world, Side::A, told);
        assert_eq!(msyns_to(&world, "198.51.100.9") > 0, again, "{peer_req_no:?}");
        let moved = world.a.agent.sessions[&connection].machine.committed() > number;
        assert_eq!(moved, again, "{peer_req_no:?}");
        world.assert_data_flows(connection);
    }
}

#[test]
fn of_two_that_send_at_once_the_first_msyn_dies_on_the_way() {
    for (action, short) in [
        (Action::SendMsyn, [false, false]),
        (Action::Simultaneous, [true, false]),
    ] {
        let (mut world, _) = world();
        world.interfere(|_| Fate::Lost);
        both_moved(&mut world);
        let own = report(&mut world, Side::A).expect("a report");
        world.trace.clear();
        say(&mut world, Side::A, destination(&own, "198.51.100.9", action, 1));
        world.run(millis(2_000));
        let there = world.trace.iter().map(|(segment, _)| segment).filter(|segment| {
            let is_msyn = |request: wire::request::Request| request.r#type == RequestType::Msyn;
            segment.destination.address == address("198.51.100.9") && segment.migrate.is_some_and(is_msyn)
        });
        let hops: Vec<bool> = there.map(|segment| segment.hop_limit == 2).take(2).collect();
        assert_eq!(hops, short, "{}", action.as_str_name());
    }
}

#[test]
fn a_further_move_is_a_report_with_a_higher_number() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let first = report(&mut world, Side::A).unwrap();
    world.run(millis(2000));
    assert_eq!(
        report(&mut world, Side::A).as_ref(),
        Some(&first),
        "the same is not said twice"
    );
    world.lose(Side::A, "192.0.2.7");
    world.gain(Side::A, "192.0.2.8");
    let second = report(&mut world, Side::A).unwrap();
    assert!(second.move_counter > first.move_counter);
    assert_eq!(address_of(&second.source_before), Some(address("10.0.1.2")));
    assert_eq!(address_of(&second.source_after), Some(address("192.0.2.8")));
    assert_eq!(wanted(&mut world, Side::A).from, Some(address("192.0.2.8")));
}

#[test]
fn a_destination_that_leads_to_nothing_is_told_as_failed() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let own = report(&mut world, Side::A).unwrap();
    say(
        &mut world,
        Side::A,
        destination(&own, "100.64.0.1", Action::SendMsyn, 5),
    );
    assert!(world.a.agent.take_failed().is_empty(), "not yet");
    world.run(millis(4000));
    wanted(&mut world, Side::A);
    let failed = world.a.agent.take_failed();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].what.decision, 5);
    assert_eq!(failed[0].what.cause(), said::try_failed::Cause::NoAnswer);
    assert_eq!(failed[0].what.labels, [own.connections[0].label]);
}

#[test]
fn an_end_that_waits_for_a_silent_peer_says_so_after_a_while() {
    let (mut world, connection) = world();
    world.lose(Side::A, "10.0.1.2");
    world.write(Side::B, connection, b"anybody there?");
    world
        .b
        .agent
        .datapath
        .retransmission_timeout(&connection.reversed());
    world.run(millis(500));
    assert_eq!(report(&mut world, Side::B), None, "timeouts are common");
    for _ in 0..30 {
        world.run(millis(200));
        wanted(&mut world, Side::B);
    }
    let report = report(&mut world, Side::B).expect("a report");
    assert!(report.waiting);
    assert_eq!(report.source_before, report.source_after);
    world.gain(Side::A, "192.0.2.7");
    world.run(millis(3000));
    world.assert_resumed(connection, "192.0.2.7", "203.0.113.3");
    assert!(wanted(&mut world, Side::B).reports.is_empty());
}

#[test]
fn a_decision_that_crossed_the_withdrawal_is_withdrawn_by_name() {
    let (mut world, _) = world();
    world.lose(Side::A, "10.0.1.2");
    world.interfere(|_| Fate::Lost);
    world.gain(Side::A, "192.0.2.7");
    let own = report(&mut world, Side::A).unwrap();
    world.leave_alone();
    world.run(millis(3000));
    assert_eq!(report(&mut world, Side::A), None);
    say(
        &mut world,
        Side::A,
        destination(&own, "203.0.113.3", Action::SendMsyn, 8),
    );
    let withdrawn = wanted(&mut world, Side::A).withdrawn;
    let [last] = &withdrawn[..] else {
        panic!("{withdrawn:?}")
    };
    assert_eq!(last.withdraw.move_counter, own.move_counter);
    assert_eq!(last.heard.get(SERVER), Some(&8));
}

#[test]
fn a_report_that_a_server_has_forgotten_is_made_again_while_it_is_needed() {
    let (mut world, connection) = world();
    both_moved(&mut world);
    let first = report(&mut world, Side::A).unwrap();
    let forgotten = |pair_id: &[u8], forgotten| {
        Body::Cancelled(said::Cancelled {
            pair_id: pair_id.to_vec(),
            decision: 1,
            forgotten,
        })
    };
    // A decision that no longer holds leaves the report as it is, and other pairs are no business of ours.
    for harmless in [forgotten(&first.pair_id, false), forgotten(&[9; 16], true)] {
        let now = world.now;
        world.a.told(harmless, now);
        world.run(millis(4000));
        assert_eq!(report(&mut world, Side::A).as_ref(), Some(&first));
    }
    let now = world.now;
    world.a.told(forgotten(&first.pair_id, true), now);
    world.run(millis(1000));
    let second = report(&mut world, Side::A).unwrap();
    assert!(second.move_counter > first.move_counter);
    assert_eq!(second.connections, first.connections);
    // It says so again and again: nobody is flooded for it.
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let now = world.now;
        world.a.told(forgotten(&first.pair_id, true), now);
        world.run(millis(50));
        numbers.insert(report(&mut world, Side::A).unwrap().move_counter);
    }
    assert!((2..=4).contains(&numbers.len()), "{numbers:?}");
    let own = report(&mut world, Side::A).unwrap();
    say(
        &mut world,
        Side::A,
        destination(&own, "198.51.100.9", Action::SendMsyn, 2),
    );
    world.assert_resumed(connection, "192.0.2.7", "198.51.100.9");
    let now = world.now;
    world.a.told(forgotten(&first.pair_id, true), now);
    world.run(millis(4000));
    assert_eq!(report(&mut world, Side::A), None, "nothing waits any more");
}

#[test]
fn numbers_begin_above_what_a_server_has_heard() {
    let (mut world, _) = world();
    both_moved(&mut world);
    let first = report(&mut world, Side::A).unwrap();
    let stale = |newest| {
        Body::Refused(said::Refused {
            reason: said::refused::Reason::Stale.into(),
            pair_id: first.pair_id.clone(),
            newest,
            ..said::Refused::default()
        })
    };
    let mut last = first.move_counter;
    for (newest, least) in [
        (last - 1, last),
        (0, last + 1),
        (last + 1_000_000, last + 1_000_001),
        (u64::MAX, u64::MAX / 2 + 1),
        (u64::MAX, u64::MAX / 2 + 2),
    ] {
        let now = world.now;
        world.a.told(stale(newest), now);
        world.run(millis(3000));
        let current = report(&mut world, Side::A).unwrap().move_counter;
        assert_eq!(current, least, "after {last}, told {newest}");
        last = current;
    }
}

#[test]
fn what_a_probe_says_of_the_napt_is_said_by_the_same_report() {
    use host_agent::server::ServerEvent;
    use said::mapping::Behaviour;
    let (mut world, _) = world();
    world.interfere(|_| Fate::Lost);
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.0.2.7");
    let first = report(&mut world, Side::A).expect("a report");
    assert_eq!(first.mapping, None, "nobody has probed there");
    let said_of = |outside: &str| said::Mapping {
        behaviour: Behaviour::EndpointIndependent.into(),
        outside_address: bytes_of(address(outside)),
    };
    let mapped = |inside: &str, outside: &str| ServerEvent::Mapped {
        inside: address(inside),
        mapping: said_of(outside),
    };
    let now = world.now;
    world
        .a
        .agent
        .server_event(mapped("192.0.2.8", "203.0.113.200"), now);
    assert_eq!(
        report(&mut world, Side::A),
        Some(first.clone()),
        "another address's"
    );
    world
        .a
        .agent
        .server_event(mapped("192.0.2.7", "203.0.113.200"), now);
    let second = report(&mut world, Side::A).expect("a report");
    assert_eq!(second.mapping, Some(said_of("203.0.113.200")));
    assert_eq!(second.move_counter, first.move_counter, "the same report");

    // Another NAPT behind the same address: what was known counts no more.
    let opened = |observed: &str| ServerEvent::Opened {
        server: SERVER.into(),
        local: wire::tuple::Endpoint::new(address("192.0.2.7"), 4000),
        observed: wire::tuple::Endpoint::new(address(observed), 4000),
        epoch: Vec::new(),
        skew: None,
    };
    world.a.agent.server_event(opened("203.0.113.200"), now);
    assert!(world.a.agent.reporting.mapping_of(address("192.0.2.7")).is_some());
    world.a.agent.server_event(opened("203.0.113.201"), now);
    assert_eq!(world.a.agent.reporting.mapping_of(address("192.0.2.7")), None);
}
