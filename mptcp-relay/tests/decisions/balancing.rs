//! Whose primary path is moved to another access point.
use std::net::IpAddr;
use std::time::Duration;

use mptcp_pm::Token;
use mptcp_relay::balance::{self, Eagerness, Flow, Point};
use mptcp_relay::config::{AccessPoint, Balance, Mobility, TerminalPolicy};
use mptcp_relay::neighbours;
use mptcp_relay::points::{Balancer, Carried, Others, Who};
use proptest::prelude::*;

const EAGERNESS: Eagerness = Eagerness {
    hysteresis: 0.05,
    stay: Duration::from_secs(5),
};

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    let flow = (
        0.0..50.0_f64,
        0..3_usize,
        any::<[bool; 3]>(),
        any::<[bool; 2]>(),
        0..20_u64,
    );
    prop::collection::vec(flow, 0..12).prop_map(|flows| {
        let flow =
            |(rate, at, sees, [bulk, may_move], stayed): (f64, usize, [bool; 3], [bool; 2], u64)| Flow {
                rate,
                bulk,
                at,
                sees: (0..3).filter(|point| *point == at || sees[*point]).collect(),
                may_move,
                stayed: Duration::from_secs(stayed),
            };
        flows.into_iter().map(flow).collect()
    })
}

proptest! {
    #[test]
    fn balancing_ends_lowers_the_greatest_load_and_moves_only_who_may(mut flows in flows()) {
        let points = [50.0, 100.0, 25.0].map(Point::alone);
        let greatest = |flows: &[Flow]| balance::loads(&points, flows).into_iter().fold(0.0, f64::max);
        let mut moves = 0;
        while let Some(chosen) = balance::next(&points, &flows, EAGERNESS) {
            let before = greatest(&flows);
            let flow = &mut flows[chosen.flow];
            prop_assert!(flow.may_move && flow.stayed >= EAGERNESS.stay);
            prop_assert!(flow.sees.contains(&chosen.to) && flow.at != chosen.to);
            flow.at = chosen.to;
            prop_assert!(greatest(&flows) <= before + 1e-9);
            moves += 1;
            prop_assert!(moves < 1000, "connections are handed to and fro");
        }
    }
}

#[test]
fn two_access_points_in_balance_are_left_alone() {
    let points = [Point::alone(10.0); 2];
    let flow = |at, rate| Flow {
        rate,
        bulk: false,
        at,
        sees: vec![0, 1],
        may_move: true,
        stayed: Duration::from_secs(60),
    };
    assert_eq!(
        balance::next(&points, &[flow(0, 4.0), flow(1, 4.0)], EAGERNESS),
        None
    );
    let crowded = [flow(0, 4.0), flow(0, 4.0)];
    assert!(balance::next(&points, &crowded, EAGERNESS).is_some());
}

#[test]
fn bulk_transfers_count_as_asking_for_equal_shares_whatever_they_carry() {
    let points = [Point::alone(20.0); 2];
    // Seven share one access point, one has the other: both are full.
    let at = [0, 0, 0, 0, 0, 0, 0, 1];
    let mut flows: Vec<Flow> = at
        .iter()
        .map(|at| Flow {
            rate: if *at == 0 { 20.0 / 7.0 } else { 20.0 },
            bulk: true,
            at: *at,
            // The last two of the first access point see no other.
            sees: vec![0, 1],
            may_move: true,
            stayed: Duration::from_secs(60),
        })
        .collect();
    flows[5].sees = vec![0];
    flows[6].sees = vec![0];
    let mut moves = 0;
    while let Some(chosen) = balance::next(&points, &flows, EAGERNESS) {
        assert!(chosen.flow < 5, "who sees one access point stays");
        flows[chosen.flow].at = chosen.to;
        moves += 1;
    }
    assert_eq!(moves, 3, "four and four");
    // Others of another relay count as well: with four of theirs on the second, ours go back.
    let shared = [
        points[0],
        Point {
            others: 4.0,
            ..points[1]
        },
    ];
    while let Some(chosen) = balance::next(&shared, &flows, EAGERNESS) {
        flows[chosen.flow].at = chosen.to;
    }
    let here = flows.iter().filter(|flow| flow.at == 1).count();
    assert_eq!(here, 2, "six and two with four others");
}

#[test]
fn the_balancer_measures_moves_one_at_a_time_and_leaves_alone_what_it_may_not_move() {
    let range = |text: &str| text.parse().expect("a range");
    let point = |name: &str, range| AccessPoint {
        name: name.into(),
        addresses: vec![range],
        capacity: 2e6,
    };
    let config = Balance {
        enabled: true,
        stay: 2.0,
        points: vec![point("a", range("10.1.0.0/16")), point("b", range("10.2.0.0/16"))],
        terminals: vec![TerminalPolicy {
            addresses: vec![range("10.1.0.1/32")],
            policy: Mobility::Stay,
        }],
        ..Balance::default()
    };
    let mut balancer = Balancer::new(&config);
    let mut primary: std::collections::HashMap<Token, IpAddr> = Default::default();
    let mut moved = Vec::new();
    // Six terminals download on a; 1 may not be moved, 2 types, 3 sees one access point, 4 was chosen by an operator.
    balancer.chosen(Token(4), Some([10, 1, 0, 4].into()));
    for second in 0..20_u64 {
        let mut carried = Vec::new();
        for number in 1..=6_u8 {
            let rate = if number == 2 { 1000 } else { 300_000 };
            let who = Who::Multipath(Token(number.into()));
            let at = primary.get(&Token(number.into())).copied();
            let here: IpAddr = [10, 1, 0, number].into();
            let there: IpAddr = [10, 2, 0, number].into();
            let bytes = |path| {
                if at.unwrap_or(here) == path {
                    second * rate
                } else {
                    0
                }
            };
            carried.push(Carried {
                who,
                terminal: here,
                bytes: bytes(here),
            });
            if number != 3 {
                carried.push(Carried {
                    who,
                    terminal: there,
                    bytes: bytes(there),
                });
            }
        }
        let now = Duration::from_secs(second);
        let choices = balancer.round(&carried, |token| primary.get(&token).copied(), now);
        assert!(
            choices.iter().filter(|choice| choice.moved).count() <= 1,
            "{choices:?}"
        );
        for choice in choices {
            if choice.moved {
                moved.push(choice.token.0);
            }
            primary.insert(choice.token, choice.path);
        }
    }
    moved.sort_unstable();
    assert_eq!(moved, [5, 6], "{}", balancer.show());
}

#[test]
fn what_another_relay_says_of_an_access_point_is_read_and_nonsense_is_not() {
    let text = "# TYPE mptcp_relay_point_bulk gauge\nmptcp_relay_point_bulk{point=\"a\"} 3\n\
                mptcp_relay_point_steady{point=\"a\"} 1200.5\nmptcp_relay_point_bulk{point=\"b\"} -1\n\
                mptcp_relay_point_steady{point=\"b\"} NaN\nmptcp_relay_point_bulk{point=\"c\"\n";
    let said = neighbours::read(text);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        said["a"],
        Others {
            steady: 1200.5,
            bulk: 3.0
        }
    );
}
