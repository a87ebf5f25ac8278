//! A pair exchange through a server that cannot read it.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use identity::{Credentials, Local, Pair};
use proto::mobility::v1 as said;
use said::agents_client::AgentsClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use wire::tuple::Endpoint;

use super::connect::connect;

/// Bytes of one frame.
const FRAME: usize = 16 << 10;
/// Frames on their way.
const FRAMES: usize = 8;
/// The exchange, from the first frame on.
const LIMIT: Duration = Duration::from_secs(10);

/// One invitation.
pub struct Invited {
    /// The server's URL.
    pub server: String,
    /// Its words.
    pub invitation: said::TunnelInvitation,
    /// The address of the peer as the connection knows it.
    pub peer: IpAddr,
    /// Our address.
    pub from: Option<IpAddr>,
    /// Mark of the agent's own segments.
    pub mark: u32,
}

/// Runs the exchange. The pair counts as seen at the connection's address: a MAC will show whether that is so.
///
/// # Errors
/// In words, with the stable name of the reason.
pub async fn exchange(
    invited: Invited,
    credentials: Credentials,
    authorities: &Path,
    local: Local,
) -> Result<Pair, (&'static str, String)> {
    let failed = |error: &dyn std::fmt::Display| ("tunnel", error.to_string());
    let tls =
        identity::towards_servers(credentials.identity(), authorities).map_err(|error| failed(&error))?;
    let connected = connect(&invited.server, invited.from, invited.mark, tls)
        .await
        .map_err(|error| failed(&error))?;
    let (out, frames) = mpsc::channel(FRAMES);
    let first = said::TunnelFrame {
        tunnel: invited.invitation.tunnel.clone(),
        data: Vec::new(),
    };
    let _ = out.send(first).await;
    let inbound = AgentsClient::new(connected.channel)
        .tunnel(ReceiverStream::new(frames))
        .await
        .map_err(|status| failed(&status.message()))?
        .into_inner();
    let (near, far) = duplex(4 * FRAME);
    let pump = tokio::spawn(pump(far, out, inbound));
    let local = Local {
        peer_observed: None,
        ..local
    };
    let outcome = match invited.invitation.dial {
        true => identity::dial(near, &credentials, &local, LIMIT).await,
        false => identity::accept(near, &credentials, &local, LIMIT).await,
    };
    let mut pair = match outcome {
        Ok(session) => {
            // The other end may still wait for the last words.
            let pair = session.pair;
            let _ = tokio::time::timeout(Duration::from_secs(1), session.channel.close()).await;
            pair
        }
        Err(error) => {
            pump.abort();
            return Err((error.reason(), error.to_string()));
        }
    };
    if pair.peer_observed.address.is_unspecified() {
        pair.peer_observed = Endpoint {
            address: invited.peer,
            port: 0,
        };
        pair.peer_behind_napt = !pair.peer_direct_addresses.contains(&invited.peer);
    }
    Ok(pair)
}

/// Carries bytes between the exchange and the tunnel until both directions have ended.
async fn pump(
    far: DuplexStream,
    out: mpsc::Sender<said::TunnelFrame>,
    mut inbound: tonic::Streaming<said::TunnelFrame>,
) {
    let (mut read, mut write) = tokio::io::split(far);
    let outwards = async move {
        let mut buffer = vec![0; FRAME];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let frame = said::TunnelFrame {
                tunnel: Vec::new(),
                data: buffer[..length].to_vec(),
            };
            if out.send(frame).await.is_err() {
                break;
            }
        }
    };
    let inwards = async move {
        while let Ok(Some(frame)) = inbound.message().await {
            if write.write_all(&frame.data).await.is_err() {
                break;
            }
        }
        write.shutdown().await
    };
    let _: ((), io::Result<()>) = tokio::join!(outwards, inwards);
}
