//! Who sends the MSYN: every row of 3.1.5 and of the design's table, and the order of what is tried after.

use migration::Endpoint;
use migration::server::Position::{Napt, Outside, Unknown, Unprobed, Unreachable};
use migration::server::Try::{self, Proxy, SameNapt, Send, Simultaneous};
use migration::server::plan::plan;
use migration::server::{Mapping, MappingBehaviour, Meanwhile, Position, Side, Standing};

use super::bench::address;

const A: Try = Send(Side::First);
const B: Try = Send(Side::Second);

fn standing(position: Position, observed: &str, arrival: u64, behaviour: MappingBehaviour) -> Standing {
    Standing {
        position,
        address: address(observed),
        observed: Endpoint::new(address(observed), 61_000),
        mapping: Mapping {
            behaviour,
            outside: None,
        },
        port_known: true,
        arrival,
    }
}

#[test]
fn who_shows_no_port_is_not_met_at_one() {
    let known = standing(Napt, "198.51.100.1", 1, PRESERVING);
    let unknown = Standing {
        port_known: false,
        ..standing(Napt, "203.0.113.2", 0, PRESERVING)
    };
    let both = plan(&known, &known, Meanwhile::Nothing);
    assert!(both.contains(&Simultaneous));
    assert_eq!(plan(&known, &unknown, Meanwhile::Nothing), [Proxy]);
}

/// The tries when B has reported after A.
fn tries(a: Position, b: Position, mapping: [MappingBehaviour; 2], same_outside: bool) -> Vec<Try> {
    let outside = if same_outside {
        "198.51.100.1"
    } else {
        "203.0.113.2"
    };
    let first = standing(a, "198.51.100.1", 1, mapping[0]);
    let second = standing(b, outside, 2, mapping[1]);
    plan(&first, &second, Meanwhile::Nothing)
}

const PRESERVING: MappingBehaviour = MappingBehaviour::PortPreserving;
const RANDOM: MappingBehaviour = MappingBehaviour::Random;

#[test]
fn the_decision_table() {
    let good = [PRESERVING; 2];
    let bad = [RANDOM; 2];
    let rows: [(&str, Vec<Try>, &[Try]); 17] = [
        (
            "both outside: the later reporter",
            tries(Outside, Outside, bad, false),
            &[B, A, Simultaneous, Proxy],
        ),
        (
            "NAPT and outside: the one behind it",
            tries(Napt, Outside, bad, false),
            &[A, Proxy],
        ),
        (
            "outside and NAPT: the one behind it",
            tries(Outside, Napt, bad, false),
            &[B, Proxy],
        ),
        (
            "a NAPT whose mapping can be foreseen",
            tries(Napt, Outside, good, false),
            &[A, Simultaneous, Proxy],
        ),
        ("one NAPT", tries(Napt, Napt, bad, true), &[SameNapt, Proxy]),
        (
            "one NAPT, foreseen",
            tries(Napt, Napt, good, true),
            &[SameNapt, Simultaneous, Proxy],
        ),
        (
            "two NAPTs, foreseen",
            tries(Napt, Napt, good, false),
            &[Simultaneous, Proxy],
        ),
        (
            "two NAPTs, one foreseen",
            tries(Napt, Napt, [PRESERVING, RANDOM], false),
            &[Proxy],
        ),
        (
            "two NAPTs, nobody has looked",
            tries(Napt, Napt, [MappingBehaviour::Unknown; 2], false),
            &[Proxy],
        ),
        (
            "firewall and outside: the one behind it",
            tries(Unreachable, Outside, bad, false),
            &[A, Simultaneous, Proxy],
        ),
        (
            "outside and firewall",
            tries(Outside, Unreachable, bad, false),
            &[B, Simultaneous, Proxy],
        ),
        (
            "two firewalls",
            tries(Unreachable, Unreachable, bad, false),
            &[Simultaneous, Proxy],
        ),
        (
            "firewall and NAPT",
            tries(Unreachable, Napt, bad, false),
            &[Proxy],
        ),
        (
            "firewall and NAPT, foreseen",
            tries(Unreachable, Napt, good, false),
            &[Simultaneous, Proxy],
        ),
        (
            "towards who is known to be outside",
            tries(Unprobed, Outside, bad, false),
            &[A, B, Simultaneous, Proxy],
        ),
        (
            "both unprobed: as if outside",
            tries(Unprobed, Unprobed, bad, false),
            &[B, A, Simultaneous, Proxy],
        ),
        (
            "towards who is unknown last",
            tries(Unknown, Unprobed, bad, false),
            &[A, B, Simultaneous, Proxy],
        ),
    ];
    for (name, planned, expected) in rows {
        assert_eq!(planned, expected, "{name}");
    }
}

#[test]
fn the_later_reporter_is_the_later_one_on_either_side() {
    let (first, second) = (
        standing(Outside, "198.51.100.1", 5, RANDOM),
        standing(Outside, "203.0.113.2", 4, RANDOM),
    );
    assert_eq!(plan(&first, &second, Meanwhile::Nothing)[0], A);
}

#[test]
fn every_plan_ends_with_the_proxy_and_tries_nothing_twice() {
    let positions = [Outside, Unprobed, Unknown, Unreachable, Napt];
    for a in positions {
        for b in positions {
            for same in [false, true] {
                let planned = tries(a, b, [PRESERVING; 2], same);
                assert_eq!(planned.last(), Some(&Proxy), "{a:?} {b:?}");
                let mut unique = planned.clone();
                unique.sort();
                unique.dedup();
                assert_eq!(unique.len(), planned.len(), "{a:?} {b:?}");
                let to_a_hidden = planned.contains(&B) && matches!(a, Napt | Unreachable);
                let to_b_hidden = planned.contains(&A) && matches!(b, Napt | Unreachable);
                assert!(
                    !to_a_hidden && !to_b_hidden,
                    "an MSYN to who cannot be reached: {a:?} {b:?}"
                );
            }
        }
    }
}
