//! Sessions: many at once, by the token of Multipath TCP, and those that two agents hold.

use crate::common::*;
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::relay_message::Body as Relays;
use proto::mobility::v1::relay_order::Body as Orders;
use proto::mobility::v1::relays_client::RelaysClient;
use proto::mobility::v1::session::Kind;
use proto::mobility::v1::sessions_client::SessionsClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

const MEMORY: &str = "[store]\nbackend = \"memory\"";

async fn sessions(member: &Agent) -> SessionsClient<Channel> {
    SessionsClient::new(connect(member.port, member.tls()).await.expect("it listens"))
}

fn put(id: u8, expected_revision: u64, mptcp_token: u32) -> pb::PutSessionRequest {
    pb::PutSessionRequest {
        session: Some(pb::Session {
            session_id: vec![id; 16],
            kind: Kind::Multipath.into(),
            mptcp_token,
            ..pb::Session::default()
        }),
        expected_revision,
    }
}

async fn serve(
    member: &Agent,
    addresses: Vec<Vec<u8>>,
) -> (mpsc::Sender<pb::RelayMessage>, Streaming<pb::RelayOrder>) {
    let channel = connect(member.port, member.tls()).await.expect("it listens");
    let (say, words) = mpsc::channel(16);
    let hello = pb::RelayHello {
        version: 1,
        kind: pb::relay_hello::Kind::MptcpRelay.into(),
        addresses,
        capacity: 100,
        ..pb::RelayHello::default()
    };
    let hello = pb::RelayMessage {
        body: Some(Relays::Hello(hello)),
    };
    say.send(hello).await.expect("room");
    let orders = RelaysClient::new(channel).serve(ReceiverStream::new(words)).await;
    let mut orders = orders.expect("a relay").into_inner();
    let first = orders.message().await.expect("a stream").expect("a welcome");
    assert!(matches!(first.body, Some(Orders::Welcome(_))));
    (say, orders)
}

#[tokio::test(flavor = "multi_thread")]
async fn many_sessions_change_at_once_each_for_itself() {
    let server = Deployment::start(MEMORY).await;
    let (one, other) = (
        server.member("r1", "relay").await,
        server.member("r2", "relay").await,
    );
    let (mut at_one, mut at_other) = (sessions(&one).await, sessions(&other).await);
    let change =
        |put: Vec<pb::PutSessionRequest>, remove: Vec<Vec<u8>>| pb::ChangeSessionsRequest { put, remove };

    let first = at_one
        .change(change(vec![put(1, 0, 0), put(2, 0, 0)], vec![]))
        .await;
    let first = first.expect("new").into_inner().results;
    assert!(
        first
            .iter()
            .all(|result| result.revision > 0 && result.refusal.is_empty())
    );
    let mixed = at_other
        .change(change(
            vec![put(1, 0, 0), put(3, 0, 0)],
            vec![vec![2; 16], vec![9; 16]],
        ))
        .await;
    let mixed = mixed.expect("each for itself").into_inner().results;
    assert!(mixed[0].refusal.contains("another's"), "{mixed:?}");
    assert!(mixed[1].refusal.is_empty());
    // What the caller does not own stays, however often it is removed.
    let again = at_one
        .change(change(vec![put(2, first[1].revision, 0)], vec![vec![1; 16]]))
        .await;
    assert!(again.expect("its own").into_inner().results[0].refusal.is_empty());
    let stale = at_one
        .change(change(vec![put(2, first[1].revision, 0)], vec![]))
        .await;
    let stale = stale.expect("an answer").into_inner().results.remove(0);
    assert_eq!(stale.refusal, "another revision");
    assert!(stale.revision > first[1].revision);
    assert_eq!(server.status()["sessions"], 2);

    let many = (0..=255).map(|_| put(1, 0, 0)).chain([put(1, 0, 0)]).collect();
    let refused = at_one.change(change(many, vec![])).await.expect_err("too many");
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_finds_whose_connection_a_token_names_as_long_as_there_is_one() {
    let server = Deployment::start(MEMORY).await;
    let (one, other) = (
        server.member("r1", "relay").await,
        server.member("r2", "relay").await,
    );
    let (mut at_one, mut at_other) = (sessions(&one).await, sessions(&other).await);
    let stream = serve(&one, vec![vec![203, 0, 113, 7]]).await;
    at_one.put(put(1, 0, 0xaabb_ccdd)).await.expect("new");
    let find = |mptcp_token| pb::FindSessionRequest { mptcp_token };

    let found = at_other
        .find(find(0xaabb_ccdd))
        .await
        .expect("a relay")
        .into_inner();
    assert_eq!(found.session.expect("stored").owner, one.uri);
    assert_eq!(found.relay_addresses, [vec![203, 0, 113, 7]]);
    let nobody = at_other.find(find(7)).await.expect("a relay").into_inner();
    assert_eq!(nobody, pb::FindSessionResponse::default());
    let agent = server.agent("a").await;
    let refused = sessions(&agent).await.find(find(0xaabb_ccdd)).await;
    assert_eq!(refused.expect_err("an agent").code(), Code::PermissionDenied);

    drop(stream);
    let remove = pb::RemoveSessionRequest {
        session_id: vec![1; 16],
    };
    at_one.remove(remove).await.expect("its own");
    let gone = at_other
        .find(find(0xaabb_ccdd))
        .await
        .expect("a relay")
        .into_inner();
    assert_eq!(gone.session, None);
}

fn held(peer: &Agent, label: u64, kind: Kind, initiator: bool) -> Says {
    let (client, other) = (endpoint([10, 0, 0, 1], 40_000), endpoint([10, 0, 0, 2], 22));
    let (local, remote) = if initiator {
        (client, other)
    } else {
        (other, client)
    };
    Says::Sessions(pb::SessionsHeld {
        held: vec![pb::HeldSession {
            pair_id: vec![5; 16],
            peer: peer.uri.clone(),
            label,
            kind: kind.into(),
            initiator,
            local: Some(local.clone()),
            remote: Some(remote.clone()),
            wire_local: Some(local),
            wire_remote: Some(remote),
        }],
    })
}

async fn rows(server: &Deployment, holds: impl Fn(&[serde_json::Value]) -> bool) -> Vec<serde_json::Value> {
    for _ in 0..600 {
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&server.cli(&["sessions", "--json"])).expect("JSON");
        if holds(&rows) {
            return rows;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("it never came to that: {}", server.cli(&["sessions", "--json"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_ends_hold_is_one_session_that_no_third_can_touch() {
    let server = Deployment::start(MEMORY).await;
    let (a, b, c) = (
        server.agent("a").await,
        server.agent("b").await,
        server.agent("c").await,
    );
    let pair = [5; 16];
    let at_a = a.attend(&[(5, &b)]).await.expect("a member");
    let at_b = b.attend(&[(5, &a)]).await.expect("a member");
    let at_c = c.attend(&[(5, &b)]).await.expect("a member");
    let _ = pair;
    at_a.say(held(&b, 77, Kind::Direct, true)).await;
    let direct = rows(&server, |rows| rows.len() == 1).await;
    assert_eq!(direct[0]["kind"], "direct");
    assert_eq!(direct[0]["client"], "10.0.0.1:40000");
    at_b.say(held(&a, 77, Kind::Migrated, false)).await;
    let moved = rows(&server, |rows| rows[0]["kind"] == "migrated").await;
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0]["client"], "10.0.0.1:40000");
    // The same pair ID and label in a stranger's mouth are another session.
    at_c.say(held(&b, 77, Kind::Unspecified, true)).await;
    at_c.say(held(&b, 77, Kind::Multipath, true)).await;
    at_c.say(held(&b, 78, Kind::Relayed, true)).await;
    let both = rows(&server, |rows| rows.len() == 2).await;
    assert!(both.iter().any(|row| row["kind"] == "migrated"));
    assert!(both.iter().all(|row| row["kind"] != "multipath"));
    at_a.say(held(&b, 77, Kind::Unspecified, true)).await;
    rows(&server, |rows| rows.len() == 1 && rows[0]["kind"] == "relayed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_hear_who_says_that_paths_are_lost_and_from_where() {
    let server = Deployment::start(MEMORY).await;
    let relay = server.member("r", "relay").await;
    let (_say, mut orders) = serve(&relay, vec![]).await;
    let a = server.agent("a").await;
    let line = a.attend(&[]).await.expect("a member");
    let path = pb::LostPath {
        token: 0x0102_0304,
        address_id: 2,
    };
    line.say(Says::PathsLost(pb::PathsLost { paths: vec![path] }))
        .await;
    let order = orders.message().await.expect("a stream").expect("an order");
    let Some(Orders::PathsLost(lost)) = order.body else {
        panic!("another order: {order:?}");
    };
    assert_eq!(
        (lost.agent.as_str(), &lost.paths[..]),
        (a.uri.as_str(), &[path][..])
    );
    assert_eq!(lost.observed.expect("seen").address, [127, 0, 0, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_for_which_nobody_waits_is_given_back() {
    let server = Deployment::start(MEMORY).await;
    let relay = server.member("r", "relay").await;
    let (say, mut orders) = serve(&relay, vec![]).await;
    let answer = |lease: u8, refusal: &str| pb::RelayMessage {
        body: Some(Relays::Answer(pb::LeaseAnswer {
            lease_id: vec![lease; 16],
            first: Some(endpoint([203, 0, 113, 7], 20_000)),
            second: Some(endpoint([203, 0, 113, 7], 20_000)),
            refusal: refusal.to_owned(),
        })),
    };
    // A refusal leaves nothing to give back.
    say.send(answer(1, "no port is free")).await.expect("it listens");
    say.send(answer(2, "")).await.expect("it listens");
    let order = orders.message().await.expect("a stream").expect("an order");
    let Some(Orders::Release(release)) = order.body else {
        panic!("another order: {order:?}");
    };
    assert_eq!(release.lease_id, [2; 16]);
}
