//! A server that says what a test tells it to, and notes what it hears; with the certificates of a deployment.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use host_agent::server::endpoint_of;
use identity::{Credentials, EnrolmentToken, Fingerprint, HostIdentity, Trust};
use proto::mobility::v1 as said;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, IsCa, Issuer, KeyPair,
    PublicKeyData, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use said::agent_message::Body as Heard;
use said::agents_server::{Agents, AgentsServer};
use said::enrolment_server::{Enrolment, EnrolmentServer};
use said::server_message::Body as Said;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use wire::tuple::Endpoint;

/// Generous for a loaded machine; no test that passes waits for it.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One stream of an agent, as the server sees it.
#[derive(Default)]
pub struct Attended {
    pub heard: Vec<Heard>,
    pub out: Option<mpsc::UnboundedSender<Result<said::ServerMessage, Status>>>,
    pub over: bool,
}

/// The end of a tunnel that came first: where frames to it go, and those from it.
type TunnelEnd = (
    mpsc::Sender<Result<said::TunnelFrame, Status>>,
    Streaming<said::TunnelFrame>,
);

#[derive(Default)]
pub struct Notes {
    pub streams: Mutex<Vec<Attended>>,
    pub changed: Notify,
    /// Whose certificates were revoked.
    pub revoked: Mutex<Vec<String>>,
    /// Questions about members' standing.
    pub asked: std::sync::atomic::AtomicUsize,
    /// Whether agents that attend hear nothing, not even that they are heard.
    pub speechless: std::sync::atomic::AtomicBool,
    waiting: Mutex<Option<TunnelEnd>>,
}

impl Notes {
    /// Waits until the streams are as a test expects.
    pub async fn until<T>(&self, what: &str, mut holds: impl FnMut(&mut Vec<Attended>) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = holds(&mut self.streams.lock().unwrap()) {
                    return found;
                }
                let _ = tokio::time::timeout(Duration::from_millis(50), changed).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting)
            .await
            .unwrap_or_else(|_| panic!("not seen: {what}"))
    }

    /// Says something on a stream.
    pub fn say(&self, stream: usize, body: Said) {
        let streams = self.streams.lock().unwrap();
        let out = streams[stream].out.as_ref().expect("an open stream");
        let _ = out.send(Ok(said::ServerMessage { body: Some(body) }));
    }

    /// Ends a stream.
    pub fn hang_up(&self, stream: usize) {
        self.streams.lock().unwrap()[stream].out = None;
    }
}

/// A deployment: an authority, a server on loopback, and its address.
pub struct Hub {
    pub dir: TempDir,
    pub url: String,
    pub notes: Arc<Notes>,
    pub token: EnrolmentToken,
    authority: Arc<Authority>,
    server: tokio::task::JoinHandle<()>,
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn sign(&self, request: &[u8]) -> Result<String, rcgen::Error> {
        self.sign_for(request, 365 * 24 * 3600)
    }

    /// `left`: seconds of its life that are left, after an hour.
    fn sign_for(&self, request: &[u8], left: i64) -> Result<String, rcgen::Error> {
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        let now = time::OffsetDateTime::now_utc();
        request.params.not_before = now - time::Duration::hours(1);
        request.params.not_after = now + time::Duration::seconds(left);
        Ok(request.signed_by(&self.issuer)?.pem())
    }
}

impl Hub {
    /// A server whose certificate names `name`.
    pub async fn named(name: SanType) -> Hub {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let fingerprint = Fingerprint::of_spki(&key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "a deployment");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let issuer = Issuer::from_ca_cert_der(certificate.der(), key).unwrap();
        let authority = Arc::new(Authority {
            issuer,
            pem: certificate.pem(),
        });
        std::fs::write(dir.path().join("ca.pem"), &authority.pem).unwrap();
        let server_key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![name];
        let server = params.signed_by(&server_key, &authority.issuer).unwrap();
        let chain = vec![server.der().clone(), certificate.der().clone()];
        let roots = {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(certificate.der().clone()).unwrap();
            Arc::new(roots)
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let callers = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
            .allow_unauthenticated()
            .build()
            .unwrap();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(callers)
            .with_single_cert(
                chain,
                PrivateKeyDer::try_from(server_key.serialize_der()).unwrap(),
            )
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Notes::default());
        let service = Service {
            notes: notes.clone(),
            authority: authority.clone(),
        };
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener)
            .filter_map(move |stream| {
                let acceptor = acceptor.clone();
                async move {
                    acceptor
                        .accept(stream.ok()?)
                        .await
                        .ok()
                        .map(Ok::<_, std::io::Error>)
                }
            })
            .boxed();
        let server = tokio::spawn(async move {
            let _ = tonic::transport::Server::builder()
                .add_service(AgentsServer::new(service.clone()))
                .add_service(EnrolmentServer::new(service))
                .serve_with_incoming(incoming)
                .await;
        });
        Hub {
            dir,
            url: format!("https://127.0.0.1:{}", address.port()),
            notes,
            token: EnrolmentToken::new(fingerprint, [5; 24]),
            authority,
            server,
        }
    }

    pub async fn new() -> Hub {
        Hub::named(SanType::IpAddress([127, 0, 0, 1].into())).await
    }

    pub fn authorities(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// An agent of the deployment.
    pub fn agent(&self, name: &str) -> Credentials {
        self.agent_for(name, 365 * 24 * 3600)
    }

    /// One whose certificate ends in so many seconds.
    pub fn agent_for(&self, name: &str, left: i64) -> Credentials {
        let application = identity::Application::new(name).unwrap();
        let certificate = self.authority.sign_for(&application.request, left).unwrap();
        let home = self.dir.path().join(name);
        application
            .settle(&home, &certificate, &self.authority.pem, false)
            .unwrap();
        let trust = Trust::Ca {
            bundle: self.authorities(),
        };
        Credentials::new(HostIdentity::load(&home).unwrap(), &trust).unwrap()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Service {
    notes: Arc<Notes>,
    authority: Arc<Authority>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Service {
    type AttendStream = Answers<said::ServerMessage>;
    type TunnelStream = Answers<said::TunnelFrame>;

    async fn attend(
        &self,
        request: Request<Streaming<said::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (out, answers) = mpsc::unbounded_channel();
        let hello = said::ServerHello {
            version: 1,
            observed: Some(endpoint_of(Endpoint::new([192, 0, 2, 1].into(), 4000))),
            epoch: vec![1; 16],
            ping_seconds: 10,
            unix_milliseconds: 0,
        };
        let _ = out.send(Ok(said::ServerMessage {
            body: Some(Said::Hello(hello)),
        }));
        let number = {
            let mut streams = self.notes.streams.lock().unwrap();
            streams.push(Attended {
                out: Some(out),
                ..Attended::default()
            });
            streams.len() - 1
        };
        let notes = self.notes.clone();
        let mut inbound = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = inbound.message().await {
                notes.streams.lock().unwrap()[number].heard.extend(message.body);
                notes.changed.notify_waiters();
            }
            notes.streams.lock().unwrap()[number].over = true;
            notes.changed.notify_waiters();
        });
        self.notes.changed.notify_waiters();
        if self.notes.speechless.load(std::sync::atomic::Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn tunnel(
        &self,
        request: Request<Streaming<said::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.unwrap_or_default();
        assert_eq!(first.tunnel, [3; 16]);
        let (out, answers) = mpsc::channel(8);
        let other = self.notes.waiting.lock().unwrap().take();
        match other {
            None => *self.notes.waiting.lock().unwrap() = Some((out, inbound)),
            Some((other_out, other_in)) => {
                for (mut from, to) in [(inbound, other_out), (other_in, out)] {
                    tokio::spawn(async move {
                        while let Ok(Some(frame)) = from.message().await {
                            if to.send(Ok(frame)).await.is_err() {
                                break;
                            }
                        }
                    });
                }
            }
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn observe(
        &self,
        _: Request<said::ObserveRequest>,
    ) -> Result<Response<said::ObserveResponse>, Status> {
        Ok(Response::new(said::ObserveResponse::default()))
    }

    async fn renew(
        &self,
        request: Request<said::RenewRequest>,
    ) -> Result<Response<said::RenewResponse>, Status> {
        let certificate = self
            .authority
            .sign(&request.into_inner().certificate_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(said::RenewResponse {
            certificate,
            authority: self.authority.pem.clone(),
        }))
    }

    async fn standing(
        &self,
        request: Request<said::StandingRequest>,
    ) -> Result<Response<said::StandingResponse>, Status> {
        let revoked = self.notes.revoked.lock().unwrap().clone();
        let mut members = request.into_inner().members;
        members.retain(|uri| revoked.contains(uri));
        self.notes.asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.notes.changed.notify_waiters();
        Ok(Response::new(said::StandingResponse { revoked: members }))
    }
}

#[tonic::async_trait]
impl Enrolment for Service {
    async fn enrol(
        &self,
        request: Request<said::EnrolRequest>,
    ) -> Result<Response<said::EnrolResponse>, Status> {
        let request = request.into_inner();
        let token: EnrolmentToken = request
            .token
            .parse()
            .map_err(|_| Status::permission_denied("no such token"))?;
        if *token.secret() != [5; 24] {
            return Err(Status::permission_denied("no such token"));
        }
        let certificate = self
            .authority
            .sign(&request.certificate_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(said::EnrolResponse {
            certificate,
            authority: self.authority.pem.clone(),
            servers: vec!["https://hub.example:7800".into()],
        }))
    }
}

/// The certificate of a PEM text, to compare.
pub fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}
