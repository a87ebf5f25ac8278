//! Peers that the deployment has revoked.

use host_agent::pairs::PairEvent;
use migration::State;
use proto::mobility::v1 as said;
use said::server_message::Body;
use wire::reqno::ReqNo;
use wire::tuple::Tuple;

use crate::world::{Side, World, millis};

fn world() -> (World, Tuple) {
    let mut world = World::new();
    world.a.use_servers();
    world.b.use_servers();
    let connection = world.connect();
    (world, connection)
}

/// B hears that A is no longer welcome.
fn revoke_a(world: &mut World) {
    let (agent, now) = (world.a.id().to_string(), world.now);
    world.b.told(Body::Revoked(said::Revoked { agent }), now);
    world.run(millis(200));
}

#[test]
fn an_unmoved_connection_with_a_revoked_peer_goes_on_as_plain_tcp_and_moves_no_more() {
    let (mut world, connection) = world();
    revoke_a(&mut world);
    assert_eq!(world.b.agent.pairs.all().count(), 0);
    assert!(world.b.agent.sessions.is_empty(), "nothing of it is kept");
    world.assert_data_flows(connection);

    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.0.2.7");
    world.run(millis(5_000));
    assert_eq!(world.state(Side::A, connection), Some(State::MigSent));
    assert_eq!(world.state(Side::B, connection), None);
}

#[test]
fn a_connection_that_has_moved_stays_where_it_is_when_its_peer_is_revoked() {
    let (mut world, connection) = world();
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.0.2.7");
    world.run(millis(2_000));
    world.assert_resumed(connection, "192.0.2.7", "203.0.113.3");
    revoke_a(&mut world);
    world.assert_data_flows(connection);

    let own = crate::world::seen_by(Side::B, connection);
    // A restarted agent finds no key either.
    for restart in [false, true] {
        if restart {
            let now = world.now;
            world.b.restart_agent(now);
        }
        let committed = |world: &World| world.b.agent.sessions[&own].machine.committed();
        let before = committed(&world);
        assert_ne!(before, ReqNo::UNMOVED);
        world.lose(Side::A, if restart { "192.0.2.8" } else { "192.0.2.7" });
        world.gain(Side::A, if restart { "192.0.2.9" } else { "192.0.2.8" });
        world.run(millis(5_000));
        assert_eq!(committed(&world), before, "after a restart: {restart}");
    }
}

#[test]
fn no_new_keys_are_agreed_with_a_revoked_peer() {
    let (mut world, _) = world();
    let pair = world.b.agent.pairs.all().next().expect("they have met").clone();
    revoke_a(&mut world);
    world.b.agent.pair_event(PairEvent::Agreed(Box::new(pair)));
    assert_eq!(world.b.agent.pairs.all().count(), 0);
    assert_eq!(world.b.agent.timeline.counts().get("pair_revoked"), Some(&1));
}

#[test]
fn who_is_no_peer_of_this_host_or_is_named_by_a_stranger_is_not_revoked() {
    let (mut world, connection) = world();
    let now = world.now;
    for agent in ["", "spiffe://mobility/agent/somebody"] {
        let agent = agent.to_owned();
        world.b.told(Body::Revoked(said::Revoked { agent }), now);
    }
    let event = host_agent::server::ServerEvent::Said {
        server: "https://stranger.example:7800".into(),
        body: Body::Revoked(said::Revoked {
            agent: world.a.id().to_string(),
        }),
    };
    world.b.agent.server_event(event, now);
    world.lose(Side::A, "10.0.1.2");
    world.gain(Side::A, "192.0.2.7");
    world.run(millis(2_000));
    world.assert_resumed(connection, "192.0.2.7", "203.0.113.3");
}
