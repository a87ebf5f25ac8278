//! Leases: for which connections a proxy is asked, and when it is asked again.

use std::net::IpAddr;

use migration::Endpoint;
use migration::server::DestinationAction::{Proxy, Simultaneous};
use migration::server::{
    ConnectionPorts, ProxyGrant, Report, ServerAction, ServerEvent, Side, WithdrawReason,
};

use super::super::bench::{Bench, address, name, predictable, report};

const A: Side = Side::First;
const B: Side = Side::Second;

fn grant(label: u64) -> ProxyGrant {
    ProxyGrant {
        label,
        legs: [20_000 + label as u16; 2].map(|port| Endpoint::new(address("192.0.2.9"), port)),
        lease: [label as u8; 16],
    }
}

/// What a proxy is asked for in this step: labels, and from where the ends come.
fn asked(bench: &Bench) -> Option<(Vec<u64>, [IpAddr; 2])> {
    bench.out.iter().find_map(|action| match action {
        ServerAction::AskProxy { labels, from, .. } => Some((labels.clone(), *from)),
        _ => None,
    })
}

fn answer(bench: &mut Bench, labels: &[u64]) {
    bench.tell(ServerEvent::ProxyAnswered {
        decision: bench.record.decisions,
        grants: labels.iter().copied().map(grant).collect(),
    });
}

/// Leases that this end is told of in this step.
fn leases(bench: &Bench, side: Side) -> Vec<[u8; 16]> {
    let told = bench.told(side).expect("told");
    let connections = told.connections.iter();
    connections.filter_map(|connection| connection.lease).collect()
}

fn with_two(mut report: Report) -> Report {
    report.connections.push(ConnectionPorts {
        source_before: 40_010,
        destination_before: 444,
        label: 100,
        ..ConnectionPorts::default()
    });
    report
}

/// A has reported, B is only there, and a proxy has granted a lease.
fn granted() -> Bench {
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.1");
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    assert_eq!(asked(&bench).expect("asked").0, [99]);
    answer(&mut bench, &[99]);
    assert_eq!(bench.told_to(), [Some(Proxy), Some(Proxy)]);
    bench
}

#[test]
fn a_lease_that_both_were_told_of_is_not_told_again_for_another_report() {
    let mut bench = granted();
    bench.report(B, report(B, 1, "192.168.1.2"), "203.0.113.1");
    assert_eq!(asked(&bench).expect("another one").0, [99]);
}

#[test]
fn a_connection_that_is_noticed_while_a_proxy_is_asked_is_asked_for_as_well() {
    let mut bench = Bench::new();
    bench.present(B, "192.168.1.2", "203.0.113.1");
    bench.report(A, report(A, 1, "192.168.1.2"), "198.51.100.1");
    bench.report(A, with_two(report(A, 2, "192.168.1.2")), "198.51.100.1");
    assert_eq!(asked(&bench).expect("one more").0, [100]);
    bench.report(B, with_two(report(B, 1, "192.168.1.2")), "203.0.113.1");
    assert_eq!(asked(&bench), None, "both are asked for");
    answer(&mut bench, &[99]);
    assert_eq!(leases(&bench, B), [[99; 16]]);
    answer(&mut bench, &[100]);
    assert_eq!(leases(&bench, B), [[99; 16], [100; 16]]);
}

#[test]
fn a_lease_does_not_serve_an_end_that_has_gone_elsewhere() {
    let mut bench = granted();
    bench.report(A, report(A, 2, "192.168.7.2"), "198.51.100.7");
    let (labels, from) = asked(&bench).expect("the proxy expects it elsewhere");
    assert_eq!((labels, from[0]), (vec![99], address("198.51.100.7")));
}

#[test]
fn a_proxy_that_was_asked_beside_a_try_serves_when_that_fails() {
    let mut bench = Bench::new();
    bench.report(A, predictable(report(A, 1, "192.168.1.2")), "198.51.100.1");
    bench.report(B, predictable(report(B, 1, "192.168.1.2")), "203.0.113.1");
    assert_eq!(bench.told_to(), [Some(Simultaneous); 2]);
    assert_eq!(asked(&bench).expect("at the same time").0, [99]);
    answer(&mut bench, &[99]);
    assert_eq!(bench.told_to(), [None, None], "the try goes on");
    bench.fail(A);
    assert_eq!(bench.told_to(), [Some(Proxy); 2], "nobody waits for a proxy");
    assert_eq!(asked(&bench), None);
    assert_eq!(leases(&bench, A), [[99; 16]]);
}

/// Addresses of proxies that are not to be asked, where one is asked in this step.
fn avoided(bench: &Bench) -> Option<Vec<IpAddr>> {
    bench.out.iter().find_map(|action| match action {
        ServerAction::AskProxy { avoid, .. } => Some(avoid.clone()),
        _ => None,
    })
}

#[test]
fn a_lease_with_which_nothing_came_about_is_not_handed_out_again_and_another_proxy_is_asked() {
    let mut bench = granted();
    let first = bench.record.decisions;
    bench.fail(A);
    assert_eq!(asked(&bench).expect("another one").0, [99]);
    assert_eq!(avoided(&bench), Some(vec![address("192.0.2.9")]));
    assert_eq!(bench.cancelled(A), Some(false), "its report counts as before");
    assert_ne!(bench.record.decisions, first);
    let at = Endpoint::new(address("192.0.2.10"), 20_000);
    bench.tell(ServerEvent::ProxyAnswered {
        decision: bench.record.decisions,
        grants: vec![ProxyGrant {
            legs: [at; 2],
            ..grant(99)
        }],
    });
    assert_eq!(bench.told_to(), [Some(Proxy), Some(Proxy)]);
    assert_eq!(bench.told(A).map(|told| told.peer_address), Some(at.address));
    // Nothing came about there either.
    bench.fail(B);
    let both = ["192.0.2.9", "192.0.2.10"].map(address).to_vec();
    assert_eq!(avoided(&bench), Some(both));
    answer(&mut bench, &[]);
    assert!(bench.out.contains(&ServerAction::NoWay), "there is no third");
    assert_eq!(bench.record.decision, None);
    // After a rest all may be better than they were.
    bench.wait(bench.rules.rest);
    assert_eq!(avoided(&bench), Some(Vec::new()));
}

#[test]
fn who_has_moved_on_may_find_a_proxy_better_than_before() {
    let mut bench = granted();
    bench.fail(A);
    answer(&mut bench, &[]);
    bench.report(A, report(A, 2, "192.168.7.2"), "198.51.100.7");
    assert_eq!(avoided(&bench), Some(Vec::new()));
}

#[test]
fn a_proxy_that_names_ever_new_addresses_is_not_asked_for_ever() {
    let mut bench = granted();
    for number in 0..100 {
        bench.fail(A);
        if asked(&bench).is_none() {
            assert!(bench.out.contains(&ServerAction::NoWay));
            assert!(number < 20, "after {number}");
            return;
        }
        let at = Endpoint::new(IpAddr::from([192, 0, 2, 20 + number]), 20_000);
        bench.tell(ServerEvent::ProxyAnswered {
            decision: bench.record.decisions,
            grants: vec![ProxyGrant {
                legs: [at; 2],
                ..grant(99)
            }],
        });
    }
    panic!("it is asked for ever");
}

#[test]
fn a_lease_that_has_served_is_not_handed_out_when_its_proxy_fails() {
    let mut bench = granted();
    let decision = bench.record.decisions;
    bench.report(B, report(B, 1, "192.168.1.2"), "203.0.113.1");
    let resumed = WithdrawReason::Resumed;
    bench.withdraw(A, 1, resumed, decision + 1);
    bench.withdraw(B, 1, resumed, decision + 1);
    let silent = |side| Report {
        waiting: true,
        destination_before: address("192.0.2.9"),
        ..report(side, 2, "192.168.1.2")
    };
    bench.report(A, silent(A), "198.51.100.1");
    assert_eq!(asked(&bench).expect("another one").0, [99]);
}

/// Its report names the proxy's port: at the peer's NAPT that port is nobody's.
#[test]
fn who_hears_nothing_through_a_proxy_is_not_sent_to_the_proxys_port_at_the_peers_napt() {
    let there = |known_at: &str| {
        let mut bench = Bench::new();
        // A stream that keeps its port: what this NAPT does can be foreseen.
        bench.tell(ServerEvent::PeerPresent {
            agent: name(B),
            local: Endpoint::new(address("192.168.2.2"), 50_000),
            observed: Endpoint::new(address("203.0.113.1"), 50_000),
        });
        let silent = Report {
            waiting: true,
            destination_before: address(known_at),
            ..predictable(report(A, 1, "192.168.1.2"))
        };
        bench.report(A, silent, "198.51.100.1");
        bench
    };
    let direct = there("203.0.113.1");
    assert_eq!(
        direct.told_to(),
        [Some(Simultaneous); 2],
        "A knows its port there"
    );
    let relayed = there("192.0.2.9");
    assert_eq!(relayed.told_to(), [None, None]);
    assert!(asked(&relayed).is_some(), "a proxy can bring them together");
}
