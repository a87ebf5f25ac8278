//! What two agents that trust each other agree on.

use std::time::Duration;

use crate::common::{Deployment, LOOPBACK, exchange, facts, pairs, pinning, self_signed};
use identity::message::{Enrol, EnrolSecret, EnrolStep};
use identity::{Abilities, Epochs, Message, Remembered, Role, SleepHint};
use wire::Tuple;

#[tokio::test]
async fn two_agents_of_one_ca_agree_on_a_pair() {
    let deployment = Deployment::new();
    let (phone, server) = (deployment.agent("phone"), deployment.agent("server"));
    let (at_phone, at_server) = pairs((&phone, facts()), (&server, facts())).await;

    assert_eq!(at_phone.pair_id, at_server.pair_id);
    assert_eq!(at_phone.exchange_id, at_server.exchange_id);
    assert!(at_phone.key == at_server.key);
    assert_ne!(at_phone.key.as_bytes(), &[0; 32]);
    assert_eq!((at_phone.epoch, at_server.epoch), (1, 1));
    assert_eq!(at_phone.peer, *server.identity().agent_id());
    assert_eq!(at_server.peer, *phone.identity().agent_id());
    assert_eq!(
        (at_phone.peer_name.as_str(), at_server.peer_name.as_str()),
        ("server", "phone")
    );
    assert_eq!(at_phone.peer_fingerprint, server.identity().fingerprint());
    assert_eq!(
        (at_phone.established_by, at_server.established_by),
        (Role::Dialer, Role::Acceptor)
    );
    assert_eq!(at_phone.dialled_by_smaller, at_server.dialled_by_smaller);
    assert_eq!(at_phone.peer_observed, at_server.self_observed);
    assert_eq!(at_server.peer_observed, at_phone.self_observed);
    assert_eq!(at_phone.self_observed.address, LOOPBACK);
    assert_eq!(at_phone.peer_agent_port, 5440);
    assert_eq!(at_phone.peer_direct_addresses, facts().direct_addresses);
}

#[tokio::test]
async fn two_agents_that_pin_each_other_need_no_ca() {
    let (a, b) = (self_signed("a"), self_signed("b"));
    let (at_a, at_b) = pairs(
        (&pinning(&a, &[b.fingerprint]), facts()),
        (&pinning(&b, &[a.fingerprint]), facts()),
    )
    .await;
    assert!(at_a.key == at_b.key);
    assert_eq!((at_a.peer, at_b.peer), (b.agent.clone(), a.agent.clone()));
}

#[tokio::test]
async fn one_may_pin_while_the_other_trusts_the_ca() {
    let deployment = Deployment::new();
    let a = deployment
        .authority
        .issue("a", identity::Validity::of_host())
        .unwrap();
    let b = deployment.agent("b");
    let a = pinning(&a, &[b.identity().fingerprint()]);
    let (at_a, at_b) = pairs((&a, facts()), (&b, facts())).await;
    assert_eq!(at_a.pair_id, at_b.pair_id);
}

#[tokio::test]
async fn a_host_seen_under_an_address_it_does_not_have_is_behind_a_napt() {
    let deployment = Deployment::new();
    let (phone, server) = (deployment.agent("phone"), deployment.agent("server"));
    let mut hidden = facts();
    hidden.direct_addresses = vec!["192.168.1.2".parse().unwrap()];
    let (at_phone, at_server) = pairs((&phone, hidden), (&server, facts())).await;
    assert!(at_phone.self_behind_napt && at_server.peer_behind_napt);
    assert!(!at_phone.peer_behind_napt && !at_server.self_behind_napt);
}

#[tokio::test]
async fn a_tunnel_that_hides_the_peer_yields_no_finding_about_napts() {
    let deployment = Deployment::new();
    let (phone, server) = (deployment.agent("phone"), deployment.agent("server"));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (near, far) = ((near, facts()), (far, facts()));
    let (dialled, accepted) = tokio::join!(
        identity::dial(near.0, &phone, &near.1, crate::common::LIMIT),
        identity::accept(far.0, &server, &far.1, crate::common::LIMIT)
    );
    let (at_phone, at_server) = (dialled.unwrap().pair, accepted.unwrap().pair);
    assert_eq!(at_phone.peer_observed, wire::tuple::UNSPECIFIED);
    assert_eq!(at_server.self_observed, wire::tuple::UNSPECIFIED);
    assert!(!at_phone.peer_behind_napt && !at_phone.self_behind_napt);
    assert!(!at_server.peer_behind_napt && !at_server.self_behind_napt);
}

#[tokio::test]
async fn only_servers_that_both_may_use_are_common_in_the_dialers_order() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let with = |servers: &[&str]| {
        let mut facts = facts();
        facts.servers = servers.iter().map(|url| url.to_string()).collect();
        facts
    };
    let dialer = with(&["https://x", "https://y/", "https://z", "https://Y"]);
    let (at_a, at_b) = pairs((&a, dialer.clone()), (&b, with(&["https://z", "https://y"]))).await;
    assert_eq!(at_a.common_servers, ["https://y/", "https://z"]);
    assert_eq!(at_a.common_servers, at_b.common_servers);
    assert!(!at_a.no_common_server);

    let (at_a, at_b) = pairs((&a, dialer), (&b, with(&["https://q"]))).await;
    assert!(at_a.common_servers.is_empty() && at_a.no_common_server && at_b.no_common_server);
}

#[tokio::test]
async fn abilities_are_those_of_both_and_sleep_is_the_peers() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let mut sleepy = facts();
    sleepy.abilities = Abilities::MIGRATE.with(Abilities::ENROL);
    sleepy.sleep = SleepHint {
        may_sleep: true,
        longest: Duration::from_secs(86_400),
    };
    let (at_a, at_b) = pairs((&a, sleepy.clone()), (&b, facts())).await;
    assert_eq!(at_a.abilities, Abilities::MIGRATE);
    assert_eq!(at_b.abilities, Abilities::MIGRATE);
    assert_eq!(at_b.peer_sleep, sleepy.sleep);
    assert_eq!(at_a.peer_sleep, SleepHint::default());
}

#[tokio::test]
async fn a_new_exchange_is_the_next_epoch_of_the_same_pair_with_another_key() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let (first_a, first_b) = pairs((&a, facts()), (&b, facts())).await;

    let remembering = |pair: &identity::Pair| {
        let mut facts = facts();
        let remembered = Remembered {
            highest_epoch: pair.epoch,
            pair_id: pair.pair_id,
        };
        facts.known.insert(pair.peer.clone(), remembered);
        facts
    };
    let (second_a, second_b) = pairs((&a, remembering(&first_a)), (&b, remembering(&first_b))).await;
    assert_eq!((second_a.epoch, second_b.epoch), (2, 2));
    assert_eq!(second_a.pair_id, first_a.pair_id);
    assert_ne!(second_a.exchange_id, first_a.exchange_id);
    assert!(second_a.key != first_a.key && second_a.key == second_b.key);

    let mut epochs = Epochs::new(first_a.clone());
    assert!(epochs.insert(second_a.clone()).current);
    assert!(epochs.key(1) == Some(&first_a.key) && epochs.key(2) == Some(&second_a.key));
}

#[tokio::test]
async fn an_agent_that_lost_its_keys_gets_a_number_above_what_the_other_remembers() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let mut remembering = facts();
    let old = uuid::Uuid::from_bytes([7; 16]);
    let remembered = Remembered {
        highest_epoch: 41,
        pair_id: old,
    };
    remembering
        .known
        .insert(b.identity().agent_id().clone(), remembered);
    remembering
        .known
        .insert(a.identity().agent_id().clone(), remembered);

    let (at_a, at_b) = pairs((&a, facts()), (&b, remembering.clone())).await;
    assert_eq!((at_a.epoch, at_b.epoch), (42, 42));
    assert_ne!(at_a.pair_id, old);
    let (at_a, at_b) = pairs((&a, remembering), (&b, facts())).await;
    assert_eq!((at_a.epoch, at_b.epoch), (42, 42));
}

#[tokio::test]
async fn nothing_secret_is_printed() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let (dialled, _accepted) = exchange((&a, facts()), (&b, facts())).await;
    let session = dialled.unwrap();
    let key = session.pair.key.as_bytes();
    let printed = format!("{:?} {:?} {:?}", session.pair, a, deployment.authority);
    for shape in [hex::encode(key), format!("{key:?}"), "PRIVATE KEY".into()] {
        assert!(!printed.contains(&shape), "{printed}");
    }
    let secret = Enrol {
        question: 1,
        step: EnrolStep::Offer,
        tuple: Tuple::new(wire::tuple::UNSPECIFIED, wire::tuple::UNSPECIFIED),
        snd_una: 0,
        snd_nxt: 0,
        rcv_nxt: 0,
        random: EnrolSecret([171; 16]),
    };
    let printed = format!(
        "{secret:?} {:?} {:?}",
        secret.random,
        Message::Enrol(secret.clone())
    );
    assert!(!printed.contains("171"), "{printed}");
}
