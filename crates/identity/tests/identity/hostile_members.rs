//! Peers with a good certificate that break the exchange: each ends in a reason, within the limit.

use std::time::Duration;

use crate::common::rogue::{self, Rogue, Scene, confirm, frame, hear, hello, linger, say, scene, welcome};
use crate::common::{Deployment, LIMIT, SHORT, accepting, dialling, facts, pair_only, reason, sockets};
use identity::{MAX_FRAME, Remembered, accept, dial};
use proto::pair::v1 as pb;
use proto::pair::v1::envelope::Body;

/// What the agent makes of a member that dials and says these bytes, and what it says to it.
async fn told(scene: &Scene, limit: Duration, bytes: &[u8]) -> (&'static str, Option<Body>) {
    let mut heard = None;
    let outcome = accepting(&scene.agent, limit, |stream| async {
        let mut tls = Rogue::with(&scene.rogue).dial(stream).await.unwrap();
        say(&mut tls, bytes).await;
        heard = hear(&mut tls).await.ok();
        linger(&mut tls).await;
    })
    .await;
    (reason(outcome), heard)
}

/// What the agent makes of a member that it dials and that answers its Hello with these bytes.
async fn answered(scene: &Scene, limit: Duration, bytes: &[u8]) -> &'static str {
    let outcome = dialling(&scene.agent, limit, |stream| async {
        let mut tls = Rogue::with(&scene.rogue).accept(stream).await.unwrap();
        assert!(matches!(hear(&mut tls).await.unwrap(), Body::Hello(_)));
        say(&mut tls, bytes).await;
        linger(&mut tls).await;
    })
    .await;
    reason(outcome)
}

#[tokio::test]
async fn a_member_that_says_nothing_is_silent() {
    let scene = scene();
    assert_eq!(told(&scene, SHORT, &[]).await.0, "silent");
    assert_eq!(answered(&scene, SHORT, &[]).await, "silent");
}

#[tokio::test]
async fn garbage_within_tls_is_malformed() {
    let scene = scene();
    let mut garbage = 64u32.to_be_bytes().to_vec();
    garbage.extend([0xff; 64]);
    let (reason, heard) = told(&scene, LIMIT, &garbage).await;
    assert_eq!(reason, "malformed");
    assert!(matches!(heard, Some(Body::Refuse(refuse)) if refuse.reason() == pb::refuse::Reason::Malformed));
    assert_eq!(answered(&scene, LIMIT, &garbage).await, "malformed");
    assert_eq!(told(&scene, LIMIT, &0u32.to_be_bytes()).await.0, "malformed");
}

#[tokio::test]
async fn half_a_message_is_named_so_whether_the_peer_stalls_or_closes() {
    let scene = scene();
    let whole = hello(crate::common::rogue::facts());
    for length in [1, 3, 4, 5, whole.len() - 1] {
        let half = &whole[..length];
        let outcome = accepting(&scene.agent, LIMIT, |stream| async {
            let mut tls = Rogue::with(&scene.rogue).dial(stream).await.unwrap();
            say(&mut tls, half).await;
        })
        .await;
        assert_eq!(reason(outcome), "half_message", "{length} bytes, then closed");
    }
    for length in [3, whole.len() - 1] {
        assert_eq!(
            told(&scene, SHORT, &whole[..length]).await.0,
            "half_message",
            "{length} bytes"
        );
    }
    assert_eq!(answered(&scene, SHORT, &whole[..9]).await, "half_message");
}

#[tokio::test]
async fn an_oversize_prefix_is_refused_before_its_body_comes() {
    let scene = scene();
    for length in [MAX_FRAME as u32 + 1, u32::MAX] {
        assert_eq!(told(&scene, LIMIT, &length.to_be_bytes()).await.0, "oversize");
        assert_eq!(answered(&scene, LIMIT, &length.to_be_bytes()).await, "oversize");
    }
    // The largest that is allowed is waited for, and then judged by its content.
    let mut largest = (MAX_FRAME as u32).to_be_bytes().to_vec();
    largest.resize(4 + MAX_FRAME, 0xff);
    assert_eq!(told(&scene, LIMIT, &largest).await.0, "malformed");
}

#[tokio::test]
async fn another_version_is_named_at_both_ends() {
    let scene = scene();
    let later = pb::Facts {
        version: 2,
        random: Vec::new(),
        epoch: 0,
        ..crate::common::rogue::facts()
    };
    let (reason, heard) = told(&scene, LIMIT, &hello(later.clone())).await;
    assert_eq!(reason, "version");
    let Some(Body::Refuse(refuse)) = heard else {
        panic!("heard {heard:?}")
    };
    assert_eq!(
        (refuse.reason(), refuse.version),
        (pb::refuse::Reason::Version, 1)
    );

    assert_eq!(
        answered(&scene, LIMIT, &welcome(later, &[0; 16])).await,
        "version"
    );
    let refusal = pb::Refuse {
        reason: pb::refuse::Reason::Version.into(),
        version: 2,
    };
    let outcome = dialling(&scene.agent, LIMIT, |stream| async {
        let mut tls = Rogue::with(&scene.rogue).accept(stream).await.unwrap();
        say(&mut tls, &frame(Body::Refuse(refusal))).await;
        linger(&mut tls).await;
    })
    .await;
    assert!(outcome.unwrap_err().to_string().contains("version 2"));
}

#[tokio::test]
async fn every_field_out_of_range_is_malformed() {
    let scene = scene();
    let good = crate::common::rogue::facts;
    let bad = [
        (
            "port",
            pb::Facts {
                agent_port: 65_536,
                ..good()
            },
        ),
        (
            "address",
            pb::Facts {
                direct_addresses: vec![vec![1, 2, 3]],
                ..good()
            },
        ),
        (
            "unspecified address",
            pb::Facts {
                direct_addresses: vec![vec![0; 16]],
                ..good()
            },
        ),
        (
            "multicast address",
            pb::Facts {
                direct_addresses: vec![vec![224, 0, 0, 1]],
                ..good()
            },
        ),
        (
            "65 addresses",
            pb::Facts {
                direct_addresses: vec![vec![10, 0, 0, 1]; 65],
                ..good()
            },
        ),
        (
            "17 servers",
            pb::Facts {
                servers: vec!["https://x".into(); 17],
                ..good()
            },
        ),
        (
            "long server",
            pb::Facts {
                servers: vec!["x".repeat(256)],
                ..good()
            },
        ),
        (
            "terminal in server",
            pb::Facts {
                servers: vec!["https://\u{1b}[31m".into()],
                ..good()
            },
        ),
        (
            "short random",
            pb::Facts {
                random: vec![1; 15],
                ..good()
            },
        ),
        (
            "long random",
            pb::Facts {
                random: vec![1; 17],
                ..good()
            },
        ),
        ("epoch 0", pb::Facts { epoch: 0, ..good() }),
        (
            "pair ID",
            pb::Facts {
                known_pair_id: vec![1; 15],
                ..good()
            },
        ),
        (
            "observed",
            pb::Facts {
                observed: Some(pb::Endpoint::default()),
                ..good()
            },
        ),
    ];
    for (what, facts) in bad {
        assert_eq!(told(&scene, LIMIT, &hello(facts)).await.0, "malformed", "{what}");
    }
    assert_eq!(
        told(&scene, LIMIT, &frame(Body::Hello(pb::Hello { facts: None })))
            .await
            .0,
        "malformed"
    );
    // And the same facts unchanged get as far as the wait for Confirm.
    assert_eq!(told(&scene, SHORT, &hello(good())).await.0, "silent");
}

#[tokio::test]
async fn messages_out_of_order_are_unexpected() {
    let scene = scene();
    for body in [
        confirm(&[0; 32]),
        frame(Body::Bye(pb::Bye {})),
        welcome(crate::common::rogue::facts(), &[0; 16]),
    ] {
        assert_eq!(told(&scene, LIMIT, &body).await.0, "unexpected_message");
    }
    assert_eq!(
        answered(&scene, LIMIT, &hello(crate::common::rogue::facts())).await,
        "unexpected_message"
    );
    let twice = [
        hello(crate::common::rogue::facts()),
        hello(crate::common::rogue::facts()),
    ]
    .concat();
    assert_eq!(told(&scene, LIMIT, &twice).await.0, "unexpected_message");
}

#[tokio::test]
async fn a_confirmation_that_does_not_fit_makes_no_pair() {
    let scene = scene();
    let lies = [hello(crate::common::rogue::facts()), confirm(&[0; 32])].concat();
    assert_eq!(told(&scene, LIMIT, &lies).await.0, "confirmation");
    let short = [hello(crate::common::rogue::facts()), confirm(&[0; 31])].concat();
    assert_eq!(told(&scene, LIMIT, &short).await.0, "malformed");
}

#[tokio::test]
async fn the_dialers_own_confirmation_sent_back_makes_no_pair() {
    let scene = scene();
    let (near, far) = sockets().await;
    let mut local = facts();
    let known = [3; 16];
    let remembered = Remembered {
        highest_epoch: 4,
        pair_id: uuid::Uuid::from_bytes(known),
    };
    local.known.insert(scene.rogue.agent.clone(), remembered);
    let rogue = async {
        let mut tls = Rogue::with(&scene.rogue).accept(far).await.unwrap();
        let Body::Hello(theirs) = hear(&mut tls).await.unwrap() else {
            panic!("no Hello")
        };
        assert_eq!(theirs.facts.unwrap().epoch, 5);
        let mine = pb::Facts {
            epoch: 5,
            known_pair_id: known.to_vec(),
            ..crate::common::rogue::facts()
        };
        say(&mut tls, &welcome(mine, &known)).await;
        let Body::Confirm(theirs) = hear(&mut tls).await.unwrap() else {
            panic!("no Confirm")
        };
        say(&mut tls, &confirm(&theirs.mac)).await;
        linger(&mut tls).await;
    };
    let (outcome, ()) = tokio::join!(pair_only(dial(near, &scene.agent, &local, LIMIT)), rogue);
    assert_eq!(reason(outcome), "confirmation");
}

#[tokio::test]
async fn an_epoch_below_what_the_dialer_accepts_is_refused() {
    let scene = scene();
    let (near, far) = sockets().await;
    let mut local = facts();
    let remembered = Remembered {
        highest_epoch: 9,
        pair_id: uuid::Uuid::nil(),
    };
    local.known.insert(scene.rogue.agent.clone(), remembered);
    let rogue = async {
        let mut tls = Rogue::with(&scene.rogue).accept(far).await.unwrap();
        hear(&mut tls).await.unwrap();
        say(
            &mut tls,
            &welcome(
                pb::Facts {
                    epoch: 9,
                    ..crate::common::rogue::facts()
                },
                &[0; 16],
            ),
        )
        .await;
        linger(&mut tls).await;
    };
    let (outcome, ()) = tokio::join!(pair_only(dial(near, &scene.agent, &local, LIMIT)), rogue);
    assert_eq!(reason(outcome), "epoch");
}

#[tokio::test]
async fn epochs_that_are_used_up_end_in_advice_and_not_in_a_wrap() {
    let scene = scene();
    let (near, far) = sockets().await;
    let mut local = facts();
    let remembered = Remembered {
        highest_epoch: u32::MAX,
        pair_id: uuid::Uuid::nil(),
    };
    local.known.insert(scene.rogue.agent.clone(), remembered);
    let rogue = async {
        let mut tls = Rogue::with(&scene.rogue).dial(far).await.unwrap();
        say(&mut tls, &hello(crate::common::rogue::facts())).await;
        linger(&mut tls).await;
    };
    let (outcome, ()) = tokio::join!(pair_only(accept(near, &scene.agent, &local, LIMIT)), rogue);
    assert_eq!(reason(outcome), "no_epoch_left");
}

#[tokio::test]
async fn a_pair_id_that_does_not_follow_from_the_exchange_is_refused() {
    let scene = scene();
    assert_eq!(
        answered(&scene, LIMIT, &welcome(crate::common::rogue::facts(), &[1; 16])).await,
        "pair_id"
    );
}

#[tokio::test]
async fn an_acceptor_that_never_confirms_leaves_the_dialer_without_a_pair() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    // The acceptor's Confirm is cut off: the relay passes its TLS flight and Welcome, then only the other direction.
    let (near, relay_near) = sockets().await;
    let (relay_far, far) = sockets().await;
    let (a_facts, b_facts) = (facts(), facts());
    let relay = cut_after_confirm(relay_near, relay_far);
    let (dialled, accepted, ()) = tokio::join!(
        dial(near, &a, &a_facts, SHORT),
        accept(far, &b, &b_facts, LIMIT),
        relay
    );
    assert!(matches!(
        dialled,
        Err(identity::ExchangeError::Silent {
            stage: identity::Stage::Confirm,
            ..
        })
    ));
    let stranded = accepted.unwrap().pair;
    assert_eq!(stranded.epoch, 1);

    // The next exchange gets a number that neither side has used.
    let mut b_facts = facts();
    let remembered = Remembered {
        highest_epoch: 1,
        pair_id: stranded.pair_id,
    };
    b_facts.known.insert(stranded.peer.clone(), remembered);
    let (at_a, at_b) = crate::common::pairs((&a, facts()), (&b, b_facts)).await;
    assert_eq!((at_a.epoch, at_b.epoch), (2, 2));
    assert!(at_a.key != stranded.key);
}

/// Relays between two agents until the acceptor's second burst after its TLS flight, which is its Confirm.
async fn cut_after_confirm(mut dialer: tokio::net::TcpStream, mut acceptor: tokio::net::TcpStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mut from_dialer, mut to_dialer) = dialer.split();
    let (mut from_acceptor, mut to_acceptor) = acceptor.split();
    let up = async {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from_dialer.read(&mut buffer).await {
            if to_acceptor.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        // TLS records in the clear tell only their length: Confirm is the only one of its size.
        let confirm = 4 + 2 + 2 + 32 + 1 + 16;
        loop {
            let mut header = [0; 5];
            if from_acceptor.read_exact(&mut header).await.is_err() {
                break;
            }
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            let mut record = vec![0; length];
            from_acceptor.read_exact(&mut record).await.unwrap();
            if length == confirm {
                break;
            }
            to_dialer.write_all(&header).await.unwrap();
            to_dialer.write_all(&record).await.unwrap();
        }
    };
    tokio::join!(up, down);
}

#[tokio::test]
async fn a_second_implementation_of_the_specification_is_understood() {
    let scene = scene();
    let (near, far) = sockets().await;
    let local = facts();
    let book = rogue::by_the_book(far, &scene.rogue, scene.agent.identity());
    let (dialled, (_tls, key, pair_id)) = tokio::join!(dial(near, &scene.agent, &local, LIMIT), book);
    let pair = dialled.unwrap().pair;
    assert_eq!(*pair.key.as_bytes(), key);
    assert_eq!(*pair.pair_id.as_bytes(), pair_id);
}
