//! The life of a match, in order.

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

#[test]
fn failures_escalate_until_nothing_is_left() {
    let mut bench = both_moved();
    bench.fail(B);
    assert_eq!(
        bench.told_to(),
        [Some(SendMsyn), Some(AwaitMsyn)],
        "the other direction"
    );
    bench.fail(A);
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Simultaneous)]);
    bench.fail(A);
    let decision = bench.proxy_asked().expect("a proxy is asked for");
    assert_eq!(
        (bench.cancelled(A), bench.cancelled(B)),
        (Some(false), Some(false)),
        "their reports are kept"
    );
    bench.tell(ServerEvent::ProxyAnswered {
        decision,
        grants: Vec::new(),
    });
    assert!(bench.out.contains(&ServerAction::NoWay));
    bench.wait(bench.rules.rest);
    assert_eq!(
        bench.told_to(),
        [Some(AwaitMsyn), Some(SendMsyn)],
        "from the beginning"
    );
}

#[test]
fn both_failing_count_once() {
    let mut bench = both_moved();
    bench.fail(B);
    let event = ServerEvent::TryFailed {
        agent: alice(),
        decision: 1,
        cause: migration::server::FailureCause::NoAnswer,
        labels: Vec::new(),
    };
    bench.tell(event);
    assert_eq!(bench.out, []);
    assert_eq!(bench.record.decisions, 2);
}

#[test]
fn a_failure_of_one_connection_is_tried_for_that_one() {
    let mut bench = Bench::new();
    let two = |mut report: Report| {
        let other = ConnectionPorts {
            label: 100,
            ..report.connections[0]
        };
        report.connections.push(other);
        report
    };
    bench.report(A, two(report(A, 1, "198.51.100.7")), "198.51.100.7");
    bench.report(B, two(report(B, 1, "203.0.113.7")), "203.0.113.7");
    assert_eq!(bench.told(B).expect("told").connections.len(), 2);
    bench.tell(ServerEvent::TryFailed {
        agent: alice(),
        decision: 1,
        cause: migration::server::FailureCause::Stranger,
        labels: vec![100],
    });
    let told = bench.told(A).expect("told");
    assert_eq!(
        told.connections
            .iter()
            .map(|connection| connection.label)
            .collect::<Vec<_>>(),
        [100]
    );
}

#[test]
fn silence_counts_as_failure() {
    let mut bench = both_moved();
    bench.wait(bench.rules.try_patience);
    assert_eq!(bench.told_to(), [Some(SendMsyn), Some(AwaitMsyn)]);
}

#[test]
fn success_of_one_end_is_success_of_both() {
    let mut bench = both_moved();
    bench.withdraw(B, 1, WithdrawReason::Resumed, 1);
    assert_eq!(bench.cancelled(A), Some(true));
    assert!(bench.record.ends.iter().all(|end| end.held.is_none()));
    assert_eq!(bench.record.decision, None);
    bench.withdraw(A, 1, WithdrawReason::Resumed, 1);
    assert_eq!(
        bench.out,
        [],
        "its own withdrawal comes too late and harms nobody"
    );
}

#[test]
fn a_withdrawal_that_crosses_a_decision_is_void() {
    let mut bench = both_moved();
    // B moves again; A, which has resumed with B at its former place, has not heard of it.
    bench.open(B, 2, "203.0.113.8");
    assert_eq!(bench.told(A).expect("told").peer_address, address("203.0.113.8"));
    bench.withdraw(A, 1, WithdrawReason::Resumed, 1);
    assert_eq!(
        bench.told(A).expect("told again").peer_address,
        address("203.0.113.8")
    );
    assert!(bench.record.end(B).held.is_some());
    bench.withdraw(A, 1, WithdrawReason::Resumed, 2);
    assert!(bench.record.end(B).held.is_none());
}

#[test]
fn who_gives_up_leaves_the_peer_waiting() {
    for reason in [WithdrawReason::GivenUp, WithdrawReason::Closed] {
        let mut bench = both_moved();
        bench.withdraw(A, 1, reason, 0);
        assert_eq!(bench.cancelled(B), Some(false));
        assert!(bench.waits(B));
        assert!(bench.record.end(B).held.is_some());
    }
}

#[test]
fn a_later_move_never_matches_a_settled_report() {
    let mut bench = both_moved();
    bench.withdraw(B, 1, WithdrawReason::Resumed, 1);
    bench.open(A, 2, "198.51.100.8");
    assert_eq!(bench.told_to(), [None, None]);
    bench.open(B, 1, "203.0.113.7");
    assert!(
        bench.refuses(B),
        "a copy of the settled report that was under way"
    );
    bench.open(B, 2, "203.0.113.9");
    assert_eq!(bench.told(A).expect("told").peer_address, address("203.0.113.9"));
}

#[test]
fn a_withdrawal_overtakes_its_report() {
    let mut bench = Bench::new();
    bench.withdraw(A, 3, WithdrawReason::Resumed, 0);
    bench.open(A, 3, "198.51.100.7");
    assert!(bench.refuses(A));
    bench.open(A, 4, "198.51.100.7");
    assert!(bench.waits(A));
}

#[test]
fn an_old_withdrawal_does_not_touch_a_new_report() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    bench.open(A, 2, "198.51.100.8");
    bench.withdraw(A, 1, WithdrawReason::Resumed, 0);
    assert!(bench.record.end(A).held.is_some());
    bench.open(A, 1, "198.51.100.7");
    assert!(bench.refuses(A), "an old report does not replace a new one");
}

#[test]
fn either_end_moves_again_while_it_waits_and_only_its_new_address_changes() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    let mut again = report(A, 2, "198.51.100.8");
    // Now it calls the place in between its place before, which the peer has never seen.
    again.source_before = address("198.51.100.7");
    again.connections[0].source_before = 40_001;
    again.connections[0].source_after = 40_002;
    bench.report(A, again, "198.51.100.8");
    bench.open(B, 1, "203.0.113.7");
    let told = bench.told(B).expect("matched");
    assert_eq!(told.peer_address, address("198.51.100.8"));
    assert_eq!(told.connections[0].destination, 40_002);
    assert_eq!(told.peer_before, Finding::Outside, "by the address that B knew");
    let own = bench.told(A).expect("told").connections[0];
    assert_eq!((own.source_before, own.source_after), (40_000, 40_002));
}

#[test]
fn a_connection_that_was_resumed_meanwhile_is_known_anew() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    let mut again = report(A, 2, "198.51.100.8");
    again.source_before = address("198.51.100.7");
    again.connections[0].source_before = 40_001;
    again.connections[0].req_no = 2;
    bench.report(A, again, "198.51.100.8");
    let held = bench.record.end(A).held.as_ref().expect("held");
    assert_eq!(held.report.source_before, address("198.51.100.7"));
    assert_eq!(held.report.connections[0].source_before, 40_001);
}

#[test]
fn connections_from_two_former_addresses_are_kept_together() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    let mut other = report(A, 2, "198.51.100.7");
    other.source_before = address("198.51.100.2");
    other.connections[0].label = 100;
    bench.report(A, other, "198.51.100.7");
    let held = bench.record.end(A).held.as_ref().expect("held");
    assert_eq!(held.report.connections.len(), 2);
}

#[test]
fn a_move_after_the_decision_begins_anew() {
    let mut bench = both_moved();
    bench.fail(B);
    bench.open(A, 2, "198.51.100.8");
    assert_eq!(
        bench.told_to(),
        [Some(SendMsyn), Some(AwaitMsyn)],
        "A is the later reporter now"
    );
    assert_eq!(bench.told(B).expect("told").peer_address, address("198.51.100.8"));
    assert_eq!(bench.record.tried.len(), 1);
}

#[test]
fn connections_that_do_not_match_bring_nobody_together() {
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    let mut other = report(B, 1, "203.0.113.7");
    other.connections[0].label = 1;
    bench.report(B, other, "203.0.113.7");
    assert_eq!(bench.told_to(), [None, None]);
    assert!(bench.waits(B));
}

#[test]
fn reports_expire_and_records_are_forgotten() {
    let mut bench = Bench::new();
    let short = Report {
        keep: Some(Duration::from_secs(20)),
        ..report(A, 1, "198.51.100.7")
    };
    bench.report(A, short, "198.51.100.7");
    bench.tell(ServerEvent::PeerGone {
        agent: alice(),
        observed: Endpoint::new(address("198.51.100.7"), 61_000),
    });
    assert_eq!(
        bench.record.next_timeout(&bench.rules),
        Some(bench.now + Duration::from_secs(20))
    );
    bench.wait(Duration::from_secs(20));
    assert!(bench.record.is_empty());
    bench.open(B, 1, "203.0.113.7");
    assert_eq!(bench.told_to(), [None, None], "what has expired matches nothing");
    bench.withdraw(B, 1, WithdrawReason::GivenUp, 0);
    bench.tell(ServerEvent::PeerGone {
        agent: super::bench::bob(),
        observed: Endpoint::new(address("203.0.113.7"), 61_000),
    });
    let forgets = bench
        .record
        .next_timeout(&bench.rules)
        .expect("it is forgotten some day");
    bench.wait(forgets.since(bench.now));
    assert_eq!(bench.out, [ServerAction::Forget]);
}

#[test]
fn no_agent_can_have_its_report_kept_for_ever() {
    let mut bench = Bench::new();
    let long = Report {
        keep: Some(Duration::from_secs(u64::MAX)),
        ..report(A, 1, "198.51.100.7")
    };
    bench.report(A, long, "198.51.100.7");
    let expires = bench.record.end(A).held.as_ref().expect("held").expires;
    assert_eq!(expires, bench.now + bench.rules.keep_max);
}

#[test]
fn a_stream_that_ends_late_does_not_end_its_successor() {
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.2");
    let old = Endpoint::new(address("203.0.113.99"), 1);
    bench.tell(ServerEvent::PeerGone {
        agent: super::bench::bob(),
        observed: old,
    });
    assert!(bench.record.end(B).present.is_some());
}
