//! Tries that fail, and what is tried then.

use super::*;

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

/// A probe of a NAPT takes longer than the report that it is for; what it shows is said by the same report.
#[test]
fn what_a_probe_shows_later_makes_a_try_that_was_not_made() {
    let mut bench = Bench::new();
    let mapped = |side: Side, after: &str, behaviour: MappingBehaviour| {
        let mut said = report(side, 1, after);
        said.mapping.behaviour = behaviour;
        said
    };
    let unknown = MappingBehaviour::Unknown;
    bench.report(A, mapped(A, "192.168.1.2", unknown), "198.51.100.9");
    bench.report(B, mapped(B, "192.168.1.2", unknown), "203.0.113.9");
    let decision = bench.proxy_asked().expect("nothing can be foreseen");
    let grants = Vec::new();
    bench.tell(ServerEvent::ProxyAnswered { decision, grants });
    assert!(bench.out.contains(&ServerAction::NoWay));
    let same = MappingBehaviour::EndpointIndependent;
    bench.report(A, mapped(A, "192.168.1.2", same), "198.51.100.9");
    assert_eq!(bench.told_to(), [None, None], "one of two is not enough");
    bench.report(B, mapped(B, "192.168.1.2", same), "203.0.113.9");
    assert_eq!(bench.told_to(), [Some(Simultaneous), Some(Simultaneous)]);
    assert_eq!(
        bench.told(A).expect("told").peer_mapping.behaviour,
        same,
        "the peer knows it too"
    );

    bench.report(A, mapped(A, "192.168.1.2", unknown), "198.51.100.9");
    assert_eq!(
        bench.told_to()[0],
        Some(Simultaneous),
        "a repetition that does not say takes nothing back"
    );
    bench.report(
        A,
        mapped(A, "192.168.1.2", MappingBehaviour::Random),
        "198.51.100.9",
    );
    assert_eq!(bench.cancelled(B), Some(false), "it cannot work");
    assert!(
        bench.out.contains(&ServerAction::NoWay),
        "and the proxy has been asked"
    );
}
