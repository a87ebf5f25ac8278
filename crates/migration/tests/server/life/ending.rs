//! Success, withdrawals, further moves, and the end of what is stored.

use super::*;

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
fn connections_that_do_not_match_are_both_told_to_both() {
    // Whichever end has both goes on with both; one that has only its own knows nothing of the other's label.
    let mut bench = Bench::new();
    bench.open(A, 1, "198.51.100.7");
    let mut other = report(B, 1, "203.0.113.7");
    other.connections[0].label = 1;
    bench.report(B, other, "203.0.113.7");
    assert_eq!(bench.told_to(), [Some(AwaitMsyn), Some(SendMsyn)]);
    for side in [A, B] {
        let mut told: Vec<(u64, bool)> = bench
            .told(side)
            .expect("told")
            .connections
            .iter()
            .map(|one| (one.label, one.peer_req_no.is_some()))
            .collect();
        told.sort_unstable();
        assert_eq!(told, [(1, side == A), (99, side == B)]);
    }
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
        agent: crate::bench::bob(),
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
        agent: crate::bench::bob(),
        observed: old,
    });
    assert!(bench.record.end(B).present.is_some());
}
