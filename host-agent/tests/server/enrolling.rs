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
    let done = enrol(&hub.url, &hub.token.reveal(), "phone", &home, false).await.unwrap();
    assert_eq!(done.identity.name(), "phone");
    let identity = HostIdentity::load(&home).unwrap();
    assert_eq!(identity.agent_id(), done.identity.agent_id());
    assert_eq!(servers_of(&home), ["https://hub.example:7800"]);
    assert_eq!(
        der(&std::fs::read_to_string(home.join("ca.pem")).unwrap()),
        der(&std::fs::read_to_string(hub.authorities()).unwrap())
    );

    let again = enrol(&hub.url, &hub.token.reveal(), "phone", &home, false).await;
    assert!(matches!(again, Err(EnrolError::Join(identity::JoinError::Taken { .. }))));
    enrol(&hub.url, &hub.token.reveal(), "phone", &home, true).await.unwrap();
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
    assert!(matches!(refused, Err(EnrolError::Connect(_))), "the certificate names another host");
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
    let credentials = hub.agent("phone");
    let home = hub.dir.path().join("phone");
    let authority = identity::Authority::create(&hub.dir.path().join("short"), identity::Validity::of_authority());
    let authority = authority.unwrap();
    let key = std::fs::read_to_string(home.join("host.key")).unwrap();
    let now = std::time::SystemTime::now();
    let almost_over = identity::Validity {
        not_before: now - std::time::Duration::from_secs(3600),
        not_after: now + std::time::Duration::from_secs(600),
    };
    let short = authority.renew(&key, "phone", "mobility", almost_over).unwrap();
    let short = HostIdentity::from_pem(short.certificate_pem.as_bytes(), key.as_bytes()).unwrap();
    let trust = identity::Trust::Ca {
        bundle: hub.authorities(),
    };
    let due = identity::Credentials::new(short, &trust).unwrap();
    std::fs::remove_file(home.join("host.pem")).unwrap();
    std::fs::write(
        home.join("host.pem"),
        authority.renew(&key, "phone", "mobility", almost_over).unwrap().certificate_pem,
    )
    .unwrap();
    let (_sender, credentials_receiver) = watch::channel(due);
    let (renewed, mut told) = mpsc::channel(1);
    let renewal = Renewal {
        servers: vec!["https://127.0.0.1:1".into(), hub.url.clone()],
        credentials: credentials_receiver,
        identity: home.clone(),
        authorities: hub.authorities(),
        mark: 0,
        renewed,
    };
    // The server would not accept the short one: what it trusts is its own authority.
    let (_, good) = watch::channel(credentials.clone());
    let running = tokio::spawn(renewal.run());
    let refused = tokio::time::timeout(std::time::Duration::from_millis(300), told.recv()).await;
    assert!(refused.is_err(), "a certificate of another authority is not renewed");
    running.abort();
    drop(good);
    assert_eq!(HostIdentity::load(&home).unwrap().agent_id(), credentials.identity().agent_id());
    let _ = LIMIT;
}
