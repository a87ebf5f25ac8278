//! Peers that do not keep to the rules: TLS with any certificate or none, any version, any bytes in it.
#![allow(dead_code)]

use std::sync::Arc;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use identity::{Credentials, HostIdentity, IssuedIdentity, Validity};
use prost::Message as _;
use proto::pair::v1 as pb;
use proto::pair::v1::envelope::Body;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::Deployment;

pub const ALPN: &[u8] = b"mobility-pair/1";

/// An agent, and a certificate of its deployment in the wrong hands.
pub struct Scene {
    pub deployment: Deployment,
    pub agent: Credentials,
    pub rogue: IssuedIdentity,
}

pub fn scene() -> Scene {
    let deployment = Deployment::new();
    let agent = deployment.agent("agent");
    let rogue = deployment.authority.issue("rogue", Validity::of_host()).unwrap();
    Scene {
        deployment,
        agent,
        rogue,
    }
}

/// What a rogue shows and speaks.
#[derive(Clone)]
pub struct Rogue<'a> {
    pub identity: Option<&'a IssuedIdentity>,
    pub version: &'static SupportedProtocolVersion,
    pub alpn: Option<&'static [u8]>,
}

impl<'a> Rogue<'a> {
    /// One with a certificate that speaks TLS as an agent does.
    pub fn with(identity: &'a IssuedIdentity) -> Self {
        Self {
            identity: Some(identity),
            version: &rustls::version::TLS13,
            alpn: Some(ALPN),
        }
    }

    /// One without a certificate.
    pub fn anonymous() -> Self {
        Self {
            identity: None,
            version: &rustls::version::TLS13,
            alpn: Some(ALPN),
        }
    }

    fn chain(&self) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        self.identity.map(|issued| {
            let certificate = CertificateDer::from_pem_slice(issued.certificate_pem.as_bytes()).unwrap();
            (
                vec![certificate],
                PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap(),
            )
        })
    }

    pub async fn dial<S: Stream>(&self, stream: S) -> std::io::Result<TlsStream<S>> {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match self.chain() {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.to_vec()).collect();
        let name = ServerName::try_from("agent.example").unwrap();
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?
            .into())
    }

    pub async fn accept<S: Stream>(&self, stream: S) -> std::io::Result<TlsStream<S>> {
        let (chain, key) = self.chain().expect("a server has a certificate");
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anyone))
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.to_vec()).collect();
        Ok(TlsAcceptor::from(Arc::new(config)).accept(stream).await?.into())
    }
}

/// A frame as it goes over TLS.
pub fn frame(body: Body) -> Vec<u8> {
    let body = pb::Envelope { body: Some(body) }.encode_to_vec();
    let mut frame = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(body);
    frame
}

/// Facts that an agent accepts.
pub fn facts() -> pb::Facts {
    pb::Facts {
        version: 1,
        agent_port: 5440,
        direct_addresses: vec![vec![127, 0, 0, 1]],
        observed: Some(pb::Endpoint {
            address: vec![127, 0, 0, 1],
            port: 40_000,
        }),
        servers: vec!["https://one.example:7443".into()],
        abilities: 1,
        random: vec![9; 16],
        epoch: 1,
        known_pair_id: Vec::new(),
        sleep: None,
    }
}

pub fn hello(facts: pb::Facts) -> Vec<u8> {
    frame(Body::Hello(pb::Hello { facts: Some(facts) }))
}

pub fn welcome(facts: pb::Facts, pair_id: &[u8]) -> Vec<u8> {
    frame(Body::Welcome(pb::Welcome {
        facts: Some(facts),
        pair_id: pair_id.to_vec(),
    }))
}

pub fn confirm(mac: &[u8]) -> Vec<u8> {
    frame(Body::Confirm(pb::Confirm { mac: mac.to_vec() }))
}

pub async fn say<S: Stream>(stream: &mut TlsStream<S>, bytes: &[u8]) {
    // The agent may have ended the exchange already.
    let _ = stream.write_all(bytes).await;
    let _ = stream.flush().await;
}

/// Reads one frame.
pub async fn hear<S: Stream>(stream: &mut TlsStream<S>) -> std::io::Result<Body> {
    let body = hear_bytes(stream).await?;
    Ok(pb::Envelope::decode(&*body).unwrap().body.unwrap())
}

/// Reads the body of one frame.
pub async fn hear_bytes<S: Stream>(stream: &mut TlsStream<S>) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u32().await?;
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Keeps the connection open until the agent closes it.
pub async fn linger(stream: &mut (impl AsyncReadExt + Unpin)) {
    let mut rest = [0; 1024];
    while matches!(stream.read(&mut rest).await, Ok(1..)) {}
}

/// An acceptor written from the specification alone, with no code of the agent's; returns the session after its
/// Confirm, with the pair key and the pair ID that it computed.
pub async fn by_the_book<S: Stream>(
    stream: S,
    identity: &IssuedIdentity,
    agent: &HostIdentity,
) -> (TlsStream<S>, [u8; 32], [u8; 16]) {
    let mut tls = Rogue::with(identity).accept(stream).await.unwrap();
    let TlsStream::Server(server) = &tls else {
        unreachable!("it accepts")
    };
    let label = b"EXPORTER-mobility-suite-pair-v1";
    let key = server
        .get_ref()
        .1
        .export_keying_material([0; 32], label, Some(&[]))
        .unwrap();

    let hello_bytes = hear_bytes(&mut tls).await.unwrap();
    let Some(Body::Hello(pb::Hello { facts: Some(theirs) })) =
        pb::Envelope::decode(&*hello_bytes).unwrap().body
    else {
        panic!("no Hello");
    };
    let mine = facts();
    let mut digest = Sha256::new().chain_update(b"mobility pair id v1");
    for facts in [&theirs, &mine] {
        digest.update((facts.direct_addresses.len() as u64).to_be_bytes());
        for address in &facts.direct_addresses {
            match <[u8; 4]>::try_from(address.as_slice()) {
                Ok(v4) => digest.update([&[0; 10][..], &[0xff; 2], &v4].concat()),
                Err(_) => digest.update(address),
            }
        }
        digest.update(&facts.random);
    }
    let mut pair_id: [u8; 16] = digest.finalize()[..16].try_into().unwrap();
    pair_id[6] = pair_id[6] & 0x0f | 0x80;
    pair_id[8] = pair_id[8] & 0x3f | 0x80;

    let welcome = welcome(mine, &pair_id);
    say(&mut tls, &welcome).await;
    let mut transcript = Sha256::new().chain_update(b"mobility pair exchange v1");
    for part in [
        agent.agent_id().as_str().as_bytes(),
        &agent.fingerprint().0,
        identity.agent.as_str().as_bytes(),
        &identity.fingerprint.0,
        &hello_bytes,
        &welcome[4..],
    ] {
        transcript.update((part.len() as u64).to_be_bytes());
        transcript.update(part);
    }
    let transcript = transcript.finalize();
    let mac = |role: &[u8]| -> [u8; 32] {
        Hmac::<Sha256>::new_from_slice(&key)
            .unwrap()
            .chain_update(b"mobility pair confirm v1")
            .chain_update(transcript)
            .chain_update(role)
            .finalize()
            .into_bytes()
            .into()
    };
    let Body::Confirm(theirs) = hear(&mut tls).await.unwrap() else {
        panic!("no Confirm")
    };
    assert_eq!(theirs.mac, mac(b"dialer"));
    say(&mut tls, &confirm(&mac(b"acceptor"))).await;
    (tls, key, pair_id)
}

/// What TLS runs over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Trusts everybody.
#[derive(Debug)]
struct Anyone;

impl Anyone {
    fn schemes() -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}
