//! What agents say of their connections, on its way to the store: a queue for each stream, so that reports, which
//! connections wait for, never wait for it.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::StreamExt;
use migration::server::AgentName;
use proto::mobility::v1 as pb;
use tokio::sync::mpsc;

use super::Shared;
use super::ledger::{Ledger, NotPut};
use crate::convert::Malformed;

/// Connections in one message, at most.
const MAX_HELD: usize = 1024;
/// Connections of one stream, at most.
const MAX_OF_STREAM: usize = 16_384;
/// Messages that wait for the store. One that finds no room is lost; what it held is said anew within a minute.
const BACKLOG: usize = 32;
/// Writes under way at once.
const AT_ONCE: usize = 64;

/// The sessions of one stream. Dropping it ends the queue once it is written.
pub(super) struct Held {
    shared: Arc<Shared>,
    queue: mpsc::Sender<pb::SessionsHeld>,
    /// By pair and label.
    known: HashSet<(Vec<u8>, u64)>,
}

impl Held {
    /// Starts the queue.
    pub(super) fn start(shared: &Arc<Shared>, agent: &AgentName) -> Self {
        let (queue, said) = mpsc::channel(BACKLOG);
        tokio::spawn(write(shared.clone(), agent.clone(), said));
        Self {
            shared: shared.clone(),
            queue,
            known: HashSet::new(),
        }
    }

    /// Takes a message; what is beyond this stream's share is left out.
    ///
    /// # Errors
    /// The message is too long.
    pub(super) fn hear(&mut self, mut message: pb::SessionsHeld) -> Result<(), Malformed> {
        if message.held.len() > MAX_HELD {
            return Err(Malformed("more than 1024 connections in one message"));
        }
        message.held.retain(|held| {
            let name = (held.pair_id.clone(), held.label);
            if held.kind() == pb::session::Kind::Unspecified {
                self.known.remove(&name);
                return true;
            }
            let fits = self.known.contains(&name) || self.known.len() < MAX_OF_STREAM;
            match fits {
                true => {
                    self.known.insert(name);
                }
                false => self.shared.counters.refuse("sessions_limit"),
            }
            fits
        });
        if self.queue.try_send(message).is_err() {
            self.shared.counters.refuse("sessions_backlog");
        }
        Ok(())
    }
}

async fn write(shared: Arc<Shared>, agent: AgentName, mut said: mpsc::Receiver<pb::SessionsHeld>) {
    while let Some(message) = said.recv().await {
        let ledger = Ledger(&shared.store);
        let writes = message.held.into_iter().map(|held| ledger.held(&agent, held));
        let mut writes = futures_util::stream::iter(writes).buffer_unordered(AT_ONCE);
        while let Some(written) = writes.next().await {
            match written {
                Ok(()) | Err(NotPut::Lost(_)) => {}
                Err(NotPut::Store(error)) => {
                    shared.store_failed(&error);
                }
                Err(NotPut::Malformed(what)) => {
                    tracing::debug!(%agent, what, "a session is not kept");
                    shared.counters.refuse("session_malformed");
                }
                Err(NotPut::Foreign) => shared.counters.refuse("not_the_owner"),
            }
        }
    }
}
