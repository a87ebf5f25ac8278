//! Proxies and relays: each has a stream here as long as it serves.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::Stream;
use identity::MemberRole;
use proto::mobility::v1 as pb;
use proto::mobility::v1::relay_message::Body as Says;
use proto::mobility::v1::relay_order::Body as Hears;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Shared, first};
use crate::config::Config;

/// Who serves.
#[derive(Default)]
pub struct Relays {
    serving: Mutex<HashMap<u64, pb::RelayRow>>,
}

impl Relays {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, pb::RelayRow>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub fn all(&self) -> Vec<pb::RelayRow> {
        self.lock().values().cloned().collect()
    }

    fn update(&self, id: u64, change: impl FnOnce(&mut pb::RelayRow)) {
        if let Some(row) = self.lock().get_mut(&id) {
            change(row);
        }
    }
}

pub(super) struct RelaysService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::relays_server::Relays for RelaysService {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<pb::RelayOrder, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<pb::RelayMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (_, member) = self.0.member(&request, &[MemberRole::Proxy, MemberRole::Relay])?;
        let (out, orders) = mpsc::channel(16);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let id = rand::random();
            let ended = serve(&shared, &member.uri, id, request.into_inner(), &out).await;
            shared.relays.lock().remove(&id);
            if let Err(status) = ended {
                let _ = out.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(orders))))
    }
}

async fn serve(
    shared: &Arc<Shared>,
    uri: &str,
    id: u64,
    mut incoming: Streaming<pb::RelayMessage>,
    out: &mpsc::Sender<Result<pb::RelayOrder, Status>>,
) -> Result<(), Status> {
    let patience = Config::seconds(shared.config.timeouts.handshake);
    let Some(Says::Hello(hello)) = first(&mut incoming, patience).await?.body else {
        return Err(Status::invalid_argument("the first message must be Hello"));
    };
    if hello.addresses.len() > 64
        || hello
            .addresses
            .iter()
            .any(|address| crate::convert::address(address).is_err())
    {
        return Err(Status::invalid_argument("1 to 64 addresses of 4 or 16 bytes"));
    }
    shared.relays.lock().insert(
        id,
        pb::RelayRow {
            relay: uri.to_owned(),
            kind: hello.kind,
            addresses: hello.addresses,
            connections: 0,
            capacity: hello.capacity,
            draining: hello.draining,
        },
    );
    let order = |body| Ok(pb::RelayOrder { body: Some(body) });
    let welcome = Hears::Welcome(pb::RelayWelcome {
        version: 1,
        epoch: shared.epoch.to_vec(),
    });
    let _ = out.try_send(order(welcome));
    loop {
        tokio::select! {
            message = incoming.message() => {
                let Some(message) = message? else { return Ok(()) };
                if shared.members.is_revoked(uri) {
                    return Err(Status::permission_denied("the certificate is no longer valid here"));
                }
                // Nothing is leased by this release: answers about leases are about none.
                if let Some(Says::Load(load)) = message.body {
                    shared.relays.update(id, |row| {
                        row.connections = load.connections;
                        row.draining = load.draining;
                    });
                }
            }
            () = shared.stopping.cancelled() => {
                let _ = out.try_send(order(Hears::GoAway(pb::GoAway { after_milliseconds: 500 })));
                return Err(Status::unavailable("the server stops; connect again"));
            }
        }
    }
}
