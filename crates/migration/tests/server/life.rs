//! The life of a match, in order.

mod ending;
mod failing;
mod leasing;

use std::time::Duration;

use migration::Endpoint;
use migration::server::DestinationAction::{AwaitMsyn, Proxy, SameNapt, SendMsyn, Simultaneous};
use migration::server::{
    ConnectionDestination, ConnectionPorts, Finding, MappingBehaviour, ProxyGrant, Report, ServerAction,
    ServerEvent, Side, WithdrawReason,
};

use super::bench::{Bench, address, alice, predictable, report};

const A: Side = Side::First;
const B: Side = Side::Second;

/// Both have moved in the open, A first.
fn both_moved() -> Bench {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    bench.open(B, 1, "203.0.113.7");
    bench
}

#[test]
fn who_reports_first_waits() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    assert!(bench.waits(A));
    assert_eq!(bench.told_to(), [None, None]);
}

#[test]
fn both_outside_the_later_reporter_sends_and_both_know() {
    let bench = both_moved();
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let told = bench.told(B).expect("told");
    assert_eq!(told.peer_address, address("198.51.100.7"));
    let to_send = ConnectionDestination {
        source_before: 443,
        source_after: 444,
        destination: 40_001,
        label: 99,
        lease: None,
        peer_req_no: Some(0),
    };
    assert_eq!(told.connections, [to_send]);
    assert_eq!(told.sealed, [1], "what A has sealed");
    assert_eq!(
        (told.self_before, told.peer_before),
        (Finding::Outside, Finding::Outside)
    );
    let told = bench.told(A).expect("told");
    assert_eq!(told.peer_address, address("203.0.113.7"));
    assert_eq!((told.move_counter, told.decision), (1, 1));
}

#[test]
fn a_repeated_report_is_answered_again_and_changes_nothing() {
    let mut bench = both_moved();
    let before = bench.record.decision.clone();
    bench.open(A, 1, "198.51.100.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), None]);
    assert_eq!(bench.record.decision, before);
}

#[test]
fn who_comes_back_is_told_again() {
    let mut bench = both_moved();
    bench.present(B, "203.0.113.7", "203.0.113.7");
    assert_eq!(bench.told_to(), [None, Some(SendMsyn)]);
}

#[test]
fn into_a_napt_and_outside_the_one_behind_it_sends() {
    for a_is_first in [true, false] {
        let mut bench = Bench::new();
        if !a_is_first {
            bench.open(B, 1, "203.0.113.7");
        }
        bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
        if a_is_first {
            bench.open(B, 1, "203.0.113.7");
        }
        assert_eq!(
            bench.told_to(),
            [Some(SendMsyn), Some(AwaitMsyn)],
            "A first: {a_is_first}"
        );
        assert_eq!(
            bench.told(B).expect("told").peer_address,
            address("198.51.100.1"),
            "the observed address"
        );
        assert_eq!(bench.told(B).expect("told").peer_after, Finding::BehindNapt);
    }
}

#[test]
fn both_behind_one_napt_try_the_private_addresses() {
    let mut bench = Bench::new();
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    bench.report(B, report(B, 1, "192.168.1.3"), "198.51.100.1");
    assert_eq!(bench.told_to(), [Some(SameNapt), Some(SameNapt)]);
}

#[test]
fn both_with_one_private_address_behind_two_napts_are_two() {
    let mut bench = Bench::new();
    bench.report(A, predictable(report(A, 1, "192.168.1.2")), "198.51.100.1");
    bench.report(B, predictable(report(B, 1, "192.168.1.2")), "203.0.113.1");
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Simultaneous)]);
    let told = bench.told(A).expect("told");
    assert_eq!(told.peer_address, address("203.0.113.1"));
    assert_eq!(told.peer_mapping.behaviour, MappingBehaviour::PortPreserving);
    assert_eq!(told.connections[0].destination, 444, "which its NAPT keeps");
}

#[test]
fn behind_two_napts_without_a_proxy_both_wait() {
    let mut bench = Bench::new();
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    bench.report(B, report(B, 1, "192.168.1.2"), "203.0.113.1");
    let decision = bench.proxy_asked().expect("a proxy is asked for");
    assert!(bench.waits(B));
    bench.tell(ServerEvent::ProxyAnswered {
        decision,
        grants: Vec::new(),
    });
    assert!(bench.out.contains(&ServerAction::NoWay));
    assert_eq!(bench.record.decision, None);
    bench.wait(bench.rules.rest);
    assert!(bench.proxy_asked().is_some(), "it is asked again after a while");
}

#[test]
fn a_proxy_that_is_being_asked_is_not_asked_again_when_the_other_report_comes() {
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.1");
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    let decision = bench.proxy_asked().expect("B is there, behind a NAPT");
    bench.report(B, report(B, 1, "192.168.1.2"), "203.0.113.1");
    assert_eq!(bench.proxy_asked(), None, "what it answers serves");
    bench.tell(ServerEvent::ProxyAnswered {
        decision,
        grants: vec![ProxyGrant {
            label: 99,
            legs: [7001, 7002].map(|port| Endpoint::new(address("192.0.2.9"), port)),
            lease: [1; 16],
        }],
    });
    assert_eq!(bench.told_to(), [Some(Proxy), Some(Proxy)]);
    let told = bench.told(B).expect("told");
    assert_eq!(told.move_counter, 1, "it answers the report");
}

#[test]
fn a_proxy_is_asked_again_for_an_end_that_comes_from_elsewhere() {
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.1");
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    bench.report(B, report(B, 1, "192.168.7.2"), "203.0.113.7");
    assert!(bench.proxy_asked().is_some());
}

#[test]
fn a_granted_proxy_is_told_to_both() {
    let mut bench = Bench::new();
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    bench.report(B, report(B, 1, "192.168.1.2"), "203.0.113.1");
    let decision = bench.proxy_asked().expect("a proxy is asked for");
    let legs = [7001, 7002].map(|port| Endpoint::new(address("192.0.2.9"), port));
    bench.tell(ServerEvent::ProxyAnswered {
        decision,
        grants: vec![ProxyGrant {
            label: 99,
            legs,
            lease: [1; 16],
        }],
    });
    assert_eq!(bench.told_to(), [Some(Proxy), Some(Proxy)]);
    for (side, leg) in [(A, legs[0]), (B, legs[1])] {
        let told = bench.told(side).expect("told");
        assert_eq!(
            (told.peer_address, told.connections[0].destination),
            (leg.address, leg.port)
        );
    }
}

#[test]
fn who_waits_behind_its_napt_is_pushed_to() {
    // It has not moved and has not reported: an open stream is enough.
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.2");
    bench.open(A, 1, "198.51.100.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let told = bench.told(B).expect("told");
    assert_eq!(
        (told.move_counter, told.peer_address),
        (0, address("198.51.100.7"))
    );
    let to_send = ConnectionDestination {
        source_before: 443,
        source_after: 0,
        destination: 40_001,
        label: 99,
        lease: None,
        peer_req_no: Some(0),
    };
    assert_eq!(told.connections, [to_send]);
}

#[test]
fn who_comes_to_its_stream_later_is_pushed_to_then() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    bench.present(B, "192.168.1.2", "203.0.113.2");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
}

#[test]
fn who_waits_may_report_with_new_equal_to_old() {
    let mut bench = Bench::new();
    let mut waits = report(B, 1, "192.168.1.2");
    waits.source_before = address("192.168.1.2");
    waits.waiting = true;
    bench.report(B, waits, "203.0.113.2");
    bench.open(A, 1, "198.51.100.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let told = bench.told(B).expect("told");
    assert_eq!(
        (told.self_before, told.self_after),
        (Finding::BehindNapt, Finding::BehindNapt)
    );
}

#[test]
fn a_connection_of_which_its_peer_has_noticed_nothing_does_not_wait_for_one_of_which_it_has() {
    // B has not moved and sends on one of two connections, so that it misses A there alone: it names that one.
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.2");
    let mut waits = report(B, 1, "192.168.1.2");
    waits.source_before = address("192.168.1.2");
    waits.waiting = true;
    bench.report(B, waits.clone(), "203.0.113.2");
    let mut moved = report(A, 1, "198.51.100.7");
    moved.connections.push(ConnectionPorts {
        source_before: 40_002,
        source_after: 40_003,
        label: 98,
        req_no: 6,
        ..moved.connections[0]
    });
    bench.report(A, moved, "198.51.100.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let labels = |side| {
        let told: &migration::server::Destination = bench.told(side).expect("told");
        let mut labels: Vec<u64> = told.connections.iter().map(|one| one.label).collect();
        labels.sort_unstable();
        labels
    };
    assert_eq!(labels(A), [98, 99]);
    assert_eq!(labels(B), [98, 99]);
    let told = bench.told(B).expect("told");
    let idle = told.connections.iter().find(|one| one.label == 98);
    let to_send = ConnectionDestination {
        source_before: 443,
        source_after: 0,
        destination: 40_003,
        label: 98,
        lease: None,
        peer_req_no: Some(6),
    };
    assert_eq!(idle, Some(&to_send));

    // One that its peer does not have at all, because it has ended there, holds up nothing either.
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.2");
    waits.connections[0].label = 97;
    bench.report(B, waits, "203.0.113.2");
    bench.open(A, 1, "198.51.100.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let told = bench.told(B).expect("told");
    assert!(told.connections.iter().any(|one| one.label == 99));
}

#[test]
fn a_connection_without_label_may_be_any_that_the_other_end_names() {
    let mut bench = Bench::new();
    let mut own = report(A, 1, "198.51.100.7");
    own.connections[0].label = 0;
    own.connections[0].source_before = 40_009;
    bench.report(A, own, "198.51.100.7");
    bench.open(B, 1, "203.0.113.7");
    assert_eq!(bench.told_to(), [None, None]);
    assert!(bench.waits(B));
}

#[test]
fn a_present_peer_in_the_open_is_left_to_the_direct_msyn() {
    let mut bench = Bench::new();
    bench.present(B, "203.0.113.2", "203.0.113.2");
    bench.open(A, 1, "198.51.100.7");
    assert_eq!(bench.told_to(), [None, None]);
    assert!(bench.waits(A));
    bench.probe(B, "203.0.113.2", true);
    assert_eq!(bench.told_to(), [None, None]);
}

#[test]
fn a_present_peer_behind_a_stateful_firewall_sends() {
    let mut bench = Bench::new();
    let moved = |mut report: Report| {
        report.source_before = address("2001:db8:1::1");
        report.destination_before = address("2001:db8:2::1");
        report
    };
    bench.present(B, "2001:db8:2::1", "2001:db8:2::1");
    bench.report(A, moved(report(A, 1, "2001:db8:1::7")), "2001:db8:1::7");
    assert_eq!(
        bench.told_to(),
        [None, None],
        "equal addresses say nothing of firewalls"
    );
    assert_eq!(bench.probes().len(), 2);
    bench.probe(B, "2001:db8:2::1", false);
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    assert_eq!(bench.told(A).expect("told").peer_after, Finding::Unreachable);
}

#[test]
fn a_probe_that_does_not_get_in_turns_the_direction() {
    let mut bench = both_moved();
    bench.probe(A, "198.51.100.7", false);
    assert_eq!(bench.told_to(), [Some(SendMsyn), Some(AwaitMsyn)]);
    bench.probe(B, "203.0.113.7", false);
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Simultaneous)]);
}

#[test]
fn a_probe_that_gets_in_changes_nothing() {
    let mut bench = both_moved();
    let before = bench.record.decision.clone();
    bench.probe(A, "198.51.100.7", true);
    bench.probe(B, "203.0.113.7", true);
    assert_eq!(bench.record.decision, before);
}
