//! Joining a deployment, and staying in it.

use host_agent::server::enrolment::{EnrolError, enrol, servers_of};
use host_agent::server::renewal::Renewal;
use identity::{EnrolmentToken, Fingerprint, HostIdentity};
use rcgen::SanType;
use tokio::sync::{mpsc, watch};

use crate::hub::{Hub, LIMIT, der};

#[tokio::test]
async fn a_token_gets_a_certificate_for_a_key_made_here() {
    let hub = Hub::new().await;
    let home = hub.dir.path().join("home");
    let done = enrol(&hub.url, &hub.token.reveal(), "phone", &home, false)
        .await
        .unwrap();
    assert_eq!(done.identity.name(), "phone");
    let identity = HostIdentity::load(&home).unwrap();
    assert_eq!(identity.agent_id(), done.identity.agent_id());
    assert_eq!(servers_of(&home), ["https://hub.example:7800"]);
    assert_eq!(
        der(&std::fs::read_to_string(home.join("ca.pem")).unwrap()),
        der(&std::fs::read_to_string(hub.authorities()).unwrap())
    );

    let again = enrol(&hub.url, &hub.token.reveal(), "phone", &home, false).await;
    assert!(matches!(
        again,
        Err(EnrolError::Join(identity::JoinError::Taken { .. }))
    ));
    enrol(&hub.url, &hub.token.reveal(), "phone", &home, true)
        .await
        .unwrap();
    assert_ne!(HostIdentity::load(&home).unwrap().agent_id(), identity.agent_id());
}

#[tokio::test]
async fn the_fingerprint_in_the_token_says_who_the_server_must_be() {
    let hub = Hub::new().await;
    let home = hub.dir.path().join("home");
    let token = EnrolmentToken::new(Fingerprint([1; 32]), [5; 24]).reveal();
    let refused = enrol(&hub.url, &token, "phone", &home, false).await;
    assert!(matches!(refused, Err(EnrolError::Connect(_))), "{refused:?}");
    assert!(!home.exists(), "nothing is written");

    let elsewhere = Hub::named(SanType::DnsName("other.example".try_into().unwrap())).await;
    let refused = enrol(&elsewhere.url, &elsewhere.token.reveal(), "phone", &home, false).await;
    assert!(
        matches!(refused, Err(EnrolError::Connect(_))),
        "the certificate names another host"
    );
}

#[tokio::test]
async fn a_refused_token_leaves_nothing_behind() {
    let hub = Hub::new().await;
    let home = hub.dir.path().join("home");
    let token = EnrolmentToken::new(hub.token.authority(), [6; 24]).reveal();
    let refused = enrol(&hub.url, &token, "phone", &home, false).await.unwrap_err();
    assert!(refused.to_string().contains("enroll-token"), "{refused}");
    assert!(!home.exists());
    for wrong in ["http://127.0.0.1:1", "127.0.0.1", "https://", "https://a/b"] {
        let refused = enrol(wrong, &hub.token.reveal(), "phone", &home, false).await;
        assert!(matches!(refused, Err(EnrolError::Connect(_))), "{wrong}");
    }
}

#[tokio::test]
async fn a_certificate_near_its_end_is_renewed_for_the_same_key() {
    let hub = Hub::new().await;
    let due = hub.agent_for("phone", 600);
    let home = hub.dir.path().join("phone");
    let (_sender, credentials) = watch::channel(due.clone());
    let (renewed, mut told) = mpsc::channel(1);
    let renewal = Renewal {
        // The first one is not there.
        servers: vec!["https://127.0.0.1:1".into(), hub.url.clone()],
        credentials,
        identity: home.clone(),
        authorities: hub.authorities(),
        mark: 0,
        renewed,
    };
    let running = tokio::spawn(renewal.run());
    tokio::time::timeout(LIMIT, told.recv()).await.unwrap().unwrap();
    running.abort();
    let after = HostIdentity::load(&home).unwrap();
    assert_eq!(after.agent_id(), due.identity().agent_id());
    assert!(after.not_after() > due.identity().not_after());
}
