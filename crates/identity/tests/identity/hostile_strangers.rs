//! Peers that do not get past TLS: each ends in a reason, within the limit, and learns nothing.

use std::time::Instant;

use crate::common::rogue::{Rogue, linger};
use crate::common::{
    DAY, Deployment, LIMIT, SHORT, accepting, dialling, exchange, expired, facts, identity, pinning, reason,
    self_signed, sockets,
};
use identity::{Credentials, ExchangeError, IssuedIdentity, Trust, Validity, accept, dial};
use rcgen::{CertificateParams, DnType, Issuer, KeyPair, SanType};
use std::time::SystemTime;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn garbage_is_named_so_by_either_side() {
    let agent = Deployment::new().agent("agent");
    let talk = |mut stream: tokio::net::TcpStream| async move {
        stream
            .write_all(b"SSH-2.0-OpenSSH_9.9\r\n\0\0\0\0\0\0\0\0")
            .await
            .unwrap();
        linger(&mut stream).await;
    };
    assert_eq!(reason(accepting(&agent, LIMIT, talk).await), "garbage");
    assert_eq!(reason(dialling(&agent, LIMIT, talk).await), "garbage");
}

#[tokio::test]
async fn silence_ends_at_the_limit_and_not_much_later() {
    let agent = Deployment::new().agent("agent");
    let silent = |mut stream: tokio::net::TcpStream| async move { linger(&mut stream).await };
    for side in ["acceptor", "dialer"] {
        let began = Instant::now();
        let outcome = match side {
            "acceptor" => accepting(&agent, SHORT, silent).await,
            _ => dialling(&agent, SHORT, silent).await,
        };
        assert_eq!(reason(outcome), "silent", "{side}");
        assert!(
            (SHORT..SHORT * 3).contains(&began.elapsed()),
            "{side} took {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test]
async fn half_a_client_hello_is_silence_or_a_close() {
    let agent = Deployment::new().agent("agent");
    // A handshake record of 512 bytes of which 5 arrive.
    let half = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3];
    let stalls = |mut stream: tokio::net::TcpStream| async move {
        stream.write_all(&half).await.unwrap();
        linger(&mut stream).await;
    };
    let closes = |mut stream: tokio::net::TcpStream| async move { stream.write_all(&half).await.unwrap() };
    assert_eq!(reason(accepting(&agent, SHORT, stalls).await), "silent");
    assert_eq!(reason(accepting(&agent, LIMIT, closes).await), "closed");
}

#[tokio::test]
async fn a_peer_that_closes_at_once_is_named_so_by_either_side() {
    let agent = Deployment::new().agent("agent");
    assert_eq!(
        reason(accepting(&agent, LIMIT, |stream| async { drop(stream) }).await),
        "closed"
    );
    assert_eq!(
        reason(dialling(&agent, LIMIT, |stream| async { drop(stream) }).await),
        "closed"
    );
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_by_either_side_and_the_other_hears_it() {
    let (here, elsewhere) = (Deployment::new(), Deployment::new());
    let (agent, stranger) = (here.agent("agent"), elsewhere.agent("stranger"));
    let (dialled, accepted) = exchange((&stranger, facts()), (&agent, facts())).await;
    // The dialer sees the acceptor's certificate first and refuses it.
    assert_eq!(reason(dialled), "other_authority");
    assert_eq!(reason(accepted), "refused_by_peer");

    // One that trusts both CAs gets further, and is refused by the acceptor.
    let both = here.dir.path().join("both.pem");
    let bundle = [
        here.authority.certificate_pem(),
        elsewhere.authority.certificate_pem(),
    ]
    .concat();
    std::fs::write(&both, bundle).unwrap();
    let issued = elsewhere
        .authority
        .issue("stranger", Validity::of_host())
        .unwrap();
    let stranger = Credentials::new(identity(&issued), &Trust::Ca { bundle: both }).unwrap();
    let (dialled, accepted) = exchange((&stranger, facts()), (&agent, facts())).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.reason(), "other_authority");
    assert!(error.to_string().contains("stranger"), "{error}");
    let error = dialled.unwrap_err();
    assert_eq!(error.reason(), "refused_by_peer");
    assert!(error.to_string().contains("another authority"), "{error}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_either_side_and_the_other_hears_it() {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let late = deployment.agent_valid("late", expired());
    let (dialled, accepted) = exchange((&late, facts()), (&agent, facts())).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.reason(), "expired");
    assert!(
        error.to_string().contains("late") && error.to_string().contains("renew"),
        "{error}"
    );
    let error = dialled.unwrap_err();
    assert_eq!(error.reason(), "refused_by_peer");
    assert!(error.to_string().contains("expired"), "{error}");

    let (dialled, accepted) = exchange((&agent, facts()), (&late, facts())).await;
    assert_eq!(reason(dialled), "expired");
    assert_eq!(reason(accepted), "refused_by_peer");
}

#[tokio::test]
async fn a_certificate_of_tomorrow_is_not_yet_valid() {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let tomorrow = Validity {
        not_before: SystemTime::now() + DAY,
        not_after: SystemTime::now() + 9 * DAY,
    };
    let early = deployment.agent_valid("early", tomorrow);
    assert_eq!(
        reason(exchange((&early, facts()), (&agent, facts())).await.1),
        "not_yet_valid"
    );
    assert_eq!(
        reason(exchange((&agent, facts()), (&early, facts())).await.0),
        "not_yet_valid"
    );
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let agent = Deployment::new().agent("agent");
    let outcome = accepting(&agent, LIMIT, |stream| async {
        if let Ok(mut tls) = Rogue::anonymous().dial(stream).await {
            linger(&mut tls).await;
        }
    })
    .await;
    assert_eq!(reason(outcome), "no_certificate");
}

#[tokio::test]
async fn tls_1_2_is_not_spoken_with_either_side() {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let issued = deployment.authority.issue("old", Validity::of_host()).unwrap();
    let old = Rogue {
        version: &rustls::version::TLS12,
        ..Rogue::with(&issued)
    };
    let outcome = accepting(&agent, LIMIT, |stream| async {
        let error = old.dial(stream).await.unwrap_err().to_string();
        assert!(
            error.contains("ProtocolVersion"),
            "refused for another reason: {error}"
        );
    })
    .await;
    assert_eq!(reason(outcome), "incompatible_tls");
    let outcome = dialling(&agent, LIMIT, |stream| async {
        let error = old.accept(stream).await.unwrap_err().to_string();
        assert!(
            error.contains("Tls12NotOffered"),
            "refused for another reason: {error}"
        );
    })
    .await;
    assert_eq!(reason(outcome), "incompatible_tls");

    // The same peer is spoken with as soon as it speaks 1.3: the version is what was refused.
    let outcome = accepting(&agent, SHORT, |stream| async {
        linger(&mut Rogue::with(&issued).dial(stream).await.unwrap()).await;
    })
    .await;
    assert!(matches!(
        outcome,
        Err(ExchangeError::Silent {
            stage: identity::Stage::Hello,
            ..
        })
    ));
}

#[tokio::test]
async fn another_protocol_over_tls_is_not_the_exchange() {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let issued = deployment.authority.issue("web", Validity::of_host()).unwrap();
    for alpn in [None, Some(&b"h2"[..])] {
        let web = Rogue {
            alpn,
            ..Rogue::with(&issued)
        };
        let outcome = accepting(&agent, LIMIT, |stream| async {
            if let Ok(mut tls) = web.dial(stream).await {
                linger(&mut tls).await;
            }
        })
        .await;
        assert_eq!(reason(outcome), "incompatible_tls", "{alpn:?}");
        let outcome = dialling(&agent, LIMIT, |stream| async {
            if let Ok(mut tls) = web.accept(stream).await {
                linger(&mut tls).await;
            }
        })
        .await;
        assert_eq!(reason(outcome), "incompatible_tls", "{alpn:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_pinned_is_refused_with_the_fingerprint_to_pin() {
    let (a, b, stranger) = (self_signed("a"), self_signed("b"), self_signed("stranger"));
    let agent = pinning(&a, &[b.fingerprint]);
    let stranger_agent = pinning(&stranger, &[a.fingerprint]);
    let (dialled, accepted) = exchange((&stranger_agent, facts()), (&agent, facts())).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.reason(), "not_pinned");
    assert!(
        error.to_string().contains(&stranger.fingerprint.to_string()),
        "{error}"
    );
    assert_eq!(reason(dialled), "refused_by_peer");
    assert_eq!(
        reason(exchange((&agent, facts()), (&stranger_agent, facts())).await.0),
        "not_pinned"
    );
}

#[tokio::test]
async fn a_pinned_key_expires_like_any_other() {
    let (a, b) = (
        self_signed("a"),
        IssuedIdentity::self_signed("b", expired()).unwrap(),
    );
    let (agent, late) = (pinning(&a, &[b.fingerprint]), pinning(&b, &[a.fingerprint]));
    assert_eq!(
        reason(exchange((&late, facts()), (&agent, facts())).await.1),
        "expired"
    );
    assert_eq!(
        reason(exchange((&agent, facts()), (&late, facts())).await.0),
        "expired"
    );
}

/// A certificate of a CA's directory, or of its own key, with any URIs.
fn forged(ca: Option<&std::path::Path>, uris: &[&str]) -> IssuedIdentity {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params
        .distinguished_name
        .push(DnType::CommonName, "forged\u{1b}[31m");
    params.subject_alt_names = uris
        .iter()
        .map(|uri| SanType::URI((*uri).try_into().unwrap()))
        .collect();
    let certificate = match ca {
        Some(dir) => {
            let read = |name| std::fs::read_to_string(dir.join(name)).unwrap();
            let ca_key = KeyPair::from_pem(&read("ca.key")).unwrap();
            let issuer = Issuer::from_ca_cert_pem(&read("ca.pem"), ca_key).unwrap();
            params.signed_by(&key, &issuer).unwrap()
        }
        None => params.self_signed(&key).unwrap(),
    };
    use rcgen::PublicKeyData;
    let fingerprint = identity::Fingerprint::of_spki(&key.subject_public_key_info());
    IssuedIdentity {
        agent: identity::AgentId::from_key("mobility", &fingerprint).unwrap(),
        fingerprint,
        not_after: SystemTime::now(),
        certificate_pem: certificate.pem(),
        key_pem: key.serialize_pem().into(),
    }
}

#[tokio::test]
async fn a_pinned_agent_cannot_take_another_agents_name() {
    let (a, b) = (self_signed("a"), self_signed("b"));
    let mallory = forged(None, &[b.agent.as_str()]);
    let agent = pinning(&a, &[b.fingerprint, mallory.fingerprint]);
    let mallory = pinning(&mallory, &[a.fingerprint]);
    assert_eq!(
        reason(exchange((&mallory, facts()), (&agent, facts())).await.1),
        "foreign_identity"
    );
    assert_eq!(
        reason(exchange((&agent, facts()), (&mallory, facts())).await.0),
        "foreign_identity"
    );
}

#[tokio::test]
async fn a_certificate_of_the_ca_that_does_not_name_one_agent_is_refused() {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let other = deployment.authority.issue("other", Validity::of_host()).unwrap();
    let two = [
        other.agent.as_str(),
        "spiffe://mobility/agent/00000000-0000-8000-8000-000000000000",
    ];
    for uris in [
        &[][..],
        &["https://example.org/"],
        &["spiffe://mobility/server/x"],
        &two,
    ] {
        let issued = forged(Some(deployment.dir.path()), uris);
        let outcome = accepting(&agent, LIMIT, |stream| async {
            if let Ok(mut tls) = Rogue::with(&issued).dial(stream).await {
                linger(&mut tls).await;
            }
        })
        .await;
        let error = outcome.unwrap_err();
        assert_eq!(error.reason(), "no_agent", "{uris:?}");
        assert!(
            !error.to_string().contains('\u{1b}'),
            "a stranger's text must not steer a terminal"
        );
    }
}

#[tokio::test]
async fn an_agent_does_not_pair_with_itself() {
    let agent = Deployment::new().agent("agent");
    let (dialled, accepted) = exchange((&agent, facts()), (&agent, facts())).await;
    assert_eq!((reason(dialled), reason(accepted)), ("myself", "myself"));
}

#[tokio::test]
async fn the_limit_covers_the_exchange_as_a_whole() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    // The other end begins when this one has given up.
    let (near, far) = sockets().await;
    let local = facts();
    let limit = std::time::Duration::from_millis(20);
    assert_eq!(reason(dial(near, &a, &local, limit).await), "silent");
    assert!(["silent", "closed"].contains(&reason(accept(far, &b, &local, limit).await)));
    // A limit that no clock reaches is no reason to panic.
    let (near, far) = sockets().await;
    let limit = std::time::Duration::MAX;
    let (dialled, accepted) = tokio::join!(dial(near, &a, &local, limit), accept(far, &b, &local, limit));
    assert!(dialled.is_ok() && accepted.is_ok());
}

#[tokio::test]
async fn strangers_do_not_disturb_an_exchange_beside_them() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let silent = |mut stream: tokio::net::TcpStream| async move { linger(&mut stream).await };
    let noise = futures_join(&b, silent);
    let (noise, (dialled, accepted)) = tokio::join!(noise, exchange((&a, facts()), (&b, facts())));
    assert_eq!(noise, ["silent"; 8]);
    assert!(dialled.is_ok() && accepted.is_ok());
}

async fn futures_join<F: Future<Output = ()> + Send + 'static>(
    agent: &Credentials,
    peer: impl Fn(tokio::net::TcpStream) -> F + Copy + Send + 'static,
) -> Vec<&'static str> {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let agent = agent.clone();
        // Spawned: the futures of an exchange can move between threads.
        tasks.spawn(async move { reason(accepting(&agent, SHORT, peer).await) });
    }
    tasks.join_all().await
}
