//! What operators and their tools see: every command as JSON, metrics, health and reflection, limits of a prefix.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use crate::common::{Deployment, PATIENCE, connect, report};
use identity::first_contact;
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::refused::Reason;
use proto::mobility::v1::server_message::Body as Hears;
use serde_json::Value;

const PAIR: [u8; 16] = [1; 16];
const MEMORY: &str = "[store]\nbackend = \"memory\"";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_answers_in_json() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[(1, &b)]).await.expect("welcome");
    at_a.say(Says::Report(report(PAIR, &b, 1, 1, 2))).await;
    assert!(matches!(at_a.next().await, Ok(Hears::Waiting(_))));
    let ask = |command: &str| json(&server.cli(&[command, "--json"]));

    let agents = ask("agents");
    let row = |name: &str| {
        let rows = agents.as_array().expect("rows").iter();
        rows.clone()
            .find(|row| row["name"] == name)
            .expect("enrolled")
            .clone()
    };
    assert_eq!(row("a")["state"], "attends");
    assert_eq!(row("b")["state"], "enrolled");
    let pairs = ask("pairs");
    assert_eq!(pairs[0]["pair_id"], "01".repeat(16));
    assert_eq!(pairs[0]["connections"], 1);
    assert_eq!(ask("sessions"), json("[]"));
    assert_eq!(ask("relays"), json("[]"));
    let status = ask("status");
    assert_eq!(
        (&status["agents"], &status["waiting_reports"]),
        (&json("1"), &json("1"))
    );
    let token = ask("enroll-token")["token"].as_str().expect("text").to_owned();
    token.parse::<identity::EnrolmentToken>().expect("a token");
    let findings = ask("doctor");
    let store = findings
        .as_array()
        .expect("rows")
        .iter()
        .find(|found| found["what"] == "store");
    assert_eq!(store.expect("it was looked at")["verdict"], "good", "{findings}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_says_that_no_server_runs_and_fails_without_an_authority() {
    let mut server = Deployment::start(MEMORY).await;
    server.stop();
    let stopped = server
        .command()
        .args(["doctor", "--json"])
        .output()
        .expect("it runs");
    json(&String::from_utf8_lossy(&stopped.stdout));
    std::fs::remove_dir_all(server.dir.path().join("ca")).expect("ours");
    let broken = server
        .command()
        .args(["doctor", "--json"])
        .output()
        .expect("it runs");
    assert!(!broken.status.success());
    let findings = json(&String::from_utf8_lossy(&broken.stdout));
    let bad = findings
        .as_array()
        .expect("rows")
        .iter()
        .find(|found| found["verdict"] == "bad");
    let detail = bad.expect("something is bad")["detail"].as_str().expect("text");
    assert!(detail.contains("restore"), "it says what to do: {detail}");
}

/// PROXY protocol v2: TCP over IPv4 from 192.0.2.7:12345, and from 203.0.113.9:4000, to 198.51.100.1:7800.
const HEADERS: [&[u8]; 2] = [
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x30\x39\x1e\x78",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\xc6\x33\x64\x01\x0f\xa0\x1e\x78",
];

/// What `doctor` finds of one thing.
fn found(server: &Deployment, what: &str) -> (String, String) {
    let output = server.command().args(["doctor", "--json"]).output();
    let findings = json(&String::from_utf8_lossy(&output.expect("it runs").stdout));
    let found = findings
        .as_array()
        .expect("rows")
        .iter()
        .find(|row| row["what"] == what);
    let found = found.unwrap_or_else(|| panic!("nothing of {what}: {findings}"));
    let text = |key: &str| found[key].as_str().expect("text").to_owned();
    (text("verdict"), text("detail"))
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_doubts_a_server_to_which_everybody_comes_from_one_address_and_believes_its_fronts() {
    let server = Deployment::start(MEMORY).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let _at_a = a.attend(&[]).await.expect("welcome");
    let (verdict, detail) = found(&server, "sources");
    assert_eq!(verdict, "good", "one agent says nothing: {detail}");
    let _at_b = b.attend(&[]).await.expect("welcome");
    let (verdict, detail) = found(&server, "sources");
    assert_eq!(verdict, "doubtful", "{detail}");
    assert!(
        detail.contains("127.0.0.1") && detail.contains("PROXY protocol v2") && detail.contains("`fronts`"),
        "it says what to do: {detail}"
    );

    // The same, behind a load balancer that names the sources.
    let server = Deployment::start(&format!("fronts = [\"127.0.0.0/8\"]\n{MEMORY}")).await;
    let mut lines = Vec::new();
    for (name, header) in ["a", "b"].into_iter().zip(HEADERS) {
        let agent = server.agent_through(name, header).await;
        lines.push(agent.attend(&[]).await.expect("welcome"));
    }
    let (verdict, detail) = found(&server, "sources");
    assert_eq!((&verdict[..], &detail[..]), ("good", "2 agents from 2 addresses"));
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_a_missing_certificate_and_a_state_directory_that_cannot_be_written() {
    let mut server = Deployment::start("").await;
    for what in ["authority", "certificate", "clock", "state", "store"] {
        assert_eq!(found(&server, what).0, "good", "{what}");
    }
    server.stop();
    // A file where the directory was: nobody can write there, whoever runs the test.
    let state = server.dir.path().join("state");
    std::fs::remove_dir_all(&state).expect("ours");
    std::fs::write(&state, b"").expect("ours");
    assert_eq!(found(&server, "state").0, "bad");
    std::fs::remove_dir_all(server.dir.path().join("server")).expect("ours");
    assert_eq!(found(&server, "certificate").0, "bad");
}

/// The answer to one request, or nothing while nobody listens.
fn scrape(port: u16) -> Option<String> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_agents_and_refusals() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port();
    let server = Deployment::start(&format!("metrics = \"127.0.0.1:{port}\"\n{MEMORY}")).await;
    let agent = server.agent("a").await;
    let mut at_server = agent.attend(&[]).await.expect("welcome");
    let impossible = pb::MobilityReport {
        source_after: vec![127, 0, 0, 1],
        ..report(PAIR, &agent, 1, 1, 2)
    };
    at_server.say(Says::Report(impossible)).await;
    assert!(matches!(at_server.next().await, Ok(Hears::Refused(_))));
    let until = Instant::now() + PATIENCE;
    loop {
        let text = scrape(port).unwrap_or_default();
        if text.contains("mobility_server_agents 1") && text.contains("refus") {
            break;
        }
        assert!(Instant::now() < until, "{text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_answer_without_a_certificate() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::health_client::HealthClient;
    let server = Deployment::start(MEMORY).await;
    let token = server.token();
    let tls = || first_contact(token.authority()).expect("TLS");
    let channel = connect(server.port, tls()).await.expect("it listens");
    let request = tonic_health::pb::HealthCheckRequest {
        service: String::new(),
    };
    let health = HealthClient::new(channel.clone())
        .check(request)
        .await
        .expect("an answer");
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([ask]))
        .await
        .expect("an answer")
        .into_inner();
    let answer = answers.message().await.expect("an answer").expect("one");
    let Some(MessageResponse::ListServicesResponse(listed)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<_> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    assert!(names.contains(&"mobility.v1.Agents"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_has_a_limit_of_its_own_whoever_reports_from_it() {
    // A quarter of a minute's worth may come at once.
    let server = Deployment::start(&format!("{MEMORY}\n[limits]\nreports_from_prefix = 16")).await;
    let (a, b) = (server.agent("a").await, server.agent("b").await);
    let mut at_a = a.attend(&[]).await.expect("welcome");
    let mut at_b = b.attend(&[]).await.expect("welcome");
    for pair in 1..=4 {
        at_a.say(Says::Report(report([pair; 16], &b, 1, 1, 2))).await;
        assert!(matches!(at_a.next().await, Ok(Hears::Waiting(_))), "{pair}");
    }
    let until = Instant::now() + PATIENCE;
    let mut pair = 5;
    // On a slow machine some of them are given back meanwhile.
    loop {
        at_b.say(Says::Report(report([pair; 16], &a, 1, 2, 1))).await;
        match at_b.next().await.expect("the stream outlives it") {
            Hears::Refused(no) if no.reason() == Reason::Limit => break,
            Hears::Waiting(_) => assert!(Instant::now() < until, "no limit"),
            other => panic!("{other:?}"),
        }
        pair += 1;
    }
}
