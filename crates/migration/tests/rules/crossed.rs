//! Two machines: crossed attempts, lost Migrate-Acks, replays, restarts.

use std::time::Duration;

use migration::{Action, Adopted, Event, Machine, Policy, ReqNo, Role, State, TcpState};

use crate::fixtures::{NEW, identity, msyn_ack, usable};
use crate::world::network::{ATTACKER, Kind};
use crate::world::quiescence::Rest;
use crate::world::{Where, World};
use crate::{Bench, count, find};

const SOON: Duration = Duration::from_secs(60);

/// Delivers what is in flight and lets the drivers work, until the wire is empty or `lose` took it.
fn exchange(world: &mut World, lose: impl Fn(&Kind) -> bool) {
    for _ in 0..20 {
        world.drain_all();
        world.net.in_flight.retain(|(_, segment)| !lose(&segment.kind));
        world.deliver_all();
    }
    world.check();
}

fn is_migrate_ack(kind: &Kind) -> bool {
    matches!(kind, Kind::MigrateAck { .. })
}

#[test]
fn one_end_moves_and_both_follow() {
    let mut world = World::new(true);
    world.detach(0);
    world.attach(0, Where::Napt(true));
    exchange(&mut world, |_| false);
    assert!(world.same_wire());
    assert_eq!(
        (world.state(0), world.state(1)),
        (State::Established, State::Established)
    );
    assert!(world.hosts[0].machine.is_confirmed());
}

#[test]
fn the_same_private_address_behind_another_napt_is_a_move() {
    let mut world = World::new(true);
    let before = world.hosts[1].machine.wire();
    world.attach(0, Where::Napt(true));
    exchange(&mut world, |_| false);
    assert_ne!(world.hosts[1].machine.wire(), before);
    assert!(world.same_wire());
}

#[test]
fn crossed_attempts_end_on_the_higher_number() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    world.attach(1, Where::Public);
    exchange(&mut world, |_| false);
    let committed = [0, 1].map(|h: usize| world.hosts[h].machine.committed());
    assert_eq!(committed, [ReqNo(2), ReqNo(2)]);
    assert!(world.same_wire());
}

#[test]
fn crossed_attempts_with_both_migrate_acks_lost_end_on_one_tuple() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    world.attach(1, Where::Public);
    exchange(&mut world, is_migrate_ack);
    let committed = [0, 1].map(|h: usize| world.hosts[h].machine.committed());
    assert_eq!(committed, [ReqNo(2), ReqNo(1)], "each believes in its own");
    assert_eq!(world.run_good(SOON), Rest::Together);
}

#[test]
fn a_lost_migrate_ack_leaves_no_two_tuples_also_when_the_answer_is_forgotten() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    exchange(&mut world, is_migrate_ack);
    world.advance(Duration::from_millis(1_500));
    exchange(&mut world, is_migrate_ack);
    assert_ne!(
        world.hosts[0].machine.committed(),
        world.hosts[1].machine.committed()
    );
    assert_eq!(world.run_good(SOON), Rest::Together);
}

#[test]
fn a_migrate_ack_that_arrives_after_a_later_commit_changes_nothing() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    exchange(&mut world, is_migrate_ack);
    let held: Vec<_> = world
        .net
        .seen
        .iter()
        .copied()
        .filter(|segment| is_migrate_ack(&segment.kind))
        .collect();
    assert!(!held.is_empty());
    world.attach(0, Where::Public);
    exchange(&mut world, |_| false);
    let wire = world.hosts[1].machine.wire();
    held.into_iter().for_each(|segment| world.deliver(segment));
    exchange(&mut world, |_| false);
    assert_eq!(world.hosts[1].machine.wire(), wire);
    assert!(world.same_wire());
}

#[test]
fn an_unconfirmed_mover_and_a_peer_that_has_moved_meet_again() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    exchange(&mut world, is_migrate_ack);
    world.detach(1);
    world.attach(1, Where::Public);
    exchange(&mut world, |_| true);
    assert_eq!(world.run_good(SOON), Rest::Together);
}

#[test]
fn replayed_and_forged_segments_stop_nothing() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    exchange(&mut world, |_| false);
    let wires = [0, 1].map(|h: usize| world.hosts[h].machine.wire());
    let seen: Vec<_> = world.net.seen.iter().copied().collect();
    for mut segment in seen {
        world.deliver(segment);
        segment.src.address = ATTACKER;
        world.deliver(segment);
    }
    for what in 0..8 {
        for (h, from_peer) in [(0, true), (0, false), (1, true), (1, false)] {
            world.forge(h, what, from_peer);
        }
    }
    exchange(&mut world, |_| false);
    assert_eq!([0, 1].map(|h: usize| world.hosts[h].machine.wire()), wires);
    assert!(world.hosts.iter().all(|host| !host.ever_parked));
}

#[test]
fn a_replayed_msyn_from_a_stranger_is_answered_but_never_committed() {
    let mut world = World::new(false);
    world.attach(0, Where::Public);
    world.drain_all();
    let (_, mut segment) = world.net.in_flight[0];
    segment.src.address = ATTACKER;
    world.deliver(segment);
    exchange(&mut world, |_| false);
    assert!(world.same_wire());
    assert_eq!(world.hosts[1].machine.committed(), ReqNo(2));
}

#[test]
fn an_agent_that_is_killed_during_a_move_finds_the_connection_again() {
    for killed in 0..2 {
        let mut world = World::new(true);
        world.detach(0);
        world.attach(0, Where::Public);
        exchange(&mut world, is_migrate_ack);
        world.hosts[killed].restart(world.now);
        assert_eq!(world.run_good(SOON), Rest::Together, "host {killed} killed");
    }
}

#[test]
fn two_ends_behind_napts_that_cannot_reach_each_other_end_alike() {
    let mut world = World::new(true);
    world.attach(1, Where::Napt(false));
    world.detach(1);
    exchange(&mut world, |_| false);
    assert_eq!(world.run_good(SOON), Rest::Apart);
    assert_eq!(world.run_good(Duration::from_secs(40 * 60)), Rest::Ended);
}

/// Both ends send an MSYN on the same tuple: hearing the peer there does not prove which number it means.
#[test]
fn hearing_the_peer_on_a_tuple_with_two_numbers_does_not_raise_the_token() {
    let mut bench = Bench::start().after(usable(NEW));
    let tuple = migration::Tuple::new(crate::fixtures::at(NEW), identity().remote);
    let crossing = Event::MsynHeard {
        from: tuple.remote,
        to: tuple.local,
        req_no: ReqNo(1),
        token_of: ReqNo::UNMOVED,
        seq: 4_999,
        rcv_nxt: 900,
        tcp: crate::fixtures::TCP,
    };
    bench.tell(crossing);
    bench.tell(msyn_ack(2, NEW, 1_000));
    let heard = bench.tell(Event::PeerSegmentOn { req_no: ReqNo(2) });
    assert_eq!(count(heard, "Confirmed"), 0);
    let actions = bench.wait(Duration::from_secs(15));
    assert_eq!(
        (count(&actions, "SendMigrateAck"), count(&actions, "Confirmed")),
        (5, 1)
    );
    assert_eq!(
        (count(&actions, "AskForEndpoint"), count(&actions, "RetireTokens")),
        (0, 0)
    );
    assert_eq!(bench.machine.known(), ReqNo::UNMOVED);
}

#[test]
fn an_adopted_mover_that_was_not_confirmed_begins_anew() {
    let adopted = Adopted {
        committed: ReqNo(2),
        highest_seen: ReqNo(2),
        wire: identity(),
        confirmed: false,
        known: ReqNo::UNMOVED,
        parked: false,
        lingering: Vec::new(),
        tcp_state: TcpState::Established,
    };
    let now = migration::Timestamp::from_millis(10_000);
    let mut bench = Bench::new(Machine::adopt(Role::Initiator, adopted, Policy::default(), now));
    let actions = bench.wait(Duration::from_secs(4));
    assert_eq!(count(&actions, "AskForEndpoint"), 1);
    assert_eq!(
        count(&actions, "SendMigrateAck"),
        0,
        "its words are not known any more"
    );
    let Action::SendMsyn { req_no, .. } = find(bench.tell(usable(NEW)), "SendMsyn") else {
        unreachable!()
    };
    assert_eq!(*req_no, ReqNo(4));
}

#[test]
fn an_adopted_machine_knows_what_the_peer_committed_while_nobody_looked_and_forgets_what_lingers() {
    let lingering = migration::Tuple::new(
        crate::fixtures::at("10.0.0.1:4000"),
        crate::fixtures::at("10.8.8.8:81"),
    );
    let adopted = Adopted {
        committed: ReqNo(4),
        highest_seen: ReqNo(4),
        wire: migration::Tuple::new(crate::fixtures::at(NEW), identity().remote),
        confirmed: true,
        known: ReqNo::UNMOVED,
        parked: false,
        lingering: vec![(ReqNo(3), lingering)],
        tcp_state: TcpState::Established,
    };
    let now = migration::Timestamp::from_millis(10_000);
    let mut bench = Bench::new(Machine::adopt(Role::Initiator, adopted, Policy::default(), now));
    assert_eq!(bench.machine.known(), ReqNo(3), "the peer was the mover of 3");
    assert_eq!(bench.machine.tokens().collect::<Vec<_>>(), [ReqNo(3), ReqNo(4)]);
    assert_eq!(count(&bench.wait(Duration::from_secs(61)), "Forget"), 1);
}

#[test]
fn the_tokens_a_peer_may_use_are_heard_until_it_shows_that_it_knows_more() {
    let tokens = |bench: &Bench| bench.machine.tokens().map(|number| number.0).collect::<Vec<_>>();
    let mut bench = Bench::unconfirmed();
    assert_eq!(tokens(&bench), [0, 2]);
    bench.tell(Event::PeerSegmentOn { req_no: ReqNo(2) });
    assert_eq!(tokens(&bench), [2]);
}

#[test]
fn a_destination_by_command_is_tried_again_from_the_next_address() {
    let peer = crate::fixtures::at("10.8.8.8:81");
    let command = Event::MigrateCommand {
        local: crate::fixtures::at(NEW),
        peer,
        crossing: false,
        tcp: crate::fixtures::TCP,
        random: 1,
    };
    let mut bench = Bench::start().after(command).after(crate::fixtures::lost(NEW));
    bench.tell(usable("10.0.2.1:4003"));
    assert_eq!(
        bench.machine.attempts()[0].destinations(),
        [identity().remote, peer]
    );
}

#[test]
fn an_answer_on_the_unconfirmed_wire_tuple_makes_it_ambiguous() {
    let mut bench = Bench::unconfirmed();
    let crossing = Event::MsynHeard {
        from: identity().remote,
        to: crate::fixtures::at(NEW),
        req_no: ReqNo(3),
        token_of: ReqNo::UNMOVED,
        seq: 4_999,
        rcv_nxt: 900,
        tcp: crate::fixtures::TCP,
    };
    bench.tell(crossing);
    let heard = bench.tell(Event::PeerSegmentOn { req_no: ReqNo(2) });
    assert_eq!(count(heard, "Confirmed"), 0, "it may be the peer's 3");
}

#[test]
fn while_the_peer_was_not_heard_it_is_sought_where_it_was_before_too() {
    let peer = crate::fixtures::at("10.8.8.8:81");
    let command = Event::MigrateCommand {
        local: crate::fixtures::at(NEW),
        peer,
        crossing: false,
        tcp: crate::fixtures::TCP,
        random: 1,
    };
    let answered = Event::MsynAckHeard {
        from: peer,
        to: crate::fixtures::at(NEW),
        req_no: ReqNo(2),
        seq: 4_999,
        ack: 1_000,
        rcv_nxt: 900,
    };
    let places = |bench: &Bench| {
        bench
            .machine
            .attempts()
            .last()
            .expect("an attempt")
            .destinations()
    };
    let next = |candidates| Event::AddressUsable {
        local: crate::fixtures::at("10.0.2.1:4003"),
        candidates,
        tcp: crate::fixtures::TCP,
        random: 1,
    };
    let mut bench = Bench::start().after(command).after(answered);
    bench.tell(next(vec![peer]));
    assert_eq!(places(&bench), [peer, identity().remote]);
    let mut confirmed = Bench::new(bench.machine).after(Event::PeerSegmentOn { req_no: ReqNo(2) });
    confirmed.tell(next(vec![peer]));
    assert_eq!(places(&confirmed), [peer]);
}
