//! Who sends the MSYN, checked exhaustively for small bounds: both ends move at once, two servers hear of it in
//! different orders, messages are lost, a server dies, timers ring.
//!
//! Nothing is abstracted: the states are those of the real [`migration::step`] at both ends and the real
//! [`migration::server::step`] at both servers, over the model kernels, datapaths and NAPTs of `world`. What is bounded
//! is how often the outside does harm, and that an agent reads its notices at once. From **every** state that can be
//! reached, the harm stops (a copy of the world goes on with a good network), and both ends must come to one wire tuple.

#[path = "model/outside.rs"]
mod outside;
#[path = "world/mod.rs"]
mod world;

use outside::{Bounds, Moves, Roaming};
use stateright::{Checker, Model};

/// More states than that are not what a test should take.
const LIMIT: usize = 300_000;

/// Explores everything within the bounds; the number of states.
fn explore(moves: Moves, bounds: Bounds) -> usize {
    let checker = Roaming { moves, bounds }
        .checker()
        .target_state_count(LIMIT)
        .spawn_dfs()
        .join();
    checker.assert_properties();
    let states = checker.unique_state_count();
    eprintln!("{moves:?} {bounds:?}: {states} states");
    assert!(
        checker.state_count() < LIMIT,
        "not exhausted within {LIMIT} states"
    );
    states
}

#[test]
fn both_in_the_open_while_messages_are_lost() {
    let states = explore(
        Moves::BothOutside,
        Bounds {
            losses: 2,
            deaths: 0,
            timers: 1,
        },
    );
    assert!(
        states > 1_000,
        "{states} states: the bounds leave nothing to explore"
    );
}

#[test]
fn both_in_the_open_while_a_server_dies_and_timers_ring() {
    let states = explore(
        Moves::BothOutside,
        Bounds {
            losses: 0,
            deaths: 1,
            timers: 2,
        },
    );
    assert!(
        states > 1_000,
        "{states} states: the bounds leave nothing to explore"
    );
}

#[test]
fn one_into_a_napt_while_messages_are_lost_and_a_server_dies() {
    let states = explore(
        Moves::FirstIntoNapt,
        Bounds {
            losses: 1,
            deaths: 1,
            timers: 1,
        },
    );
    assert!(
        states > 1_000,
        "{states} states: the bounds leave nothing to explore"
    );
}

#[test]
fn one_moves_outside_and_the_other_waits_behind_its_napt() {
    let states = explore(
        Moves::SecondWhileFirstWaits,
        Bounds {
            losses: 1,
            deaths: 1,
            timers: 1,
        },
    );
    assert!(
        states > 1_000,
        "{states} states: the bounds leave nothing to explore"
    );
}
