//! Joining a deployment: tokens, keys made here, answers that are checked, and what is sealed for a peer.

use std::time::Duration;

use identity::{Application, Authority, EnrolmentToken, HostIdentity, JoinError, Validity, sealed};

fn token() -> EnrolmentToken {
    let fingerprint = "ab".repeat(32).parse().unwrap();
    EnrolmentToken::new(fingerprint, [7; 24])
}

#[test]
fn a_token_survives_its_text_and_shows_its_secret_to_nobody_else() {
    let token = token();
    let again: EnrolmentToken = token.reveal().parse().unwrap();
    assert_eq!(again, token);
    assert!(!format!("{token:?}").contains("0707"));
    let whole = token.reveal();
    let longer = format!("{whole}0");
    for damaged in ["", "mt1-", "mt2-00-00", &whole[..100], &longer] {
        assert!(damaged.parse::<EnrolmentToken>().is_err(), "{damaged}");
    }
}

#[test]
fn a_host_takes_only_a_certificate_for_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::create(&dir.path().join("ca"), Validity::of_authority()).unwrap();
    let application = Application::new("phone").unwrap();
    let other = authority.issue("phone", Validity::of_host()).unwrap();
    let refused = application.check(&other.certificate_pem, authority.certificate_pem(), None);
    assert!(matches!(refused, Err(JoinError::Answer(_))));
}

#[test]
fn what_is_there_is_replaced_only_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("identity");
    identity::init_host(&dir.path().join("ca"), &home, "phone").unwrap();
    let before = HostIdentity::load(&home).unwrap().fingerprint();
    let application = Application::new("phone").unwrap();
    let refused = application.settle(&home, "", "", false);
    assert!(matches!(refused, Err(JoinError::Taken { .. })));
    assert_eq!(HostIdentity::load(&home).unwrap().fingerprint(), before);
}

#[test]
fn a_renewal_keeps_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, home) = (dir.path().join("ca"), dir.path().join("identity"));
    identity::init_host(&ca, &home, "phone").unwrap();
    let before = HostIdentity::load(&home).unwrap();
    assert_eq!(
        Application::again(&home).unwrap().fingerprint,
        before.fingerprint()
    );
    let key = std::fs::read_to_string(home.join("host.key")).unwrap();
    let longer = Validity::from_now(Duration::from_secs(2 * 365 * 24 * 3600));
    let authority = Authority::load(&ca).unwrap();
    let newer = authority.renew(&key, "phone", "mobility", longer).unwrap();
    identity::renewed(&home, &newer.certificate_pem).unwrap();
    let after = HostIdentity::load(&home).unwrap();
    assert_eq!(after.agent_id(), before.agent_id());
    assert!(after.not_after() > before.not_after());
    let foreign = authority.issue("phone", longer).unwrap();
    assert!(identity::renewed(&home, &foreign.certificate_pem).is_err());
}

#[tokio::test]
async fn only_the_peer_opens_what_is_sealed_for_it() {
    let deployment = crate::common::Deployment::new();
    let (phone, server) = (deployment.agent("phone"), deployment.agent("server"));
    let (ours, theirs) = crate::common::pairs(
        (&phone, crate::common::facts()),
        (&server, crate::common::facts()),
    )
    .await;
    let (me, peer) = (theirs.peer.clone(), ours.peer.clone());
    let text = sealed::seal(&ours, &me, b"192.168.1.2").unwrap();
    assert_eq!(sealed::epoch_of(&text), Some(ours.epoch));
    assert_eq!(&sealed::open(&theirs, &text).unwrap()[..], b"192.168.1.2");
    // Turned back on its sender.
    assert!(sealed::open(&ours, &text).is_err());
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1;
        assert!(sealed::open(&theirs, &changed).is_err(), "byte {at}");
        assert!(sealed::open(&theirs, &text[..at]).is_err(), "cut at {at}");
    }
    assert!(sealed::open(&theirs, &sealed::seal(&ours, &peer, b"x").unwrap()).is_err());
}
