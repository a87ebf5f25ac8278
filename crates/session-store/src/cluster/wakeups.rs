//! Notes between server instances: one channel for each topic somebody at this instance listens to.
use std::sync::Arc;
use std::time::Duration;

use ::redis::{PushInfo, PushKind, Value};
use bytes::Bytes;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{Link, patiently};
use crate::notes::Switchboard;
use crate::{Note, Notes, StoreError};

const CHANNEL: &[u8] = b"mobility:note:";
/// After a lost connection, until it is worth subscribing again; then, until everything is subscribed.
const PAUSE: Duration = Duration::from_millis(300);

pub(crate) struct Wakeups {
    desk: Desk,
    listener: JoinHandle<()>,
}

/// What subscribers and the listener share.
#[derive(Clone)]
struct Desk {
    link: Link,
    /// Redis 7 has sharded channels; before, everything is told to every node.
    sharded: bool,
    switchboard: Switchboard,
    /// Held while a channel is subscribed to or left, so that both do not cross.
    turn: Arc<Mutex<()>>,
}

impl Wakeups {
    pub(crate) fn start(link: Link, sharded: bool, pushes: mpsc::UnboundedReceiver<PushInfo>) -> Self {
        let (left, leavings) = mpsc::unbounded_channel();
        let desk = Desk {
            link,
            sharded,
            // Without a listener nobody has to leave.
            switchboard: Switchboard::telling_leavers(move |topic| drop(left.send(topic.clone()))),
            turn: Arc::default(),
        };
        let listener = tokio::spawn(desk.clone().listen(pushes, leavings));
        Wakeups { desk, listener }
    }

    pub(crate) async fn subscribe(&self, topic: &[u8]) -> Result<Notes, StoreError> {
        let _turn = self.desk.turn.lock().await;
        let notes = self.desk.switchboard.subscribe(topic);
        self.desk.join(topic).await?;
        Ok(notes)
    }

    pub(crate) async fn notify(&self, topic: &[u8], note: &[u8]) -> Result<(), StoreError> {
        let word = if self.desk.sharded { "SPUBLISH" } else { "PUBLISH" };
        let mut command = ::redis::cmd(word);
        command.arg(channel(topic)).arg(note);
        // How many heard it at that node; says nothing.
        let _: Value = self.desk.link.ask(&command).await?;
        Ok(())
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

fn channel(topic: &[u8]) -> Vec<u8> {
    [CHANNEL, topic].concat()
}

impl Desk {
    async fn join(&self, topic: &[u8]) -> Result<(), StoreError> {
        let channel = channel(topic);
        patiently(self.link.patience, || {
            let (mut connection, channel) = (self.link.connection.clone(), &channel);
            async move {
                match self.sharded {
                    true => connection.ssubscribe(channel).await,
                    false => connection.subscribe(channel).await,
                }
            }
        })
        .await
    }

    /// Leaves a channel that nobody listens to any more.
    async fn leave(&self, topic: &[u8]) {
        let _turn = self.turn.lock().await;
        if self.switchboard.has(topic) {
            return;
        }
        let (mut connection, channel) = (self.link.connection.clone(), channel(topic));
        let left = match self.sharded {
            true => connection.sunsubscribe(channel).await,
            false => connection.unsubscribe(channel).await,
        };
        if let Err(error) = left {
            // What comes over it is told to nobody.
            tracing::debug!(%error, "a channel was not left");
        }
    }

    /// Serves as long as the store is open.
    async fn listen(
        self,
        mut pushes: mpsc::UnboundedReceiver<PushInfo>,
        mut leavings: mpsc::UnboundedReceiver<Bytes>,
    ) {
        let mut again: Option<Instant> = None;
        loop {
            let due = again.unwrap_or_else(Instant::now);
            tokio::select! {
                push = pushes.recv() => {
                    let Some(push) = push else { return };
                    if self.pushed(&push) {
                        again = Some(Instant::now() + PAUSE);
                    }
                }
                Some(topic) = leavings.recv() => self.leave(&topic).await,
                () = sleep_until(due), if again.is_some() => {
                    again = match self.join_all().await {
                        true => None,
                        false => Some(Instant::now() + PAUSE),
                    };
                }
            }
        }
    }

    /// One message of a node. True: subscriptions were lost.
    fn pushed(&self, push: &PushInfo) -> bool {
        let text = |at: usize| match push.data.get(at) {
            Some(Value::BulkString(bytes)) => bytes.strip_prefix(CHANNEL),
            _ => None,
        };
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                if let (Some(topic), Some(Value::BulkString(note))) = (text(0), push.data.get(1)) {
                    self.switchboard
                        .say(topic, Note::Said(Bytes::copy_from_slice(note)));
                }
                false
            }
            // A slot that moves to another master takes its channels away.
            PushKind::Unsubscribe | PushKind::SUnsubscribe => {
                text(0).is_some_and(|topic| self.switchboard.has(topic))
            }
            PushKind::Disconnection => true,
            _ => false,
        }
    }

    /// Everything anew. False: not all of it.
    async fn join_all(&self) -> bool {
        let _turn = self.turn.lock().await;
        for topic in self.switchboard.topics() {
            if let Err(error) = self.join(&topic).await {
                tracing::warn!(%error, "wake-ups from other servers do not come through at the moment");
                return false;
            }
        }
        self.switchboard.say_to_all(&Note::Gap);
        true
    }
}
