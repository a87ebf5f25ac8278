//! The control socket: whatever is said to it, the agent answers or hangs up, and lives on.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_agent::control::{self, Answer, Call, ControlError, Reply, Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// A control socket with a loop behind it that answers everything.
struct Served {
    path: PathBuf,
    _directory: TempDir,
}

async fn serve() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below").join("control.sock");
    let listener = control::bind(&path).await.unwrap();
    let (sender, mut calls) = mpsc::channel::<Call>(4);
    tokio::spawn(control::serve(listener, sender));
    tokio::spawn(async move {
        while let Some(call) = calls.recv().await {
            let answer = Answer::Done(json!(format!("{:?}", call.request)));
            let _ = call.reply.send(Reply::Answer(answer));
        }
    });
    Served {
        path,
        _directory: directory,
    }
}

/// Says these bytes and reads one line, or nothing when the agent hangs up.
async fn say(stream: &mut BufReader<UnixStream>, bytes: &[u8]) -> String {
    // Who hangs up in the middle of a long line has heard enough.
    let _ = stream.get_mut().write_all(bytes).await;
    let mut line = String::new();
    let read = stream.read_line(&mut line);
    let _ = tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("an answer or an end");
    line
}

async fn connect(path: &Path) -> BufReader<UnixStream> {
    BufReader::new(UnixStream::connect(path).await.unwrap())
}

fn refusal(line: &str) -> String {
    match serde_json::from_str(line) {
        Ok(Answer::Refused(why)) => why,
        other => panic!("{line:?}: {other:?}"),
    }
}

async fn lives(path: &Path) {
    let answer = control::ask(path, &Request::Status).await;
    assert_eq!(answer, Ok(Value::String("Status".into())));
}

#[tokio::test]
async fn garbage_is_refused_and_the_next_request_answered() {
    let served = serve().await;
    let mut stream = connect(&served.path).await;
    for garbage in [
        "\n",
        "hello\n",
        "{\n",
        "[]\n",
        "null\n",
        "{\"command\":5}\n",
        "\u{0}\u{1}\n",
    ] {
        let why = refusal(&say(&mut stream, garbage.as_bytes()).await);
        assert!(why.starts_with("not a request"), "{why}");
    }
    let line = say(&mut stream, b"{\"command\":\"status\"}\n").await;
    assert!(line.contains("Status"), "{line}");
}

#[tokio::test]
async fn an_unknown_command_is_refused_by_name() {
    let served = serve().await;
    let mut stream = connect(&served.path).await;
    let why = refusal(&say(&mut stream, b"{\"command\":\"reboot\"}\n").await);
    assert!(why.contains("reboot") && why.contains("status"), "{why}");
    let why = refusal(
        &say(
            &mut stream,
            b"{\"command\":\"pair\",\"host\":\"192.0.2.1\",\"prot\":1}\n",
        )
        .await,
    );
    assert!(why.contains("prot"), "{why}");
    let why = refusal(&say(&mut stream, b"{\"command\":\"pair\",\"host\":\"nowhere\"}\n").await);
    assert!(why.contains("IP"), "{why}");
    lives(&served.path).await;
}

#[tokio::test]
async fn a_line_that_is_too_long_is_refused() {
    let served = serve().await;
    for end in ["\n", ""] {
        let mut stream = connect(&served.path).await;
        let line = format!("{}{end}", "x".repeat(200_000));
        let why = refusal(&say(&mut stream, line.as_bytes()).await);
        assert!(why.contains("length"), "{why}");
    }
    lives(&served.path).await;
}

#[tokio::test]
async fn what_is_no_text_is_refused() {
    let served = serve().await;
    let mut stream = connect(&served.path).await;
    let why = refusal(&say(&mut stream, b"\xff\xfe\xfd\n").await);
    assert!(why.to_lowercase().contains("utf"), "{why}");
    lives(&served.path).await;
}

#[tokio::test]
async fn one_connection_may_ask_as_often_as_it_likes() {
    let served = serve().await;
    let mut stream = connect(&served.path).await;
    let request = b"{\"command\":\"status\"}\n";
    for number in 0..2 * 64 * 1024 / request.len() {
        let line = say(&mut stream, request).await;
        assert!(line.contains("Status"), "request {number}: {line}");
    }
}

#[tokio::test]
async fn who_hangs_up_at_any_time_disturbs_nobody() {
    let served = serve().await;
    let request = b"{\"command\":\"status\"}\n";
    for said in 0..=request.len() {
        let mut stream = connect(&served.path).await;
        stream.get_mut().write_all(&request[..said]).await.unwrap();
        drop(stream);
    }
    // Half a line and an end: an answer to that, and an end.
    let mut stream = connect(&served.path).await;
    stream.get_mut().write_all(b"{\"comm").await.unwrap();
    stream.get_mut().shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    refusal(rest.trim_end());
    lives(&served.path).await;
}

#[tokio::test]
async fn a_caller_is_told_when_the_agent_goes_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let error = control::ask(&path, &Request::Status).await.unwrap_err();
    assert!(
        error.contains("no agent answers") && error.contains("control.sock"),
        "{error}"
    );

    let listener = control::bind(&path).await.unwrap();
    let (sender, calls) = mpsc::channel::<Call>(1);
    tokio::spawn(control::serve(listener, sender));
    drop(calls);
    let error = control::ask(&path, &Request::Status).await.unwrap_err();
    assert!(error.contains("went away"), "{error}");
}

#[tokio::test]
async fn a_live_agents_socket_is_not_taken_over() {
    let served = serve().await;
    match control::bind(&served.path).await {
        Err(error @ ControlError::Taken(_)) => {
            let text = error.to_string();
            assert!(
                text.contains("control.sock") && text.contains("pin_dir"),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }
    lives(&served.path).await;
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "left behind");
    let listener = control::bind(&path).await.unwrap();
    let (sender, _calls) = mpsc::channel::<Call>(1);
    tokio::spawn(control::serve(listener, sender));
    assert!(UnixStream::connect(&path).await.is_ok());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("precious");
    std::fs::write(&path, "data").unwrap();
    let error = control::bind(&path).await.unwrap_err().to_string();
    assert!(
        error.contains("precious") && error.contains("control_socket"),
        "{error}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
}

#[tokio::test]
async fn only_the_owner_may_talk_to_it() {
    let served = serve().await;
    let mode = std::fs::metadata(&served.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let error = control::bind(Path::new("/proc/nothing/control.sock"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/proc/nothing/control.sock"), "{error}");
}
