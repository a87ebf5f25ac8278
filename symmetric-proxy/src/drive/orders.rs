//! What servers say, and what they are told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use identity::ticket::CLOCK_SLACK;
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;

use super::Proxy;
use crate::leases::{Lease, Presented};
use crate::server::{ServerEvent, address, endpoint};

/// Leases in a hello: a server reads no message of more than a MiB.
const MOST_TOLD: usize = 8192;

impl Proxy {
    pub(super) fn server(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Opened(index, words) => {
                tracing::info!(server = self.servers[index].0, "attended");
                let hello = Says::Hello(self.hello());
                let _ = words.try_send(said::RelayMessage { body: Some(hello) });
                self.servers[index].1 = Some(words);
                self.tell_load();
            }
            ServerEvent::Closed(index, why) => {
                if self.servers[index].1.take().is_some() {
                    tracing::warn!(server = self.servers[index].0, why, "the stream has ended");
                } else {
                    tracing::debug!(server = self.servers[index].0, why, "not reached");
                }
            }
            ServerEvent::Said(index, order) => self.ordered(index, order),
        }
    }

    fn ordered(&mut self, index: usize, order: Hears) {
        match order {
            Hears::Lease(request) => {
                let answer = self.lease(&request);
                self.tell(index, Says::Answer(answer));
            }
            Hears::Renewal(renewal) => {
                let lease = self.named(&renewal.lease_id);
                if let Some(lease) = lease {
                    lease.expires = lease.expires.max(renewal.expires_unix_seconds);
                    let (id, note) = (lease.id, lease.note(false));
                    let _ = self.act.datapath.note(&id, &note);
                }
            }
            Hears::Release(release) => {
                let now = datapath::kernel::monotonic_ns();
                if let Some(lease) = self.named(&release.lease_id) {
                    lease.released_ns.get_or_insert(now);
                    let (id, note) = (lease.id, lease.note(false));
                    let _ = self.act.datapath.note(&id, &note);
                }
            }
            Hears::Welcome(_) | Hears::Ping(_) | Hears::GoAway(_) | Hears::PathsLost(_) => {}
        }
    }

    fn named(&mut self, id: &[u8]) -> Option<&mut Lease> {
        self.leases.get_mut(&id.try_into().ok()?)
    }

    fn lease(&mut self, request: &said::LeaseRequest) -> said::LeaseAnswer {
        let shown = Presented {
            lease: &request.lease_id,
            ticket: &request.ticket,
            signature: &request.signature,
        };
        let admitted = self.leases.admit(
            shown,
            &self.verifier,
            &self.me,
            &self.config,
            SystemTime::now(),
            rand::random(),
        );
        let refuse = |refusal: String| said::LeaseAnswer {
            lease_id: request.lease_id.clone(),
            refusal,
            ..Default::default()
        };
        let (new, lease) = match admitted {
            Ok((new, lease)) => (new, lease.clone()),
            Err(refusal) => {
                tracing::warn!(%refusal, "a lease is refused");
                self.counters.refuse(refusal.reason());
                return refuse(refusal.to_string());
            }
        };
        if new {
            let opened = self
                .act
                .open_doors(&lease)
                .and_then(|()| self.act.datapath.note(&lease.id, &lease.note(false)));
            if let Err(error) = opened {
                tracing::error!(%error, "a lease cannot be taken");
                self.act.close(&lease);
                self.leases.end(&lease.id);
                self.counters.refuse("map_full");
                return refuse("the proxy's tables are full".into());
            }
            self.counters.count("leased");
            tracing::info!(lease = %hex::encode(lease.id), at = %lease.ends[0], "a port is kept for two ends");
        }
        said::LeaseAnswer {
            lease_id: request.lease_id.clone(),
            first: Some(endpoint(lease.ends[0])),
            second: Some(endpoint(lease.ends[1])),
            refusal: String::new(),
        }
    }

    fn hello(&self) -> said::RelayHello {
        let lease = |lease: &Lease| said::Lease {
            lease_id: lease.id.to_vec(),
            pair_id: lease.pair.to_vec(),
            label: lease.label,
            proxy: Some(endpoint(lease.ends[0])),
            expires_unix_seconds: lease.expires,
        };
        said::RelayHello {
            version: 1,
            kind: said::relay_hello::Kind::SymmetricProxy.into(),
            addresses: self.leases.addresses().iter().map(|one| address(*one)).collect(),
            capacity: self.leases.capacity() as u64,
            leases: self.leases.iter().take(MOST_TOLD).map(lease).collect(),
            draining: self.leases.draining,
        }
    }

    /// Tells all servers how much is relayed.
    pub(super) fn tell_load(&self) {
        self.tell_all(Says::Load(said::RelayLoad {
            connections: self.leases.len() as u64,
            bytes_per_second: self.sweep.bytes_per_second(),
            draining: self.leases.draining,
        }));
    }

    fn tell(&self, index: usize, body: Says) {
        // A server that does not read hears of it when it is attended again.
        if let Some(words) = &self.servers[index].1 {
            let _ = words.try_send(said::RelayMessage { body: Some(body) });
        }
    }

    /// Tells all servers.
    pub(super) fn tell_all(&self, body: Says) {
        for index in 0..self.servers.len() {
            self.tell(index, body.clone());
        }
    }

    /// Whether the time in which both ends had to come is over.
    pub(super) fn is_over(&self, expires: u64) -> bool {
        SystemTime::now() > UNIX_EPOCH + Duration::from_secs(expires) + CLOCK_SLACK
    }
}
