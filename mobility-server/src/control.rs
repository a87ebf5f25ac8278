//! The control socket: the Operators service on a Unix socket. File permissions say who may.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hyper_util::rt::TokioIo;
use proto::mobility::v1::operators_client::OperatorsClient;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};

/// Why the control socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ControlError {
    #[error(
        "another server answers at {0}; stop it, or give this one its own `control_socket` and `state_dir`"
    )]
    Taken(PathBuf),
    #[error("{0} exists and is no socket; remove it, or set another `control_socket`")]
    NoSocket(PathBuf),
    #[error("cannot make the control socket {path}: {error}")]
    Create { path: PathBuf, error: io::Error },
}

/// Binds the socket; one that a dead server left behind is replaced. Only its owner may talk to it.
///
/// # Errors
/// A server answers there, or something else is in the way.
pub async fn bind(path: &Path) -> Result<UnixListener, ControlError> {
    let create = |error| ControlError::Create {
        path: path.to_owned(),
        error,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(create)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(ControlError::NoSocket(path.to_owned())),
        Ok(_) => match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(create)?;
            }
            _ => return Err(ControlError::Taken(path.to_owned())),
        },
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(create)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(create)?;
    Ok(listener)
}

/// Connects to a running server.
///
/// # Errors
/// None answers; the text says what to do.
pub async fn connect(path: &Path) -> anyhow::Result<OperatorsClient<Channel>> {
    let owned = path.to_owned();
    // The URL is a form that has to be filled in; where it leads is the connector's business.
    let endpoint = Endpoint::from_static("http://control.invalid");
    let channel = endpoint
        .connect_with_connector(tower::service_fn(move |_| {
            let path = owned.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await;
    let channel = channel.map_err(|_| {
        anyhow::anyhow!(
            "no server answers at {}; is it running (systemctl status mobility-server), and may you open the socket?",
            path.display()
        )
    })?;
    Ok(OperatorsClient::new(channel).max_decoding_message_size(64 * 1024 * 1024))
}
