//! Wake-ups: who waits for a topic hears what is said about it from then on.
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

/// Longest note, in bytes.
pub const MAX_NOTE: usize = 64 * 1024;

/// Notes that wait for a subscriber who does not listen; older ones give way, and a [`Note::Gap`] tells of it.
const BACKLOG: usize = 64;

/// Told of each topic that its last subscriber has left, while nobody can come to it.
type Leaver = Arc<dyn Fn(&Bytes) + Send + Sync>;

/// What a subscriber hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// What [`crate::Store::notify`] was given.
    Said(Bytes),
    /// Notes may have been lost here: look into the store for what they would have told.
    Gap,
}

/// The stream of notes of one subscription. It never ends by itself.
#[derive(Debug)]
pub struct Notes {
    // Field order: the stream's receiver goes before the desk is asked to tidy up.
    stream: BroadcastStream<Note>,
    _seat: Seat,
}

impl Stream for Notes {
    type Item = Note;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Note>> {
        Pin::new(&mut self.stream)
            .poll_next(context)
            .map(|item| item.map(|note| note.unwrap_or(Note::Gap)))
    }
}

/// Hands notes to the subscribers of this process.
#[derive(Clone, Default)]
pub(crate) struct Switchboard {
    desks: Arc<Mutex<HashMap<Bytes, broadcast::Sender<Note>>>>,
    leavers: Option<Leaver>,
}

impl Switchboard {
    /// A switchboard that tells when the last subscriber of a topic has left.
    pub(crate) fn telling_leavers(leaver: impl Fn(&Bytes) + Send + Sync + 'static) -> Self {
        Switchboard {
            desks: Arc::default(),
            leavers: Some(Arc::new(leaver)),
        }
    }

    /// A new subscriber.
    pub(crate) fn subscribe(&self, topic: &[u8]) -> Notes {
        let topic = Bytes::copy_from_slice(topic);
        let mut desks = lock(&self.desks);
        let sender = desks
            .entry(topic.clone())
            .or_insert_with(|| broadcast::channel(BACKLOG).0);
        Notes {
            stream: BroadcastStream::new(sender.subscribe()),
            _seat: Seat {
                topic,
                desks: Arc::downgrade(&self.desks),
                leavers: self.leavers.clone(),
            },
        }
    }

    /// To the subscribers of a topic, if there are any.
    pub(crate) fn say(&self, topic: &[u8], note: Note) {
        if let Some(sender) = lock(&self.desks).get(topic) {
            // Without a receiver there is nobody to tell.
            let _ = sender.send(note);
        }
    }

    /// To everybody.
    pub(crate) fn say_to_all(&self, note: &Note) {
        for sender in lock(&self.desks).values() {
            let _ = sender.send(note.clone());
        }
    }

    /// Whether somebody listens to it.
    pub(crate) fn has(&self, topic: &[u8]) -> bool {
        lock(&self.desks).contains_key(topic)
    }

    /// The topics that somebody listens to.
    pub(crate) fn topics(&self) -> Vec<Bytes> {
        lock(&self.desks).keys().cloned().collect()
    }
}

/// A subscriber's place; gives the topic up with the last one.
struct Seat {
    topic: Bytes,
    desks: Weak<Mutex<HashMap<Bytes, broadcast::Sender<Note>>>>,
    leavers: Option<Leaver>,
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({:?})", self.topic)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(desks) = self.desks.upgrade() else { return };
        let mut desks = lock(&desks);
        let deserted = desks
            .get(&self.topic)
            .is_some_and(|sender| sender.receiver_count() == 0);
        if deserted {
            desks.remove(&self.topic);
            if let Some(leavers) = &self.leavers {
                leavers(&self.topic);
            }
        }
    }
}

/// A panic elsewhere leaves the map whole: nothing in here stops half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
