//! Judging the certificate that a peer shows.
//!
//! Each TLS session has a [`Verifier`] of its own. It checks the certificate (chain to the CA, or pinned key; time;
//! the agent's URI in place of a DNS name), tells rustls yes or no in the terms from which alerts follow, and writes
//! down for this side what it saw: the peer, or the exact reason for the refusal.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};
use thiserror::Error as ThisError;

use crate::agent_id::{AgentId, Fingerprint};
use crate::certificate::{CertificateFacts, rfc3339};

/// Why a peer's certificate is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, ThisError)]
#[allow(missing_docs)]
pub enum CertificateRefusal {
    #[error(
        "the certificate of {peer} expired at {not_after}: renew it there with host-agent init; check both clocks"
    )]
    Expired { peer: String, not_after: String },
    #[error("the certificate of {peer} is valid from {not_before} only: check the clocks of both hosts")]
    NotYetValid { peer: String, not_before: String },
    #[error(
        "the certificate of {peer} is of another authority ({issuer}): \
         make it with this deployment's CA, or add that CA to the trusted bundle"
    )]
    OtherAuthority { peer: String, issuer: String },
    #[error(
        "the key of {peer} is not pinned: if it is to be trusted, add the fingerprint {fingerprint} to the pins"
    )]
    NotPinned { peer: String, fingerprint: Fingerprint },
    #[error(
        "{agent} is not the identity that follows from its key {fingerprint}: with pinned keys an agent may not \
         choose its name; make its certificate with host-agent init"
    )]
    ForeignIdentity {
        agent: AgentId,
        fingerprint: Fingerprint,
    },
    #[error("the certificate of {peer} names no agent: make it with host-agent init")]
    NoAgent { peer: String },
    #[error("the certificate of {peer} cannot be used ({detail}): make a new one there with host-agent init")]
    Unusable { peer: String, detail: String },
}

impl CertificateRefusal {
    /// The stable name under which it is counted.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::OtherAuthority { .. } => "other_authority",
            Self::NotPinned { .. } => "not_pinned",
            Self::ForeignIdentity { .. } => "foreign_identity",
            Self::NoAgent { .. } => "no_agent",
            Self::Unusable { .. } => "unusable_certificate",
        }
    }

    /// The same in the terms from which rustls chooses the alert that the peer gets.
    fn to_tls(&self) -> Error {
        Error::InvalidCertificate(match self {
            Self::Expired { .. } => CertificateError::Expired,
            Self::NotYetValid { .. } => CertificateError::NotValidYet,
            Self::OtherAuthority { .. } => CertificateError::UnknownIssuer,
            Self::NotPinned { .. } => CertificateError::ApplicationVerificationFailure,
            Self::ForeignIdentity { .. } | Self::NoAgent { .. } => CertificateError::NotValidForName,
            Self::Unusable { .. } => CertificateError::BadEncoding,
        })
    }
}

/// What is trusted, ready for use.
#[derive(Debug, Clone)]
pub(crate) enum Anchors {
    /// Chains to one of these authorities.
    Authorities {
        roots: Arc<RootCertStore>,
        dialers: Arc<dyn ClientCertVerifier>,
    },
    /// These keys.
    Keys(Arc<BTreeSet<Fingerprint>>),
}

/// Judges the peer of one TLS session.
#[derive(Debug)]
pub(crate) struct Verifier {
    anchors: Anchors,
    provider: Arc<CryptoProvider>,
    outcome: OnceLock<Result<CertificateFacts, CertificateRefusal>>,
}

#[derive(Clone, Copy)]
enum Shown {
    ByDialer,
    ByAcceptor,
}

impl Verifier {
    pub fn new(anchors: Anchors, provider: Arc<CryptoProvider>) -> Arc<Self> {
        Arc::new(Self {
            anchors,
            provider,
            outcome: OnceLock::new(),
        })
    }

    /// What became of the certificate; `None` while none was shown.
    pub fn outcome(&self) -> Option<&Result<CertificateFacts, CertificateRefusal>> {
        self.outcome.get()
    }

    /// Judges a chain as a dialer's.
    pub fn accepts(&self, chain: &[CertificateDer<'_>]) -> Result<(), CertificateRefusal> {
        let Some((end_entity, intermediates)) = chain.split_first() else {
            return Ok(());
        };
        self.examine(end_entity, intermediates, UnixTime::now(), Shown::ByDialer)
            .map(|_| ())
    }

    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        shown: Shown,
    ) -> Result<(), Error> {
        let outcome = self.examine(end_entity, intermediates, now, shown);
        let told = outcome.as_ref().map(|_| ()).map_err(CertificateRefusal::to_tls);
        // A session shows one certificate; a second one would not change the first verdict.
        let _ = self.outcome.set(outcome);
        told
    }

    fn examine(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        shown: Shown,
    ) -> Result<CertificateFacts, CertificateRefusal> {
        let facts = CertificateFacts::read(end_entity).map_err(|detail| CertificateRefusal::Unusable {
            peer: "a peer".into(),
            detail,
        })?;
        let peer = facts.called();
        match &self.anchors {
            Anchors::Authorities { roots, dialers } => {
                let verdict = match shown {
                    Shown::ByDialer => dialers
                        .verify_client_cert(end_entity, intermediates, now)
                        .map(|_| ()),
                    Shown::ByAcceptor => ParsedCertificate::try_from(end_entity).and_then(|parsed| {
                        verify_server_cert_signed_by_trust_anchor(
                            &parsed,
                            roots,
                            intermediates,
                            now,
                            self.provider.signature_verification_algorithms.all,
                        )
                    }),
                };
                verdict.map_err(|error| classify(error, &facts))?;
            }
            Anchors::Keys(keys) => {
                let fingerprint = facts.fingerprint;
                if !keys.contains(&fingerprint) {
                    return Err(CertificateRefusal::NotPinned { peer, fingerprint });
                }
                check_time(&facts, now)?;
                if let Some(agent) = facts
                    .agent
                    .clone()
                    .filter(|agent| !agent.follows_from(&fingerprint))
                {
                    return Err(CertificateRefusal::ForeignIdentity { agent, fingerprint });
                }
            }
        }
        match facts.agent {
            Some(_) => Ok(facts),
            None => Err(CertificateRefusal::NoAgent { peer }),
        }
    }
}

fn check_time(facts: &CertificateFacts, now: UnixTime) -> Result<(), CertificateRefusal> {
    let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
    let peer = facts.called();
    if now > facts.not_after {
        return Err(CertificateRefusal::Expired {
            peer,
            not_after: rfc3339(facts.not_after),
        });
    }
    if now < facts.not_before {
        return Err(CertificateRefusal::NotYetValid {
            peer,
            not_before: rfc3339(facts.not_before),
        });
    }
    Ok(())
}

/// A refusal of the chain in our terms.
fn classify(error: Error, facts: &CertificateFacts) -> CertificateRefusal {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidYet, NotValidYetContext, UnknownIssuer,
    };
    let peer = facts.called();
    match error {
        Error::InvalidCertificate(Expired | ExpiredContext { .. }) => CertificateRefusal::Expired {
            peer,
            not_after: rfc3339(facts.not_after),
        },
        Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            CertificateRefusal::NotYetValid {
                peer,
                not_before: rfc3339(facts.not_before),
            }
        }
        // A signature that does not fit is what another authority of the same name leaves behind.
        Error::InvalidCertificate(UnknownIssuer | BadSignature) => CertificateRefusal::OtherAuthority {
            peer,
            issuer: facts.issuer.clone(),
        },
        other => CertificateRefusal::Unusable {
            peer,
            detail: other.to_string(),
        },
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now, Shown::ByAcceptor)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    /// No hints: a stranger need not learn which authority this deployment has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now, Shown::ByDialer)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
