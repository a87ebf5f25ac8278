//! Whom an agent trusts, and the TLS it speaks.
//!
//! Two ways, one setting: every agent with a certificate of the deployment's authority, or only the agents whose
//! keys are pinned here by fingerprint. Either way both sides show certificates, over TLS 1.3 and nothing older.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use thiserror::Error;

use crate::agent_id::Fingerprint;
use crate::certificate::{CertificateFacts, rfc3339};
use crate::host::HostIdentity;
use crate::verify::{Anchors, CertificateRefusal, Verifier};

/// The protocol that both sides name in TLS, so that neither talks to some other service by mistake.
pub(crate) const ALPN: &[u8] = b"mobility-pair/1";

/// Whose certificates are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Those that chain to an authority in this file (PEM, one or more certificates).
    Ca {
        /// Usually `ca.pem` in the identity directory.
        bundle: PathBuf,
    },
    /// Those of these keys, self-signed or not.
    Pinned {
        /// As `host-agent init` prints them.
        fingerprints: Vec<Fingerprint>,
    },
}

/// Why a trust setting cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum TrustError {
    #[error("cannot read the trusted authorities in {path}: {error}; copy ca.pem of this deployment there")]
    Read { path: PathBuf, error: io::Error },
    #[error("{path}: {detail}; copy ca.pem of this deployment there")]
    Content { path: PathBuf, detail: String },
    #[error(
        "every authority in {path} has expired, the last at {not_after}: make a new CA and new certificates"
    )]
    AuthorityExpired { path: PathBuf, not_after: String },
    #[error("no key is pinned, so nobody would be trusted: add the fingerprints that host-agent init prints")]
    NoPins,
    #[error("{path}: {detail}; make it with mobility-server init")]
    Server { path: PathBuf, detail: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

impl Trust {
    fn load(&self, provider: &Arc<CryptoProvider>) -> Result<Anchors, TrustError> {
        match self {
            Trust::Pinned { fingerprints } if fingerprints.is_empty() => Err(TrustError::NoPins),
            Trust::Pinned { fingerprints } => {
                Ok(Anchors::Keys(Arc::new(fingerprints.iter().copied().collect())))
            }
            Trust::Ca { bundle } => {
                let roots = Arc::new(load_bundle(bundle)?);
                let dialers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                    .build()
                    .map_err(|error| TrustError::Tls(error.to_string()))?;
                Ok(Anchors::Authorities { roots, dialers })
            }
        }
    }
}

/// The authorities in a PEM file that have not expired.
pub(crate) fn load_bundle(path: &Path) -> Result<RootCertStore, TrustError> {
    let content = |detail: String| TrustError::Content {
        path: path.to_owned(),
        detail,
    };
    let pem = std::fs::read(path).map_err(|error| TrustError::Read {
        path: path.to_owned(),
        error,
    })?;
    let mut roots = RootCertStore::empty();
    let mut expired = None;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| content(format!("is no PEM certificate ({error})")))?;
        let facts = CertificateFacts::read(&certificate)
            .map_err(|detail| content(format!("holds an unreadable certificate ({detail})")))?;
        // Anchors carry no dates for webpki, so that an expired authority is left out here.
        if facts.not_after < SystemTime::now() {
            expired = expired.max(Some(facts.not_after));
            continue;
        }
        roots
            .add(certificate)
            .map_err(|error| content(format!("holds an unusable certificate ({error})")))?;
    }
    match (roots.is_empty(), expired) {
        (false, _) => Ok(roots),
        (true, Some(last)) => Err(TrustError::AuthorityExpired {
            path: path.to_owned(),
            not_after: rfc3339(last),
        }),
        (true, None) => Err(content("holds no PEM certificate".into())),
    }
}

/// A host's identity joined with its trust: all that TLS needs; cheap to clone.
#[derive(Clone)]
pub struct Credentials {
    identity: HostIdentity,
    anchors: Anchors,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Joins the two.
    ///
    /// # Errors
    /// The trust setting names nobody, or a file that holds no usable authority.
    pub fn new(identity: HostIdentity, trust: &Trust) -> Result<Self, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let anchors = trust.load(&provider)?;
        let credentials = Self {
            identity,
            anchors,
            provider,
        };
        // What cannot work is to fail at start, not at the first peer.
        credentials
            .client()
            .and(credentials.server())
            .map_err(|error| TrustError::Tls(error.to_string()))?;
        Ok(credentials)
    }

    /// Who this side is.
    pub fn identity(&self) -> &HostIdentity {
        &self.identity
    }

    /// Whether a peer with the same trust setting would accept this side's own certificate now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn accepts_itself(&self) -> Result<(), CertificateRefusal> {
        Verifier::new(self.anchors.clone(), self.provider.clone()).accepts(&self.identity.certified().cert)
    }

    /// TLS of the side that dials, with the judge of what the peer shows.
    pub(crate) fn client(&self) -> Result<(ClientConfig, Arc<Verifier>), rustls::Error> {
        let verifier = Verifier::new(self.anchors.clone(), self.provider.clone());
        let mut config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(
                self.identity.certified().clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        // A resumed session would show no certificate: neither expiry nor a withdrawn pin would count.
        config.resumption = Resumption::disabled();
        Ok((config, verifier))
    }

    /// TLS of the side that accepts, with the judge of what the peer shows.
    pub(crate) fn server(&self) -> Result<(ServerConfig, Arc<Verifier>), rustls::Error> {
        let verifier = Verifier::new(self.anchors.clone(), self.provider.clone());
        let mut config = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(
                self.identity.certified().clone(),
            )));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, verifier))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}
