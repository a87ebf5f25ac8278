//! Bad input: whatever comes, the program goes on, and tells nobody about a pair that is not its own.

use crate::common::{Deployment, connect, report};
use identity::{Application, first_contact};
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::refused::Reason;
use proto::mobility::v1::server_message::Body as Hears;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

const PAIR: [u8; 16] = [1; 16];
const MEMORY: &str = "[store]\nbackend = \"memory\"";

#[tokio::test(flavor = "multi_thread")]
async fn without_a_certificate_nothing_can_be_asked_but_enrolment() {
    let server = Deployment::start(MEMORY).await;
    let token = server.token();
    let tls = || first_contact(token.authority()).expect("TLS");
    let channel = connect(server.port, tls()).await.expect("it listens");
    let mut agents = pb::agents_client::AgentsClient::new(channel.clone());
    let refused = agents
        .observe(pb::ObserveRequest { local: None })
        .await
        .expect_err("no certificate");
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut operators = pb::operators_client::OperatorsClient::new(channel.clone());
    let refused = operators
        .status(pb::StatusRequest {})
        .await
        .expect_err("not on the network");
    assert_eq!(refused.code(), Code::Unimplemented);
    let mut enrolment = pb::enrolment_client::EnrolmentClient::new(channel);
    let request = |token: String| pb::EnrolRequest {
        token,
        certificate_request: Application::new("x").expect("a key").request,
        name: "x".into(),
    };
    enrolment
        .enrol(request(token.reveal()))
        .await
        .expect("a good token");
    let used = enrolment
        .enrol(request(token.reveal()))
        .await
        .expect_err("used up");
    let guessed = identity::EnrolmentToken::new(token.authority(), [0; 24]).reveal();
    let guessed = enrolment.enrol(request(guessed)).await.expect_err("never made");
    assert_eq!((used.code(), used.message()), (guessed.code(), guessed.message()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_deployment_does_not_get_in() {
    let (server, other) = (Deployment::start(MEMORY).await, Deployment::start(MEMORY).await);
    let stranger = other.agent("stranger").await;
    let own = server.agent("own").await;
    // It trusts this server, so that it is the server that has to refuse.
    std::fs::copy(own.dir.join("ca.pem"), stranger.dir.join("ca.pem")).expect("both are there");
    let stranger = crate::common::Agent {
        port: server.port,
        ..stranger
    };
    stranger.attend(&[]).await.err().expect("refused");
    assert_eq!(server.status()["agents"], 0);
    own.attend(&[]).await.expect("its own are welcome");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_a_pair_id_learns_nothing_and_disturbs_nobody() {
    let server = Deployment::start(MEMORY).await;
    let (a, b, c) = (
        server.agent("a").await,
        server.agent("b").await,
        server.agent("c").await,
    );
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    let Ok(Hears::Waiting(_)) = at_a.next().await else {
        panic!("stored")
    };
    let mut at_c = c.attend(&[]).await.expect("welcome");
    for (pair, peer) in [(PAIR, &a), (PAIR, &b), ([9; 16], &a)] {
        at_c.say(Says::Report(report(pair, peer, 1, 2, 1))).await;
        let Ok(Hears::Waiting(waiting)) = at_c.next().await else {
            panic!("stored")
        };
        assert!(
            !waiting.peer_present,
            "the same whether there is such a pair or not"
        );
    }
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
    at_b.destination().await;
    at_a.destination().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_no_host_can_have_are_refused() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    let impossible: [&[u8]; 6] = [
        &[224, 0, 0, 1],
        &[127, 0, 0, 1],
        &[0, 0, 0, 0],
        &[169, 254, 1, 1],
        &[255; 4],
        &[0xff; 16],
    ];
    for address in impossible {
        let report = pb::MobilityReport {
            source_after: address.to_vec(),
            ..report(PAIR, &b, 1, 1, 2)
        };
        at_a.say(Says::Report(report)).await;
        let Ok(Hears::Refused(refused)) = at_a.next().await else {
            panic!("refused")
        };
        assert_eq!(refused.reason(), Reason::Address, "{address:?}");
    }
    let short = pb::MobilityReport {
        source_after: vec![1, 2, 3],
        ..report(PAIR, &b, 1, 1, 2)
    };
    at_a.say(Says::Report(short)).await;
    let Ok(Hears::Refused(refused)) = at_a.next().await else {
        panic!("refused")
    };
    assert_eq!(refused.reason(), Reason::Malformed);
    assert_eq!(server.status()["waiting_reports"], 0);
}

/// As many as `GUESSES` says: `make guesses` makes a million.
#[tokio::test(flavor = "multi_thread")]
async fn guesses_of_pair_ids_are_answered_alike_until_the_limit_while_others_match() {
    let guesses: u32 = std::env::var("GUESSES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2000);
    let server = Deployment::start(&format!("{MEMORY}\n[limits]\npairs = 100\nreports = 100000")).await;
    let (a, b, c) = (
        server.agent("a").await,
        server.agent("b").await,
        server.agent("c").await,
    );
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    let mut at_c = c.attend(&[]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    let say = at_c.say.clone();
    let target = a.clone();
    let guesser = tokio::spawn(async move {
        for guess in 0..guesses {
            let mut pair = [0; 16];
            pair[..4].copy_from_slice(&guess.to_be_bytes());
            let said = say
                .send(crate::common::message(Says::Report(report(
                    pair, &target, 1, 2, 1,
                ))))
                .await;
            said.expect("the stream is open");
        }
    });
    let (mut stored, mut refused) = (0, 0);
    while stored + refused < guesses {
        match at_c.next().await.expect("open") {
            Hears::Waiting(waiting) if !waiting.peer_present => stored += 1,
            Hears::Refused(no) if no.reason() == Reason::Limit => refused += 1,
            other => panic!("{other:?}"),
        }
        if stored + refused == guesses / 2 {
            at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
        }
    }
    guesser.await.expect("all were sent");
    assert_eq!(stored, 100);
    at_a.destination().await;
    at_b.destination().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_ends_its_stream_and_nothing_else() {
    let server = Deployment::start(&format!("{MEMORY}\n[limits]\nmessage_bytes = 65536")).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    let long = pb::MobilityReport {
        sealed: vec![0; 100_000],
        ..report(PAIR, &b, 1, 1, 2)
    };
    at_a.say(Says::Report(long)).await;
    at_a.next().await.expect_err("too long");
    at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
    assert!(matches!(at_b.next().await, Ok(Hears::Waiting(_))));
    let mut client = a.client().await.expect("it listens");
    let nothing = ReceiverStream::new(tokio::sync::mpsc::channel::<pb::AgentMessage>(1).1);
    let mut silent = client.attend(nothing).await.expect("opened").into_inner();
    silent
        .message()
        .await
        .expect_err("who says nothing at first is not kept");
}
