//! Whose reset is it? Genuine ones end the connection at both ends, foreign ones do not touch it.

use migration::State;
use wire::flags::Flags;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::Tuple;

use crate::world::{Fate, Side, World, millis};

/// A reset as B's kernel would send it, made by somebody else.
fn forged_reset(world: &World, connection: Tuple) -> Segment {
    let tcp = world.a.agent.datapath.socket(&connection).unwrap().tcp;
    Segment::bare(connection.reversed(), Flags::RST, tcp.rcv_nxt, tcp.snd_nxt, 0)
}

fn is_lost(of: RequestType) -> impl FnMut(&Segment) -> Fate {
    move |segment| match segment.migrate.is_some_and(|request| request.r#type == of) {
        true => Fate::Lost,
        false => Fate::Arrives,
    }
}

#[test]
fn a_reset_that_the_peer_disowns_is_dropped_and_the_connection_lives_on() {
    let mut world = World::new();
    let connection = world.connect();
    world.assert_data_flows(connection);
    let reset = forged_reset(&world, connection);
    world.inject(reset);
    assert_eq!(
        (world.count(RequestType::Query), world.count(RequestType::Answer)),
        (1, 1)
    );
    assert_eq!(world.a.agent.datapath.counter("reset_held"), 1);
    assert_eq!(world.a.agent.timeline.counts().get("reset_dropped"), Some(&1));
    world.assert_data_flows(connection);
    world.run(millis(1000));
    assert_eq!(world.state(Side::A, connection), Some(State::Established));
    // The doubt must not end it later either.
    world.run(millis(1_000_000));
    assert!(
        world.a.stack.reset.is_empty() && world.b.stack.reset.is_empty(),
        "{}",
        world.story()
    );
    world.assert_data_flows(connection);
}

#[test]
fn a_reset_of_the_peers_kernel_is_confirmed_by_its_agent() {
    for lost in [RequestType::Answer, RequestType::MigrateReset] {
        let mut world = World::new();
        let connection = world.connect();
        let mut drops = is_lost(lost);
        let mut left = 1;
        // The Migrate-Reset that goes with the plain one may be lost: the question is answered by another.
        world.interfere(move |segment| match drops(segment) {
            Fate::Lost if left > 0 => {
                left -= 1;
                Fate::Lost
            }
            _ => Fate::Arrives,
        });
        world.b.abort(connection);
        world.run(millis(100));
        assert_eq!(world.a.stack.reset, [connection], "{}", world.story());
        assert_eq!(world.state(Side::A, connection), Some(State::Closed));
    }
}

#[test]
fn a_reset_that_never_arrives_is_told_by_a_migrate_reset() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(|segment| match segment.flags.contains(Flags::RST) {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    world.b.abort(connection);
    world.run(millis(100));
    assert!(world.count(RequestType::MigrateReset) >= 1);
    assert_eq!(world.a.stack.reset, [connection]);
}

#[test]
fn a_reset_that_nobody_answers_for_is_delivered_after_three_seconds() {
    let mut world = World::new();
    let connection = world.connect();
    world.b.crash_agent();
    world.interfere(|segment| match segment.migrate.is_some() {
        true => Fate::Lost,
        false => Fate::Arrives,
    });
    let reset = forged_reset(&world, connection);
    world.inject(reset);
    world.run(millis(2900));
    assert!(world.a.stack.reset.is_empty(), "held");
    world.run(millis(200));
    assert_eq!(world.a.stack.reset, [connection]);
    assert_eq!(world.a.agent.timeline.counts().get("reset_undecided"), Some(&1));
    assert!(
        world.count(RequestType::Msyn) >= 1,
        "the peer itself was asked by an MSYN"
    );
}

#[test]
fn the_probe_of_a_doubtful_reset_saves_the_connection_when_only_answers_are_lost() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(is_lost(RequestType::Answer));
    let reset = forged_reset(&world, connection);
    world.inject(reset);
    world.run(millis(5000));
    assert!(world.a.stack.reset.is_empty(), "{}", world.story());
    assert!(world.count(RequestType::MsynAck) >= 1);
    world.leave_alone();
    world.assert_data_flows(connection);
}

#[test]
fn a_reset_passes_when_our_agent_is_dead() {
    let mut world = World::new();
    let connection = world.connect();
    world.a.crash_agent();
    world.run(millis(4000));
    let early = forged_reset(&world, connection);
    world.inject(early.clone());
    assert!(
        world.a.stack.reset.is_empty(),
        "the last sign of life is young enough"
    );
    world.run(millis(2000));
    world.inject(early);
    assert_eq!(world.a.stack.reset, [connection]);
    assert_eq!(world.a.agent.datapath.counter("reset_passed"), 1);
}

#[test]
fn a_reset_with_another_number_is_dropped_without_a_question() {
    let mut world = World::new();
    let connection = world.connect();
    let mut reset = forged_reset(&world, connection);
    reset.seq = reset.seq.wrapping_add(1);
    world.inject(reset);
    world.run(millis(5000));
    assert_eq!(world.count(RequestType::Query), 0);
    assert!(world.a.stack.reset.is_empty());
    world.assert_data_flows(connection);
}

#[test]
fn a_flood_of_resets_asks_one_question_at_a_time() {
    let mut world = World::new();
    let connection = world.connect();
    world.interfere(is_lost(RequestType::Query));
    let reset = forged_reset(&world, connection);
    for _ in 0..100 {
        world.inject(reset.clone());
    }
    assert_eq!(world.count(RequestType::Query), 1);
}

#[test]
fn a_foreign_reset_on_a_moved_connection_is_dropped_too() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    let tcp = world.a.agent.datapath.socket(&connection).unwrap().tcp;
    let back = world.wire(Side::B, connection);
    world.inject(Segment::bare(back, Flags::RST, tcp.rcv_nxt, tcp.snd_nxt, 0));
    world.run(millis(2000));
    assert!(world.a.stack.reset.is_empty());
    assert_eq!(world.a.agent.timeline.counts().get("reset_dropped"), Some(&1));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    world.assert_data_flows(connection);
}

#[test]
fn a_reset_of_ours_while_we_are_away_is_told_when_we_come_back() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.a.abort(connection);
    world.run(millis(5000));
    assert!(world.b.stack.reset.is_empty());
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    assert_eq!(world.b.stack.reset, [connection.reversed()], "{}", world.story());
}

#[test]
fn a_host_that_returns_to_a_dead_connection_is_told_so() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.b.abort(connection);
    world.run(millis(120_000));
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(100));
    assert_eq!(world.a.stack.reset, [connection], "{}", world.story());
}
