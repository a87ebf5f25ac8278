//! 3.1.2, before the move: three comparisons, for every topology that two ends can have had.

use migration::server::Finding::{self, BehindNapt, Outside, Proxied};
use migration::server::{Report, Side, findings, ports};

use super::bench::{address, report};

struct Row {
    name: &'static str,
    /// Own address of A, and the one by which B knew A.
    a: (&'static str, &'static str),
    b: (&'static str, &'static str),
    /// Own port of A, and the one to which B sent.
    a_ports: (u16, u16),
    b_ports: (u16, u16),
    found: (Finding, Finding),
}

const fn row(name: &'static str, a: (&'static str, &'static str), b: (&'static str, &'static str)) -> Row {
    Row {
        name,
        a,
        b,
        a_ports: (40_000, 40_000),
        b_ports: (443, 443),
        found: (Outside, Outside),
    }
}

const ROWS: [Row; 11] = [
    row(
        "two hosts in the open",
        ("198.51.100.1", "198.51.100.1"),
        ("203.0.113.2", "203.0.113.2"),
    ),
    Row {
        found: (BehindNapt, Outside),
        ..row(
            "1: A behind a NAPT",
            ("192.168.1.2", "198.51.100.1"),
            ("203.0.113.2", "203.0.113.2"),
        )
    },
    Row {
        found: (Outside, BehindNapt),
        ..row(
            "2: B behind a NAPT",
            ("198.51.100.1", "198.51.100.1"),
            ("192.168.1.2", "203.0.113.2"),
        )
    },
    Row {
        found: (BehindNapt, BehindNapt),
        ..row(
            "1 and 2: each behind its own",
            ("192.168.1.2", "198.51.100.1"),
            ("192.168.1.2", "203.0.113.2"),
        )
    },
    Row {
        a_ports: (40_000, 7000),
        b_ports: (443, 7000),
        found: (Proxied, Proxied),
        ..row(
            "3: a proxy, both in the open",
            ("198.51.100.1", "192.0.2.9"),
            ("203.0.113.2", "192.0.2.9"),
        )
    },
    Row {
        a_ports: (40_000, 7000),
        b_ports: (443, 7000),
        found: (Proxied, Proxied),
        ..row(
            "3: a proxy, both behind NAPTs",
            ("192.168.1.2", "192.0.2.9"),
            ("192.168.1.2", "192.0.2.9"),
        )
    },
    Row {
        a_ports: (40_000, 61_000),
        b_ports: (443, 8443),
        found: (BehindNapt, BehindNapt),
        ..row(
            "no proxy: one NAPT, known by its outside",
            ("192.168.1.2", "198.51.100.9"),
            ("192.168.1.3", "198.51.100.9"),
        )
    },
    row(
        "one LAN, private addresses",
        ("192.168.1.2", "192.168.1.2"),
        ("192.168.1.3", "192.168.1.3"),
    ),
    Row {
        a_ports: (40_000, 61_234),
        b_ports: (443, 55_555),
        found: (BehindNapt, BehindNapt),
        ..row(
            "after a phase from NAPT to NAPT, ports unknown",
            ("10.0.0.2", "198.51.100.1"),
            ("10.0.0.2", "203.0.113.2"),
        )
    },
    row(
        "two hosts in the open, IPv6",
        ("2001:db8:1::1", "2001:db8:1::1"),
        ("2001:db8:2::1", "2001:db8:2::1"),
    ),
    Row {
        found: (BehindNapt, Outside),
        ..row(
            "a NAPT for IPv6",
            ("fd00::2", "2001:db8:1::1"),
            ("2001:db8:2::1", "2001:db8:2::1"),
        )
    },
];

fn reports(row: &Row) -> (Report, Report) {
    let (mut a, mut b) = (
        report(Side::First, 1, "198.51.100.7"),
        report(Side::Second, 1, "203.0.113.7"),
    );
    (a.source_before, b.destination_before) = (address(row.a.0), address(row.a.1));
    (b.source_before, a.destination_before) = (address(row.b.0), address(row.b.1));
    (
        a.connections[0].source_before,
        b.connections[0].destination_before,
    ) = row.a_ports;
    (
        b.connections[0].source_before,
        a.connections[0].destination_before,
    ) = row.b_ports;
    (a, b)
}

#[test]
fn the_three_comparisons_find_napts_and_proxies_and_accept_two_hosts_in_the_open() {
    for row in &ROWS {
        let (a, b) = reports(row);
        let matched = ports::matching(&a, &b);
        assert_eq!(matched.len(), 1, "{}: the connection is found", row.name);
        assert_eq!(findings::before(&a, &b, &matched), row.found, "{}", row.name);
        let matched = ports::matching(&b, &a);
        assert_eq!(
            findings::before(&b, &a, &matched),
            (row.found.1, row.found.0),
            "{} mirrored",
            row.name
        );
    }
}

#[test]
fn what_the_peer_has_confirmed_counts_and_not_what_the_host_had_in_between() {
    let (mut a, b) = reports(&ROWS[0]);
    a.source_before = address("192.0.2.77");
    let matched = ports::matching(&a, &b);
    assert_eq!(findings::before(&a, &b, &matched).0, BehindNapt);
    a.confirmed_source = Some(address("198.51.100.1"));
    assert_eq!(findings::before(&a, &b, &matched).0, Outside);
}
