//! One stream for each server, only while something is wanted of it, from the address that is reported.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use host_agent::server::ServerEvent;
use host_agent::server::attend::Attendance;
use host_agent::server::wanted::{Presence, Reported, Wanted, Withdrawn};
use proto::mobility::v1 as said;
use said::agent_message::Body as Heard;
use said::server_message::Body as Said;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::hub::{self, Hub, LIMIT};

struct Attended {
    hub: Hub,
    wanted: watch::Sender<Arc<Wanted>>,
    failed: mpsc::Sender<said::TryFailed>,
    events: mpsc::Receiver<ServerEvent>,
}

impl Attended {
    async fn new() -> Attended {
        let hub = Hub::new().await;
        let (wanted, wanted_receiver) = watch::channel(Arc::new(nothing()));
        let (failed, failed_receiver) = mpsc::channel(8);
        let (events_sender, events) = mpsc::channel(64);
        let (_, credentials) = watch::channel(hub.agent("phone"));
        let attendance = Attendance {
            server: hub.url.clone(),
            wanted: wanted_receiver,
            credentials,
            authorities: hub.authorities(),
            mark: 0,
            failed: failed_receiver,
            events: events_sender,
        };
        tokio::spawn(attendance.run());
        Attended {
            hub,
            wanted,
            failed,
            events,
        }
    }

    fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(Arc::new(wanted));
    }

    async fn event(&mut self) -> ServerEvent {
        tokio::time::timeout(LIMIT, self.events.recv())
            .await
            .expect("in time")
            .expect("an event")
    }

    fn reporting(&self, counter: u64) -> Wanted {
        let servers = vec![self.hub.url.clone()];
        let report = said::MobilityReport {
            pair_id: pair().as_bytes().to_vec(),
            peer: "spiffe://mobility/agent/peer".into(),
            move_counter: counter,
            ..Default::default()
        };
        Wanted {
            reports: BTreeMap::from([(pair(), Reported { report, servers })]),
            ..nothing()
        }
    }
}

fn pair() -> Uuid {
    Uuid::from_u128(7)
}

fn nothing() -> Wanted {
    Wanted {
        from: Some([127, 0, 0, 1].into()),
        agent_port: 7801,
        ..Wanted::default()
    }
}

fn reports(stream: &hub::Attended) -> Vec<u64> {
    let counters = stream.heard.iter().filter_map(|body| match body {
        Heard::Report(report) => Some(report.move_counter),
        _ => None,
    });
    counters.collect()
}

#[tokio::test]
async fn a_stream_begins_with_a_hello_and_every_report_and_ends_when_nothing_is_wanted() {
    let mut attended = Attended::new().await;
    // Time to do wrong: nothing is awaited here, and a slow machine only sees less.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        attended.hub.notes.streams.lock().unwrap().is_empty(),
        "nothing is wanted"
    );
    attended.want(attended.reporting(5));
    let hello = attended
        .hub
        .notes
        .until("hello and report", |streams| {
            let first = streams.first()?;
            (reports(first) == [5]).then(|| first.heard[0].clone())
        })
        .await;
    let Heard::Hello(hello) = hello else {
        panic!("{hello:?}")
    };
    assert_eq!(hello.version, 1);
    assert_eq!(hello.pairs[0].pair_id, pair().as_bytes());
    assert_eq!(hello.local.unwrap().address, [127, 0, 0, 1]);
    assert!(matches!(attended.event().await, ServerEvent::Opened { .. }));

    let withdraw = said::Withdraw {
        pair_id: pair().as_bytes().to_vec(),
        move_counter: 5,
        ..Default::default()
    };
    let heard = BTreeMap::from([(attended.hub.url.clone(), 3)]);
    attended.want(Wanted {
        withdrawn: vec![Withdrawn { withdraw, heard }],
        ..nothing()
    });
    attended
        .hub
        .notes
        .until("the withdrawal, then the end", |streams| {
            let said = streams[0].heard.iter().any(|body| {
                matches!(body, Heard::Withdraw(withdraw) if withdraw.move_counter == 5 && withdraw.decision == 3)
            });
            (said && streams[0].over).then_some(())
        })
        .await;
    assert_eq!(attended.hub.notes.streams.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn what_a_server_says_and_what_failed_get_through() {
    let mut attended = Attended::new().await;
    attended.want(attended.reporting(5));
    assert!(matches!(attended.event().await, ServerEvent::Opened { .. }));
    let destination = said::Destination {
        decision: 9,
        ..Default::default()
    };
    attended.hub.notes.say(0, Said::Destination(destination.clone()));
    let ServerEvent::Said { body, .. } = attended.event().await else {
        panic!("a destination")
    };
    assert_eq!(body, Said::Destination(destination));
    attended.hub.notes.say(0, Said::Ping(said::Ping { number: 4 }));
    let failed = said::TryFailed {
        decision: 9,
        ..Default::default()
    };
    attended.failed.send(failed.clone()).await.unwrap();
    attended
        .hub
        .notes
        .until("pong and failure", |streams| {
            let heard = &streams[0].heard;
            (heard.contains(&Heard::Pong(said::Pong { number: 4 }))
                && heard.contains(&Heard::TryFailed(failed.clone())))
            .then_some(())
        })
        .await;
}

/// Its path may have died in the middle of the greeting.
#[tokio::test]
async fn a_move_is_told_though_the_server_has_never_answered_from_the_old_address() {
    let attended = Attended::new().await;
    attended.hub.notes.speechless.store(true, Ordering::Relaxed);
    attended.want(attended.reporting(5));
    let greeted = attended.hub.notes.until("a report", |streams| {
        let first = streams.first()?;
        (reports(first) == [5]).then_some(())
    });
    greeted.await;
    attended.hub.notes.speechless.store(false, Ordering::Relaxed);
    attended.want(Wanted {
        from: Some([127, 0, 0, 2].into()),
        ..attended.reporting(6)
    });
    let again = attended.hub.notes.until("a report from there", |streams| {
        let second = streams.get(1)?;
        (reports(second) == [6]).then_some(())
    });
    again.await;
}

#[tokio::test]
async fn after_a_loss_and_after_a_move_everything_is_said_again() {
    let attended = Attended::new().await;
    attended.want(attended.reporting(5));
    let first = attended.hub.notes.until("a report", |streams| {
        streams
            .first()
            .filter(|stream| reports(stream) == [5])
            .map(|_| ())
    });
    first.await;
    attended.hub.notes.hang_up(0);
    attended
        .hub
        .notes
        .until("the same again", |streams| {
            streams.get(1).filter(|stream| reports(stream) == [5]).map(|_| ())
        })
        .await;
    // Another address: 127.0.0.2 is as good on loopback.
    attended.want(Wanted {
        from: Some([127, 0, 0, 2].into()),
        ..attended.reporting(6)
    });
    let local = attended
        .hub
        .notes
        .until("a report from there", |streams| {
            let third = streams.get(2).filter(|stream| reports(stream) == [6])?;
            match &third.heard[0] {
                Heard::Hello(hello) => hello.local.clone(),
                _ => None,
            }
        })
        .await;
    assert_eq!(local.address, [127, 0, 0, 2]);
    assert!(attended.hub.notes.streams.lock().unwrap()[1].over);
}

#[tokio::test]
async fn a_new_report_goes_out_on_the_open_stream() {
    let attended = Attended::new().await;
    let servers = vec![attended.hub.url.clone()];
    let peer = "spiffe://mobility/agent/peer".to_string();
    let presence = Wanted {
        pairs: BTreeMap::from([(pair(), Presence { peer, servers })]),
        ..nothing()
    };
    attended.want(presence.clone());
    attended
        .hub
        .notes
        .until("a hello", |streams| {
            streams
                .first()
                .filter(|stream| !stream.heard.is_empty())
                .map(|_| ())
        })
        .await;
    for counter in [5, 6] {
        attended.want(Wanted {
            pairs: presence.pairs.clone(),
            ..attended.reporting(counter)
        });
        let all: Vec<u64> = (5..=counter).collect();
        attended
            .hub
            .notes
            .until("the report", |streams| {
                (reports(&streams[0]) == all).then_some(())
            })
            .await;
    }
    assert_eq!(
        attended.hub.notes.streams.lock().unwrap().len(),
        1,
        "one stream for all of it"
    );
}

#[tokio::test]
async fn a_server_of_another_deployment_is_not_talked_to() {
    let mut attended = Attended::new().await;
    // The authority that counts is another one.
    let other = Hub::new().await;
    std::fs::copy(other.authorities(), attended.hub.authorities()).unwrap();
    attended.want(attended.reporting(5));
    let ServerEvent::Closed { why, .. } = attended.event().await else {
        panic!("no stream")
    };
    assert!(why.contains("certificate"), "{why}");
    assert!(attended.hub.notes.streams.lock().unwrap().is_empty());
}
