//! The control socket: one JSON request a line, one JSON answer a line.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec};

use crate::timeline::Entry;

/// A request longer than this is not one of ours.
const LONGEST_REQUEST: usize = 64 * 1024;

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the agent is.
    Status,
    /// The connections that can migrate.
    Connections,
    /// The agents that keys were agreed with.
    Pairs,
    /// What happened; with `follow` also what happens from now on.
    Events {
        /// Go on for ever.
        follow: bool,
    },
    /// Run a pair exchange with a host.
    Pair {
        /// Its address.
        host: std::net::IpAddr,
        /// Its agent port; none: as ours.
        port: Option<u16>,
    },
    /// Make every report to the mobility servers anew.
    Report,
    /// This host goes to sleep: peers are asked to wait for it.
    Sleep {
        /// How long, in seconds; none: as long as they may.
        seconds: Option<u64>,
    },
    /// Resume connections from another address or towards another peer endpoint.
    Migrate {
        /// The connection as `connections` shows it; none: all.
        connection: Option<String>,
        /// Our address to use; none: as the routing table says.
        from: Option<std::net::IpAddr>,
        /// The peer's endpoint; none: where it was last.
        to: Option<std::net::SocketAddr>,
    },
}

/// What comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// As asked.
    Done(Value),
    /// It could not be done, and why.
    Refused(String),
}

/// One request on its way to the driver.
#[derive(Debug)]
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

/// The driver's answer.
#[derive(Debug)]
pub enum Reply {
    /// One answer.
    Answer(Answer),
    /// Entries so far, and those to come.
    Stream(Vec<Entry>, Option<broadcast::Receiver<Entry>>),
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another agent answers there.
    #[error(
        "another agent answers at {0}; stop it, or give this one its own `control_socket`, `pin_dir` and `device`"
    )]
    Taken(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is no socket; remove it, or set another `control_socket`")]
    NoSocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot make the control socket {path}: {error}")]
    Create {
        /// Where.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
}

/// Binds the socket; one that a dead agent left behind is replaced. Only root may talk to it.
pub async fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let create = |error| ControlError::Create {
        path: path.to_owned(),
        error,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(create)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ControlError::NoSocket(path.to_owned()));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(create)?;
            }
            // It answers, or would if it were not so busy.
            _ => return Err(ControlError::Taken(path.to_owned())),
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(create)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(create)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(talk(stream, calls.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn talk(stream: UnixStream, calls: mpsc::Sender<Call>) {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_REQUEST));
    while let Some(line) = lines.next().await {
        let request = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string()));
        let reply = match request {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                if calls.send(Call { request, reply }).await.is_err() {
                    return;
                }
                answer.await
            }
            Err(error) => Ok(Reply::Answer(Answer::Refused(format!("not a request: {error}")))),
        };
        let sent = match reply {
            Ok(Reply::Answer(answer)) => put(&mut write, &answer).await,
            Ok(Reply::Stream(entries, next)) => stream_out(&mut write, entries, next).await,
            Err(_) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}

async fn stream_out(
    write: &mut (impl AsyncWriteExt + Unpin),
    entries: Vec<Entry>,
    next: Option<broadcast::Receiver<Entry>>,
) -> io::Result<()> {
    for entry in entries {
        put(write, &entry).await?;
    }
    let Some(mut next) = next else {
        return write.shutdown().await;
    };
    loop {
        match next.recv().await {
            Ok(entry) => put(write, &entry).await?,
            // A slow reader misses some.
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return write.shutdown().await,
        }
    }
}

async fn put(write: &mut (impl AsyncWriteExt + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Asks a running agent.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, String> {
    let mut stream = connect(path).await?;
    put(&mut stream, request)
        .await
        .map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(stream)
        .read_line(&mut line)
        .await
        .map_err(|error| error.to_string())?;
    match serde_json::from_str(&line) {
        Ok(Answer::Done(value)) => Ok(value),
        Ok(Answer::Refused(why)) => Err(why),
        Err(_) => Err("the agent went away before it answered".into()),
    }
}

/// Asks for entries and hands each to `each` as it comes.
pub async fn follow(
    path: &Path,
    follow: bool,
    mut each: impl FnMut(Entry) -> io::Result<()>,
) -> Result<(), String> {
    let mut stream = connect(path).await?;
    put(&mut stream, &Request::Events { follow })
        .await
        .map_err(|error| error.to_string())?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await.map_err(|error| error.to_string())? {
        let entry = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        if each(entry).is_err() {
            break;
        }
    }
    Ok(())
}

async fn connect(path: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(path).await.map_err(|error| {
        format!(
            "no agent answers at {}: {error}; is it running (systemctl status host-agent)?",
            path.display()
        )
    })
}
