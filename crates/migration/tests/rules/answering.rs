//! The end that stays: answers, commits by Migrate-Ack alone, and keeps the previous tuple until then.

use std::time::Duration;

use migration::{Action, Event, Refusal, ReqNo, State, TcpSnapshot, Tuple};

use crate::fixtures::{NEW, PEERS_NEW, TCP, at, identity, lost, msyn, msyn_ack};
use crate::{Bench, count, find, names};

fn answered(number: u32) -> Bench {
    Bench::start().after(msyn(number, identity().local))
}

fn commit_of(number: u32) -> Event {
    Event::Committed {
        req_no: ReqNo(number),
        wire: Tuple::new(identity().local, at(PEERS_NEW)),
    }
}

#[test]
fn an_msyn_is_answered_after_the_answer_is_installed() {
    let bench = answered(1);
    assert_eq!(
        names(&bench.actions),
        ["StoreReqNo", "InstallAnswered", "SendMsynAck"]
    );
    assert_eq!(bench.state(), State::SynRecv);
}

#[test]
fn answering_an_msyn_never_leaves_mig_sent() {
    let mut bench = Bench::moved();
    bench.tell(msyn(3, at(NEW)));
    assert_eq!(
        (bench.state(), bench.machine.answered().len()),
        (State::MigSent, 1)
    );
    assert!(
        count(&bench.wait(Duration::from_secs(2)), "SendMsyn") >= 2,
        "its own MSYN goes on"
    );
}

#[test]
fn until_the_commit_the_previous_tuple_goes_on() {
    let bench = answered(1);
    assert_eq!(bench.machine.wire(), identity());
    assert!(!bench.machine.is_parked());
    assert_eq!(count(&bench.actions, "Park"), 0);
}

#[test]
fn only_a_migrate_ack_commits() {
    let mut bench = answered(1);
    let others = [
        Event::PeerSegmentOn { req_no: ReqNo(1) },
        Event::Progress,
        msyn(1, identity().local),
        msyn_ack(1, "10.0.0.1:4000", 1_000),
        Event::RetransmissionTimeout,
        Event::TimerFired,
    ];
    for event in others {
        let actions = bench.tell(event).clone();
        assert_eq!(count(&actions, "Commit"), 0, "{actions:?}");
        assert_eq!(bench.machine.committed(), ReqNo::UNMOVED);
    }
    bench.tell(commit_of(1));
    assert_eq!(bench.machine.committed(), ReqNo(1));
    assert_eq!(bench.machine.wire().remote, at(PEERS_NEW));
}

#[test]
fn a_commit_kicks_and_lets_the_previous_tuple_linger_for_a_minute() {
    let mut bench = answered(1).after(commit_of(1));
    assert_eq!(names(&bench.actions), ["StoreKnown", "Linger", "Kick"]);
    assert_eq!(count(&bench.wait(Duration::from_secs(59)), "Forget"), 0);
    let actions = bench.wait(Duration::from_secs(2));
    let forget = Action::Forget {
        req_no: ReqNo::UNMOVED,
        tuple: identity(),
    };
    assert_eq!(find(&actions, "Forget"), &forget);
}

#[test]
fn a_duplicate_msyn_is_answered_identically_whatever_the_socket_has_sent_since() {
    let mut bench = answered(1);
    let first = find(&bench.actions, "SendMsynAck").clone();
    let mut again = msyn(1, identity().local);
    if let Event::MsynHeard { tcp, .. } = &mut again {
        *tcp = TcpSnapshot {
            snd_nxt: 77_000,
            rcv_nxt: 88_000,
            ..TCP
        };
    }
    assert_eq!(bench.tell(again)[..], [first]);
}

#[test]
fn an_msyn_that_is_not_above_the_committed_number_is_refused() {
    let mut bench = answered(3).after(commit_of(3));
    for number in [1, 3] {
        let refused = Refusal::NotGreater {
            req_no: ReqNo(number),
            committed: ReqNo(3),
        };
        assert_eq!(
            bench.tell(msyn(number, identity().local))[..],
            [Action::Refuse(refused)]
        );
    }
}

#[test]
fn an_msyn_with_a_number_of_our_own_is_refused() {
    let refused = Action::Refuse(Refusal::OwnNumber { req_no: ReqNo(4) });
    assert_eq!(Bench::start().tell(msyn(4, identity().local))[..], [refused]);
    let nobodys = Action::Refuse(Refusal::OwnNumber { req_no: ReqNo(0) });
    assert_eq!(Bench::start().tell(msyn(0, identity().local))[..], [nobodys]);
}

#[test]
fn an_answer_that_does_not_commit_is_forgotten_after_three_timeouts_but_not_within_a_second() {
    for (rto, lives) in [(200, 1_000), (700, 2_100), (60_000, 10_000)] {
        let mut event = msyn(1, identity().local);
        if let Event::MsynHeard { tcp, .. } = &mut event {
            tcp.rto = Duration::from_millis(rto);
        }
        let mut bench = Bench::start().after(event);
        assert_eq!(count(&bench.wait(Duration::from_millis(lives - 1)), "Forget"), 0);
        assert_eq!(count(&bench.wait(Duration::from_millis(1)), "Forget"), 1);
        assert_eq!(bench.state(), State::Established);
    }
}

#[test]
fn a_forgotten_attempt_is_answered_again_when_it_is_repeated() {
    let mut bench = answered(1);
    bench.wait(Duration::from_secs(2));
    assert_eq!(
        names(bench.tell(msyn(1, identity().local))),
        ["InstallAnswered", "SendMsynAck"]
    );
}

#[test]
fn the_same_attempt_from_another_endpoint_is_answered_there_too() {
    let mut bench = answered(1);
    let mut remapped = msyn(1, identity().local);
    if let Event::MsynHeard { from, .. } = &mut remapped {
        *from = at("10.8.8.8:999");
    }
    assert_eq!(names(bench.tell(remapped)), ["InstallAnswered", "SendMsynAck"]);
    let actions = bench.tell(commit_of(1)).clone();
    let Action::Forget { tuple, .. } = find(&actions, "Forget") else {
        unreachable!()
    };
    assert_eq!(
        tuple.remote,
        at("10.8.8.8:999"),
        "the other answer is worth nothing now"
    );
}

#[test]
fn a_repeated_commit_means_that_the_peer_has_not_heard_us() {
    let mut bench = answered(1).after(commit_of(1));
    assert_eq!(names(bench.tell(commit_of(1))), ["Kick"]);
}

#[test]
fn the_oldest_of_too_many_answers_gives_way() {
    let mut bench = Bench::start();
    for port in 1..=5 {
        let mut event = msyn(2 * port + 1, identity().local);
        if let Event::MsynHeard { from, .. } = &mut event {
            from.port = port as u16;
        }
        bench.tell(event);
    }
    assert_eq!(bench.machine.answered().len(), 4);
    assert_eq!(
        find(&bench.actions, "Forget").to_string(),
        "Forget 3 10.0.0.1:4000 <-> 10.8.8.8:1"
    );
}

#[test]
fn tokens_are_retired_when_the_peer_shows_that_it_knows_a_later_one() {
    let mut bench = answered(1).after(commit_of(1));
    let mut next = msyn(3, identity().local);
    if let Event::MsynHeard { token_of, .. } = &mut next {
        *token_of = ReqNo(1);
    }
    assert_eq!(
        find(bench.tell(next), "RetireTokens"),
        &Action::RetireTokens { below: ReqNo(1) }
    );
}

#[test]
fn the_token_of_the_peers_msyn_confirms_our_attempt() {
    let mut next = msyn(3, at(NEW));
    if let Event::MsynHeard { token_of, .. } = &mut next {
        *token_of = ReqNo(2);
    }
    let mut bench = Bench::unconfirmed();
    assert_eq!(count(bench.tell(next), "Confirmed"), 1);
    assert_eq!(bench.machine.known(), ReqNo(2));
}

#[test]
fn an_msyn_to_a_lost_address_is_refused_until_the_address_returns() {
    let local = identity().local;
    let mut bench = Bench::start().after(lost(&local.to_string()));
    assert_eq!(
        find(bench.tell(msyn(1, local)), "Refuse"),
        &Action::Refuse(Refusal::AddressGone { local: local.address })
    );
    let back = Event::AddressReturned { local: local.address };
    assert_eq!(
        names(bench.tell(back.clone())),
        [""; 0],
        "nothing is sent for that"
    );
    let answer = bench.tell(msyn(1, local)).clone();
    assert_eq!(count(&answer, "SendMsynAck"), 1, "{answer:?}");
    // It returns once.
    assert_eq!(
        find(bench.tell(back), "Refuse"),
        &Action::Refuse(Refusal::NothingToDo)
    );
}
