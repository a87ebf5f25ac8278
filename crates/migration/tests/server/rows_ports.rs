//! 3.1.5: which port pair of one report is which of the other.

use migration::server::ports::{Matched, matching};
use migration::server::{ConnectionPorts, Report, Side};

use super::bench::{address, report};

fn ports(source: u16, destination: u16, label: u64) -> ConnectionPorts {
    ConnectionPorts {
        source_before: source,
        destination_before: destination,
        label,
        ..ConnectionPorts::default()
    }
}

fn reports(a: &[ConnectionPorts], b: &[ConnectionPorts]) -> (Report, Report) {
    let (mut first, mut second) = (
        report(Side::First, 1, "198.51.100.7"),
        report(Side::Second, 1, "203.0.113.7"),
    );
    (first.connections, second.connections) = (a.to_vec(), b.to_vec());
    (first, second)
}

fn at(a: usize, b: usize) -> Matched {
    Matched { a, b }
}

#[test]
fn both_outside_the_ports_are_crossed() {
    let (a, b) = reports(
        &[ports(1000, 22, 0), ports(1001, 443, 0)],
        &[ports(443, 1001, 0), ports(22, 1000, 0)],
    );
    assert_eq!(matching(&a, &b), [at(0, 1), at(1, 0)]);
}

#[test]
fn one_behind_a_napt_the_direct_ports_are_crossed() {
    let (mut a, b) = reports(&[ports(1000, 22, 0)], &[ports(22, 1000, 0)]);
    a.source_before = address("192.168.1.2");
    assert_eq!(matching(&a, &b), [at(0, 0)]);
}

#[test]
fn through_a_proxy_the_destination_ports_are_equal() {
    let (mut a, mut b) = reports(
        &[ports(1000, 7001, 0), ports(1001, 7002, 0)],
        &[ports(22, 7002, 0), ports(23, 7001, 0)],
    );
    a.destination_before = address("192.0.2.9");
    b.destination_before = address("192.0.2.9");
    assert_eq!(matching(&a, &b), [at(0, 1), at(1, 0)]);
}

#[test]
fn behind_one_napt_without_a_proxy_the_ports_are_crossed() {
    let (mut a, mut b) = reports(&[ports(1000, 22, 0)], &[ports(22, 1000, 0)]);
    a.destination_before = address("198.51.100.9");
    b.destination_before = address("198.51.100.9");
    assert_eq!(matching(&a, &b), [at(0, 0)]);
}

#[test]
fn labels_say_what_ports_cannot() {
    let (a, b) = reports(
        &[ports(1000, 61_001, 5), ports(1001, 61_002, 6)],
        &[ports(22, 52_001, 6), ports(22, 52_002, 5)],
    );
    assert_eq!(matching(&a, &b), [at(0, 1), at(1, 0)]);
}

#[test]
fn ports_that_would_fit_do_not_match_other_labels() {
    let (a, b) = reports(&[ports(1000, 22, 5)], &[ports(22, 1000, 6)]);
    assert_eq!(matching(&a, &b), []);
}

#[test]
fn an_agent_without_labels_is_matched_by_ports() {
    let (a, b) = reports(
        &[ports(1000, 22, 0), ports(1001, 22, 0)],
        &[ports(22, 1001, 6), ports(22, 1000, 5)],
    );
    assert_eq!(matching(&a, &b), [at(0, 1), at(1, 0)]);
}

#[test]
fn every_connection_is_matched_once() {
    let twice = [ports(1000, 22, 5), ports(1000, 22, 5)];
    let (a, b) = reports(&twice, &[ports(22, 1000, 5)]);
    assert_eq!(matching(&a, &b), [at(0, 0)]);
    let (a, b) = reports(&[ports(1000, 22, 0), ports(1000, 22, 5)], &[ports(22, 1000, 5)]);
    assert_eq!(matching(&a, &b).len(), 1);
}

#[test]
fn connections_that_only_one_end_knows_are_left_out() {
    let (a, b) = reports(&[ports(1000, 22, 0), ports(1001, 80, 0)], &[ports(22, 1000, 0)]);
    assert_eq!(matching(&a, &b), [at(0, 0)]);
}
