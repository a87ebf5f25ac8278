//! What the mobility servers have to hear of connections: which of them are new, changed or gone, for each server.
//!
//! A state, not a sequence: a connection that changes ten times before a server is reached is said once, and one that has
//! ended before it was said is never said. So nothing here grows beyond the connections that there are, and those whose
//! end a server has yet to hear of. No IO, no clock.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::mobility::v1 as said;
use tokio::sync::Notify;

/// Names a session.
pub type SessionId = [u8; 16];

/// What is said to one server at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Sessions, each with the revision that the server has.
    pub put: Vec<said::PutSessionRequest>,
    /// Sessions that have ended.
    pub gone: Vec<SessionId>,
}

impl Changes {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.put.is_empty() && self.gone.is_empty()
    }
}

/// What is known of one server.
#[derive(Debug, Default)]
struct Server {
    /// Which filling of its store this is about.
    epoch: Vec<u8>,
    /// Revisions of what it holds.
    known: HashMap<SessionId, u64>,
    /// What it has to hear.
    dirty: BTreeSet<SessionId>,
}

#[derive(Debug)]
struct Books {
    held: HashMap<SessionId, said::Session>,
    servers: Vec<Server>,
}

/// All connections, and what each server knows of them.
#[derive(Debug)]
pub struct Registry {
    books: Mutex<Books>,
    /// Something is to be said.
    pub changed: Notify,
}

impl Registry {
    /// For so many servers.
    pub fn new(servers: usize) -> Self {
        Self {
            books: Mutex::new(Books {
                held: HashMap::new(),
                servers: (0..servers).map(|_| Server::default()).collect(),
            }),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is there, or is another now.
    pub fn put(&self, id: SessionId, session: said::Session) {
        let mut books = self.lock();
        if books.held.get(&id) == Some(&session) {
            return;
        }
        books.held.insert(id, session);
        for server in &mut books.servers {
            server.dirty.insert(id);
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// A connection has ended.
    pub fn gone(&self, id: &SessionId) {
        let mut books = self.lock();
        books.held.remove(id);
        for server in &mut books.servers {
            match server.known.contains_key(id) {
                true => server.dirty.insert(*id),
                false => server.dirty.remove(id),
            };
        }
        drop(books);
        self.changed.notify_waiters();
    }

    /// All connections have ended.
    pub fn all_gone(&self) {
        let ids: Vec<SessionId> = self.lock().held.keys().copied().collect();
        for id in ids {
            self.gone(&id);
        }
    }

    /// A server is attended. One whose store is another than it was knows nothing.
    pub fn attended(&self, server: usize, epoch: &[u8]) {
        let mut books = self.lock();
        let held: Vec<SessionId> = books.held.keys().copied().collect();
        if let Some(server) = books.servers.get_mut(server)
            && server.epoch != epoch
        {
            server.epoch = epoch.to_vec();
            server.known.clear();
            server.dirty = held.into_iter().collect();
        }
    }

    /// Everything is said anew to a server, so that it does not forget it.
    pub fn renew(&self, server: usize) {
        let mut books = self.lock();
        let held: Vec<SessionId> = books.held.keys().copied().collect();
        if let Some(server) = books.servers.get_mut(server) {
            server.dirty.extend(held);
        }
    }

    /// Takes what a server has to hear, at most so many sessions.
    pub fn take(&self, server: usize, most: usize) -> Changes {
        let mut books = self.lock();
        let Books { held, servers } = &mut *books;
        let Some(server) = servers.get_mut(server) else {
            return Changes::default();
        };
        let mut changes = Changes::default();
        for _ in 0..most {
            let Some(id) = server.dirty.pop_first() else { break };
            match held.get(&id) {
                Some(session) => changes.put.push(said::PutSessionRequest {
                    session: Some(session.clone()),
                    expected_revision: server.known.get(&id).copied().unwrap_or(0),
                }),
                None if server.known.remove(&id).is_some() => changes.gone.push(id),
                None => {}
            }
        }
        changes
    }

    /// What became of what was taken: the results of the puts, in their order.
    pub fn told(&self, server: usize, changes: &Changes, results: &[said::PutSessionResult]) {
        let mut books = self.lock();
        let Books { held, servers } = &mut *books;
        let Some(server) = servers.get_mut(server) else {
            return;
        };
        for (put, result) in changes.put.iter().zip(results) {
            let Some(id) = put.session.as_ref().and_then(id_of) else {
                continue;
            };
            match result.revision {
                0 => server.known.remove(&id),
                revision => server.known.insert(id, revision),
            };
            let is_put = result.refusal.is_empty();
            // Another revision may be tried; what is refused otherwise is refused for good.
            let again = !is_put && (result.revision != 0 || put.expected_revision != 0);
            if again || (is_put && !held.contains_key(&id)) {
                server.dirty.insert(id);
            }
        }
    }

    /// Nobody knows what became of what was taken: it is said again.
    pub fn untold(&self, server: usize, changes: &Changes) {
        let mut books = self.lock();
        let Some(server) = books.servers.get_mut(server) else {
            return;
        };
        for id in changes
            .put
            .iter()
            .filter_map(|put| put.session.as_ref().and_then(id_of))
        {
            server.dirty.insert(id);
        }
        for id in &changes.gone {
            server.known.insert(*id, 0);
            server.dirty.insert(*id);
        }
    }

    /// Whether a server has heard everything.
    pub fn is_told(&self, server: usize) -> bool {
        self.lock()
            .servers
            .get(server)
            .is_none_or(|server| server.dirty.is_empty())
    }
}

fn id_of(session: &said::Session) -> Option<SessionId> {
    session.session_id.as_slice().try_into().ok()
}
