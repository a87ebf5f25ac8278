//! What agents get from the running program.

use crate::common::{Deployment, report};
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const PAIR: [u8; 16] = [1; 16];
const MEMORY: &str = "[store]\nbackend = \"memory\"";

#[tokio::test(flavor = "multi_thread")]
async fn both_ends_that_moved_learn_what_to_do() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
    let (mut to_a, mut to_b) = (at_a.destination().await, at_b.destination().await);
    // B was there before it reported, which may have been a reason to decide already: the last decision counts.
    while to_a.decision != to_b.decision {
        match to_a.decision < to_b.decision {
            true => to_a = at_a.destination().await,
            false => to_b = at_b.destination().await,
        }
    }
    // Where it was seen, or what it has reported under this very pair.
    let known = |address: &[u8], end: u8| address == [127, 0, 0, 1] || address == [10, 9, 0, end];
    assert!(
        known(&to_a.peer_address, 2) && known(&to_b.peer_address, 1),
        "{to_a:?} {to_b:?}"
    );
    assert_eq!(to_a.connections.len(), 1);
    assert!(server.status()["matches"].as_u64() >= Some(1));
}

/// Random bytes may be drawn twice: two pairs have one ID, and all four have moved.
#[tokio::test(flavor = "multi_thread")]
async fn two_pairs_that_have_the_same_id_by_accident_are_two_pairs() {
    let server = Deployment::start(MEMORY).await;
    let mut agents = Vec::new();
    for name in ["a", "b", "c", "d"] {
        agents.push(server.agent(name).await);
    }
    let mut lines = Vec::new();
    for agent in &agents {
        lines.push(agent.attend(&[]).await.expect("welcome"));
    }
    // A and C first, who belong to different pairs; whoever trusts the ID alone matches them.
    for (at, peer) in [(0, 1), (2, 3), (1, 0), (3, 2)] {
        let own = at as u8 + 1;
        let said = report(PAIR, &agents[peer], 1, own, peer as u8 + 1);
        lines[at].say(Says::Report(said)).await;
        if at % 2 == 0 {
            let Ok(Hears::Waiting(_)) = lines[at].next().await else {
                panic!("nobody of its pair has reported")
            };
        }
    }
    for (at, peer) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        let told = lines[at].destination().await;
        assert_eq!(told.peer_address, [10, 9, 0, peer as u8 + 1], "who is with {at}");
    }
    assert_eq!(server.status()["matches"].as_u64(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_has_lost_no_waiting_report() {
    let mut server = Deployment::start("").await;
    let (mut a, mut b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    assert!(matches!(at_a.next().await, Ok(Hears::Waiting(_))));
    let epoch = server.status()["epoch"].clone();
    server.kill();
    server.run().await;
    assert_eq!(server.status()["epoch"], epoch);
    assert_eq!(server.status()["waiting_reports"], 1);
    (a.port, b.port) = (server.port, server.port);
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
    let mut to_b = at_b.destination().await;
    // A says nothing but that it is there again.
    let to_a = a.attend(&[(1, &b)]).await.expect("welcome").destination().await;
    // That A has another source now may be a reason to decide anew; then B hears of it too.
    while to_b.decision < to_a.decision {
        to_b = at_b.destination().await;
    }
    assert_eq!(to_a.decision, to_b.decision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_is_set_aside_and_a_new_epoch_begins() {
    let mut server = Deployment::start("").await;
    let epoch = server.status()["epoch"].clone();
    server.kill();
    let mut damaged = 0;
    let mut open = vec![server.dir.path().join("state")];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).expect("it is there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if entry.metadata().is_ok_and(|facts| facts.len() > 0) {
                std::fs::write(&path, vec![0xa5; 4096]).expect("ours");
                damaged += 1;
            }
        }
    }
    assert!(damaged > 0);
    server.run().await;
    assert_ne!(server.status()["epoch"], epoch, "{}", server.log());
    server
        .agent("a")
        .await
        .attend(&[])
        .await
        .expect("it serves again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_is_let_in_no_more() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    let said = server.cli(&["revoke", "a"]);
    assert!(said.contains("1 streams closed"), "{said}");
    at_a.next().await.expect_err("its stream ends");
    let refused = a.attend(&[]).await.err().expect("not again");
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    b.attend(&[]).await.expect("nobody else is meant");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reported_before_a_revocation_matches_nothing_after_it() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    let Ok(Hears::Waiting(_)) = at_a.next().await else {
        panic!("stored")
    };
    server.cli(&["revoke", "a"]);
    let mut at_b = b.attend(&[]).await.expect("welcome");
    for counter in 1..3 {
        at_b.say(Says::Report(report(PAIR, &a, counter, 2, 1))).await;
        let Ok(Hears::Waiting(waiting)) = at_b.next().await else {
            panic!("A is nobody any more")
        };
        assert!(waiting.move_counter == counter && !waiting.peer_present);
        let Ok(Hears::Revoked(revoked)) = at_b.next().await else {
            panic!("and B is told why")
        };
        assert_eq!(revoked.agent, a.uri);
    }
    assert_eq!(server.status()["matches"].as_u64(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_are_told_of_a_revocation_at_once_when_they_come_and_when_they_ask() {
    let server = Deployment::start(MEMORY).await;
    let (a, b, c) = (
        server.agent("a").await,
        server.agent("b").await,
        server.agent("c").await,
    );
    let told = async |line: &mut crate::common::Line| match line.next().await {
        Ok(Hears::Revoked(revoked)) => revoked.agent,
        other => panic!("{other:?}"),
    };
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    let mut at_c = c.attend(&[(2, &b)]).await.expect("welcome");
    server.cli(&["revoke", "a"]);
    assert_eq!(told(&mut at_b).await, a.uri, "who attends already");
    let mut again = b.attend(&[(1, &a), (2, &c)]).await.expect("welcome");
    assert_eq!(told(&mut again).await, a.uri, "who comes later");
    let mut client = c.client().await.expect("it listens");
    let question = pb::StandingRequest {
        members: vec![
            a.uri.clone(),
            b.uri.clone(),
            "spiffe://mobility/agent/nobody".into(),
        ],
    };
    let answer = client.standing(question).await.expect("an answer").into_inner();
    assert_eq!(answer.revoked, std::slice::from_ref(&a.uri));
    let question = pb::StandingRequest {
        members: vec![String::new(); 5000],
    };
    client.standing(question).await.expect_err("too many");
    // C has named nobody who was revoked: the first that it hears is the answer to its own report.
    at_c.say(Says::Report(report([2; 16], &b, 1, 3, 2))).await;
    assert!(matches!(at_c.next().await, Ok(Hears::Waiting(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_passes_bytes_between_the_invited_and_nobody_else() {
    let server = Deployment::start(MEMORY).await;
    let (a, b, c) = (
        server.agent("a").await,
        server.agent("b").await,
        server.agent("c").await,
    );
    let mut lines = [
        a.attend(&[]).await.expect("welcome"),
        b.attend(&[]).await.expect("welcome"),
    ];
    let ends = [
        crate::common::endpoint([10, 0, 0, 1], 1001),
        crate::common::endpoint([10, 0, 0, 2], 1002),
    ];
    for (line, (local, remote)) in lines.iter().zip([(0, 1), (1, 0)]) {
        line.say(Says::PairWanted(pb::PairWanted {
            local: Some(ends[local].clone()),
            remote: Some(ends[remote].clone()),
            connection: 99,
        }))
        .await;
    }
    let mut invitations = Vec::new();
    for line in &mut lines {
        match line.next().await.expect("invited") {
            Hears::Tunnel(invitation) => invitations.push(invitation),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(invitations[0].tunnel, invitations[1].tunnel);
    assert_ne!(invitations[0].dial, invitations[1].dial);
    let enter = async |agent: &crate::common::Agent, data: &[u8]| {
        let (say, frames) = mpsc::channel(4);
        let frame = pb::TunnelFrame {
            tunnel: invitations[0].tunnel.clone(),
            data: data.to_vec(),
        };
        say.send(frame).await.expect("room");
        let mut client = agent.client().await.expect("it listens");
        let out = client
            .tunnel(ReceiverStream::new(frames))
            .await
            .expect("opened")
            .into_inner();
        (say, out)
    };
    let (_keep, mut stranger) = enter(&c, b"let me in").await;
    assert_eq!(
        stranger.message().await.expect_err("not invited").code(),
        tonic::Code::NotFound
    );
    let (_say_a, mut to_a) = enter(&a, b"from a").await;
    let (_say_b, mut to_b) = enter(&b, b"from b").await;
    assert_eq!(
        to_a.message().await.expect("open").expect("a frame").data,
        b"from b"
    );
    assert_eq!(
        to_b.message().await.expect("open").expect("a frame").data,
        b"from a"
    );
}

#[test]
fn the_packaged_configuration_says_what_is_in_force_without_it() {
    let check = |path: &std::path::Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_mobility-server"))
            .args(["config", "check", "--config"])
            .arg(path)
            .output()
            .expect("it runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    };
    let directory = tempfile::tempdir().expect("a directory");
    let empty = directory.path().join("empty.toml");
    std::fs::write(&empty, "").expect("a file");
    let packaged = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/mobility-server.toml");
    let in_force = check(&empty);
    assert_eq!(check(&packaged), in_force);
    let text = std::fs::read_to_string(packaged).expect("it is there");
    let keys = in_force
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key);
    for key in keys {
        let named = |line: &str| {
            line.trim_start_matches(['#', ' '])
                .starts_with(&format!("{key} ="))
        };
        assert!(
            text.lines().any(named),
            "packaging/mobility-server.toml does not explain {key}"
        );
    }
}
