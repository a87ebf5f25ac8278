//! Joining a deployment (`host-agent enroll`, `symmetric-proxy enroll`): this host gets a certificate there.
//!
//! The key is made here. The token's fingerprint says who the server must be, its secret says to the server that
//! this host is expected. Nothing is written before the answer has been checked.

use std::path::{Path, PathBuf};

use identity::{Application, EnrolmentToken, HostIdentity, JoinError};
use proto::mobility::v1 as said;
use said::enrolment_client::EnrolmentClient;

use crate::connect::{ConnectError, connect};

/// Lists the deployment's servers in an identity directory, one URL a line.
const SERVERS: &str = "servers";

/// Why a host cannot enrol.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EnrolError {
    #[error(transparent)]
    Token(#[from] identity::ParseTokenError),
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the server refuses: {0}; ask its operator for a new token (mobility-server enroll-token)")]
    Refused(String),
    #[error("cannot write {path}: {error}")]
    Write { path: PathBuf, error: std::io::Error },
}

/// What became of it.
#[derive(Debug)]
pub struct Enrolled {
    /// Who this host is now.
    pub identity: HostIdentity,
    /// The deployment's servers.
    pub servers: Vec<String>,
}

/// Enrols this host at `server`, and puts key, certificate and authority into `dir`.
///
/// # Errors
/// See [`EnrolError`]; nothing is written then.
pub async fn enrol(
    server: &str,
    token: &str,
    name: &str,
    dir: &Path,
    replace: bool,
) -> Result<Enrolled, EnrolError> {
    let parsed: EnrolmentToken = token.parse()?;
    identity::vacant(dir, replace)?;
    let application = Application::new(name)?;
    let tls = identity::first_contact(parsed.authority()).map_err(ConnectError::Trust)?;
    let connected = connect(server, None, 0, tls).await?;
    let answer = EnrolmentClient::new(connected.channel)
        .enrol(said::EnrolRequest {
            token: token.trim().to_owned(),
            certificate_request: application.request.clone(),
            name: name.to_owned(),
        })
        .await
        .map_err(|status| EnrolError::Refused(status.message().to_owned()))?
        .into_inner();
    let identity = application.check(&answer.certificate, &answer.authority, Some(parsed.authority()))?;
    application.settle(dir, &answer.certificate, &answer.authority, replace)?;
    let servers = match answer.servers.is_empty() {
        true => vec![server.to_owned()],
        false => answer.servers,
    };
    let path = dir.join(SERVERS);
    let text: String = servers.iter().map(|url| format!("{url}\n")).collect();
    std::fs::write(&path, text).map_err(|error| EnrolError::Write { path, error })?;
    Ok(Enrolled { identity, servers })
}

/// The servers that an enrolment has named; empty: there was none.
pub fn servers_of(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join(SERVERS))
        .unwrap_or_default()
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}
