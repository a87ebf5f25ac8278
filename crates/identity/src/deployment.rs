//! TLS from a host to the mobility servers of its deployment.
//!
//! A server is known by a certificate of the deployment's authority that carries the name or address in its URL: an
//! agent's certificate has none, so that no agent can pass for a server. Before a host has joined, the fingerprint
//! in its enrolment token stands for the authority; the server shows the authority's certificate in its chain.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, RootCertStore,
    SignatureScheme,
};

use crate::agent_id::Fingerprint;
use crate::certificate::CertificateFacts;
use crate::host::HostIdentity;
use crate::trust::{TrustError, load_bundle};

/// What gRPC names in TLS.
const HTTP2: &[u8] = b"h2";

fn tls(error: impl ToString) -> TrustError {
    TrustError::Tls(error.to_string())
}

/// TLS towards the deployment's servers: ours is shown, theirs must be of an authority in `bundle` (PEM) and carry
/// the name in the URL.
///
/// # Errors
/// The file holds no usable authority.
pub fn towards_servers(identity: &HostIdentity, bundle: &Path) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(load_bundle(bundle)?);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(tls)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified().clone())));
    config.alpn_protocols = vec![HTTP2.to_vec()];
    // A resumed session would outlive a withdrawn certificate.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// TLS towards a server of a deployment that this host has not joined: its chain must lead to the authority whose
/// key has this fingerprint, and the authority be in it.
///
/// # Errors
/// TLS cannot be set up.
pub fn first_contact(authority: Fingerprint) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(OneAuthority {
        authority,
        provider: provider.clone(),
    });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Trusts the one authority whose key has this fingerprint.
#[derive(Debug)]
struct OneAuthority {
    authority: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OneAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ours = |der: &&CertificateDer<'_>| {
            CertificateFacts::read(der).is_ok_and(|facts| facts.fingerprint == self.authority)
        };
        let authority = intermediates.iter().find(ours);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
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
