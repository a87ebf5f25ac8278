//! What every backend promises. The store may hold records of other tests: every claim uses names of its own.
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use session_store::tokens::{self, Spent};
use session_store::{
    Expected, Key, Lease, MAX_KEY, MAX_NOTE, MAX_REPORTERS, MAX_VALUE, Note, Notes, Record, Reported,
    Revision, SharedStore, StoreError, Swap, Table,
};

mod lists;
mod notes;
mod reports;

pub use self::lists::*;
pub use self::notes::*;
pub use self::reports::*;
pub use crate::model::any_history_is_that_of_the_model;

/// A lease that outlives every test.
pub const LONG: Lease = Lease::For(Duration::from_secs(3600));
/// A lease that a test waits for.
pub const SHORT: Lease = Lease::For(Duration::from_millis(60));

/// A name that no other test of this process uses.
pub fn name(what: &str) -> Bytes {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    Bytes::from(format!("{what}-{}-{number}", std::process::id()))
}

pub fn key(table: Table) -> Key {
    Key::new(table, name("key")).expect("the name is short enough")
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// A swap that has to succeed.
async fn write(store: &SharedStore, key: &Key, expected: Expected, value: &'static str) -> Revision {
    match store.swap(key, expected, bytes(value), LONG).await.unwrap() {
        Swap::Done(revision) => revision,
        Swap::Lost(record) => panic!("{key:?}: expected {expected:?}, found {record:?}"),
    }
}

/// A report that has to be filed.
async fn file(store: &SharedStore, key: &Key, agent: &str, counter: u64, lease: Lease) -> Record {
    let body = Bytes::from(format!("{agent} {counter}"));
    match store
        .report(key, agent.as_bytes(), counter, body, lease)
        .await
        .unwrap()
    {
        Reported::Filed(record) => record,
        other => panic!("{agent}'s report {counter} was not filed: {other:?}"),
    }
}

fn reporters(record: &Record) -> Vec<String> {
    record
        .reports
        .iter()
        .map(|report| String::from_utf8_lossy(&report.body).into_owned())
        .collect()
}

/// Awaits that a key shows nothing.
async fn gone(store: &SharedStore, key: &Key) {
    while store.get(key).await.unwrap().is_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn an_empty_store_has_nothing(store: SharedStore) {
    for table in Table::ALL {
        let key = key(table);
        assert_eq!(store.get(&key).await.unwrap(), None);
        assert!(!store.remove(&key, None).await.unwrap());
        assert!(!store.renew(&key, Revision(1), LONG).await.unwrap());
        assert_eq!(store.withdraw(&key, b"nobody", 9).await.unwrap(), None);
        let lost = store
            .swap(&key, Expected::At(Revision(1)), bytes("x"), LONG)
            .await
            .unwrap();
        assert_eq!(lost, Swap::Lost(None));
    }
}

pub async fn what_is_written_is_read(store: SharedStore) {
    let key = key(Table::Sessions);
    let first = write(&store, &key, Expected::Absent, "one").await;
    let record = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (record.revision, record.value, record.reports.len()),
        (first, Some(bytes("one")), 0)
    );
    assert_eq!(record.key, key);
    let remaining = record.remaining.unwrap();
    assert!(
        remaining > Duration::from_secs(3000) && remaining <= Duration::from_secs(3600),
        "{remaining:?}"
    );
    let second = write(&store, &key, Expected::At(first), "").await;
    assert!(second > first);
    let record = store.get(&key).await.unwrap().unwrap();
    assert_eq!((record.revision, record.value), (second, Some(bytes(""))));
    let forever = store
        .swap(&key, Expected::At(second), bytes("x"), Lease::Forever)
        .await
        .unwrap();
    assert!(matches!(forever, Swap::Done(_)));
    assert_eq!(store.get(&key).await.unwrap().unwrap().remaining, None);
}

pub async fn of_two_that_saw_the_same_one_writes(store: SharedStore) {
    let key = key(Table::Sessions);
    let first = write(&store, &key, Expected::Absent, "one").await;
    let swap = |value| store.swap(&key, Expected::At(first), bytes(value), LONG);
    let (a, b) = tokio::join!(swap("a"), swap("b"));
    let done = [a.unwrap(), b.unwrap()]
        .into_iter()
        .filter(|swap| matches!(swap, Swap::Done(_)))
        .count();
    assert_eq!(done, 1);
}

pub async fn a_loser_sees_what_is_there_instead(store: SharedStore) {
    let key = key(Table::Sessions);
    let revision = write(&store, &key, Expected::Absent, "one").await;
    for expected in [Expected::Absent, Expected::At(Revision(revision.0 + 1))] {
        match store.swap(&key, expected, bytes("two"), LONG).await.unwrap() {
            Swap::Lost(Some(record)) => {
                assert_eq!((record.revision, record.value), (revision, Some(bytes("one"))));
            }
            other => panic!("{other:?}"),
        }
    }
}

pub async fn a_revision_never_comes_again(store: SharedStore) {
    let key = key(Table::Sessions);
    let mut highest = Revision(0);
    for _ in 0..5 {
        let revision = write(&store, &key, Expected::Absent, "one").await;
        assert!(revision > highest);
        highest = write(&store, &key, Expected::At(revision), "two").await;
        assert!(store.remove(&key, None).await.unwrap());
    }
}

pub async fn removal_names_a_revision_or_none(store: SharedStore) {
    let key = key(Table::Sessions);
    let first = write(&store, &key, Expected::Absent, "one").await;
    let second = write(&store, &key, Expected::At(first), "two").await;
    assert!(!store.remove(&key, Some(first)).await.unwrap());
    assert!(store.get(&key).await.unwrap().is_some());
    assert!(store.remove(&key, Some(second)).await.unwrap());
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(!store.remove(&key, Some(second)).await.unwrap());
    file(&store, &key, "a", 1, LONG).await;
    assert!(store.remove(&key, None).await.unwrap());
    // With the record went the mark that would keep an older report out.
    file(&store, &key, "a", 0, LONG).await;
}

pub async fn a_lease_ends_by_itself(store: SharedStore) {
    let (leased, kept) = (key(Table::Sessions), key(Table::Sessions));
    store
        .swap(&leased, Expected::Absent, bytes("one"), SHORT)
        .await
        .unwrap();
    store
        .swap(&kept, Expected::Absent, bytes("one"), Lease::Forever)
        .await
        .unwrap();
    gone(&store, &leased).await;
    assert!(store.get(&kept).await.unwrap().is_some());
    write(&store, &leased, Expected::Absent, "two").await;
}

pub async fn a_renewed_lease_goes_on(store: SharedStore) {
    let key = key(Table::Sessions);
    let lease = Lease::For(Duration::from_secs(60));
    let Swap::Done(revision) = store
        .swap(&key, Expected::Absent, bytes("one"), lease)
        .await
        .unwrap()
    else {
        panic!("nobody else uses this key")
    };
    assert!(!store.renew(&key, Revision(revision.0 + 1), SHORT).await.unwrap());
    assert!(store.renew(&key, revision, LONG).await.unwrap());
    let record = store.get(&key).await.unwrap().unwrap();
    assert_eq!(record.revision, revision);
    assert!(record.remaining.unwrap() > Duration::from_secs(3000));
    assert!(store.renew(&key, revision, Lease::Forever).await.unwrap());
    assert_eq!(store.get(&key).await.unwrap().unwrap().remaining, None);
    assert!(store.renew(&key, revision, SHORT).await.unwrap());
    gone(&store, &key).await;
    assert!(!store.renew(&key, revision, LONG).await.unwrap());
}

pub async fn a_kept_lease_is_that_of_the_value_before(store: SharedStore) {
    let (leased, new) = (key(Table::Sessions), key(Table::Sessions));
    let first = write(&store, &leased, Expected::Absent, "one").await;
    let kept = store
        .swap(&leased, Expected::At(first), bytes("two"), Lease::Keep)
        .await
        .unwrap();
    assert!(matches!(kept, Swap::Done(_)));
    let remaining = store.get(&leased).await.unwrap().unwrap().remaining;
    assert!(remaining.unwrap() > Duration::from_secs(3000));
    store
        .swap(&new, Expected::Absent, bytes("one"), Lease::Keep)
        .await
        .unwrap();
    assert_eq!(store.get(&new).await.unwrap().unwrap().remaining, None);
}
