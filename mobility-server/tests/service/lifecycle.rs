//! The running program: stopped, told to read its configuration again, behind a front; members that renew, and keep
//! sessions.

use std::time::Instant;

use crate::common::{Agent, Deployment, PATIENCE, connect_after, report};
use identity::Application;
use nix::sys::signal::Signal;
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::refused::Reason;
use proto::mobility::v1::server_message::Body as Hears;
use proto::mobility::v1::sessions_client::SessionsClient;
use tonic::Code;
use tonic::transport::Channel;

const PAIR: [u8; 16] = [1; 16];
const MEMORY: &str = "[store]\nbackend = \"memory\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_ends_by_itself_and_has_lost_no_waiting_report() {
    let mut server = Deployment::start("").await;
    let (mut a, mut b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    assert!(matches!(at_a.next().await, Ok(Hears::Waiting(_))));
    let epoch = server.status()["epoch"].clone();
    // An open stream does not keep it.
    let status = server.stop();
    assert!(status.success(), "{status}: {}", server.log());
    while at_a.next().await.is_ok() {}

    server.run().await;
    assert_eq!(server.status()["epoch"], epoch);
    assert_eq!(server.status()["waiting_reports"], 1);
    (a.port, b.port) = (server.port, server.port);
    let mut at_b = b.attend(&[(1, &a)]).await.expect("welcome");
    at_b.say(Says::Report(report(PAIR, &a, 1, 2, 1))).await;
    at_b.destination().await;
    a.attend(&[(1, &b)]).await.expect("welcome").destination().await;
}

/// Changes the configuration, and waits until the server has said something new of reading it.
async fn reload(server: &Deployment, from: &str, to: &str, said: &str) {
    let path = server.dir.path().join("server.toml");
    let text = std::fs::read_to_string(&path).expect("a configuration");
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).expect("ours");
    let before = server.log().matches(said).count();
    server.signal(Signal::SIGHUP);
    let until = Instant::now() + PATIENCE;
    while server.log().matches(said).count() == before {
        assert!(Instant::now() < until, "{}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_puts_other_limits_in_force_and_a_wrong_file_changes_nothing() {
    let server = Deployment::start(&format!("{MEMORY}\n[limits]\npairs = 1")).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    let mut next = async |pair: u8| {
        at_a.say(Says::Report(report([pair; 16], &b, 1, 1, 2))).await;
        at_a.next().await.expect("the stream outlives it")
    };
    let limit = |heard: &Hears| matches!(heard, Hears::Refused(no) if no.reason() == Reason::Limit);
    assert!(matches!(next(1).await, Hears::Waiting(_)));
    assert!(limit(&next(2).await));
    reload(&server, "pairs = 1", "pears = 9", "nothing was reloaded").await;
    assert!(limit(&next(3).await));
    reload(&server, "pears = 9", "pairs = 2", "were read again").await;
    assert!(matches!(next(4).await, Hears::Waiting(_)));
    assert!(limit(&next(5).await));
}

/// PROXY protocol v2: TCP over IPv4 from 192.0.2.7:12345 to 198.51.100.1:7800.
const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x30\x39\x1e\x78";

async fn observed(agent: &Agent, first: &'static [u8]) -> Option<pb::Endpoint> {
    let channel = connect_after(agent.port, agent.tls(), first).await.ok()?;
    let mut client = pb::agents_client::AgentsClient::new(channel);
    let answer = client.observe(pb::ObserveRequest { local: None }).await.ok()?;
    answer.into_inner().observed
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_configured_front_names_the_source_and_it_has_to() {
    let server = Deployment::start(MEMORY).await;
    let agent = server.agent("a").await;
    let direct = observed(&agent, b"").await.expect("welcome");
    assert_eq!(direct.address, [127, 0, 0, 1]);
    assert_eq!(observed(&agent, HEADER).await, None, "anybody could say so");

    reload(
        &server,
        "control_socket",
        "fronts = [\"127.0.0.0/8\"]\ncontrol_socket",
        "were read again",
    )
    .await;
    let named = observed(&agent, HEADER).await.expect("welcome");
    assert_eq!((&named.address[..], named.port), (&[192, 0, 2, 7][..], 12345));
    assert_eq!(observed(&agent, b"").await, None, "a front that says nothing");
    assert!(server.status()["refusals"]["proxy_header"].as_u64() >= Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_for_its_own_key_and_no_other() {
    let server = Deployment::start(MEMORY).await;
    let agent = server.agent("a").await;
    let mut client = agent.client().await.expect("welcome");
    let own = Application::again(&agent.dir).expect("it has joined");
    let request = |application: &Application| pb::RenewRequest {
        certificate_request: application.request.clone(),
    };
    let renewed = client.renew(request(&own)).await.expect("its own").into_inner();
    let identity = own
        .check(&renewed.certificate, &renewed.authority, None)
        .expect("it fits");
    assert_eq!(identity.agent_id().to_string(), agent.uri);
    identity::renewed(&agent.dir, &renewed.certificate).expect("it takes the old one's place");
    agent.attend(&[]).await.expect("still the same member");

    let other = Application::new("a").expect("a key");
    let refused = client.renew(request(&other)).await.expect_err("another member");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let nonsense = pb::RenewRequest {
        certificate_request: vec![0x30; 40],
    };
    let refused = client.renew(nonsense).await.expect_err("no request");
    assert_eq!(refused.code(), Code::InvalidArgument);
    server.cli(&["revoke", "a"]);
    client.renew(request(&own)).await.expect_err("revoked");
}

async fn sessions(member: &Agent) -> SessionsClient<Channel> {
    let channel = connect_after(member.port, member.tls(), b"").await;
    SessionsClient::new(channel.expect("it listens"))
}

fn put(id: &[u8], expected_revision: u64, kind: pb::session::Kind) -> pb::PutSessionRequest {
    let session = pb::Session {
        session_id: id.to_vec(),
        kind: kind.into(),
        owner: "somebody else".to_owned(),
        ..pb::Session::default()
    };
    pb::PutSessionRequest {
        session: Some(session),
        expected_revision,
    }
}

async fn listed(client: &mut SessionsClient<Channel>, limit: u32, kind: pb::session::Kind) -> usize {
    let request = pb::ListSessionsRequest {
        limit,
        kind: kind.into(),
    };
    let mut rows = client.list(request).await.expect("a member").into_inner();
    let mut count = 0;
    while rows.message().await.expect("a row").is_some() {
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_who_put_it_and_changes_only_from_what_he_has_read() {
    use pb::session::Kind;
    let server = Deployment::start(MEMORY).await;
    let (proxy, relay) = (
        server.member("p", "proxy").await,
        server.member("r", "relay").await,
    );
    let (mut at_proxy, mut at_relay) = (sessions(&proxy).await, sessions(&relay).await);
    let mut at_agent = sessions(&server.agent("a").await).await;
    let id = [7; 16];

    let refused = at_agent
        .put(put(&id, 0, Kind::Relayed))
        .await
        .expect_err("an agent");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = at_proxy
        .put(put(&id[..3], 0, Kind::Relayed))
        .await
        .expect_err("too short");
    assert_eq!(refused.code(), Code::InvalidArgument);
    let first = at_proxy
        .put(put(&id, 0, Kind::Relayed))
        .await
        .expect("new")
        .into_inner();
    let again = at_proxy
        .put(put(&id, 0, Kind::Relayed))
        .await
        .expect_err("it is there");
    assert_eq!(again.code(), Code::Aborted);
    let get = || pb::GetSessionRequest {
        session_id: id.to_vec(),
    };
    let stored = at_relay.get(get()).await.expect("stored").into_inner();
    assert_eq!((&stored.owner, stored.revision), (&proxy.uri, first.revision));

    let stolen = at_relay.put(put(&id, first.revision, Kind::Multipath)).await;
    assert_eq!(stolen.expect_err("another's").code(), Code::PermissionDenied);
    let second = at_proxy.put(put(&id, first.revision, Kind::Relayed)).await;
    let second = second.expect("it had read that").into_inner();
    let stale = at_proxy.put(put(&id, first.revision, Kind::Relayed)).await;
    assert_eq!(stale.expect_err("changed since").code(), Code::Aborted);
    assert!(second.revision > first.revision);

    let remove = || pb::RemoveSessionRequest {
        session_id: id.to_vec(),
    };
    let taken = at_relay.remove(remove()).await.expect_err("another's");
    assert_eq!(taken.code(), Code::PermissionDenied);
    at_proxy.remove(remove()).await.expect("its own");
    let gone = at_proxy.get(get()).await.expect_err("removed");
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_beyond_a_page_by_kind_and_up_to_a_number() {
    use pb::session::Kind;
    let server = Deployment::start(MEMORY).await;
    let relay = server.member("r", "relay").await;
    let mut client = sessions(&relay).await;
    for number in 0..300_u128 {
        let kind = if number < 290 {
            Kind::Multipath
        } else {
            Kind::Relayed
        };
        client
            .put(put(&number.to_be_bytes(), 0, kind))
            .await
            .expect("new");
    }
    assert_eq!(listed(&mut client, 0, Kind::Unspecified).await, 300);
    assert_eq!(listed(&mut client, 280, Kind::Unspecified).await, 280);
    assert_eq!(listed(&mut client, 0, Kind::Relayed).await, 10);
    let rows = server.cli(&["sessions", "--json"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).expect("JSON");
    assert_eq!(rows.len(), 300);
    assert_eq!(server.status()["sessions"], 300);
}

fn names(rows: &str, key: &str) -> std::collections::HashSet<String> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(rows).expect("JSON");
    let count = rows.len();
    let names = rows
        .iter()
        .map(|row| row[key].as_str().expect("a name").to_owned());
    let names = names.collect::<std::collections::HashSet<_>>();
    assert_eq!(names.len(), count, "each once");
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_pairs_are_listed_beyond_a_page_each_once_and_up_to_a_number() {
    let more = "[limits]\npairs = 1000\nreports = 10000\nenrolments_from_prefix = 10000";
    let server = Deployment::start(&format!("{MEMORY}\n{more}")).await;
    assert_eq!(server.cli(&["pairs", "--json"]), "[]\n");
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    for number in 0..600_u128 {
        let report = report(number.to_be_bytes(), &b, 1, 1, 2);
        at_a.say(Says::Report(report)).await;
        let heard = at_a.next().await.expect("the stream is open");
        assert!(matches!(heard, Hears::Waiting(_)), "{number}: {heard:?}");
    }
    assert_eq!(names(&server.cli(&["pairs", "--json"]), "pair_id").len(), 600);
    assert_eq!(
        names(&server.cli(&["pairs", "--json", "--limit", "301"]), "pair_id").len(),
        301
    );
    assert_eq!(server.status()["waiting_reports"], 600);

    let token = server.cli(&["enroll-token", "--uses", "298"]);
    let token: identity::EnrolmentToken = token.trim().parse().expect("a token");
    let tls = identity::first_contact(token.authority()).expect("TLS");
    let channel = crate::common::connect(server.port, tls)
        .await
        .expect("it listens");
    let mut enrolment = pb::enrolment_client::EnrolmentClient::new(channel);
    for number in 0..298 {
        let name = format!("host{number}");
        let request = pb::EnrolRequest {
            token: token.reveal(),
            certificate_request: Application::new(&name).expect("a key").request,
            name,
        };
        enrolment.enrol(request).await.expect("the token is good");
    }
    // Of them one attends.
    assert_eq!(names(&server.cli(&["agents", "--json"]), "agent").len(), 300);
    assert_eq!(
        names(&server.cli(&["agents", "--json", "--limit", "2"]), "agent").len(),
        2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_to_who_asks_and_the_server_goes_on_when_there_is_room() {
    let mut server = Deployment::start("").await;
    server.stop();
    server.run_on_disk_of(160).await;
    let filler = server.state().join("filler");
    let mut file = std::fs::File::create(&filler).expect("its disk");
    while std::io::Write::write_all(&mut file, &[7; 65_536]).is_ok() {}
    // An open file keeps its space when its name is gone.
    drop(file);
    let make = |server: &Deployment| server.command().arg("enroll-token").output().expect("it runs");
    let until = Instant::now() + PATIENCE;
    // What is reserved takes some before the disk is needed.
    while make(&server).status.success() {
        assert!(Instant::now() < until, "a full disk kept everything");
    }
    std::fs::remove_file(&filler).expect("ours");
    while !make(&server).status.success() {
        assert!(Instant::now() < until, "it never recovered: {}", server.log());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let agent = server.agent("a").await;
    agent.attend(&[]).await.expect("welcome");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}
