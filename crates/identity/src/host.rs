//! What a host shows of itself: its certificate chain and the key to it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::agent_id::{AgentId, Fingerprint};
use crate::certificate::{CertificateFacts, rfc3339};
use crate::files;
use crate::serving::{Member, MemberRole};

/// File names in an identity directory.
pub(crate) const HOST_CERTIFICATE: &str = "host.pem";
pub(crate) const HOST_KEY: &str = "host.key";
/// The authority's certificate, there and in the authority's own directory.
pub(crate) const CA_CERTIFICATE: &str = "ca.pem";
/// In the authority's directory only.
pub(crate) const CA_KEY: &str = "ca.key";

/// Why a host's own certificate or key cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum IdentityError {
    #[error("cannot read {path}: {error}; make it with: host-agent init --ca DIR --identity DIR --name NAME")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path} can be read by others than its owner: run chmod 600 {path}")]
    Exposed { path: PathBuf },
    #[error("{path}: {detail}; make a new one with host-agent init, or restore it from a backup")]
    Content { path: PathBuf, detail: String },
    #[error("{certificate} was not made for the key in {key}: restore the one that belongs to the other")]
    OtherKey { certificate: PathBuf, key: PathBuf },
    #[error("{path} expired at {not_after}: renew it with host-agent init, and check this host's clock")]
    Expired { path: PathBuf, not_after: String },
    #[error("{path} is valid from {not_before} only: check this host's clock")]
    NotYetValid { path: PathBuf, not_before: String },
}

/// A host's certificate chain with its key; cheap to clone.
#[derive(Clone)]
pub struct HostIdentity {
    agent: AgentId,
    facts: Arc<CertificateFacts>,
    certified: Arc<CertifiedKey>,
}

impl HostIdentity {
    /// Loads `host.pem` and `host.key` from a directory and checks them.
    ///
    /// # Errors
    /// A file is missing, unreadable or damaged; the key can be read by group or others; key and certificate do not
    /// belong together; the certificate names no agent; it is not valid now.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let identity = Self::load_at_any_time(dir)?;
        let path = dir.join(HOST_CERTIFICATE);
        let now = SystemTime::now();
        if now > identity.not_after() {
            return Err(IdentityError::Expired {
                path,
                not_after: rfc3339(identity.not_after()),
            });
        }
        if now < identity.not_before() {
            return Err(IdentityError::NotYetValid {
                path,
                not_before: rfc3339(identity.not_before()),
            });
        }
        Ok(identity)
    }

    /// As [`HostIdentity::load`], but an expired certificate is accepted: for renewing it, and for showing its state.
    ///
    /// # Errors
    /// As [`HostIdentity::load`], without those of time.
    pub fn load_at_any_time(dir: &Path) -> Result<Self, IdentityError> {
        let (certificate, key) = (dir.join(HOST_CERTIFICATE), dir.join(HOST_KEY));
        let read = |path: &Path| {
            fs::read(path).map_err(|error| IdentityError::Read {
                path: path.to_owned(),
                error,
            })
        };
        let certificate_pem = read(&certificate)?;
        match files::is_exposed(&key) {
            Ok(true) => return Err(IdentityError::Exposed { path: key }),
            Ok(false) => {}
            Err(error) => return Err(IdentityError::Read { path: key, error }),
        }
        let key_pem = Zeroizing::new(read(&key)?);
        Self::from_pem_at(&certificate_pem, &key_pem, &certificate, &key)
    }

    /// An identity from PEM texts; its validity in time is not checked.
    ///
    /// # Errors
    /// The texts are damaged, do not belong together, or the certificate names no agent.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        Self::from_pem_at(certificate, key, Path::new("certificate"), Path::new("key"))
    }

    fn from_pem_at(
        certificate: &[u8],
        key: &[u8],
        certificate_path: &Path,
        key_path: &Path,
    ) -> Result<Self, IdentityError> {
        let content = |path: &Path, detail: String| IdentityError::Content {
            path: path.to_owned(),
            detail,
        };
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| content(certificate_path, format!("is no PEM certificate ({error})")))?;
        let Some(end_entity) = chain.first() else {
            return Err(content(certificate_path, "holds no PEM certificate".into()));
        };
        let facts = CertificateFacts::read(end_entity)
            .map_err(|detail| content(certificate_path, format!("is no agent's certificate ({detail})")))?;
        // A proxy or relay has the name of its role; as a peer it is refused under it.
        let other = || {
            let member = Member::read(end_entity).filter(|member| member.role != MemberRole::Agent)?;
            let (domain, _) = member.uri.strip_prefix("spiffe://")?.split_once('/')?;
            AgentId::from_key(domain, &member.fingerprint).ok()
        };
        let Some(agent) = facts.agent.clone().or_else(other) else {
            let detail = "names no agent (it must have one URI name, spiffe://TRUST-DOMAIN/agent/UUID)";
            return Err(content(certificate_path, detail.into()));
        };
        let mut der = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| content(key_path, format!("is no PEM private key ({error})")))?;
        let signing = any_supported_type(&der);
        der.zeroize();
        let signing = signing
            .map_err(|error| content(key_path, format!("holds a key that cannot be used ({error})")))?;
        let certified = CertifiedKey::new(chain, signing);
        certified.keys_match().map_err(|_| IdentityError::OtherKey {
            certificate: certificate_path.to_owned(),
            key: key_path.to_owned(),
        })?;
        Ok(Self {
            agent,
            facts: facts.into(),
            certified: certified.into(),
        })
    }

    /// Who this host is.
    pub fn agent_id(&self) -> &AgentId {
        &self.agent
    }

    /// The URI in the certificate: for an agent its identity, for a proxy or relay its own name.
    pub fn uri(&self) -> &str {
        self.facts.uri.as_deref().unwrap_or(self.agent.as_str())
    }

    /// What the certificate is for.
    pub fn role(&self) -> MemberRole {
        let certificate = self.certified.cert.first();
        certificate
            .and_then(|der| Member::read(der))
            .map_or(MemberRole::Agent, |member| member.role)
    }

    /// The name in the certificate, for people.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// The fingerprint that peers pin.
    pub fn fingerprint(&self) -> Fingerprint {
        self.facts.fingerprint
    }

    /// When the certificate becomes valid.
    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    /// When the certificate expires.
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for HostIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostIdentity")
            .field("agent", &self.agent)
            .field("name", &self.facts.name)
            .field("fingerprint", &self.facts.fingerprint)
            .finish_non_exhaustive()
    }
}
