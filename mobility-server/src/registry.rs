//! Who attends here: the open streams of agents, and what is pushed into them.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use identity::Member;
use migration::server::{AgentName, PairKey, ServerEvent};
use proto::mobility::v1 as pb;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use wire::Endpoint;

/// Messages that wait for an agent that does not read; with one more its stream ends.
pub const BACKLOG: usize = 128;

/// What an agent says of itself; the last Hello counts.
#[derive(Clone, Debug)]
pub struct Said {
    /// The stream's local endpoint as the agent's socket knows it.
    pub local: Endpoint,
    /// Where it accepts pair exchanges; 0: nowhere.
    pub agent_port: u16,
    /// The pairs for which it can be pushed to.
    pub pairs: HashSet<PairKey>,
}

/// One open stream.
pub struct Stream {
    id: u64,
    /// Whose.
    pub agent: AgentName,
    /// The certificate behind it.
    pub member: Arc<Member>,
    /// Its source as the server sees it.
    pub observed: Endpoint,
    /// Since when.
    pub since: Instant,
    /// Ends it.
    pub stop: CancellationToken,
    said: Mutex<Said>,
    out: mpsc::Sender<Result<pb::ServerMessage, Status>>,
}

impl Stream {
    /// What the agent said last.
    pub fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That it is there, as the rules hear it.
    pub fn presence(&self) -> ServerEvent {
        ServerEvent::PeerPresent {
            agent: self.agent.clone(),
            local: self.said().local,
            observed: self.observed,
        }
    }

    /// Waits until there is room for answers: who asks faster than it reads is read more slowly.
    pub async fn room(&self) {
        let _ = self.out.reserve_many(BACKLOG / 2).await;
    }

    /// Pushes a message; a stream whose reader has stopped reading ends.
    pub fn push(&self, message: pb::ServerMessage) {
        if self.out.try_send(Ok(message)).is_err() {
            self.stop.cancel();
        }
    }
}

/// All open streams of this instance.
#[derive(Default)]
pub struct Registry {
    streams: Mutex<HashMap<AgentName, Vec<Arc<Stream>>>>,
    next: AtomicU64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<AgentName, Vec<Arc<Stream>>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a stream; none: the agent has `limit` of them already.
    pub fn enter(
        &self,
        member: Arc<Member>,
        observed: Endpoint,
        said: Said,
        out: mpsc::Sender<Result<pb::ServerMessage, Status>>,
        limit: usize,
    ) -> Option<Arc<Stream>> {
        let agent = AgentName(member.uri.clone());
        let mut all = self.lock();
        let own = all.entry(agent.clone()).or_default();
        if own.len() >= limit {
            // The oldest is most likely one of before a move, that nobody has noticed yet.
            let oldest = own.remove(0);
            oldest.stop.cancel();
        }
        let stream = Arc::new(Stream {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            agent,
            member,
            observed,
            since: Instant::now(),
            stop: CancellationToken::new(),
            said: Mutex::new(said),
            out,
        });
        own.push(stream.clone());
        Some(stream)
    }

    /// Takes a stream out.
    pub fn leave(&self, stream: &Stream) {
        let mut all = self.lock();
        if let Some(own) = all.get_mut(&stream.agent) {
            own.retain(|other| other.id != stream.id);
            if own.is_empty() {
                all.remove(&stream.agent);
            }
        }
    }

    /// Pushes a message into every stream of an agent: which of them still leads anywhere, only the agent knows.
    /// Returns how many there are.
    pub fn tell(&self, agent: &AgentName, message: &pb::ServerMessage) -> usize {
        let streams = self.lock().get(agent).cloned().unwrap_or_default();
        for stream in &streams {
            stream.push(message.clone());
        }
        streams.len()
    }

    /// The newest stream of an agent that has named this pair.
    pub fn present(&self, agent: &AgentName, key: &PairKey) -> Option<Arc<Stream>> {
        let streams = self.lock().get(agent).cloned().unwrap_or_default();
        streams
            .into_iter()
            .rev()
            .find(|stream| stream.said().pairs.contains(key))
    }

    /// Where the agent that was observed at this address can be probed; 0: nowhere.
    pub fn agent_port(&self, agent: &AgentName, address: IpAddr) -> u16 {
        let streams = self.lock().get(agent).cloned().unwrap_or_default();
        let there = streams
            .iter()
            .rev()
            .find(|stream| stream.observed.address == address);
        there.map_or(0, |stream| stream.said().agent_port)
    }

    /// Every stream.
    pub fn all(&self) -> Vec<Arc<Stream>> {
        self.lock().values().flatten().cloned().collect()
    }

    /// How many agents there are.
    pub fn agents(&self) -> usize {
        self.lock().len()
    }

    /// Ends every stream of an agent. Returns how many there were.
    pub fn expel(&self, uri: &str) -> usize {
        let streams = self
            .lock()
            .get(&AgentName(uri.to_owned()))
            .cloned()
            .unwrap_or_default();
        for stream in &streams {
            stream.stop.cancel();
        }
        streams.len()
    }
}
