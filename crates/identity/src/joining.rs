//! A host joins a deployment: a key made here, a request for a certificate, and what comes back put in its place.
//!
//! The key never leaves the host. What comes back is used only if the certificate is for that key and of the
//! expected authority. An identity that is there is kept unless the caller says that it may be replaced.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData, SanType};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::agent_id::{AgentId, DEFAULT_TRUST_DOMAIN, Fingerprint};
use crate::certificate::{CertificateFacts, chained_at};
use crate::files;
use crate::host::{CA_CERTIFICATE, HOST_CERTIFICATE, HOST_KEY, HostIdentity, IdentityError};

/// Why a host cannot join, or a certificate not be renewed.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum JoinError {
    #[error(
        "{path} holds another identity: use it, choose another directory, or say --replace (peers that pinned \
         its key will not know this host any more)"
    )]
    Taken { path: PathBuf },
    #[error("cannot make a key or a request for a certificate: {0}")]
    Generate(#[from] rcgen::Error),
    #[error("the server's answer cannot be used: {0}; ask its operator")]
    Answer(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    #[error("cannot write {path}: {error}")]
    Write { path: PathBuf, error: io::Error },
}

/// A key and the request for its certificate. Holds the key, wiped on drop.
pub struct Application {
    /// PKCS#10, DER.
    pub request: Vec<u8>,
    /// The key's fingerprint.
    pub fingerprint: Fingerprint,
    key_pem: Zeroizing<String>,
}

impl Application {
    /// Makes a new key and a request that names `name`.
    ///
    /// # Errors
    /// No key can be made.
    pub fn new(name: &str) -> Result<Self, JoinError> {
        Self::with(KeyPair::generate()?, name, DEFAULT_TRUST_DOMAIN)
    }

    /// A request for the key in an identity directory: to renew its certificate.
    ///
    /// # Errors
    /// The directory holds no usable identity.
    pub fn again(dir: &Path) -> Result<Self, JoinError> {
        let identity = HostIdentity::load_at_any_time(dir)?;
        let path = dir.join(HOST_KEY);
        let pem = fs::read_to_string(&path).map_err(|error| JoinError::Read { path, error })?;
        let key = KeyPair::from_pem(&Zeroizing::new(pem))?;
        Self::with(key, identity.name(), identity.agent_id().trust_domain())
    }

    fn with(mut key: KeyPair, name: &str, trust_domain: &str) -> Result<Self, JoinError> {
        let fingerprint = Fingerprint::of_spki(&key.subject_public_key_info());
        let agent = AgentId::from_key(trust_domain, &fingerprint)
            .map_err(|error| JoinError::Answer(error.to_string()))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names = vec![SanType::URI(agent.as_str().try_into()?)];
        let request = params.serialize_request(&key)?.der().to_vec();
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        Ok(Self {
            request,
            fingerprint,
            key_pem,
        })
    }

    /// Checks what the server answered.
    ///
    /// # Errors
    /// The certificate is damaged, for another key, or not of the authority; the authority is not the expected one.
    pub fn check(
        &self,
        certificate_pem: &str,
        authority_pem: &str,
        expected: Option<Fingerprint>,
    ) -> Result<HostIdentity, JoinError> {
        let answer = |text: &str| JoinError::Answer(text.into());
        let identity = HostIdentity::from_pem(certificate_pem.as_bytes(), self.key_pem.as_bytes())
            .map_err(|error| JoinError::Answer(error.to_string()))?;
        let mut known = false;
        for authority in CertificateDer::pem_slice_iter(authority_pem.as_bytes()) {
            let authority = authority.map_err(|_| answer("the authority is no PEM certificate"))?;
            let facts = CertificateFacts::read(&authority).map_err(JoinError::Answer)?;
            if expected.is_some_and(|expected| expected != facts.fingerprint) {
                return Err(answer("it names another authority than the token does"));
            }
            let certificate = identity.certified().cert.first();
            known |= certificate.is_some_and(|shown| chained_at(shown, authority, identity.not_before()));
        }
        match known {
            true => Ok(identity),
            false => Err(answer(
                "the certificate is not of the authority that came with it",
            )),
        }
    }

    /// Puts key, certificate and authority into an identity directory, made if it is missing.
    ///
    /// # Errors
    /// Another identity is there and `replace` is not given; the directory cannot be written.
    pub fn settle(
        &self,
        dir: &Path,
        certificate_pem: &str,
        authority_pem: &str,
        replace: bool,
    ) -> Result<(), JoinError> {
        vacant(dir, replace)?;
        let write = |path: PathBuf| move |error| JoinError::Write { path, error };
        files::make_dir(dir, 0o755).map_err(write(dir.to_owned()))?;
        let all = [
            (HOST_KEY, files::PRIVATE, self.key_pem.as_bytes()),
            (HOST_CERTIFICATE, files::PUBLIC, certificate_pem.as_bytes()),
            (CA_CERTIFICATE, files::PUBLIC, authority_pem.as_bytes()),
        ];
        for (name, mode, content) in all {
            let path = dir.join(name);
            files::replace(&path, mode, content).map_err(write(path))?;
        }
        Ok(())
    }
}

/// Whether an identity directory may take a new identity.
///
/// # Errors
/// One is there, and `replace` is not given.
pub fn vacant(dir: &Path, replace: bool) -> Result<(), JoinError> {
    let taken = [HOST_KEY, HOST_CERTIFICATE]
        .map(|name| dir.join(name))
        .into_iter()
        .find(|path| fs::symlink_metadata(path).is_ok());
    match taken {
        Some(path) if !replace => Err(JoinError::Taken { path }),
        _ => Ok(()),
    }
}

/// Replaces the certificate in an identity directory by a newer one for the same key.
///
/// # Errors
/// It is for another key, or the file cannot be written.
pub fn renewed(dir: &Path, certificate_pem: &str) -> Result<HostIdentity, JoinError> {
    let path = dir.join(HOST_KEY);
    let key = fs::read(&path).map_err(|error| JoinError::Read { path, error })?;
    let identity = HostIdentity::from_pem(certificate_pem.as_bytes(), &Zeroizing::new(key))
        .map_err(|error| JoinError::Answer(error.to_string()))?;
    let path = dir.join(HOST_CERTIFICATE);
    files::replace(&path, files::PUBLIC, certificate_pem.as_bytes())
        .map_err(|error| JoinError::Write { path, error })?;
    Ok(identity)
}
