//! What no server believes.

use migration::Endpoint;
use migration::server::{
    AgentName, BadReport, ConnectionPorts, MAX_CONNECTIONS, MAX_SEALED, PairId, PairKey, Report,
    ServerAction, ServerEvent, ServerRefusal, Side,
};

use super::bench::{Bench, PAIR, address, alice, bob, report};

fn after(text: &str) -> Report {
    report(Side::First, 1, text)
}

#[test]
fn addresses_that_no_host_can_have_are_refused() {
    let never = [
        "224.0.0.1",
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "240.0.0.1",
        "0.1.2.3",
        "ff02::1",
        "::1",
        "::",
    ];
    for text in never {
        let bad = Err(BadReport::Address(address(text)));
        assert_eq!(after(text).check(), bad, "after the move: {text}");
        let before = Report {
            source_before: address(text),
            ..after("198.51.100.7")
        };
        assert_eq!(before.check(), bad, "before the move: {text}");
        let peer = Report {
            destination_before: address(text),
            ..after("198.51.100.7")
        };
        assert_eq!(peer.check(), bad, "the peer's: {text}");
        let confirmed = Report {
            confirmed_source: Some(address(text)),
            ..after("198.51.100.7")
        };
        assert_eq!(confirmed.check(), bad, "the confirmed: {text}");
    }
    for text in ["169.254.3.4", "fe80::1"] {
        assert_eq!(
            after(text).check(),
            Err(BadReport::Address(address(text))),
            "{text}"
        );
    }
    for text in [
        "10.0.0.1",
        "192.168.1.2",
        "100.64.0.1",
        "203.0.113.2",
        "fd00::1",
        "2001:db8::1",
    ] {
        assert_eq!(after(text).check(), Ok(()), "{text}");
    }
}

#[test]
fn two_link_local_hosts_may_have_been_connected_before() {
    let mut linked = after("198.51.100.7");
    linked.source_before = address("fe80::1");
    linked.destination_before = address("fe80::2");
    assert_eq!(linked.check(), Ok(()));
}

#[test]
fn reports_that_cannot_be_are_refused() {
    let good = after("198.51.100.7");
    assert_eq!(
        Report {
            move_counter: 0,
            ..good.clone()
        }
        .check(),
        Err(BadReport::NoCounter)
    );
    let mixed = Report {
        source_before: address("2001:db8::1"),
        ..good.clone()
    };
    assert!(matches!(mixed.check(), Err(BadReport::Families(..))));
    assert_eq!(
        Report {
            connections: Vec::new(),
            ..good.clone()
        }
        .check(),
        Err(BadReport::NoConnections)
    );
    let many = vec![good.connections[0]; MAX_CONNECTIONS + 1];
    assert!(matches!(
        Report {
            connections: many,
            ..good.clone()
        }
        .check(),
        Err(BadReport::TooManyConnections { .. })
    ));
    let portless = vec![ConnectionPorts {
        source_before: 0,
        ..good.connections[0]
    }];
    assert_eq!(
        Report {
            connections: portless,
            ..good.clone()
        }
        .check(),
        Err(BadReport::NoPort)
    );
    let sealed = vec![0; MAX_SEALED + 1];
    assert!(matches!(
        Report { sealed, ..good }.check(),
        Err(BadReport::SealedTooLong { .. })
    ));
}

#[test]
fn a_bad_report_changes_nothing() {
    let mut bench = Bench::new();
    bench.open(Side::First, 1, "198.51.100.7");
    let before = bench.record.clone();
    bench.open(Side::First, 2, "127.0.0.1");
    assert!(bench.refuses(Side::First));
    assert_eq!(bench.record, before);
}

#[test]
fn a_stranger_cannot_speak_for_a_pair() {
    let mut bench = Bench::new();
    bench.open(Side::First, 1, "198.51.100.7");
    let before = bench.record.clone();
    let mallory = AgentName::from("spiffe://deployment/agent/mallory");
    let local = Endpoint::new(address("203.0.113.66"), 50_000);
    let mut forged = report(Side::Second, 9, "203.0.113.66");
    for peer in [alice(), bob()] {
        forged.peer = peer;
        let event = ServerEvent::ReportHeard {
            agent: mallory.clone(),
            report: forged.clone(),
            local,
            observed: local,
        };
        bench.tell(event);
        let refusal = ServerAction::Refuse {
            agent: mallory.clone(),
            reason: ServerRefusal::NotYours,
        };
        assert_eq!(bench.out, [refusal]);
    }
    bench.tell(ServerEvent::PeerPresent {
        agent: mallory,
        local,
        observed: local,
    });
    assert_eq!(bench.record, before, "nothing of it is kept");
}

#[test]
fn a_guessed_pair_id_is_another_record() {
    let mallory = AgentName::from("spiffe://deployment/agent/mallory");
    let genuine = PairKey::new(PAIR, &alice(), &bob());
    assert_eq!(
        genuine,
        PairKey::new(PAIR, &bob(), &alice()),
        "both ends find the same"
    );
    assert_ne!(genuine, PairKey::new(PAIR, &mallory, &bob()));
    assert_ne!(genuine, PairKey::new(PairId([8; 16]), &alice(), &bob()));
    assert_eq!(PairKey::new(PAIR, &alice(), &alice()), None);
    assert_eq!(PairKey::new(PAIR, &alice(), &AgentName::default()), None);
}

#[test]
fn a_report_that_names_another_peer_is_refused() {
    let mut bench = Bench::new();
    let mut wrong = report(Side::First, 1, "198.51.100.7");
    wrong.peer = AgentName::from("spiffe://deployment/agent/carol");
    bench.report(Side::First, wrong, "198.51.100.7");
    assert!(bench.refuses(Side::First));
    assert!(bench.record.end(Side::First).held.is_none());
}
