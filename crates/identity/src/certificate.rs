//! Reading certificates: what they say, and who made them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::agent_id::{AgentId, Fingerprint};

/// What a certificate says. Nothing of it is proven by reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    /// The agent in its only URI name, if that is one.
    pub agent: Option<AgentId>,
    /// Its only URI name, whatever it names.
    pub uri: Option<String>,
    /// The common name, made harmless for terminals; for people only.
    pub name: String,
    /// The issuer's name, as harmless.
    pub issuer: String,
    pub fingerprint: Fingerprint,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl CertificateFacts {
    /// Reads a certificate in DER.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes after its end", rest.len()));
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| error.to_string())?;
        let mut uris = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            });
        // Two URIs would leave open which one the authority vouched for as the agent.
        let uri = match (uris.next(), uris.next()) {
            (Some(uri), None) => Some(uri.to_owned()),
            _ => None,
        };
        let agent = uri.as_deref().and_then(|uri| uri.parse().ok());
        let name = certificate
            .subject()
            .iter_common_name()
            .next()
            .and_then(|name| name.as_str().ok());
        let at = |seconds: i64| match u64::try_from(seconds) {
            Ok(after) => UNIX_EPOCH
                .checked_add(Duration::from_secs(after))
                .ok_or("its dates are out of range"),
            Err(_) => Ok(UNIX_EPOCH),
        };
        Ok(Self {
            agent,
            uri,
            name: harmless(name.unwrap_or("")),
            issuer: harmless(&certificate.issuer().to_string()),
            fingerprint: Fingerprint::of_spki(certificate.public_key().raw),
            not_before: at(certificate.validity().not_before.timestamp())?,
            not_after: at(certificate.validity().not_after.timestamp())?,
        })
    }

    /// How to call the peer in a message.
    pub fn called(&self) -> String {
        match (&self.agent, self.name.as_str()) {
            (Some(agent), "") => agent.to_string(),
            (Some(agent), name) => format!("{name} ({agent})"),
            (None, "") => format!("the key {}", self.fingerprint),
            (None, name) => name.to_owned(),
        }
    }
}

/// A stranger's text for logs and terminals: printable, at most 64 characters.
fn harmless(text: &str) -> String {
    text.chars()
        .take(64)
        .map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' })
        .collect()
}

/// A time in UTC as RFC 3339 writes it.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{seconds} s after 1970"))
}

/// Whether `certificate` was made by `authority`, judged as of a given time.
pub(crate) fn chained_at(
    certificate: &CertificateDer<'_>,
    authority: CertificateDer<'_>,
    at: SystemTime,
) -> bool {
    let mut roots = RootCertStore::empty();
    let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .all;
    roots.add(authority).is_ok()
        && ParsedCertificate::try_from(certificate).is_ok_and(|parsed| {
            verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], at, algorithms).is_ok()
        })
}
