//! The gRPC services: who calls is looked at first, then what is asked.

mod agents;
mod enrolment;
mod held;
mod ledger;
mod listing;
mod operators;
mod relays;
mod sessions;
mod standing;
mod tunnel;

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use identity::{Authority, Member, MemberRole};
use proto::mobility::v1 as pb;
use session_store::{SharedStore, StoreError};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::NamedService;
use tonic::{Request, Status};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::config::Config;
use crate::counters::Counters;
use crate::leases::Leases;
use crate::limits::Limiter;
use crate::members::Members;
use crate::pairs::Pairs;
use crate::registry::Registry;
use crate::watch::Caller;

/// What every service works with.
pub struct Shared {
    /// As it was read at the start.
    pub config: Config,
    /// Signs certificates.
    pub authority: Arc<Authority>,
    /// Where things are kept.
    pub store: SharedStore,
    /// The pairs.
    pub pairs: Arc<Pairs>,
    /// Who attends.
    pub registry: Arc<Registry>,
    /// Who may come in.
    pub members: Members,
    /// Proxies and relays.
    pub relays: Arc<Leases>,
    /// Tunnels under way.
    pub tunnels: tunnel::Tunnels,
    /// Limits.
    pub limiter: Arc<Limiter>,
    /// Counters.
    pub counters: Arc<Counters>,
    /// The store's epoch.
    pub epoch: [u8; 16],
    /// Ports on which it listens.
    pub ports: Vec<u16>,
    /// What it listens on, for people.
    pub listening: Vec<String>,
    /// Since when.
    pub started: Instant,
    /// The server stops: streams say so and end.
    pub stopping: CancellationToken,
    /// An operator asks to reload.
    pub reload: tokio::sync::Notify,
}

pub use tunnel::Tunnels;

impl Shared {
    /// The member that calls, if it is one of these roles and still welcome.
    fn member<T>(&self, request: &Request<T>, roles: &[MemberRole]) -> Result<(Caller, Arc<Member>), Status> {
        let caller = caller(request)?;
        let member = caller.member.clone().ok_or_else(|| {
            self.counters.refuse("no_certificate");
            Status::unauthenticated("a certificate of this deployment is needed: host-agent enroll")
        })?;
        let expired = member.not_after < std::time::SystemTime::now();
        if expired || self.members.is_revoked(&member.uri) {
            self.counters.refuse(if expired { "expired" } else { "revoked" });
            return Err(Status::permission_denied(
                "the certificate is no longer valid here",
            ));
        }
        if !roles.contains(&member.role) {
            self.counters.refuse("role");
            return Err(Status::permission_denied("not for this role"));
        }
        if !self.limiter.allows_request(&member.uri) {
            self.counters.refuse("request_limit");
            return Err(Status::resource_exhausted("too many requests; ask more slowly"));
        }
        Ok((caller, member))
    }

    /// What a failed store looks like from outside.
    fn store_failed(&self, error: &StoreError) -> Status {
        tracing::error!(%error, "the store failed");
        self.counters.refuse("store");
        Status::unavailable("the server's store does not answer; try again")
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::internal("the connection is not known"))
}

type Boxed = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

/// Hands a request to the service in its path.
#[derive(Clone)]
pub struct Routes(Arc<HashMap<&'static str, Boxed>>);

impl Routes {
    /// What is open on the network: everything but Operators.
    pub fn public(shared: &Arc<Shared>) -> Self {
        let most = shared.config.limits.message_bytes;
        let mut routes = HashMap::new();
        let agents = pb::agents_server::AgentsServer::new(agents::AgentsService(shared.clone()));
        add(&mut routes, agents.max_decoding_message_size(most));
        let enrolment =
            pb::enrolment_server::EnrolmentServer::new(enrolment::EnrolmentService(shared.clone()));
        add(&mut routes, enrolment.max_decoding_message_size(64 * 1024));
        let relays = pb::relays_server::RelaysServer::new(relays::RelaysService(shared.clone()));
        add(&mut routes, relays.max_decoding_message_size(most));
        let sessions = pb::sessions_server::SessionsServer::new(sessions::SessionsService(shared.clone()));
        add(&mut routes, sessions.max_decoding_message_size(most));
        let (_, health) = tonic_health::server::health_reporter();
        add(&mut routes, health);
        let descriptors = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .build_v1();
        if let Ok(reflection) = descriptors {
            add(&mut routes, reflection);
        }
        Self(Arc::new(routes))
    }

    /// What is open on the control socket.
    pub fn control(shared: &Arc<Shared>) -> Self {
        let mut routes = HashMap::new();
        add(
            &mut routes,
            pb::operators_server::OperatorsServer::new(operators::OperatorsService(shared.clone())),
        );
        Self(Arc::new(routes))
    }
}

fn add<S>(routes: &mut HashMap<&'static str, Boxed>, service: S)
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    routes.insert(S::NAME, BoxCloneSyncService::new(service));
}

impl Service<http::Request<Body>> for Routes {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let name = request
            .uri()
            .path()
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default();
        match self.0.get(name).cloned() {
            Some(service) => Box::pin(service.oneshot(request)),
            None => Box::pin(async { Ok(Status::unimplemented("no such service").into_http()) }),
        }
    }
}

/// Waits for a first message no longer than allowed.
async fn first<T>(stream: &mut tonic::Streaming<T>, patience: Duration) -> Result<T, Status> {
    match tokio::time::timeout(patience, stream.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(Status::cancelled("the stream ended before it began")),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(Status::deadline_exceeded("no first message came")),
    }
}
