//! What comes to the agent port: every failure is counted under its reason, and the agent lives on.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use identity::{
    Abilities, Authority, Credentials, ExchangeError, HostIdentity, Local, Pair, SleepHint, Trust, Validity,
};

use crate::home::Home;
use crate::place::{Host, isolated};

/// How long an exchange may take.
const LIMIT: Duration = Duration::from_secs(15);

fn agent_port() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 7801))
}

fn connect() -> TcpStream {
    let stream = TcpStream::connect(agent_port()).expect("the agent listens");
    stream.set_read_timeout(Some(4 * LIMIT)).unwrap();
    stream
}

/// Dials as an agent with this identity that trusts this authority.
fn dial(identity: HostIdentity, authority: &Path) -> Result<Pair, ExchangeError> {
    let credentials = Credentials::new(
        identity,
        &Trust::Ca {
            bundle: authority.join("ca.pem"),
        },
    );
    dial_with(&credentials.expect("usable credentials"))
}

fn dial_with(credentials: &Credentials) -> Result<Pair, ExchangeError> {
    let local = Local {
        agent_port: 0,
        direct_addresses: vec![],
        peer_observed: Some(agent_port().into()),
        servers: vec![],
        abilities: Abilities::MIGRATE,
        sleep: SleepHint::default(),
        known: Default::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(agent_port())
            .await
            .expect("the agent listens");
        identity::dial(stream, credentials, &local, 3 * LIMIT)
            .await
            .map(|session| session.pair)
    })
}

/// A new identity of the deployment's own authority.
fn member(home: &Home, name: &str) -> HostIdentity {
    let directory = home.path(name);
    identity::init_host(&home.ca(), &directory, name).unwrap();
    HostIdentity::load(&directory).unwrap()
}

#[test]
fn an_agent_of_the_same_authority_is_a_pair() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let agent = home.start();
        dial(member(&home, "member"), &home.ca()).unwrap();
        agent.counts("pair", 1);
        assert_eq!(agent.status()["pairs"], 1);
    });
}

#[test]
fn garbage_is_counted() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        let kinds: [&[u8]; 5] = [
            b"GET / HTTP/1.1\r\nHost: agent\r\n\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n",
            &[0; 4096],
            &[0xff; 70_000],
            // A TLS record that announces more than there may be.
            &[0x16, 3, 1, 0xff, 0xff, 1],
        ];
        for (number, garbage) in kinds.into_iter().enumerate() {
            let mut stream = connect();
            let _ = stream.write_all(garbage);
            let mut rest = Vec::new();
            // An alert or a reset: what counts is that it ends.
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.len() < 100, "a stranger is told nothing");
            agent.counts("pair_failed", number as u64 + 1);
        }
        assert!(agent.counter("pair_failed_garbage") >= 3, "{}", agent.status());
        assert!(agent.is_running());
        dial(member(&home, "member"), &home.ca()).unwrap();
    });
}

#[test]
fn who_hangs_up_at_once_is_counted() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        for _ in 0..50 {
            drop(connect());
        }
        agent.counts("pair_failed", 50);
        assert!(agent.is_running());
        dial(member(&home, "member"), &home.ca()).unwrap();
    });
}

#[test]
fn silence_is_ended_after_a_while_and_counted() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        let begun = Instant::now();
        let mut silent = connect();
        // Somebody else is served meanwhile.
        dial(member(&home, "member"), &home.ca()).unwrap();
        assert!(begun.elapsed() < LIMIT);
        let mut rest = Vec::new();
        let _ = silent.read_to_end(&mut rest);
        let took = begun.elapsed();
        assert!((LIMIT..2 * LIMIT).contains(&took), "{took:?}");
        agent.counts("pair_failed_silent", 1);
        assert!(agent.is_running());
    });
}

#[test]
fn more_silent_strangers_than_slots_delay_an_agent_and_no_more() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let agent = home.start();
        let identity = member(&home, "member");
        let silent: Vec<TcpStream> = (0..80).map(|_| connect()).collect();
        dial(identity, &home.ca()).unwrap();
        agent.counts("pair", 1);
        drop(silent);
        agent.status();
    });
}

#[test]
fn certificates_that_are_not_accepted_are_counted_by_reason() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        let authority = Authority::load(&home.ca()).unwrap();
        let hour = Duration::from_secs(3600);
        let now = std::time::SystemTime::now();
        let other_ca = home.path("other-ca");
        let other = Authority::create(&other_ca, Validity::of_authority()).unwrap();
        let expired = Validity {
            not_before: now - 2 * hour,
            not_after: now - hour,
        };
        let early = Validity {
            not_before: now + hour,
            not_after: now + 2 * hour,
        };
        let made = [
            ("expired", authority.issue("rogue", expired).unwrap()),
            ("not_yet_valid", authority.issue("rogue", early).unwrap()),
            (
                "other_authority",
                other.issue("rogue", Validity::of_host()).unwrap(),
            ),
        ];
        // A rogue that accepts everybody and checks itself as little.
        for (reason, identity) in made {
            let directory = home.path(reason);
            identity.write(&directory).unwrap();
            let identity = HostIdentity::load_at_any_time(&directory).unwrap();
            let pins = vec![
                identity.fingerprint(),
                HostIdentity::load(&home.path("identity")).unwrap().fingerprint(),
            ];
            let credentials = Credentials::new(identity, &Trust::Pinned { fingerprints: pins });
            match credentials {
                Ok(credentials) => {
                    let refused = dial_with(&credentials).unwrap_err();
                    assert_eq!(refused.reason(), "refused_by_peer", "{refused}");
                }
                // The library refuses to be a rogue: the handshake as others would do it.
                Err(_) => rogue(&directory),
            }
            agent.counts(&format!("pair_failed_{reason}"), 1);
            assert!(home.log().contains("plain TCP"), "{}", home.log());
        }
        assert!(agent.is_running());
        assert_eq!(agent.status()["pairs"], 0);
        dial(member(&home, "member"), &home.ca()).unwrap();
        agent.counts("pair", 1);
    });
}

/// A TLS handshake with a certificate that our own code would not use.
fn rogue(directory: &Path) {
    let line = format!(
        "openssl s_client -connect {} -tls1_3 -alpn mobility -cert {1}/host.pem -key {1}/host.key",
        agent_port(),
        directory.display()
    );
    let mut words = line.split(' ');
    let mut command = std::process::Command::new(words.next().unwrap());
    let output = command
        .args(words)
        .stdin(std::process::Stdio::null())
        .output()
        .expect("openssl");
    assert!(!output.stdout.is_empty());
}

#[test]
fn a_dialled_peer_that_is_no_agent_is_counted() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        // Nobody listens on the first port, something else on the second.
        let listener = std::net::TcpListener::bind("127.0.0.1:7802").unwrap();
        for port in ["7803", "7802"] {
            let output = home.ask(&["pair", "127.0.0.1", "--port", port]);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        agent.counts("pair_failed_unreachable", 1);
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
        agent.counts("pair_failed_garbage", 1);
        assert!(agent.is_running());
    });
}
