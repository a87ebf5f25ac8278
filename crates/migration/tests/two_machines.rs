//! Two machines over a network that does everything a network may do, against what must come of it.

mod world;

use std::time::Duration;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use migration::{Event, State, TcpState};
use world::network::{ATTACKER, Kind};
use world::quiescence::Rest;
use world::{Where, World};

/// What the outside does to the pair.
#[derive(Clone, Debug)]
enum Deed {
    Write(usize),
    Attach(usize, Where),
    Detach(usize),
    Command(usize),
    Simultaneous,
    Reboot(usize),
    Deliver(u8),
    DeliverAll,
    Lose(u8),
    Duplicate(u8),
    Replay { which: u8, from_stranger: bool },
    Forge { at: usize, what: u8, from_peer: bool },
    Advance(u16),
    Drain(usize, bool),
    DrainAll,
    Timeout(usize),
    Strangers(bool),
    AnswerReset(usize, bool),
    Close(usize),
    Abort(usize),
    Restart(usize),
}

/// What is known without looking at the machines.
#[derive(Clone, Debug)]
struct Story {
    behind: bool,
    places: [u8; 2],
    /// Whether anything happened that a healthy path does not survive.
    hurt: bool,
    /// Whether an end was closed or reset, or a reset could not be decided.
    may_end: bool,
    aborted: bool,
}

impl ReferenceStateMachine for Story {
    type State = Story;
    type Transition = Deed;

    fn init_state() -> BoxedStrategy<Story> {
        let story = |behind| Story {
            behind,
            places: [1, 1],
            hurt: false,
            may_end: false,
            aborted: false,
        };
        any::<bool>().prop_map(story).boxed()
    }

    fn transitions(_: &Story) -> BoxedStrategy<Deed> {
        let host = 0..2usize;
        let place = prop_oneof![Just(Where::Public), any::<bool>().prop_map(Where::Napt)];
        prop_oneof![
            6 => host.clone().prop_map(Deed::Write),
            5 => (host.clone(), place).prop_map(|(h, to)| Deed::Attach(h, to)),
            5 => host.clone().prop_map(Deed::Detach),
            4 => host.clone().prop_map(Deed::Command),
            2 => Just(Deed::Simultaneous),
            2 => (0..4usize).prop_map(Deed::Reboot),
            24 => any::<u8>().prop_map(Deed::Deliver),
            6 => Just(Deed::DeliverAll),
            6 => any::<u8>().prop_map(Deed::Lose),
            5 => any::<u8>().prop_map(Deed::Duplicate),
            6 => (any::<u8>(), any::<bool>())
                .prop_map(|(which, from_stranger)| Deed::Replay { which, from_stranger }),
            5 => (host.clone(), any::<u8>(), any::<bool>())
                .prop_map(|(at, what, from_peer)| Deed::Forge { at, what, from_peer }),
            10 => prop_oneof![0..400u16, 0..4_000u16, 0..20_000u16].prop_map(Deed::Advance),
            12 => (host.clone(), any::<bool>()).prop_map(|(h, ring)| Deed::Drain(h, ring)),
            12 => Just(Deed::DrainAll),
            2 => host.clone().prop_map(Deed::Timeout),
            1 => any::<bool>().prop_map(Deed::Strangers),
            2 => (host.clone(), any::<bool>()).prop_map(|(h, knows)| Deed::AnswerReset(h, knows)),
            1 => host.clone().prop_map(Deed::Close),
            1 => prop::bool::weighted(0.3).prop_flat_map(|abort| (0..2usize).prop_map(
                move |h| if abort { Deed::Abort(h) } else { Deed::Write(h) })),
            1 => host.prop_map(Deed::Restart),
        ]
        .boxed()
    }

    fn apply(mut story: Story, deed: &Deed) -> Story {
        match deed {
            Deed::Attach(h, to) => {
                story.places[*h] = (story.places[*h] + 1).min(2);
                story.hurt |= matches!(to, Where::Napt(_)) || story.places[*h] == 2;
            }
            Deed::Detach(h) => {
                story.places[*h] = story.places[*h].saturating_sub(1);
                story.hurt = true;
            }
            Deed::Reboot(_) => story.hurt = true,
            Deed::Close(_) => story.may_end = true,
            Deed::Abort(_) => (story.may_end, story.aborted) = (true, true),
            // A reset nobody answers for is delivered in the end: fail open.
            Deed::Forge { what, .. } if what % 8 == 4 => story.may_end = true,
            Deed::Strangers(true) => story.may_end = true,
            _ => {}
        }
        story
    }

    fn preconditions(story: &Story, deed: &Deed) -> bool {
        match deed {
            Deed::Detach(h) => story.places[*h] > 0,
            _ => true,
        }
    }
}

struct Pair {
    world: World,
    story: Story,
}

impl StateMachineTest for Pair {
    type SystemUnderTest = Pair;
    type Reference = Story;

    fn init_test(story: &Story) -> Pair {
        Pair {
            world: World::new(story.behind),
            story: story.clone(),
        }
    }

    fn apply(mut pair: Pair, story: &Story, deed: Deed) -> Pair {
        let world = &mut pair.world;
        let pick = |count: usize, which: u8| (count > 0).then(|| usize::from(which) % count.max(1));
        match deed {
            Deed::Write(h) => world.write(h),
            Deed::Attach(h, to) => world.attach(h, to),
            Deed::Detach(h) => world.detach(h),
            Deed::Command(h) => world.command(h),
            Deed::Simultaneous => world.simultaneous(),
            Deed::Reboot(napt) => world.net.reboot(napt),
            Deed::Deliver(which) => {
                if let Some(index) = pick(world.net.in_flight.len(), which) {
                    let (_, segment) = world.net.in_flight.remove(index).expect("in range");
                    world.deliver(segment);
                }
            }
            Deed::DeliverAll => world.deliver_all(),
            Deed::Lose(which) => {
                if let Some(index) = pick(world.net.in_flight.len(), which) {
                    world.net.in_flight.remove(index);
                }
            }
            Deed::Duplicate(which) => {
                if let Some(index) = pick(world.net.in_flight.len(), which) {
                    let copy = world.net.in_flight[index];
                    world.net.in_flight.push_back(copy);
                }
            }
            Deed::Replay { which, from_stranger } => {
                if let Some(index) = pick(world.net.seen.len(), which) {
                    let mut segment = world.net.seen[index];
                    if from_stranger && matches!(segment.kind, Kind::Msyn { .. } | Kind::MsynAck { .. }) {
                        segment.src.address = ATTACKER;
                    }
                    world.net.in_flight.push_back((world.now, segment));
                }
            }
            Deed::Forge { at, what, from_peer } => world.forge(at, what, from_peer),
            Deed::Advance(millis) => world.advance(Duration::from_millis(u64::from(millis))),
            Deed::Drain(h, ring) => drop(world.drain(h, ring)),
            Deed::DrainAll => world.drain_all(),
            Deed::Timeout(h) => world.hosts[h].ring.push_back(Event::RetransmissionTimeout),
            Deed::Strangers(on) => world.net.strangers = on,
            Deed::AnswerReset(h, knows) => world.answer_reset(h, knows),
            Deed::Close(h) => world.close(h),
            Deed::Abort(h) => world.abort(h),
            Deed::Restart(h) => world.hosts[h].restart(world.now),
        }
        world.check();
        pair.story = story.clone();
        pair
    }

    fn teardown(pair: Pair, _: Story) {
        let Pair { mut world, story } = pair;
        if !story.hurt {
            assert!(
                world.hosts.iter().all(|host| !host.ever_parked),
                "a healthy path was parked"
            );
        }
        for h in 0..2 {
            if world.hosts[h].places.is_empty() {
                world.attach(h, Where::Public);
            }
        }
        world.settle_in();
        let alone = world.can_help_itself();
        world.server = false;
        let rest = world.run_good(Duration::from_secs(120));
        world.check();
        assert!(
            rest != Rest::Apart || !alone || last_ack_lost(&world),
            "an end that can reach its peer does not find it alone\n{}",
            world.picture()
        );
        world.server = true;
        let rest = world.run_good(Duration::from_secs(300));
        world.check();
        let reachable = (0..2).any(|h| world.destination(h).is_some());
        let states = (world.state(0), world.state(1));
        match rest {
            Rest::Together => {}
            Rest::Ended => assert!(story.may_end, "the connection ended for no reason: {states:?}"),
            Rest::Apart => assert!(
                !reachable || last_ack_lost(&world),
                "two reachable ends do not find together: {states:?}\n{}",
                world.picture()
            ),
        }
        if rest == Rest::Apart {
            let waits = |state| {
                matches!(
                    state,
                    State::MigWait(_) | State::MigSent | State::Suspect | State::SynRecv
                )
            };
            assert!(waits(states.0) || waits(states.1), "nobody notices: {states:?}");
            let rest = world.run_good(Duration::from_secs(40 * 60));
            let states = (world.state(0), world.state(1));
            assert_ne!(
                rest,
                Rest::Apart,
                "unreachable ends do not end alike: {states:?}\n{}",
                world.picture()
            );
        }
    }
}

/// 2,000 unless `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(2_000)
}

/// One end has closed in order and is gone; the other moved before the last ACK came, and gives up later.
fn last_ack_lost(world: &World) -> bool {
    let gone = |h: usize| world.hosts[h].has_ended() && !world.hosts[h].reset_delivered;
    let waits = |h: usize| matches!(world.hosts[h].kernel.tcp, TcpState::LastAck | TcpState::Closing);
    (0..2).any(|h| gone(h) && waits(1 - h))
}

prop_state_machine! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 20_000,
        max_local_rejects: u32::MAX,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn two_ends_agree_on_one_wire_tuple_whatever_the_network_does(sequential 50 => Pair);
}
