//! Two agents over loopback sockets within the test process.
#![allow(dead_code)]

pub mod rogue;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use identity::{
    Abilities, Authority, Credentials, ExchangeError, Fingerprint, HostIdentity, IssuedIdentity, Known,
    Local, Pair, Session, SleepHint, Trust, Validity, accept, dial,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use wire::Endpoint;

/// Generous for a loaded machine; no test that passes waits for it.
pub const LIMIT: Duration = Duration::from_secs(20);
/// For tests whose peer says nothing: they wait exactly this long.
pub const SHORT: Duration = Duration::from_secs(1);

pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// A deployment: an authority and what trusts it.
pub struct Deployment {
    pub dir: TempDir,
    pub authority: Authority,
    pub trust: Trust,
}

impl Deployment {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::create(dir.path(), Validity::of_authority()).unwrap();
        let trust = Trust::Ca {
            bundle: dir.path().join("ca.pem"),
        };
        Self {
            dir,
            authority,
            trust,
        }
    }

    pub fn agent(&self, name: &str) -> Credentials {
        self.agent_valid(name, Validity::of_host())
    }

    pub fn agent_valid(&self, name: &str, validity: Validity) -> Credentials {
        Credentials::new(
            identity(&self.authority.issue(name, validity).unwrap()),
            &self.trust,
        )
        .unwrap()
    }
}

pub fn identity(issued: &IssuedIdentity) -> HostIdentity {
    HostIdentity::from_pem(issued.certificate_pem.as_bytes(), issued.key_pem.as_bytes()).unwrap()
}

/// An agent without a CA that trusts the pinned keys.
pub fn pinning(issued: &IssuedIdentity, fingerprints: &[Fingerprint]) -> Credentials {
    Credentials::new(
        identity(issued),
        &Trust::Pinned {
            fingerprints: fingerprints.to_vec(),
        },
    )
    .unwrap()
}

pub fn self_signed(name: &str) -> IssuedIdentity {
    IssuedIdentity::self_signed(name, Validity::of_host()).unwrap()
}

/// Over since yesterday.
pub fn expired() -> Validity {
    Validity {
        not_before: SystemTime::now() - 30 * DAY,
        not_after: SystemTime::now() - DAY,
    }
}

pub const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub fn facts() -> Local {
    Local {
        agent_port: 5440,
        direct_addresses: vec![LOOPBACK, "2001:db8::7".parse().unwrap()],
        peer_observed: None,
        servers: vec![
            "https://one.example:7443".into(),
            "https://two.example:7443".into(),
        ],
        abilities: Abilities::MIGRATE.with(Abilities::IPV6),
        sleep: SleepHint::default(),
        known: Known::new(),
    }
}

/// A connection over loopback: what the dialer holds, what the acceptor holds.
pub async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialer, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (dialer, acceptor) = (dialer.unwrap(), accepted.unwrap().0);
    dialer.set_nodelay(true).unwrap();
    acceptor.set_nodelay(true).unwrap();
    (dialer, acceptor)
}

pub fn seen(stream: &TcpStream) -> Option<Endpoint> {
    Some(stream.peer_addr().unwrap().into())
}

pub type Outcome = Result<Session<TcpStream>, ExchangeError>;

/// Runs an exchange over loopback with what each side says.
pub async fn exchange(dialer: (&Credentials, Local), acceptor: (&Credentials, Local)) -> (Outcome, Outcome) {
    exchange_within(dialer, acceptor, LIMIT).await
}

pub async fn exchange_within(
    (dialer, mut dialer_facts): (&Credentials, Local),
    (acceptor, mut acceptor_facts): (&Credentials, Local),
    limit: Duration,
) -> (Outcome, Outcome) {
    let (near, far) = sockets().await;
    dialer_facts.peer_observed = seen(&near);
    acceptor_facts.peer_observed = seen(&far);
    tokio::join!(
        dial(near, dialer, &dialer_facts, limit),
        accept(far, acceptor, &acceptor_facts, limit)
    )
}

/// The pairs of an exchange that must work.
pub async fn pairs(dialer: (&Credentials, Local), acceptor: (&Credentials, Local)) -> (Pair, Pair) {
    let (dialled, accepted) = exchange(dialer, acceptor).await;
    (dialled.unwrap().pair, accepted.unwrap().pair)
}

/// The reason of an exchange that must fail.
pub fn reason(outcome: Result<impl std::fmt::Debug, ExchangeError>) -> &'static str {
    let error = outcome.expect_err("the exchange must fail");
    let reason = error.reason();
    assert!(ExchangeError::REASONS.contains(&reason), "{reason} is not listed");
    assert!(error.to_string().len() > 20, "{error} says too little");
    reason
}

/// The pair alone: the channel closes, so that a peer that waits for that goes on.
pub async fn pair_only(exchange: impl Future<Output = Outcome>) -> Result<Pair, ExchangeError> {
    exchange.await.map(|session| session.pair)
}

/// What an agent makes of a peer that dials and does as `peer` says.
pub async fn accepting<F: Future<Output = ()>>(
    agent: &Credentials,
    limit: Duration,
    peer: impl FnOnce(TcpStream) -> F,
) -> Result<Pair, ExchangeError> {
    let (near, far) = sockets().await;
    let local = facts();
    tokio::join!(pair_only(accept(far, agent, &local, limit)), peer(near)).0
}

/// What an agent makes of a peer that it dials and that does as `peer` says.
pub async fn dialling<F: Future<Output = ()>>(
    agent: &Credentials,
    limit: Duration,
    peer: impl FnOnce(TcpStream) -> F,
) -> Result<Pair, ExchangeError> {
    let (near, far) = sockets().await;
    let local = facts();
    tokio::join!(pair_only(dial(near, agent, &local, limit)), peer(far)).0
}

pub fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
