//! Names of agents: the URI in a certificate, and the fingerprint of its key.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

/// The trust domain of certificates for which no other is asked.
pub const DEFAULT_TRUST_DOMAIN: &str = "mobility";

const SCHEME: &str = "spiffe://";
const PATH: &str = "/agent/";

/// The identity of an agent: `spiffe://<trust domain>/agent/<uuid>`, from the URI name of its certificate.
///
/// Ordered by its text; of two agents that dial each other at once, the smaller one's exchange counts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentId(Arc<str>);

impl AgentId {
    /// The identity that follows from a key: the UUID is made from the fingerprint.
    ///
    /// Certificates made here carry such an identity, so that a pinned key also pins the name that goes with it:
    /// nobody can claim another agent's identity without its key, CA or not.
    ///
    /// # Errors
    /// The trust domain is not 1 to 255 characters of `a-z 0-9 . - _`.
    pub fn from_key(trust_domain: &str, key: &Fingerprint) -> Result<Self, ParseAgentIdError> {
        if !is_trust_domain(trust_domain) {
            return Err(ParseAgentIdError(format!("trust domain {trust_domain:?}")));
        }
        let uuid = key_uuid(key);
        Ok(Self(format!("{SCHEME}{trust_domain}{PATH}{uuid}").into()))
    }

    /// Whether this identity is the one that follows from `key`, in whatever trust domain.
    pub fn follows_from(&self, key: &Fingerprint) -> bool {
        Self::from_key(self.trust_domain(), key).is_ok_and(|own| own == *self)
    }

    /// The URI.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part that names the deployment.
    pub fn trust_domain(&self) -> &str {
        let rest = self.0.strip_prefix(SCHEME).unwrap_or(&self.0);
        rest.split('/').next().unwrap_or(rest)
    }
}

/// The last part of the URI of whoever holds this key.
pub(crate) fn key_uuid(key: &Fingerprint) -> String {
    let digest = Sha256::new()
        .chain_update(b"mobility agent v1")
        .chain_update(key.0)
        .finalize();
    let uuid = uuid::Builder::from_custom_bytes(std::array::from_fn(|i| digest[i])).into_uuid();
    uuid.hyphenated().to_string()
}

fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b))
}

/// A text that is no agent identity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no agent identity: expected spiffe://TRUST-DOMAIN/agent/UUID, in lower case")]
pub struct ParseAgentIdError(String);

impl FromStr for AgentId {
    type Err = ParseAgentIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.strip_prefix(SCHEME).and_then(|rest| rest.split_once(PATH));
        let valid = parts.is_some_and(|(domain, uuid)| {
            is_trust_domain(domain)
                && Uuid::try_parse(uuid).is_ok_and(|parsed| parsed.hyphenated().to_string() == uuid)
        });
        match valid {
            true => Ok(Self(text.into())),
            false => Err(ParseAgentIdError(text.chars().take(300).collect())),
        }
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo (DER); stays the same when a certificate is renewed for its key.
///
/// Written in hexadecimal; read with or without `sha256:` in front and colons between the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a SubjectPublicKeyInfo in DER.
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no key fingerprint: expected 64 hexadecimal digits, as host-agent init prints them")]
pub struct ParseFingerprintError(String);

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .chars()
            .filter(|c| *c != ':')
            .collect();
        let mut bytes = [0; 32];
        match hex::decode_to_slice(&digits, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(ParseFingerprintError(text.chars().take(200).collect())),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
