//! When marked sockets are led to the parking device: while a connection that has lived for a second can migrate.
//!
//! Routing rules cost every connection of the host, protected or not, 3 % of its set-up, and most connections are gone
//! before they could move. An address that is lost, or a connection that is moved, brings the rules at once.

use std::collections::HashSet;
use std::time::Duration;

use migration::Timestamp;
use wire::tuple::Tuple;

use super::Driver;

/// So long the rules stay when nobody needs them.
const KEPT: Duration = Duration::from_secs(60);

/// What the last look saw.
#[derive(Default)]
pub(super) struct Leading {
    seen: HashSet<Tuple>,
    idle_since: Option<Timestamp>,
}

impl Driver {
    /// Once a second.
    pub(super) async fn lead_if_needed(&mut self, now: Timestamp) {
        if !self.parking.leads() {
            let sessions = &self.agent.sessions;
            let lives = self
                .leading
                .seen
                .iter()
                .any(|identity| sessions.contains_key(identity));
            if lives {
                self.leading.seen = HashSet::new();
                self.lead().await;
            } else {
                self.leading.seen = sessions.keys().copied().collect();
            }
        } else if !self.agent.sessions.is_empty() || !self.parking.retired().await.is_empty() {
            self.leading.idle_since = None;
        } else if now.since(*self.leading.idle_since.get_or_insert(now)) >= KEPT {
            self.leading.idle_since = None;
            self.parking.stop_leading().await;
        }
    }

    pub(super) async fn lead(&mut self) {
        if let Err(error) = self.parking.lead().await {
            tracing::warn!(%error, "what a moved connection sends is not remembered");
        }
    }
}
