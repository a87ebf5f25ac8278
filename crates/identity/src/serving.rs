//! What a mobility server needs of its deployment: a certificate of its own, certificates for members, and TLS that
//! tells who calls.
//!
//! [`Authority::issue_server`] makes the server's certificate, with the names and addresses of its URL and without an
//! agent's URI. [`Authority::sign`] answers a member's request: of the request only the key counts, everything else
//! in the certificate is the authority's choice. [`towards_members`] is the TLS of the server's port: a certificate of
//! the deployment or none at all, because who enrols has none yet; [`Member::read`] says who showed it.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{
    CertificateSigningRequestParams, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use zeroize::{Zeroize, Zeroizing};

use crate::agent_id::{DEFAULT_TRUST_DOMAIN, Fingerprint, key_uuid};
use crate::authority::{Authority, AuthorityError, Validity, common_name, dated, is_host_name};
use crate::certificate::CertificateFacts;
use crate::files;
use crate::trust::{TrustError, load_bundle};

/// File names of a server in its identity directory.
pub const SERVER_CERTIFICATE: &str = "server.pem";
/// The key to it.
pub const SERVER_KEY: &str = "server.key";

/// What a member of a deployment is for; the part of its URI after the trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemberRole {
    /// A host's agent.
    Agent,
    /// A symmetric proxy.
    Proxy,
    /// A relay.
    Relay,
}

impl MemberRole {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Proxy, Self::Relay];

    /// As it stands in the URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Proxy => "proxy",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: say agent, proxy or relay")]
pub struct ParseRoleError(String);

impl FromStr for MemberRole {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| ParseRoleError(text.chars().take(32).collect()))
    }
}

/// Who shows a certificate of the deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What it is for.
    pub role: MemberRole,
    /// The URI in its certificate: who it is.
    pub uri: String,
    /// The certificate's name, harmless to print; for people.
    pub name: String,
    /// Of its key.
    pub fingerprint: Fingerprint,
    /// When the certificate expires.
    pub not_after: SystemTime,
}

impl Member {
    /// Reads a certificate in DER whose chain TLS has verified. None: it is no member's, a server's for instance.
    pub fn read(der: &[u8]) -> Option<Self> {
        let facts = CertificateFacts::read(der).ok()?;
        let uri = facts.uri?;
        let (_, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let (role, rest) = path.split_once('/')?;
        // The name has to be the one that follows from the key: nobody is given another's.
        (rest == key_uuid(&facts.fingerprint)).then_some(())?;
        Some(Self {
            role: role.parse().ok()?,
            uri: uri.clone(),
            name: facts.name,
            fingerprint: facts.fingerprint,
            not_after: facts.not_after,
        })
    }
}

/// A certificate that answers a request.
#[derive(Debug, Clone)]
pub struct Signed {
    /// PEM.
    pub certificate_pem: String,
    /// Whom it names.
    pub member: Member,
}

/// A server's certificate chain and key, not yet written anywhere. Holds the key, wiped on drop.
pub struct IssuedServer {
    /// PEM: the server's, then the authority's, so that a host that knows only the authority's fingerprint can check.
    pub chain_pem: String,
    /// PEM; secret.
    pub key_pem: Zeroizing<String>,
}

impl IssuedServer {
    /// Writes `server.key` and `server.pem` into `dir`, made if missing; refuses to overwrite unless told to.
    ///
    /// # Errors
    /// One of them is there, or the directory cannot be written.
    pub fn write(&self, dir: &Path, replace: bool) -> Result<(), AuthorityError> {
        files::make_dir(dir, 0o755).map_err(|error| AuthorityError::Write {
            path: dir.to_owned(),
            error,
        })?;
        let all = [
            (SERVER_KEY, files::PRIVATE, self.key_pem.as_bytes()),
            (SERVER_CERTIFICATE, files::PUBLIC, self.chain_pem.as_bytes()),
        ];
        for (name, mode, content) in all {
            let path = dir.join(name);
            if !replace && std::fs::symlink_metadata(&path).is_ok() {
                return Err(AuthorityError::Exists { path });
            }
            files::replace(&path, mode, content).map_err(|error| AuthorityError::Write { path, error })?;
        }
        Ok(())
    }
}

impl fmt::Debug for IssuedServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedServer").finish_non_exhaustive()
    }
}

impl Authority {
    /// The fingerprint of the authority's key, which enrolment tokens carry.
    pub fn fingerprint(&self) -> Fingerprint {
        self.facts.fingerprint
    }

    /// Makes a server's certificate for these DNS names and addresses, with a new key.
    ///
    /// # Errors
    /// There is no name, or one that cannot stand in a certificate.
    pub fn issue_server(&self, names: &[String], validity: Validity) -> Result<IssuedServer, AuthorityError> {
        let first = names
            .first()
            .ok_or_else(|| AuthorityError::Name { name: String::new() })?;
        let mut params = dated(self.within(validity));
        params.distinguished_name = common_name(&format!("mobility server {first}"));
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let mut key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, self.issuer())?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        Ok(IssuedServer {
            chain_pem: format!("{}{}", certificate.pem(), self.certificate_pem()),
            key_pem,
        })
    }

    /// Answers a request (PKCS#10, DER) with a certificate for its key. Nothing else of the request counts.
    ///
    /// # Errors
    /// The request is damaged or not signed by its key; the name cannot be a host's.
    pub fn sign(
        &self,
        request: &[u8],
        role: MemberRole,
        name: &str,
        validity: Validity,
    ) -> Result<Signed, AuthorityError> {
        if !is_host_name(name) {
            return Err(AuthorityError::Name { name: name.into() });
        }
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        let fingerprint = Fingerprint::of_spki(&request.public_key.subject_public_key_info());
        let uri = format!(
            "spiffe://{DEFAULT_TRUST_DOMAIN}/{role}/{}",
            key_uuid(&fingerprint)
        );
        let validity = self.within(validity);
        let mut params = dated(validity);
        params.distinguished_name = common_name(name);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let answer = CertificateSigningRequestParams {
            params,
            public_key: request.public_key,
        };
        let certificate_pem = answer.signed_by(self.issuer())?.pem();
        Ok(Signed {
            certificate_pem,
            member: Member {
                role,
                uri,
                name: name.into(),
                fingerprint,
                not_after: validity.not_after,
            },
        })
    }
}

/// TLS 1.3 of a server's port. `dir` holds the server's chain and key; callers show a certificate of an authority in
/// `bundle`, or none.
///
/// # Errors
/// A file is missing or damaged.
pub fn towards_members(dir: &Path, bundle: &Path) -> Result<ServerConfig, TrustError> {
    let tls = |error: &dyn fmt::Display| TrustError::Tls(error.to_string());
    let (certificate, key) = (dir.join(SERVER_CERTIFICATE), dir.join(SERVER_KEY));
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| TrustError::Server {
            path: path.to_owned(),
            detail: error.to_string(),
        })
    };
    let content = |path: &Path, error: &dyn fmt::Display| TrustError::Server {
        path: path.to_owned(),
        detail: error.to_string(),
    };
    let chain = CertificateDer::pem_slice_iter(&read(&certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(&certificate, &error))?;
    let key_pem = Zeroizing::new(read(&key)?);
    let private = PrivateKeyDer::from_pem_slice(&key_pem).map_err(|error| content(&key, &error))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(load_bundle(bundle)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .clear_root_hint_subjects()
        .build()
        .map_err(|error| tls(&error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)
        .map_err(|error| content(&certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would outlive a withdrawn certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Until when the server's certificate in `dir` is valid.
///
/// # Errors
/// It is missing or damaged.
pub fn server_not_after(dir: &Path) -> Result<SystemTime, TrustError> {
    let path = dir.join(SERVER_CERTIFICATE);
    let fail = |detail: String| TrustError::Server {
        path: path.clone(),
        detail,
    };
    let pem = std::fs::read(&path).map_err(|error| fail(error.to_string()))?;
    let der = CertificateDer::from_pem_slice(&pem).map_err(|error| fail(error.to_string()))?;
    Ok(CertificateFacts::read(&der).map_err(fail)?.not_after)
}
