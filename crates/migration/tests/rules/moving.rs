//! The mover: numbers, repetitions, candidates, and the time until the peer is heard.

use std::time::Duration;

use migration::{Action, AskReason, Event, Machine, Policy, Refusal, ReqNo, Role, State};

use crate::fixtures::{NEW, TCP, at, identity, lost, msyn_ack, usable};
use crate::{Bench, count, find, names};

fn sent_msyns(actions: &[Action]) -> Vec<(ReqNo, u32, u32)> {
    let msyn = |action: &Action| match action {
        Action::SendMsyn {
            req_no, seq, tries, ..
        } => Some((*req_no, *seq, *tries)),
        _ => None,
    };
    actions.iter().filter_map(msyn).collect()
}

#[test]
fn the_initiator_takes_even_numbers_and_the_acceptor_odd_ones_and_they_grow() {
    for (role, expected) in [(Role::Initiator, [2, 4, 6]), (Role::Acceptor, [1, 3, 5])] {
        let mut bench = Bench::new(Machine::new(role, identity(), Policy::default()));
        for (number, port) in expected.into_iter().zip(["1", "2", "3"]) {
            let actions = bench.tell(usable(&format!("10.0.1.{port}:4001"))).clone();
            assert_eq!(sent_msyns(&actions)[0].0, ReqNo(number), "{role}");
        }
    }
}

#[test]
fn a_number_is_stored_before_it_is_sent() {
    let bench = Bench::moved();
    assert_eq!(names(&bench.actions), ["StoreReqNo", "SendMsyn"]);
}

#[test]
fn a_number_is_greater_than_every_number_of_the_peer() {
    let heard = crate::fixtures::msyn(7, identity().local);
    let mut bench = Bench::start().after(heard);
    let actions = bench.tell(usable(NEW)).clone();
    assert_eq!(sent_msyns(&actions)[0].0, ReqNo(8));
}

#[test]
fn a_connection_that_has_used_up_its_numbers_stays_where_it_is() {
    let mut bench = Bench::start().after(crate::fixtures::msyn(u32::MAX, identity().local));
    assert_eq!(
        find(bench.tell(usable(NEW)), "Refuse"),
        &Action::Refuse(Refusal::NumbersExhausted)
    );
}

/// Two ends that send at once, each time after the same pause, would miss each other for ever.
#[test]
fn pauses_are_jittered_around_what_they_should_be_and_no_two_attempts_keep_step() {
    let policy = Policy::default();
    let pauses = |random: u64| -> Vec<Duration> {
        let crossing = policy.crossing_pause(random);
        let backoffs = (1..=4).map(|tries| policy.msyn_backoff(tries, random));
        std::iter::once(crossing).chain(backoffs).collect()
    };
    let middles = [60, 250, 500, 1000, 2000];
    let mut seen = std::collections::HashSet::new();
    for random in 0..200 {
        let pauses = pauses(random);
        for (pause, middle) in pauses.iter().zip(middles) {
            let off = pause.as_millis().abs_diff(middle);
            assert!(off * 4 <= middle, "{pause:?} is not around {middle} ms");
        }
        seen.insert(pauses);
    }
    assert!(seen.len() > 190, "{} different ones of 200", seen.len());
}

#[test]
fn repetitions_have_the_same_number_and_sequence_number_and_come_ever_slower() {
    let mut bench = Bench::moved();
    let mut at_times = vec![bench.now];
    let mut sent = sent_msyns(&bench.actions);
    for _ in 0..5 {
        sent.extend(sent_msyns(&bench.ring().clone()));
        at_times.push(bench.now);
    }
    assert_eq!(
        sent,
        (1..=6).map(|tries| (ReqNo(2), 999, tries)).collect::<Vec<_>>()
    );
    for (index, pair) in at_times.windows(2).enumerate() {
        let pause = pair[1].since(pair[0]).as_millis();
        let middle = [250, 500, 1_000, 2_000, 3_000][index];
        assert!(
            (middle * 3 / 4..=middle * 5 / 4).contains(&pause),
            "pause {index}: {pause} ms"
        );
    }
}

#[test]
fn the_jitter_of_two_attempts_differs() {
    let policy = Policy::default();
    let pauses = |random| {
        (1..6)
            .map(|tries| policy.msyn_backoff(tries, random))
            .collect::<Vec<_>>()
    };
    assert_eq!(pauses(1), pauses(1));
    assert_ne!(pauses(1), pauses(2));
}

#[test]
fn the_sequence_number_is_one_below_the_next_also_at_the_wrap() {
    let tcp = migration::TcpSnapshot { snd_nxt: 0, ..TCP };
    let event = Event::AddressUsable {
        local: at(NEW),
        candidates: vec![identity().remote],
        tcp,
        random: 1,
    };
    let mut bench = Bench::start();
    assert_eq!(sent_msyns(bench.tell(event))[0].1, u32::MAX);
    let answered = Event::MsynAckHeard {
        from: identity().remote,
        to: at(NEW),
        req_no: ReqNo(2),
        seq: u32::MAX,
        ack: 0,
        rcv_nxt: 0,
    };
    let Action::SendMigrateAck { seq, ack, .. } = find(bench.tell(answered), "SendMigrateAck") else {
        unreachable!()
    };
    assert_eq!((*seq, *ack), (0, 0));
}

#[test]
fn a_direct_attempt_and_one_by_command_run_at_once_and_the_first_answered_wins() {
    let command = Event::MigrateCommand {
        local: at("10.0.1.1:4005"),
        peer: at("10.8.8.8:81"),
        crossing: false,
        tcp: TCP,
        random: 3,
    };
    let mut bench = Bench::moved().after(command);
    assert_eq!(bench.machine.attempts().len(), 2);
    let answer = Event::MsynAckHeard {
        from: at("10.8.8.8:81"),
        to: at("10.0.1.1:4005"),
        req_no: ReqNo(4),
        seq: 4_999,
        ack: 1_000,
        rcv_nxt: 900,
    };
    bench.tell(answer);
    assert_eq!(
        (bench.machine.committed(), bench.machine.attempts().len()),
        (ReqNo(4), 0)
    );
    let late = bench.tell(msyn_ack(2, NEW, 1_000));
    assert_eq!(names(late), ["Refuse"], "the other one is not answered any more");
}

#[test]
fn the_oldest_of_too_many_attempts_gives_way() {
    let mut bench = Bench::start();
    for host in 1..=5 {
        bench.tell(usable(&format!("10.0.{host}.1:4001")));
    }
    let numbers: Vec<u32> = bench
        .machine
        .attempts()
        .iter()
        .map(|attempt| attempt.req_no.0)
        .collect();
    assert_eq!(numbers, [4, 6, 8, 10]);
}

#[test]
fn an_answer_makes_the_mover_commit_acknowledge_and_kick_in_this_order() {
    let bench = Bench::unconfirmed();
    assert_eq!(names(&bench.actions)[..3], ["Commit", "SendMigrateAck", "Kick"]);
    assert_eq!(bench.state(), State::Established);
    assert!(!bench.machine.is_parked());
}

#[test]
fn an_answer_with_a_wrong_acknowledgement_moves_nothing() {
    let mut bench = Bench::moved();
    assert_eq!(names(bench.tell(msyn_ack(2, NEW, 999))), ["Refuse"]);
    assert_eq!(bench.state(), State::MigSent);
}

#[test]
fn the_mover_repeats_the_migrate_ack_until_the_peer_is_heard() {
    let mut bench = Bench::unconfirmed();
    for _ in 0..2 {
        assert_eq!(names(bench.ring()), ["SendMigrateAck", "Kick"]);
    }
    let heard = bench.tell(Event::PeerSegmentOn { req_no: ReqNo(2) });
    assert_eq!(
        names(heard),
        [
            "Confirmed",
            "Kick",
            "StoreKnown",
            "RetireTokens",
            "RestoreTimeouts"
        ]
    );
    assert_eq!(count(&bench.wait(Duration::from_secs(50)), "SendMigrateAck"), 0);
}

#[test]
fn a_repeated_answer_gets_the_migrate_ack_again() {
    let mut bench = Bench::unconfirmed();
    let first = find(&bench.actions, "SendMigrateAck").clone();
    let again = bench.tell(msyn_ack(2, NEW, 1_000));
    assert_eq!(find(again, "SendMigrateAck"), &first);
}

#[test]
fn a_peer_that_forgot_its_answer_is_asked_again_and_gets_a_migrate_ack_that_fits_the_new_one() {
    let mut bench = Bench::unconfirmed();
    let actions = bench.wait(Duration::from_secs(8));
    let (number, seq, _) = *sent_msyns(&actions).first().expect("the MSYN is repeated");
    assert_eq!((number, seq), (ReqNo(2), 999));
    let answer = Event::MsynAckHeard {
        from: identity().remote,
        to: at(NEW),
        req_no: ReqNo(2),
        seq: 6_999,
        ack: 1_000,
        rcv_nxt: 900,
    };
    let Action::SendMigrateAck { ack, .. } = find(bench.tell(answer), "SendMigrateAck") else {
        unreachable!()
    };
    assert_eq!(*ack, 7_000);
}

#[test]
fn a_mover_that_is_never_confirmed_asks_for_a_fresh_endpoint_and_begins_anew() {
    let mut bench = Bench::unconfirmed();
    let actions = bench.wait(Duration::from_secs(15));
    let Action::AskForEndpoint { why, candidates, .. } = find(&actions, "AskForEndpoint") else {
        unreachable!()
    };
    assert_eq!(
        (*why, &candidates[..]),
        (AskReason::Unconfirmed, &[identity().remote][..])
    );
    assert_eq!(bench.state().to_string(), "MigWait (unconfirmed)");
    let renewed = bench.tell(usable("10.0.1.1:4009")).clone();
    assert_eq!(sent_msyns(&renewed)[0].0, ReqNo(4));
}

#[test]
fn an_attempt_below_a_number_of_the_peer_is_renewed() {
    let heard = crate::fixtures::msyn(3, at(NEW));
    let mut bench = Bench::moved().after(heard);
    let actions = bench.wait(Duration::from_secs(3));
    let Action::AskForEndpoint { why, .. } = find(&actions, "AskForEndpoint") else {
        unreachable!()
    };
    assert_eq!(*why, AskReason::Overtaken);
    let renewed = bench.tell(usable("10.0.1.1:4009")).clone();
    assert_eq!(sent_msyns(&renewed)[0].0, ReqNo(4));
    assert_eq!(bench.machine.attempts().len(), 1, "the old one is given up");
}

#[test]
fn a_mover_moves_again_before_it_is_confirmed_and_uses_the_token_both_know() {
    let mut bench = Bench::unconfirmed().after(lost(NEW));
    let actions = bench.tell(usable("10.0.2.1:4003")).clone();
    let Action::SendMsyn { req_no, token_of, .. } = find(&actions, "SendMsyn") else {
        unreachable!()
    };
    assert_eq!(
        (*req_no, *token_of),
        (ReqNo(4), ReqNo::UNMOVED),
        "the peer may never have heard of 2"
    );
    assert_eq!(
        count(&bench.wait(Duration::from_secs(3)), "SendMigrateAck"),
        0,
        "from an address that is gone"
    );
}

#[test]
fn a_strange_listener_gets_a_reset_and_the_next_candidate_its_turn() {
    let candidates = vec![at("192.168.1.9:80"), identity().remote];
    let event = Event::AddressUsable {
        local: at(NEW),
        candidates,
        tcp: TCP,
        random: 1,
    };
    let mut bench = Bench::start().after(lost("10.0.0.1:0")).after(event);
    let forged = Event::StrangeSynAck {
        from: at("192.168.1.9:80"),
        to: at(NEW),
        ack: 77,
    };
    assert_eq!(names(bench.tell(forged)), ["Refuse"]);
    let strange = Event::StrangeSynAck {
        from: at("192.168.1.9:80"),
        to: at(NEW),
        ack: 1_000,
    };
    let actions = bench.tell(strange).clone();
    assert_eq!(names(&actions), ["SendReset", "SendMsyn"]);
    let Action::SendMsyn { to, .. } = find(&actions, "SendMsyn") else {
        unreachable!()
    };
    assert_eq!(*to, identity().remote);
}

#[test]
fn candidates_take_turns() {
    let candidates = vec![at("192.168.1.9:80"), identity().remote];
    let event = Event::AddressUsable {
        local: at(NEW),
        candidates,
        tcp: TCP,
        random: 1,
    };
    let mut bench = Bench::start().after(event);
    let mut all = bench.actions.clone();
    all.extend(bench.wait(Duration::from_secs(4)));
    let to = |action: &Action| match action {
        Action::SendMsyn { to, .. } => Some(to.port == 80 && to.address == identity().remote.address),
        _ => None,
    };
    let turns: Vec<bool> = all.iter().filter_map(to).collect();
    assert_eq!(turns[..5], [false, false, true, true, false]);
}

/// Somebody says that the peer is there.
fn told(place: u64) -> Event {
    Event::MigrateCommand {
        local: at(&format!("10.0.1.1:{}", 5_000 + place)),
        peer: at(&format!("100.64.0.{place}:80")),
        crossing: place.is_multiple_of(2),
        tcp: TCP,
        random: place,
    }
}

#[test]
fn however_many_places_others_name_the_one_where_the_peer_was_last_is_tried() {
    let mut bench = Bench::moved();
    for place in 1..=40 {
        bench.tell(told(place));
        let attempts = bench.machine.attempts();
        assert!(attempts.len() <= Policy::default().max_attempts);
        assert_eq!(attempts[0].req_no, ReqNo(2), "after {place} places");
    }
    let to_the_last =
        |action: &Action| matches!(action, Action::SendMsyn { to, .. } if *to == identity().remote);
    let sent = bench.wait(Duration::from_secs(2));
    assert!(sent.iter().any(to_the_last), "and goes on being tried");
    bench.tell(msyn_ack(2, NEW, 1_000));
    assert_eq!(bench.state(), State::Established);
}

#[test]
fn of_two_attempts_at_the_last_place_the_older_gives_way() {
    let mut bench = Bench::moved();
    for place in 1..=3 {
        bench.tell(told(place));
    }
    bench.tell(usable("10.0.2.1:4002"));
    let last = identity().remote;
    let there = |bench: &Bench| {
        let attempts = bench.machine.attempts().iter();
        let there = attempts.filter(|attempt| attempt.destinations().contains(&last));
        there.map(|attempt| attempt.req_no).collect::<Vec<_>>()
    };
    assert_eq!(there(&bench), [ReqNo(10)]);
    bench.tell(told(9));
    assert_eq!(there(&bench), [ReqNo(10)], "the newest stays");
}
