//! Silence, patience and lost keys.

use std::time::Duration;

use migration::{Action, Event, Refusal, State, WaitReason};

use crate::fixtures::{NEW, PEERS_NEW, TCP, at, identity, lost, msyn, msyn_ack, usable};
use crate::{Bench, count, find, names};

#[test]
fn an_end_without_address_waits_and_leaves_when_one_is_usable() {
    let mut bench = Bench::start().after(lost("10.0.0.1:0"));
    assert_eq!(names(&bench.actions), ["Park", "RaiseTimeouts"]);
    assert_eq!(bench.state(), State::MigWait(WaitReason::NoAddress));
    bench.wait(Duration::from_secs(600));
    bench.tell(usable(NEW));
    assert_eq!(bench.state(), State::MigSent);
}

#[test]
fn nothing_is_parked_when_another_address_goes() {
    assert_eq!(names(Bench::start().tell(lost("10.7.7.7:0"))), ["Refuse"]);
}

#[test]
fn an_unanswered_mover_goes_to_mig_wait_and_goes_on_slowly() {
    let mut bench = Bench::moved();
    bench.wait(Duration::from_secs(15));
    assert_eq!(bench.state(), State::MigWait(WaitReason::NoAnswer));
    let sent = count(&bench.wait(Duration::from_secs(60)), "SendMsyn");
    assert!((9..=16).contains(&sent), "{sent} in a minute");
    bench.tell(msyn_ack(2, NEW, 1_000));
    assert_eq!(
        bench.state(),
        State::Established,
        "the far end's outage has healed"
    );
}

#[test]
fn a_move_by_wish_that_is_not_answered_returns_to_established() {
    let mut bench = Bench::start().after(usable(NEW));
    let actions = bench.wait(Duration::from_secs(20));
    assert_eq!((count(&actions, "Park"), bench.state()), (0, State::Established));
    assert_eq!(count(&actions, "Forget"), 1);
}

#[test]
fn mig_wait_ends_in_a_reset_of_the_application() {
    let mut bench = Bench::start().after(lost("10.0.0.1:0"));
    assert_eq!(
        count(&bench.wait(Duration::from_secs(15 * 60 - 1)), "DeliverReset"),
        0
    );
    let actions = bench.wait(Duration::from_secs(1));
    assert_eq!(names(&actions)[0], "DeliverReset");
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn a_command_in_mig_wait_sends_an_msyn_to_the_destination() {
    let mut bench = Bench::start().after(lost("10.0.0.1:0"));
    let command = Event::MigrateCommand {
        local: at(NEW),
        peer: at(PEERS_NEW),
        crossing: false,
        tcp: TCP,
        random: 1,
    };
    let Action::SendMsyn { to, .. } = find(bench.tell(command), "SendMsyn") else {
        unreachable!()
    };
    assert_eq!((*to, bench.state()), (at(PEERS_NEW), State::MigSent));
}

#[test]
fn suspicion_parks_nothing_and_a_false_alarm_restores_the_timeouts() {
    let mut bench = Bench::start().after(Event::RetransmissionTimeout);
    assert_eq!(names(&bench.actions), ["MarkSuspect", "RaiseTimeouts"]);
    assert_eq!(bench.state(), State::Suspect);
    assert!(!bench.machine.is_parked());
    assert_eq!(names(bench.tell(Event::ProbeUnanswered)), ["Refuse"]);
    assert_eq!(names(bench.tell(Event::Progress)), ["RestoreTimeouts"]);
    assert_eq!(bench.state(), State::Established);
    assert_eq!(bench.machine.next_alarm(), None);
}

#[test]
fn a_suspect_whose_msyn_is_not_answered_waits_until_the_old_tuple_speaks_again() {
    let mut bench = Bench::start()
        .after(Event::RetransmissionTimeout)
        .after(usable(NEW));
    bench.wait(Duration::from_secs(20));
    assert_eq!(bench.state(), State::MigWait(WaitReason::NoAnswer));
    bench.tell(Event::Progress);
    assert_eq!(bench.state(), State::Established);
    assert!(bench.machine.attempts().is_empty());
}

#[test]
fn a_suspect_gives_up_when_its_peer_does() {
    let mut bench = Bench::start().after(Event::RetransmissionTimeout);
    let actions = bench.wait(Duration::from_secs(15 * 60));
    assert_eq!(names(&actions)[0], "DeliverReset");
    assert_eq!(count(&actions, "SendMigrateReset"), 1);
}

#[test]
fn the_timeouts_come_back_only_when_the_peer_was_heard() {
    let mut bench = Bench::unconfirmed();
    assert_eq!(count(&bench.actions, "RestoreTimeouts"), 0);
    assert_eq!(
        count(bench.tell(Event::Progress), "RestoreTimeouts"),
        0,
        "it may be from the old tuple"
    );
    let heard = bench.tell(Event::PeerSegmentOn {
        req_no: migration::ReqNo(2),
    });
    assert_eq!(count(heard, "RestoreTimeouts"), 1);
}

#[test]
fn without_keys_nothing_moves_and_nothing_is_answered() {
    let mut bench = Bench::start().after(Event::KeysGone);
    for event in [
        usable(NEW),
        msyn(1, identity().local),
        Event::RetransmissionTimeout,
    ] {
        assert_eq!(bench.tell(event)[..], [Action::Refuse(Refusal::KeysGone)]);
    }
    assert_eq!(
        names(bench.tell(Event::ResetHeard { exact: true }))[0],
        "DeliverReset",
        "fail open"
    );
}

#[test]
fn a_parked_connection_that_loses_its_keys_waits_to_its_end() {
    let mut bench = Bench::moved().after(Event::KeysGone);
    assert_eq!(bench.state(), State::MigWait(WaitReason::KeysGone));
    bench.wait(Duration::from_secs(15 * 60));
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn an_alarm_that_rings_too_early_or_twice_does_no_harm() {
    let mut bench = Bench::moved();
    let before = bench.machine.clone();
    let alarm = bench.machine.next_alarm();
    let actions = bench.tell(Event::TimerFired).clone();
    assert_eq!(bench.machine, before);
    assert_eq!(actions.len(), 1, "it is only set again: {actions:?}");
    assert_eq!(bench.machine.next_alarm(), alarm);
}
