//! Whether peers were revoked is asked when there are others than before, and now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use host_agent::server::ServerEvent;
use host_agent::server::standing::{Peers, Standing};
use proto::mobility::v1 as said;
use said::server_message::Body;
use tokio::sync::{mpsc, watch};

use crate::hub::{Hub, LIMIT};

const PEER: &str = "spiffe://mobility/agent/peer";
const OTHER: &str = "spiffe://mobility/agent/other";

struct Asking {
    hub: Hub,
    peers: watch::Sender<Arc<Peers>>,
    events: mpsc::Receiver<ServerEvent>,
}

impl Asking {
    /// A task that asks so often; the first of its servers is dead.
    async fn every(every: Duration) -> Asking {
        let hub = Hub::new().await;
        let dead = "https://127.0.0.1:9".to_owned();
        let (peers, peers_receiver) = watch::channel(Arc::default());
        let (events_sender, events) = mpsc::channel(64);
        let (_, credentials) = watch::channel(hub.agent("phone"));
        let standing = Standing {
            servers: vec![dead, hub.url.clone()],
            peers: peers_receiver,
            every,
            credentials,
            authorities: hub.authorities(),
            mark: 0,
            events: events_sender,
        };
        tokio::spawn(standing.run());
        Asking { hub, peers, events }
    }

    fn with_keys(&self, peers: &[&str]) {
        let servers = vec!["https://127.0.0.1:9".to_owned(), self.hub.url.clone()];
        let all: Peers = peers
            .iter()
            .map(|uri| ((*uri).to_owned(), servers.clone()))
            .collect::<BTreeMap<_, _>>();
        self.peers.send_replace(Arc::new(all));
    }

    async fn revoked(&mut self) -> String {
        let event = tokio::time::timeout(LIMIT, self.events.recv()).await;
        match event.expect("in time").expect("an event") {
            ServerEvent::Said {
                server,
                body: Body::Revoked(revoked),
            } if server == self.hub.url => revoked.agent,
            other => panic!("{other:?}"),
        }
    }

    fn revoke(&self, uri: &str) {
        self.hub.notes.revoked.lock().unwrap().push(uri.to_owned());
    }
}

#[tokio::test]
async fn a_new_peer_that_was_revoked_is_told_at_once_though_another_server_is_dead() {
    let mut asking = Asking::every(Duration::from_secs(86_400)).await;
    asking.revoke(PEER);
    asking.with_keys(&[PEER, OTHER]);
    assert_eq!(asking.revoked().await, PEER);
    asking.revoke(OTHER);
    asking.with_keys(&[OTHER]);
    assert_eq!(asking.revoked().await, OTHER);
}

#[tokio::test]
async fn a_peer_that_is_revoked_later_is_told_with_the_next_question() {
    let mut asking = Asking::every(Duration::from_millis(100)).await;
    asking.with_keys(&[PEER]);
    let asked = || async { (asking.hub.notes.asked.load(Ordering::SeqCst) >= 2).then_some(()) };
    tokio::time::timeout(LIMIT, async {
        while asked().await.is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it asks again and again");
    asking.revoke(PEER);
    assert_eq!(asking.revoked().await, PEER);
}
