//! The control socket: one JSON request a line, one JSON answer a line.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec};

/// A request longer than this is not one of ours.
const LONGEST_REQUEST: usize = 64 * 1024;

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
pub struct Call<R> {
    /// What is asked.
    pub request: R,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Answer>,
}

/// Which daemon it is, for people.
#[derive(Clone, Copy, Debug)]
pub struct Daemon {
    /// Its program.
    pub name: &'static str,
    /// The keys of its configuration that two of them on one host cannot share.
    pub own: &'static str,
}

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers there.
    #[error("another {name} answers at {path}; stop it, or give this one its own {own}")]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Which program.
        name: &'static str,
        /// The keys of the configuration that two of them cannot share.
        own: &'static str,
    },
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

/// Binds the socket; one that a dead daemon left behind is replaced. Only root may talk to it.
///
/// # Errors
/// [`ControlError`].
pub async fn bind(path: &Path, daemon: Daemon) -> Result<UnixListener, ControlError> {
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
            _ => {
                return Err(ControlError::Taken {
                    path: path.to_owned(),
                    name: daemon.name,
                    own: daemon.own,
                });
            }
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(create)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(create)?;
    Ok(listener)
}

/// Serves for ever.
pub async fn serve<R: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    calls: mpsc::Sender<Call<R>>,
) {
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

async fn talk<R: DeserializeOwned>(stream: UnixStream, calls: mpsc::Sender<Call<R>>) {
    let (read, mut write) = stream.into_split();
    let mut lines = FramedRead::new(read, LinesCodec::new_with_max_length(LONGEST_REQUEST));
    while let Some(line) = lines.next().await {
        let request = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string()));
        let answer = match request {
            Ok(request) => {
                let (reply, answer) = oneshot::channel();
                if calls.send(Call { request, reply }).await.is_err() {
                    return;
                }
                let Ok(answer) = answer.await else { return };
                answer
            }
            Err(error) => Answer::Refused(format!("not a request: {error}")),
        };
        if put(&mut write, &answer).await.is_err() {
            return;
        }
    }
}

async fn put(write: &mut (impl AsyncWriteExt + Unpin), value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    write.write_all(&line).await
}

/// Asks a running daemon.
///
/// # Errors
/// None answers, or what it refuses; in words.
pub async fn ask(path: &Path, daemon: Daemon, request: &impl Serialize) -> Result<Value, String> {
    let mut stream = UnixStream::connect(path).await.map_err(|error| {
        format!(
            "no {name} answers at {}: {error}; is it running (systemctl status {name})?",
            path.display(),
            name = daemon.name
        )
    })?;
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
        Err(_) => Err(format!("the {} went away before it answered", daemon.name)),
    }
}
