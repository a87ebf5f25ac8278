//! Who a member is, and whose: its certificate, and the servers of its deployment.

use std::path::{Path, PathBuf};

use identity::{Credentials, HostIdentity, MemberRole, Trust};

use crate::connect::{ConnectError, host_and_port};
use crate::enrolment;

/// A member cannot show who it is.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// It has not joined.
    #[error("no identity in {}: make a token with mobility-server enroll-token --role {role}, then {program} enroll: {error}", .dir.display())]
    Missing {
        /// Where it should be.
        dir: PathBuf,
        /// What it would be.
        role: MemberRole,
        /// The program that enrols.
        program: &'static str,
        /// The cause.
        error: identity::IdentityError,
    },
    /// It has joined as something else.
    #[error("the identity in {} is that of an {is}: enrol with a token for the role {role}", .dir.display())]
    Other {
        /// Where it is.
        dir: PathBuf,
        /// What it is.
        is: MemberRole,
        /// What it should be.
        role: MemberRole,
    },
    /// What is in the directory does not fit together.
    #[error(transparent)]
    Unusable(#[from] identity::TrustError),
}

/// The certificate and key in a directory, of a member in this role.
///
/// # Errors
/// [`StandingError`]: there is none, or it is for another role.
pub fn credentials(
    dir: &Path,
    role: MemberRole,
    program: &'static str,
) -> Result<Credentials, StandingError> {
    let identity = HostIdentity::load(dir).map_err(|error| StandingError::Missing {
        dir: dir.to_owned(),
        role,
        program,
        error,
    })?;
    if identity.role() != role {
        return Err(StandingError::Other {
            dir: dir.to_owned(),
            is: identity.role(),
            role,
        });
    }
    let bundle = dir.join("ca.pem");
    Ok(Credentials::new(identity, &Trust::Ca { bundle })?)
}

/// The configured servers, or else those that the enrolment has named; there may be none.
///
/// # Errors
/// One is no URL.
pub fn servers(configured: &[String], dir: &Path) -> Result<Vec<String>, ConnectError> {
    let urls = match configured.is_empty() {
        true => enrolment::servers_of(dir),
        false => configured.to_vec(),
    };
    for url in &urls {
        host_and_port(url)?;
    }
    Ok(urls)
}
