//! `host-agent init`: a CA if there is none, and this host's certificate.
//!
//! May be run again: what is there and fits is kept; a certificate that expires within a month is renewed for the
//! same key, so that the host keeps its identity and its pinned fingerprint; whatever else is there is never
//! overwritten, and the error says what stands in the way.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::agent_id::{AgentId, DEFAULT_TRUST_DOMAIN, Fingerprint};
use crate::authority::{Authority, AuthorityError, Validity};
use crate::files;
use crate::host::{CA_CERTIFICATE, CA_KEY, HOST_CERTIFICATE, HOST_KEY, HostIdentity, IdentityError};

/// A certificate with less time left than this is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(31 * 24 * 3600);

/// Why a host cannot be set up.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum InitError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(
        "{path} is the certificate of {found}, not of {wanted}: give that name, or choose another identity directory"
    )]
    OtherName {
        path: PathBuf,
        found: String,
        wanted: String,
    },
    #[error(
        "{path} is of another CA than the one in {ca}: use the CA that made it, or choose another identity directory"
    )]
    OtherAuthority { path: PathBuf, ca: PathBuf },
    #[error("{path} is missing although {other} is there: restore it, or move {other} away to begin anew")]
    KeyMissing { path: PathBuf, other: PathBuf },
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("cannot write {path}: {error}")]
    Write { path: PathBuf, error: io::Error },
}

/// What was done about the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityOutcome {
    /// There was none; it was made.
    Created,
    /// It was there.
    Loaded,
}

/// What was done about the host's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostOutcome {
    /// There was none; key and certificate were made.
    Issued,
    /// It was about to expire or missing; a new certificate was made for the key that was there.
    Renewed,
    /// It was there and is good.
    Kept,
}

/// What [`init_host`] did and found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitReport {
    /// About the authority.
    pub authority: AuthorityOutcome,
    /// About the host.
    pub host: HostOutcome,
    /// Who this host is.
    pub agent: AgentId,
    /// What peers pin when they do not use the CA.
    pub fingerprint: Fingerprint,
    /// When the certificate expires.
    pub not_after: SystemTime,
    /// The host's certificate.
    pub certificate: PathBuf,
    /// The host's key.
    pub key: PathBuf,
    /// The copy of the authority's certificate, for the `trust` setting.
    pub ca: PathBuf,
}

/// Makes sure of a CA in `ca_dir` and of this host's certificate, key and copy of `ca.pem` in `identity_dir`.
///
/// # Errors
/// Something that may not be overwritten stands in the way, or a directory cannot be read or written.
pub fn init_host(ca_dir: &Path, identity_dir: &Path, name: &str) -> Result<InitReport, InitError> {
    let (certificate, key, ca) = (
        identity_dir.join(HOST_CERTIFICATE),
        identity_dir.join(HOST_KEY),
        identity_dir.join(CA_CERTIFICATE),
    );
    let there = |path: &Path| fs::symlink_metadata(path).is_ok();
    let have_authority = there(&ca_dir.join(CA_CERTIFICATE)) || there(&ca_dir.join(CA_KEY));
    let (authority, authority_outcome) = match (have_authority, there(&certificate)) {
        (true, _) => (Authority::load(ca_dir)?, AuthorityOutcome::Loaded),
        // A new CA cannot have made what is there: most likely the directory is mistyped.
        (false, true) => {
            return Err(InitError::OtherAuthority {
                path: certificate,
                ca: ca_dir.to_owned(),
            });
        }
        (false, false) => (
            Authority::create(ca_dir, Validity::of_authority())?,
            AuthorityOutcome::Created,
        ),
    };
    let host = match (there(&certificate), there(&key)) {
        (false, false) => {
            authority.issue(name, Validity::of_host())?.write(identity_dir)?;
            HostOutcome::Issued
        }
        (true, false) => {
            return Err(InitError::KeyMissing {
                path: key,
                other: certificate,
            });
        }
        // An earlier run ended between the two files.
        (false, true) => renew(&authority, &certificate, &key, name, DEFAULT_TRUST_DOMAIN)?,
        (true, true) => {
            let identity = HostIdentity::load_at_any_time(identity_dir)?;
            if identity.name() != name {
                let (found, wanted) = (identity.name().to_owned(), name.to_owned());
                return Err(InitError::OtherName {
                    path: certificate,
                    found,
                    wanted,
                });
            }
            if !authority.issued(&identity) {
                return Err(InitError::OtherAuthority {
                    path: certificate,
                    ca: ca_dir.to_owned(),
                });
            }
            match SystemTime::now() + RENEW_BEFORE < identity.not_after() {
                true => HostOutcome::Kept,
                false => renew(
                    &authority,
                    &certificate,
                    &key,
                    name,
                    identity.agent_id().trust_domain(),
                )?,
            }
        }
    };
    copy_ca(&authority, ca_dir, &ca)?;
    let identity = HostIdentity::load(identity_dir)?;
    Ok(InitReport {
        authority: authority_outcome,
        host,
        agent: identity.agent_id().clone(),
        fingerprint: identity.fingerprint(),
        not_after: identity.not_after(),
        certificate,
        key,
        ca,
    })
}

fn renew(
    authority: &Authority,
    certificate: &Path,
    key: &Path,
    name: &str,
    trust_domain: &str,
) -> Result<HostOutcome, InitError> {
    match files::is_exposed(key) {
        Ok(false) => {}
        Ok(true) => return Err(IdentityError::Exposed { path: key.to_owned() }.into()),
        Err(error) => {
            return Err(InitError::Read {
                path: key.to_owned(),
                error,
            });
        }
    }
    let pem = fs::read_to_string(key).map_err(|error| InitError::Read {
        path: key.to_owned(),
        error,
    })?;
    let renewed = authority.renew(&Zeroizing::new(pem), name, trust_domain, Validity::of_host())?;
    files::replace(certificate, files::PUBLIC, renewed.certificate_pem.as_bytes()).map_err(|error| {
        InitError::Write {
            path: certificate.to_owned(),
            error,
        }
    })?;
    Ok(HostOutcome::Renewed)
}

/// Puts the authority's certificate beside the host's. A bundle that holds it already, perhaps with others, stays.
fn copy_ca(authority: &Authority, ca_dir: &Path, ca: &Path) -> Result<(), InitError> {
    match fs::read_to_string(ca) {
        Ok(bundle) if bundle.contains(authority.certificate_pem().trim()) => return Ok(()),
        Ok(_) => {
            return Err(InitError::OtherAuthority {
                path: ca.to_owned(),
                ca: ca_dir.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(InitError::Read {
                path: ca.to_owned(),
                error,
            });
        }
    }
    files::create_new(ca, files::PUBLIC, authority.certificate_pem().as_bytes()).map_err(|error| {
        InitError::Write {
            path: ca.to_owned(),
            error,
        }
    })
}
