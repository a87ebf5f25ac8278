//! The session after the exchange: messages both ways, and peers that break it.

use std::time::Duration;

use crate::common::rogue::{self, frame, hello, say, scene};
use crate::common::{Deployment, LIMIT, exchange, facts, sockets};
use identity::message::{Enrol, EnrolSecret, EnrolStep, ResetVerdict};
use identity::{Message, dial};
use proto::pair::v1 as pb;
use proto::pair::v1::envelope::Body;
use tokio::time::timeout;
use wire::{Endpoint, Tuple};

#[tokio::test]
async fn the_session_stays_a_channel_for_every_message_both_ways() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let (dialled, accepted) = exchange((&a, facts()), (&b, facts())).await;
    let (mut at_a, mut at_b) = (dialled.unwrap().channel, accepted.unwrap().channel);

    let end = |address: &str, port| Endpoint::new(address.parse().unwrap(), port);
    let tuple = Tuple::new(end("192.0.2.1", 22), end("2001:db8::2", 40_000));
    let messages = [
        Message::AskReset {
            question: 1,
            isn_initiator: 2,
            isn_acceptor: 3,
            tuple,
        },
        Message::ResetAnswer {
            question: 1,
            verdict: ResetVerdict::NotMine,
        },
        Message::ObservedTuple {
            isn_initiator: 2,
            isn_acceptor: 3,
            req_no: 4,
            tuple,
        },
        Message::Enrol(Enrol {
            question: 9,
            step: EnrolStep::Offer,
            tuple,
            snd_una: 10,
            snd_nxt: 11,
            rcv_nxt: 12,
            random: EnrolSecret([5; 16]),
        }),
        Message::Unheard {
            isn_initiator: 6,
            isn_acceptor: 7,
        },
        Message::KeysLost { highest_epoch: 3 },
        Message::GoingToSleep {
            longest: Duration::from_secs(3600),
        },
        Message::Ping { number: u64::MAX },
        Message::Pong { number: 0 },
    ];
    for message in &messages {
        at_a.send(message.clone()).await.unwrap();
        at_b.send(message.clone()).await.unwrap();
    }
    for message in &messages {
        assert_eq!(at_b.recv().await.unwrap(), *message);
        assert_eq!(at_a.recv().await.unwrap(), *message);
    }
    at_a.close().await.unwrap();
    assert_eq!(at_b.recv().await.unwrap(), Message::Bye);
    assert_eq!(at_b.recv().await.unwrap_err().reason(), "closed");
}

#[tokio::test]
async fn a_receive_that_is_given_up_loses_nothing() {
    let deployment = Deployment::new();
    let (a, b) = (deployment.agent("a"), deployment.agent("b"));
    let (dialled, accepted) = exchange((&a, facts()), (&b, facts())).await;
    let (mut at_a, mut at_b) = (dialled.unwrap().channel, accepted.unwrap().channel);
    for number in 0..100 {
        // Polled once and dropped, with more or less of the next message there.
        tokio::select! {
            biased;
            received = at_b.recv() => panic!("nothing was sent, yet {received:?} came"),
            () = std::future::ready(()) => {}
        }
        at_a.send(Message::Ping { number }).await.unwrap();
        assert_eq!(at_b.recv().await.unwrap(), Message::Ping { number });
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_stalls_ends_the_channel_while_silence_does_not() {
    let scene = scene();
    let (near, far) = tokio::io::duplex(1 << 20);
    let local = facts();
    let book = rogue::by_the_book(far, &scene.rogue, scene.agent.identity());
    let (dialled, (mut tls, ..)) = tokio::join!(dial(near, &scene.agent, &local, LIMIT), book);
    let mut channel = dialled.unwrap().channel;

    let an_hour = Duration::from_secs(3600);
    assert!(
        timeout(an_hour, channel.recv()).await.is_err(),
        "silence is no fault"
    );
    let ping = frame(Body::Ping(pb::Ping { number: 1 }));
    say(&mut tls, &[&ping[..], &ping[..5]].concat()).await;
    assert_eq!(channel.recv().await.unwrap(), Message::Ping { number: 1 });
    let began = tokio::time::Instant::now();
    let stalled = timeout(an_hour, channel.recv())
        .await
        .expect("half a message is not waited for");
    assert_eq!(stalled.unwrap_err().reason(), "half_message");
    assert!(began.elapsed() <= Duration::from_secs(6));
}

#[tokio::test]
async fn what_is_no_message_ends_the_channel_with_a_reason() {
    let scene = scene();
    let ping = frame(Body::Ping(pb::Ping { number: 1 }));
    let hello = hello(crate::common::rogue::facts());
    let cases: [(&[u8], &str); 5] = [
        (&u32::MAX.to_be_bytes(), "oversize"),
        (&[0, 0, 0, 2, 0xff, 0xff], "malformed"),
        (&hello, "malformed"),
        (&ping[..5], "half_message"),
        (&[], "closed"),
    ];
    for (bytes, expected) in cases {
        let (near, far) = sockets().await;
        let local = facts();
        let book = rogue::by_the_book(far, &scene.rogue, scene.agent.identity());
        let (dialled, (mut tls, ..)) = tokio::join!(dial(near, &scene.agent, &local, LIMIT), book);
        let mut channel = dialled.unwrap().channel;
        say(&mut tls, &ping).await;
        say(&mut tls, bytes).await;
        drop(tls);
        assert_eq!(channel.recv().await.unwrap(), Message::Ping { number: 1 });
        assert_eq!(channel.recv().await.unwrap_err().reason(), expected);
    }
}

#[tokio::test]
async fn a_message_to_a_peer_that_is_gone_is_an_error_in_the_end() {
    let scene = scene();
    let other = scene.deployment.agent("other");
    let (dialled, accepted) = crate::common::exchange((&scene.agent, facts()), (&other, facts())).await;
    let mut channel = dialled.unwrap().channel;
    drop(accepted);
    let mut sends = 0;
    while channel.send(Message::Ping { number: sends }).await.is_ok() {
        sends += 1;
        assert!(sends < 100_000, "sends to nobody for ever");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_cannot_hold_the_sender_for_ever() {
    let scene = scene();
    let (near, far) = tokio::io::duplex(16 * 1024);
    let local = facts();
    let book = rogue::by_the_book(far, &scene.rogue, scene.agent.identity());
    let (dialled, (_tls, ..)) = tokio::join!(dial(near, &scene.agent, &local, LIMIT), book);
    let mut channel = dialled.unwrap().channel;
    for _ in 0..100_000 {
        let sent = timeout(
            Duration::from_secs(3600),
            channel.send(Message::Ping { number: 1 }),
        )
        .await;
        if let Err(error) = sent.expect("a send ends") {
            assert_eq!(error.reason(), "not_reading");
            return;
        }
    }
    panic!("16 KiB took in everything");
}
