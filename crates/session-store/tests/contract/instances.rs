//! Several server instances on one cluster, and a cluster that loses a master.
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use session_store::{Expected, Key, Lease, Note, RedisSettings, Reported, StoreError, Swap, Table};

use crate::claims::{LONG, name};
use crate::cluster::{self, Cluster, PORTS};

fn body() -> Bytes {
    Bytes::from_static(b"report")
}

#[test]
fn reports_at_two_instances_match_and_wake() {
    cluster::shared().run(|| async {
        let (here, there) = (cluster::open().await, cluster::open().await);
        assert_eq!(here.epoch().await.unwrap(), there.epoch().await.unwrap());
        let agent = name("agent a");
        let mut notes = here.subscribe(&agent).await.unwrap();
        for round in 0..20 {
            let key = Key::new(Table::Pairs, name("pair")).unwrap();
            let (a, b) = tokio::join!(
                here.report(&key, b"a", 1, body(), LONG),
                there.report(&key, b"b", 1, body(), LONG)
            );
            let (Reported::Filed(a), Reported::Filed(b)) = (a.unwrap(), b.unwrap()) else {
                panic!("nobody else files here")
            };
            let seen = [a.reports.len(), b.reports.len()];
            assert!(seen == [1, 2] || seen == [2, 1], "{seen:?}");
            let revision = a.revision.max(b.revision);
            let (a, b) = tokio::join!(
                here.swap(&key, Expected::At(revision), body(), LONG),
                there.swap(&key, Expected::At(revision), body(), LONG)
            );
            let done = [a.unwrap(), b.unwrap()]
                .iter()
                .filter(|swap| matches!(swap, Swap::Done(_)))
                .count();
            assert_eq!(done, 1);
            let note = Bytes::from(format!("decided {round}"));
            there.notify(&agent, note.clone()).await.unwrap();
            assert_eq!(notes.next().await, Some(Note::Said(note)));
        }
    });
}

#[test]
fn the_service_goes_on_when_a_master_dies() {
    let cluster = Cluster::start();
    cluster.run(|| async {
        let (here, there) = (cluster::open().await, cluster::open().await);
        let epoch = here.epoch().await.unwrap();
        let keys: Vec<Key> = (0..40)
            .map(|_| Key::new(Table::Pairs, name("pair")).unwrap())
            .collect();
        for key in &keys {
            here.report(key, b"a", 1, body(), LONG).await.unwrap();
        }
        let topics: Vec<Bytes> = (0..12).map(|_| name("agent")).collect();
        let mut streams = Vec::new();
        for topic in &topics {
            streams.push(here.subscribe(topic).await.unwrap());
        }
        cluster.settle();
        cluster.kill(PORTS[0]);
        // Every key, a third of them at the master that is gone.
        for key in &keys {
            let Reported::Filed(record) = there.report(key, b"b", 1, body(), LONG).await.unwrap() else {
                panic!("the counter is new")
            };
            assert_eq!(record.reports.len(), 2, "{key:?}: what the replica had is there");
            assert!(matches!(
                there
                    .swap(key, Expected::At(record.revision), body(), LONG)
                    .await
                    .unwrap(),
                Swap::Done(_)
            ));
        }
        assert_eq!(there.epoch().await.unwrap(), epoch);
        let mut listed = 0;
        let mut after = None;
        loop {
            let page = there.list(Table::Pairs, after, 10).await.unwrap();
            listed += page
                .records
                .iter()
                .filter(|record| keys.contains(&record.key))
                .count();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert!(listed >= keys.len());
        // Wake-ups come through again, on every channel, and every subscriber learns that some may be missing.
        for (topic, notes) in topics.iter().zip(&mut streams) {
            let mut gap = false;
            let heard = async {
                while let Some(note) = notes.next().await {
                    match note {
                        Note::Gap => gap = true,
                        Note::Said(_) if gap => return,
                        Note::Said(_) => {}
                    }
                }
            };
            let say = async {
                loop {
                    there.notify(topic, body()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::select! {
                () = heard => {}
                () = say => {}
            }
            assert!(gap);
        }
    });
}

#[test]
fn a_cluster_that_is_not_there_is_an_error_that_says_so() {
    cluster::shared().run(|| async {
        let nowhere = RedisSettings {
            nodes: vec!["redis://127.0.0.1:1".into()],
            patience: Duration::from_millis(300),
        };
        let error = session_store::Redis::open(nowhere)
            .await
            .err()
            .expect("nobody listens there");
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains("check that every master"), "{error}");
        let nonsense = RedisSettings {
            nodes: vec!["no address".into()],
            ..RedisSettings::default()
        };
        let error = session_store::Redis::open(nonsense).await.err().expect("no URL");
        assert!(matches!(error, StoreError::Configuration { .. }), "{error:?}");
        let store = cluster::open().await;
        let key = Key::new(Table::Pairs, name("long")).unwrap();
        let longest = Lease::For(Duration::MAX);
        assert!(matches!(
            store.swap(&key, Expected::Absent, body(), longest).await.unwrap(),
            Swap::Done(_)
        ));
        assert!(store.get(&key).await.unwrap().unwrap().remaining.is_some());
    });
}
