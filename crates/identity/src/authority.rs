//! The deployment's private authority: a directory with `ca.pem` and `ca.key`.
//!
//! [`Authority::create`] makes it once and refuses to overwrite; [`Authority::load`] opens it;
//! [`Authority::issue`] makes the certificate of one host. The directory is needed for issuing only and can be kept
//! off-line otherwise: agents need `ca.pem` alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use time::OffsetDateTime;
use zeroize::{Zeroize, Zeroizing};

use crate::agent_id::{AgentId, DEFAULT_TRUST_DOMAIN, Fingerprint};
use crate::certificate::{CertificateFacts, chained_at, rfc3339};
use crate::files;
use crate::host::{CA_CERTIFICATE, CA_KEY, HOST_CERTIFICATE, HOST_KEY, HostIdentity};

const DAY: Duration = Duration::from_secs(24 * 3600);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Why an authority cannot be made, opened or used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum AuthorityError {
    #[error("{path} exists already: use it, or choose another directory for a new CA")]
    Exists { path: PathBuf },
    #[error("cannot read {path}: {error}; restore the CA's directory, or name an empty one to make a new CA")]
    Read { path: PathBuf, error: io::Error },
    #[error("cannot write {path}: {error}")]
    Write { path: PathBuf, error: io::Error },
    #[error("{path} can be read by others than its owner: run chmod 600 {path}")]
    Exposed { path: PathBuf },
    #[error("{path}: {detail}; restore the CA's directory from a backup, or make a new CA in another one")]
    Content { path: PathBuf, detail: String },
    #[error(
        "the CA in {path} expired at {not_after}: make a new one in another directory, and new certificates"
    )]
    Expired { path: PathBuf, not_after: String },
    #[error("{name:?} cannot be a host's name: use 1 to 64 of A-Z a-z 0-9 . _ -")]
    Name { name: String },
    #[error("{domain:?} cannot be a trust domain: use 1 to 255 of a-z 0-9 . _ -")]
    TrustDomain { domain: String },
    #[error("cannot make a certificate: {0}")]
    Generate(#[from] rcgen::Error),
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From then.
    pub not_before: SystemTime,
    /// Until then, inclusive.
    pub not_after: SystemTime,
}

impl Validity {
    /// From an hour ago (clocks differ) for this long from now.
    pub fn from_now(length: Duration) -> Self {
        let now = SystemTime::now();
        Self {
            not_before: now - Duration::from_secs(3600),
            not_after: now + length,
        }
    }

    /// What `host-agent init` gives a host: a year and a month.
    pub fn of_host() -> Self {
        Self::from_now(YEAR + 31 * DAY)
    }

    /// What `host-agent init` gives an authority: ten years.
    pub fn of_authority() -> Self {
        Self::from_now(10 * YEAR)
    }
}

/// An authority, ready to issue. Holds the CA's key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    pub(crate) facts: CertificateFacts,
}

impl Authority {
    /// Makes an authority in `dir` (created with mode 0700 if missing).
    ///
    /// # Errors
    /// `ca.pem` or `ca.key` exists; the directory cannot be written.
    pub fn create(dir: &Path, validity: Validity) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        for path in [&certificate_path, &key_path] {
            if fs::symlink_metadata(path).is_ok() {
                return Err(AuthorityError::Exists { path: path.clone() });
            }
        }
        let write = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::Exists {
                path: path.to_owned(),
            },
            _ => AuthorityError::Write {
                path: path.to_owned(),
                error,
            },
        };
        let mut key = KeyPair::generate()?;
        let fingerprint = Fingerprint::of_spki(&key.subject_public_key_info());
        let mut params = dated(validity);
        // The name holds part of the key's fingerprint: two authorities never look alike.
        params.distinguished_name = common_name(&format!("mobility CA {}", &fingerprint.to_string()[..12]));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        files::make_dir(dir, 0o700).map_err(|error| write(dir, error))?;
        files::create_new(&key_path, files::PRIVATE, key_pem.as_bytes()).map_err(|e| write(&key_path, e))?;
        files::create_new(&certificate_path, files::PUBLIC, certificate_pem.as_bytes())
            .map_err(|error| write(&certificate_path, error))?;
        Self::load(dir)
    }

    /// Opens the authority in `dir`.
    ///
    /// # Errors
    /// A file is missing or damaged, the key is readable by others, the two do not belong together, or it expired.
    pub fn load(dir: &Path) -> Result<Self, AuthorityError> {
        let (certificate_path, key_path) = (dir.join(CA_CERTIFICATE), dir.join(CA_KEY));
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(|error| AuthorityError::Read {
                path: path.to_owned(),
                error,
            })
        };
        let content = |path: &Path, detail: String| AuthorityError::Content {
            path: path.to_owned(),
            detail,
        };
        let certificate_pem = read(&certificate_path)?;
        match files::is_exposed(&key_path) {
            Ok(false) => {}
            Ok(true) => return Err(AuthorityError::Exposed { path: key_path }),
            Err(error) => {
                return Err(AuthorityError::Read {
                    path: key_path,
                    error,
                });
            }
        }
        let key_pem = Zeroizing::new(read(&key_path)?);
        let key = KeyPair::from_pem(&key_pem)
            .map_err(|error| content(&key_path, format!("is no PEM private key ({error})")))?;
        let der = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| content(&certificate_path, format!("is no PEM certificate ({error})")))?;
        let facts = CertificateFacts::read(&der)
            .map_err(|detail| content(&certificate_path, format!("is no certificate ({detail})")))?;
        if facts.fingerprint != Fingerprint::of_spki(&key.subject_public_key_info()) {
            return Err(content(
                &certificate_path,
                format!("was not made for the key in {}", key_path.display()),
            ));
        }
        if facts.not_after < SystemTime::now() {
            let not_after = rfc3339(facts.not_after);
            return Err(AuthorityError::Expired {
                path: certificate_path,
                not_after,
            });
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|error| {
            content(
                &certificate_path,
                format!("is no authority's certificate ({error})"),
            )
        })?;
        Ok(Self {
            issuer,
            certificate_pem,
            facts,
        })
    }

    /// The certificate that agents must trust, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Issues a certificate for a new key. No validity reaches beyond the authority's own.
    ///
    /// # Errors
    /// The name or trust domain has characters that it may not have.
    pub fn issue(&self, name: &str, validity: Validity) -> Result<IssuedIdentity, AuthorityError> {
        self.issue_for(KeyPair::generate()?, name, DEFAULT_TRUST_DOMAIN, validity)
    }

    /// As [`Authority::issue`], in another trust domain.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_in(
        &self,
        trust_domain: &str,
        name: &str,
        validity: Validity,
    ) -> Result<IssuedIdentity, AuthorityError> {
        self.issue_for(KeyPair::generate()?, name, trust_domain, validity)
    }

    /// Issues a certificate for a key that exists: the agent keeps its identity and its pinned fingerprint.
    ///
    /// # Errors
    /// As [`Authority::issue`]; the key is not a PEM private key.
    pub fn renew(
        &self,
        key_pem: &str,
        name: &str,
        trust_domain: &str,
        validity: Validity,
    ) -> Result<IssuedIdentity, AuthorityError> {
        self.issue_for(KeyPair::from_pem(key_pem)?, name, trust_domain, validity)
    }

    /// Whether this authority made the certificate, which may have expired.
    pub fn issued(&self, identity: &HostIdentity) -> bool {
        let Ok(authority) = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()) else {
            return false;
        };
        let certificate = identity.certified().cert.first();
        certificate.is_some_and(|certificate| chained_at(certificate, authority, identity.not_before()))
    }

    fn issue_for(
        &self,
        key: KeyPair,
        name: &str,
        trust_domain: &str,
        validity: Validity,
    ) -> Result<IssuedIdentity, AuthorityError> {
        IssuedIdentity::make(key, name, trust_domain, self.within(validity), Some(&self.issuer))
    }

    /// No validity reaches beyond the authority's own.
    pub(crate) fn within(&self, validity: Validity) -> Validity {
        Validity {
            not_before: validity.not_before,
            not_after: validity.not_after.min(self.facts.not_after),
        }
    }

    pub(crate) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("name", &self.facts.issuer)
            .finish_non_exhaustive()
    }
}

/// A host's certificate and key, not yet written anywhere. Holds the key, wiped on drop.
pub struct IssuedIdentity {
    /// Who it is.
    pub agent: AgentId,
    /// What peers pin.
    pub fingerprint: Fingerprint,
    /// When it expires.
    pub not_after: SystemTime,
    /// PEM.
    pub certificate_pem: String,
    /// PEM; secret.
    pub key_pem: Zeroizing<String>,
}

impl IssuedIdentity {
    /// A certificate of no authority, for agents that pin each other's keys.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn self_signed(name: &str, validity: Validity) -> Result<Self, AuthorityError> {
        Self::make(KeyPair::generate()?, name, DEFAULT_TRUST_DOMAIN, validity, None)
    }

    fn make(
        mut key: KeyPair,
        name: &str,
        trust_domain: &str,
        validity: Validity,
        issuer: Option<&Issuer<'static, KeyPair>>,
    ) -> Result<Self, AuthorityError> {
        if !is_host_name(name) {
            return Err(AuthorityError::Name { name: name.into() });
        }
        let fingerprint = Fingerprint::of_spki(&key.subject_public_key_info());
        let agent =
            AgentId::from_key(trust_domain, &fingerprint).map_err(|_| AuthorityError::TrustDomain {
                domain: trust_domain.into(),
            })?;
        let mut params = dated(validity);
        params.distinguished_name = common_name(name);
        params.subject_alt_names = vec![SanType::URI(agent.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = match issuer {
            Some(issuer) => {
                params.use_authority_key_identifier_extension = true;
                params.signed_by(&key, issuer)?
            }
            None => params.self_signed(&key)?,
        };
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        let certificate_pem = certificate.pem();
        Ok(Self {
            agent,
            fingerprint,
            not_after: validity.not_after,
            certificate_pem,
            key_pem,
        })
    }

    /// Writes `host.key` and `host.pem` into `dir` (created if missing); refuses to overwrite either.
    ///
    /// # Errors
    /// One of them exists, or the directory cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), AuthorityError> {
        let write = |path: &Path, error: io::Error| match error.kind() {
            io::ErrorKind::AlreadyExists => AuthorityError::Exists {
                path: path.to_owned(),
            },
            _ => AuthorityError::Write {
                path: path.to_owned(),
                error,
            },
        };
        files::make_dir(dir, 0o755).map_err(|error| write(dir, error))?;
        let (certificate, key) = (dir.join(HOST_CERTIFICATE), dir.join(HOST_KEY));
        files::create_new(&key, files::PRIVATE, self.key_pem.as_bytes()).map_err(|e| write(&key, e))?;
        files::create_new(&certificate, files::PUBLIC, self.certificate_pem.as_bytes())
            .map_err(|error| write(&certificate, error))
    }
}

impl std::fmt::Debug for IssuedIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IssuedIdentity")
            .field("agent", &self.agent)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Whether a host may be called so.
pub(crate) fn is_host_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// Parameters with both dates; those that a certificate cannot hold become the nearest that it can.
pub(crate) fn dated(validity: Validity) -> CertificateParams {
    const END_OF_9999: i64 = 253_402_300_799;
    let date = |time: SystemTime| {
        let seconds = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).map_or(END_OF_9999, |seconds| seconds.min(END_OF_9999));
        OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before);
    params.not_after = date(validity.not_after);
    params
}

pub(crate) fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
