//! While a proxy relays: an end moves, both wish for a direct path, the proxy has to be left.

use migration::Endpoint;
use migration::server::DestinationAction::{AwaitMsyn, Open, Proxy, SendMsyn, Simultaneous};
use migration::server::{
    ConnectionPorts, ProxyGrant, Relayed, Report, ServerAction, ServerEvent, Side, WithdrawReason,
};

use super::bench::{Bench, address, predictable, report};

const A: Side = Side::First;
const B: Side = Side::Second;
const PROXY: &str = "100.64.8.2";

/// From behind a NAPT of its own, where the end sees the peer at the proxy.
fn through(side: Side, counter: u64, relayed: Relayed) -> Report {
    let after = ["192.168.1.2", "192.168.2.2"][side.index()];
    Report {
        destination_before: address(PROXY),
        relayed,
        ..report(side, counter, after)
    }
}

fn outside(side: Side) -> &'static str {
    ["198.51.100.1", "203.0.113.1"][side.index()]
}

/// Both wish for a direct path, from behind two NAPTs of which nothing is known.
fn wishing() -> Bench {
    let mut bench = Bench::new();
    for side in Side::BOTH {
        bench.report(side, through(side, 1, Relayed::Works), outside(side));
    }
    bench
}

#[test]
fn who_moves_behind_a_napt_goes_on_through_the_relay() {
    let mut bench = Bench::new();
    bench.present(B, "192.168.2.2", "203.0.113.1");
    bench.report(A, through(A, 1, Relayed::Moves), "198.51.100.1");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(AwaitMsyn)]);
    assert_eq!(bench.proxy_asked(), None, "the port that it has serves");
    bench.fail(A);
    assert!(bench.proxy_asked().is_some(), "unless it does not");
}

#[test]
fn both_that_move_go_on_through_the_relay() {
    let mut bench = Bench::new();
    bench.report(A, through(A, 1, Relayed::Moves), "198.51.100.1");
    bench.report(B, through(B, 1, Relayed::Moves), "203.0.113.1");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(AwaitMsyn)]);
    assert_eq!(bench.proxy_asked(), None);
}

#[test]
fn who_moves_outside_is_sent_to_by_the_other_at_once() {
    let mut bench = wishing();
    let moved = Report {
        source_after: address("198.51.100.9"),
        ..through(A, 2, Relayed::Moves)
    };
    bench.report(A, moved, "198.51.100.9");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    let told = bench.told(B).expect("told");
    assert_eq!(told.peer_address, address("198.51.100.9"));
}

#[test]
fn a_wish_alone_asks_no_proxy_and_is_no_dead_end() {
    let bench = wishing();
    assert_eq!(bench.told_to(), [None, None]);
    assert_eq!(bench.proxy_asked(), None);
    assert!(!bench.out.contains(&ServerAction::NoWay), "it works meanwhile");
}

#[test]
fn who_can_be_reached_is_sent_to_and_again_after_a_while() {
    let mut bench = wishing();
    let outside = Report {
        source_after: address("198.51.100.9"),
        ..through(A, 2, Relayed::Works)
    };
    bench.report(A, outside, "198.51.100.9");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    assert_eq!(bench.proxy_asked(), None);
    bench.fail(B);
    assert_eq!(bench.record.decision, None, "no proxy follows");
    bench.wait(bench.rules.rest);
    assert_eq!(bench.told_to(), [None, None], "not so soon");
    bench.wait(bench.rules.rest_relayed);
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
}

#[test]
fn a_napt_that_can_be_foreseen_is_opened_and_the_other_end_sends() {
    let mut bench = wishing();
    bench.report(A, predictable(through(A, 2, Relayed::Works)), outside(A));
    assert_eq!(bench.told_to(), [Some(Open), Some(Simultaneous)]);
    assert_eq!(
        bench.told(A).map(|told| told.peer_address),
        Some(address(outside(B)))
    );
    assert_eq!(
        bench.told(B).map(|told| told.peer_address),
        Some(address(outside(A)))
    );
    bench.wait(bench.rules.try_patience);
    assert_eq!(bench.record.decision, None, "the relay goes on");
    assert_eq!(bench.proxy_asked(), None, "and no other is asked");
    bench.wait(bench.rules.rest_relayed);
    assert_eq!(bench.told_to(), [Some(Open), Some(Simultaneous)]);
}

#[test]
fn what_a_probe_shows_of_a_napt_while_they_are_relayed_makes_a_try() {
    let mut bench = wishing();
    bench.report(B, predictable(through(B, 1, Relayed::Works)), outside(B));
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Open)]);
}

#[test]
fn both_that_can_be_foreseen_are_opened_one_after_the_other() {
    let mut bench = Bench::new();
    for side in Side::BOTH {
        bench.report(side, predictable(through(side, 1, Relayed::Works)), outside(side));
    }
    assert_eq!(bench.told_to(), [Some(Open), Some(Simultaneous)]);
    bench.wait(bench.rules.try_patience);
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Open)]);
    bench.wait(bench.rules.try_patience);
    assert_eq!(bench.record.decision, None);
    assert_eq!(bench.proxy_asked(), None, "what works is not put at stake");
}

#[test]
fn a_connection_that_only_one_wishes_to_be_direct_waits_for_the_other_to_say_its_port() {
    let mut bench = Bench::new();
    let mut two = predictable(through(A, 1, Relayed::Works));
    let one = two.connections[0];
    two.connections.push(ConnectionPorts {
        source_before: 40_002,
        source_after: 40_003,
        label: 98,
        ..one
    });
    bench.report(A, two, outside(A));
    bench.report(B, predictable(through(B, 1, Relayed::Works)), outside(B));
    for side in Side::BOTH {
        let told = bench.told(side).expect("told");
        let labels: Vec<u64> = told.connections.iter().map(|one| one.label).collect();
        assert_eq!(labels, [99], "the proxy's port would be told for the other one");
    }
}

#[test]
fn what_has_become_direct_ends_the_wish_of_the_other_too() {
    let mut bench = wishing();
    bench.withdraw(A, 1, WithdrawReason::Resumed, 0);
    assert_eq!(bench.cancelled(B), Some(true));
}

#[test]
fn a_proxy_that_is_drained_is_left_through_another_one() {
    let mut bench = wishing();
    let leaving = || ServerEvent::RelayLeaving {
        addresses: vec![address(PROXY)],
    };
    bench.tell(leaving());
    let decision = bench.proxy_asked().expect("another one is asked");
    let at = |port| Endpoint::new(address("100.64.7.2"), port);
    bench.tell(ServerEvent::ProxyAnswered {
        decision,
        grants: vec![ProxyGrant {
            label: 99,
            legs: [at(20_000), at(20_000)],
            lease: [3; 16],
        }],
    });
    assert_eq!(bench.told_to(), [Some(Proxy), Some(Proxy)]);
    // One is there, and says so; the other follows.
    let there = |side| Report {
        destination_before: address("100.64.7.2"),
        ..through(side, 2, Relayed::Works)
    };
    bench.report(A, there(A), outside(A));
    assert_eq!(bench.proxy_asked(), None, "once is enough");
    bench.report(B, there(B), outside(B));
    assert_eq!(bench.proxy_asked(), None);
    bench.tell(leaving());
    assert_eq!(bench.proxy_asked(), None, "they are not there any more");
}

#[test]
fn a_proxy_is_not_left_for_one_who_only_returns_to_it() {
    let mut bench = Bench::new();
    bench.report(A, through(A, 1, Relayed::Moves), "198.51.100.1");
    bench.tell(ServerEvent::RelayLeaving {
        addresses: vec![address(PROXY)],
    });
    assert!(bench.out.is_empty());
    assert!(bench.record.leaving.is_empty());
}
