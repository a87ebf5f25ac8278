//! What the server does to the world outside its streams: it tries whether an agent can be reached.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::counters::Counters;
use crate::limits::Limiter;

/// Longer than this nobody waits for a SYN-ACK; its first retransmission is within.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Probes under way at once.
const AT_ONCE: usize = 64;

/// Tries whether hosts let connections in. It only ever goes to an address from which an agent has reported, and to
/// the port that this agent has named.
pub struct Prober {
    limiter: Arc<Limiter>,
    counters: Arc<Counters>,
    slots: Semaphore,
}

impl Prober {
    /// With the limits of the server.
    pub fn new(limiter: Arc<Limiter>, counters: Arc<Counters>) -> Self {
        Self {
            limiter,
            counters,
            slots: Semaphore::new(AT_ONCE),
        }
    }

    /// Whether the address lets connections in from outside. A reset is an answer too: what counts is that a SYN gets
    /// there. None: it was not tried.
    pub async fn probe(&self, address: IpAddr, port: u16) -> Option<bool> {
        if port == 0 || !self.limiter.allows_probe(address) {
            self.counters.count("probes_not_made");
            return None;
        }
        let _slot = self.slots.acquire().await.ok()?;
        let connected =
            tokio::time::timeout(PATIENCE, TcpStream::connect(SocketAddr::new(address, port))).await;
        let reachable = match connected {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => error.kind() == std::io::ErrorKind::ConnectionRefused,
            Err(_) => false,
        };
        self.counters.count(if reachable {
            "probes_reachable"
        } else {
            "probes_unreachable"
        });
        Some(reachable)
    }
}
