//! 3.1.2, after the move: what is reported against what is observed, and what only a probe can say.

use migration::server::findings::position;
use migration::server::{Position, Reachability, ServerAction, Side};
use migration::{Endpoint, server::Finding};

use super::bench::{Bench, address, alice, report};

fn place(claimed: &str, local: &str, observed: &str, reachable: Option<bool>) -> Position {
    let probe = reachable.map(|reachable| Reachability {
        address: address(claimed),
        reachable: Some(reachable),
    });
    position(address(claimed), address(local), address(observed), probe)
}

#[test]
fn reported_against_observed_and_probed() {
    let rows = [
        (
            "another source: a NAPT",
            place("192.168.1.2", "192.168.1.2", "198.51.100.1", None),
            Position::Napt,
        ),
        (
            "a NAPT, whatever an old probe said",
            place("192.168.1.2", "192.168.1.2", "198.51.100.1", Some(true)),
            Position::Napt,
        ),
        (
            "equal, nobody has probed",
            place("198.51.100.1", "198.51.100.1", "198.51.100.1", None),
            Position::Unprobed,
        ),
        (
            "equal, a probe got in",
            place("198.51.100.1", "198.51.100.1", "198.51.100.1", Some(true)),
            Position::Outside,
        ),
        (
            "equal, nothing gets in",
            place("2001:db8::1", "2001:db8::1", "2001:db8::1", Some(false)),
            Position::Unreachable,
        ),
        (
            "not from the address it reports",
            place("198.51.100.1", "10.0.0.1", "203.0.113.5", None),
            Position::Unknown,
        ),
        (
            "not from it, though observed there",
            place("198.51.100.1", "10.0.0.1", "198.51.100.1", None),
            Position::Unknown,
        ),
        (
            "in another family",
            place("2001:db8::1", "2001:db8::1", "203.0.113.5", None),
            Position::Unknown,
        ),
        (
            "IPv4 in IPv6 clothes",
            place("198.51.100.1", "::ffff:198.51.100.1", "::ffff:198.51.100.1", None),
            Position::Unprobed,
        ),
    ];
    for (name, found, expected) in rows {
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_probe_of_another_address_says_nothing() {
    let probe = Reachability {
        address: address("198.51.100.9"),
        reachable: Some(true),
    };
    let own = address("198.51.100.1");
    assert_eq!(position(own, own, own, Some(probe)), Position::Unprobed);
}

#[test]
fn only_an_address_that_was_observed_is_probed_and_once_for_each_report() {
    let mut bench = Bench::new();
    bench.open(Side::First, 1, "198.51.100.7");
    assert_eq!(bench.probes(), [(alice(), address("198.51.100.7"))]);
    bench.open(Side::First, 1, "198.51.100.7");
    assert_eq!(bench.probes(), [], "the same report again");
    bench.report(Side::First, report(Side::First, 2, "192.168.1.2"), "198.51.100.1");
    assert_eq!(bench.probes(), [], "behind a NAPT");
    let elsewhere = Endpoint::new(address("10.0.0.1"), 50_000);
    bench.report_over(
        Side::First,
        report(Side::First, 3, "198.51.100.66"),
        elsewhere,
        "198.51.100.66",
    );
    assert_eq!(bench.probes(), [], "an address it only claims");
    bench.open(Side::First, 4, "198.51.100.7");
    assert_eq!(bench.probes().len(), 1, "a new move: who knows what is there now");
}

#[test]
fn an_agent_hears_what_was_found_about_it() {
    let mut bench = Bench::new();
    bench.report(Side::First, report(Side::First, 1, "192.168.1.2"), "198.51.100.1");
    let waiting = bench.out.iter().find_map(|action| match action {
        ServerAction::TellWaiting { waiting, .. } => Some(*waiting),
        _ => None,
    });
    let waiting = waiting.expect("its peer has not reported");
    assert_eq!(waiting.self_after, Finding::BehindNapt);
    assert_eq!(waiting.observed.address, address("198.51.100.1"));
    assert!(!waiting.peer_present);
}
