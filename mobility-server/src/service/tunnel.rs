//! Blind tunnels: two agents that cannot reach each other have their first exchange through the server.
//!
//! Both say that they want one for the same connection; when their endpoints cross, both are invited, and whoever
//! comes names the invitation. What they send is passed on unread: it is TLS between the two, with certificates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use migration::server::AgentName;
use proto::mobility::v1 as pb;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use wire::Endpoint;

use super::{Shared, first};
use crate::config::Config;
use crate::convert;
use crate::registry::Stream;

/// Frames that wait for an end that does not read.
const BACKLOG: usize = 8;
/// Bytes in one frame.
const LONGEST: usize = 16 * 1024;
/// How long an end's wish is kept.
const PATIENCE: Duration = Duration::from_secs(60);

type Frames = mpsc::Sender<Result<pb::TunnelFrame, Status>>;

struct Wish {
    stream: Arc<Stream>,
    local: Endpoint,
    remote: Endpoint,
    until: Instant,
}

struct Invited {
    ends: [AgentName; 2],
    until: Instant,
    /// The end that came first: where to send to it, and who tells it that the other is there.
    waiting: Option<(AgentName, Frames, tokio::sync::oneshot::Sender<Frames>)>,
    come: [bool; 2],
}

#[derive(Default)]
struct State {
    wishes: HashMap<u64, Vec<Wish>>,
    invited: HashMap<[u8; 16], Invited>,
}

/// All wishes and tunnels of this instance.
#[derive(Default)]
pub struct Tunnels {
    state: Mutex<State>,
}

impl Tunnels {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An agent wants to talk to the other end of a connection. False: it wants too much.
    pub fn want(
        &self,
        stream: &Arc<Stream>,
        local: Endpoint,
        remote: Endpoint,
        connection: u64,
        limit: usize,
    ) -> bool {
        let now = Instant::now();
        let mut state = self.lock();
        state.wishes.retain(|_, wishes| {
            wishes.retain(|wish| wish.until > now && !wish.stream.stop.is_cancelled());
            !wishes.is_empty()
        });
        state.invited.retain(|_, invited| invited.until > now);
        let own = state
            .wishes
            .values()
            .flatten()
            .filter(|wish| wish.stream.agent == stream.agent)
            .count();
        if own >= limit.saturating_mul(4) {
            return false;
        }
        let wish = Wish {
            stream: stream.clone(),
            local,
            remote,
            until: now + PATIENCE,
        };
        let wishes = state.wishes.entry(connection).or_default();
        wishes.retain(|other| other.stream.agent != stream.agent);
        let peer = wishes.iter().position(|other| cross(&wish, other));
        let Some(peer) = peer else {
            wishes.push(wish);
            return true;
        };
        let peer = wishes.swap_remove(peer);
        if wishes.is_empty() {
            state.wishes.remove(&connection);
        }
        let held = state
            .invited
            .values()
            .filter(|invited| invited.ends.contains(&stream.agent))
            .count();
        if held >= limit {
            return false;
        }
        let tunnel: [u8; 16] = rand::random();
        let ends = [wish.stream.agent.clone(), peer.stream.agent.clone()];
        for end in [&wish, &peer] {
            // The smaller name dials, as in every exchange that both begin.
            let dial = ends.iter().min() == Some(&end.stream.agent);
            end.stream
                .push(convert::server_message(Hears::Tunnel(pb::TunnelInvitation {
                    tunnel: tunnel.to_vec(),
                    connection,
                    dial,
                })));
        }
        state.invited.insert(
            tunnel,
            Invited {
                ends,
                until: now + PATIENCE,
                waiting: None,
                come: [false; 2],
            },
        );
        true
    }

    /// An exchange has happened, or is no longer wanted.
    pub fn settle(&self, agent: &AgentName, connection: u64) {
        let mut state = self.lock();
        if let Some(wishes) = state.wishes.get_mut(&connection) {
            wishes.retain(|wish| wish.stream.agent != *agent);
            if wishes.is_empty() {
                state.wishes.remove(&connection);
            }
        }
    }

    /// A stream of this agent has ended; wishes of its other streams are said again.
    pub fn unwant(&self, agent: &AgentName) {
        let mut state = self.lock();
        state.wishes.retain(|_, wishes| {
            wishes.retain(|wish| wish.stream.agent != *agent || !wish.stream.stop.is_cancelled());
            !wishes.is_empty()
        });
    }

    /// An invited end has come. Gives where its frames go: at once, or when the other has come.
    fn come(
        &self,
        tunnel: &[u8],
        agent: &str,
        own: Frames,
    ) -> Option<Result<Frames, tokio::sync::oneshot::Receiver<Frames>>> {
        let tunnel: [u8; 16] = tunnel.try_into().ok()?;
        let mut state = self.lock();
        let invited = state
            .invited
            .get_mut(&tunnel)
            .filter(|invited| invited.until > Instant::now())?;
        let place = invited.ends.iter().position(|end| end.0 == agent)?;
        if std::mem::replace(&mut invited.come[place], true) {
            return None;
        }
        match invited.waiting.take() {
            Some((_, other, tell)) => {
                state.invited.remove(&tunnel);
                tell.send(own).ok()?;
                Some(Ok(other))
            }
            None => {
                let (tell, told) = tokio::sync::oneshot::channel();
                invited.waiting = Some((invited.ends[place].clone(), own, tell));
                Some(Err(told))
            }
        }
    }
}

/// Whether both mean the same connection: each names the other's endpoint, as far as NAPTs let it.
fn cross(one: &Wish, other: &Wish) -> bool {
    let names = |one: &Wish, other: &Wish| {
        one.remote == other.local || one.remote.address == other.stream.observed.address
    };
    one.stream.agent != other.stream.agent && (names(one, other) || names(other, one))
}

/// Carries one direction of a tunnel; the frames of the other come out of what it returns.
pub(super) async fn carry(
    shared: &Arc<Shared>,
    agent: &str,
    mut incoming: Streaming<pb::TunnelFrame>,
) -> Result<mpsc::Receiver<Result<pb::TunnelFrame, Status>>, Status> {
    let timeouts = shared.config.timeouts;
    let (own, frames) = mpsc::channel(BACKLOG);
    let (shared, agent) = (shared.clone(), agent.to_owned());
    tokio::spawn(async move {
        let life = Config::seconds(timeouts.tunnel);
        let carried = tokio::time::timeout(life, pass(&shared, &agent, &mut incoming, own.clone())).await;
        let status = match carried {
            Ok(Ok(())) => return,
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the tunnel has lived long enough"),
        };
        let _ = own.try_send(Err(status));
    });
    Ok(frames)
}

async fn pass(
    shared: &Arc<Shared>,
    agent: &str,
    incoming: &mut Streaming<pb::TunnelFrame>,
    own: Frames,
) -> Result<(), Status> {
    let mut frame = first(incoming, Config::seconds(shared.config.timeouts.handshake)).await?;
    let come = shared.tunnels.come(&frame.tunnel, agent, own);
    let other = match come.ok_or_else(|| Status::not_found("no such tunnel"))? {
        Ok(other) => other,
        Err(told) => told
            .await
            .map_err(|_| Status::not_found("the other end did not come"))?,
    };
    shared.counters.count("tunnel_ends");
    let mut bytes = 0;
    loop {
        if frame.data.len() > LONGEST {
            return Err(Status::invalid_argument("a frame has at most 16 KiB"));
        }
        bytes += frame.data.len() as u64;
        if bytes > shared.config.limits.tunnel_bytes {
            return Err(Status::resource_exhausted("more than a tunnel carries"));
        }
        let passed = pb::TunnelFrame {
            tunnel: Vec::new(),
            data: std::mem::take(&mut frame.data),
        };
        if !passed.data.is_empty() && other.send(Ok(passed)).await.is_err() {
            return Ok(());
        }
        match incoming.message().await? {
            Some(next) => frame = next,
            None => return Ok(()),
        }
    }
}
