//! Proxies and relays: each has a stream here as long as it serves.

use std::pin::Pin;
use std::sync::Arc;

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
use crate::leases::BACKLOG;

pub(super) struct RelaysService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::relays_server::Relays for RelaysService {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<pb::RelayOrder, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<pb::RelayMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (_, member) = self.0.member(&request, &[MemberRole::Proxy, MemberRole::Relay])?;
        let (out, orders) = mpsc::channel(BACKLOG);
        let shared = self.0.clone();
        tokio::spawn(async move {
            let id = rand::random();
            let ended = serve(&shared, &member.uri, id, request.into_inner(), &out).await;
            shared.relays.leave(id);
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
    shared
        .relays
        .enter(id, uri, hello, out.clone())
        .map_err(Status::invalid_argument)?;
    tracing::info!(relay = uri, "serves");
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
                match message.body {
                    Some(Says::Load(load)) => shared.relays.load(id, &load),
                    Some(Says::Answer(answer)) => shared.relays.answered(id, answer),
                    Some(Says::Ended(ended)) => shared.relays.ended(id, &ended),
                    // Whoever has moved reports it himself.
                    Some(Says::Moved(_) | Says::Hello(_) | Says::Pong(_)) | None => {}
                }
            }
            () = shared.stopping.cancelled() => {
                let _ = out.try_send(order(Hears::GoAway(pb::GoAway { after_milliseconds: 500 })));
                return Err(Status::unavailable("the server stops; connect again"));
            }
        }
    }
}
