//! Plain resets: held, asked about, and in the end delivered rather than lost.

use std::time::Duration;

use migration::{Action, AskReason, Event, ResetAnswer, State};

use crate::fixtures::{NEW, identity, lost, msyn_ack, usable};
use crate::{Bench, count, find, names};

fn held() -> Bench {
    Bench::start().after(Event::ResetHeard { exact: true })
}

#[test]
fn a_reset_with_the_exact_number_is_held_while_the_peer_is_asked_once() {
    let mut bench = held();
    assert_eq!(names(&bench.actions), ["AskPeerAboutReset"]);
    assert_eq!(bench.state(), State::Established);
    for _ in 0..3 {
        assert_eq!(names(bench.tell(Event::ResetHeard { exact: true })), ["Refuse"]);
    }
}

#[test]
fn a_reset_with_another_number_is_dropped() {
    assert_eq!(
        names(Bench::start().tell(Event::ResetHeard { exact: false })),
        ["DropReset"]
    );
}

#[test]
fn a_reset_that_the_peer_owns_up_to_is_delivered() {
    let mut bench = held();
    assert_eq!(
        names(bench.tell(Event::ResetAnswer(ResetAnswer::Genuine)))[0],
        "DeliverReset"
    );
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_reset_of_somebody_else_is_dropped_and_makes_the_connection_suspect() {
    let mut bench = held();
    let actions = bench.tell(Event::ResetAnswer(ResetAnswer::NotMine));
    assert_eq!(names(actions), ["DropReset", "MarkSuspect", "RaiseTimeouts"]);
    assert_eq!(bench.state(), State::Suspect);
}

#[test]
fn without_an_answer_the_peer_is_probed_without_parking_and_then_the_reset_is_delivered() {
    let mut bench = held();
    let asked = bench.ring().clone();
    let Action::AskForEndpoint { why, .. } = find(&asked, "AskForEndpoint") else {
        unreachable!()
    };
    assert_eq!(*why, AskReason::ResetInDoubt);
    let probe = bench.tell(usable("10.0.0.1:4009")).clone();
    assert_eq!((count(&probe, "SendMsyn"), count(&probe, "Park")), (1, 0));
    let actions = bench.wait(Duration::from_secs(2));
    assert_eq!(
        (count(&actions, "DeliverReset"), bench.state()),
        (1, State::Closed)
    );
    assert_eq!(
        count(&actions, "SendMigrateReset"),
        1,
        "a peer that lives is told"
    );
}

#[test]
fn an_agent_that_does_not_know_is_no_answer() {
    let mut bench = held();
    let unknown = bench.tell(Event::ResetAnswer(ResetAnswer::Unknown));
    assert_eq!(names(unknown), ["AskForEndpoint"]);
    assert_eq!(count(&bench.wait(Duration::from_secs(3)), "DeliverReset"), 1);
}

#[test]
fn a_peer_that_answers_the_probe_saves_the_connection() {
    let mut bench = held();
    bench.ring();
    bench.tell(usable(NEW));
    let actions = bench.tell(msyn_ack(2, NEW, 1_000)).clone();
    assert_eq!(count(&actions, "DropReset"), 1);
    assert_eq!(count(&bench.wait(Duration::from_secs(10)), "DeliverReset"), 0);
}

#[test]
fn a_late_answer_is_refused() {
    let mut bench = Bench::start();
    assert_eq!(
        names(bench.tell(Event::ResetAnswer(ResetAnswer::Genuine))),
        ["Refuse"]
    );
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn a_reset_on_a_path_that_is_gone_means_nothing() {
    let mut bench = held();
    assert_eq!(count(bench.tell(lost("10.0.0.1:0")), "DropReset"), 1);
    assert_eq!(
        names(bench.tell(Event::ResetHeard { exact: true })),
        ["DropReset"]
    );
    assert_eq!(bench.machine.wire(), identity());
}
