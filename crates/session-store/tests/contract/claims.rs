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

pub async fn of_two_reports_at_once_exactly_one_sees_only_itself(store: SharedStore) {
    for _ in 0..20 {
        let key = key(Table::Pairs);
        let (a, b) = tokio::join!(file(&store, &key, "a", 1, LONG), file(&store, &key, "b", 1, LONG));
        let (first, second) = if a.reports.len() == 1 { (a, b) } else { (b, a) };
        assert_eq!((first.reports.len(), second.reports.len()), (1, 2));
        assert_eq!(
            first.reports[0], second.reports[0],
            "the first to file comes first"
        );
        assert!(second.reports[0].filed < second.reports[1].filed);
        assert!(first.revision < second.revision);
    }
}

pub async fn a_stale_report_is_refused(store: SharedStore) {
    let key = key(Table::Pairs);
    file(&store, &key, "a", 7, LONG).await;
    let stale = store.report(&key, b"a", 6, bytes("late"), LONG).await.unwrap();
    assert_eq!(stale, Reported::Stale { stored: 7 });
    // Counters are whole 64-bit numbers, and compared as numbers.
    for counter in [10, u64::from(u32::MAX), (1 << 53) + 1, (1 << 53) + 2, u64::MAX] {
        file(&store, &key, "a", counter, LONG).await;
        let stale = store
            .report(&key, b"a", counter - 1, bytes("late"), LONG)
            .await
            .unwrap();
        assert_eq!(stale, Reported::Stale { stored: counter });
    }
    let record = store.get(&key).await.unwrap().unwrap();
    assert_eq!(reporters(&record), [format!("a {}", u64::MAX)]);
}

pub async fn a_repeated_report_keeps_its_place(store: SharedStore) {
    let key = key(Table::Pairs);
    let filed = file(&store, &key, "a", 1, LONG).await.reports[0].filed;
    file(&store, &key, "b", 1, LONG).await;
    let repeated = store.report(&key, b"a", 1, bytes("a again"), LONG).await.unwrap();
    let Reported::Filed(record) = repeated else {
        panic!("{repeated:?}")
    };
    assert_eq!(reporters(&record), ["a again", "b 1"]);
    assert_eq!(record.reports[0].filed, filed);
}

pub async fn a_later_report_comes_last(store: SharedStore) {
    let key = key(Table::Pairs);
    file(&store, &key, "a", 1, LONG).await;
    file(&store, &key, "b", 1, LONG).await;
    let record = file(&store, &key, "a", 2, LONG).await;
    assert_eq!(reporters(&record), ["b 1", "a 2"]);
    assert_eq!(record.reports[1].filed, record.revision);
}

pub async fn reports_end_one_by_one(store: SharedStore) {
    let key = key(Table::Pairs);
    file(&store, &key, "a", 1, SHORT).await;
    file(&store, &key, "b", 1, LONG).await;
    let record = loop {
        let record = store.get(&key).await.unwrap().expect("b's report stays");
        if record.reports.len() == 1 {
            break record;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(reporters(&record), ["b 1"]);
    // Nothing is left of the one that ended: a lower counter may come, from an agent that starts afresh.
    let record = file(&store, &key, "a", 0, SHORT).await;
    assert_eq!(reporters(&record), ["b 1", "a 0"]);
    // The value has a lease of its own.
    let revision = record.revision;
    assert!(matches!(
        store
            .swap(&key, Expected::At(revision), bytes("v"), SHORT)
            .await
            .unwrap(),
        Swap::Done(_)
    ));
    loop {
        let record = store.get(&key).await.unwrap().expect("b's report stays");
        if record.value.is_none() {
            assert_eq!(record.remaining, None);
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn a_withdrawn_report_stays_out(store: SharedStore) {
    let key = key(Table::Pairs);
    let before = file(&store, &key, "a", 3, LONG).await;
    // Of an earlier report, and of somebody else: nothing happens.
    assert_eq!(store.withdraw(&key, b"a", 2).await.unwrap(), Some(before.clone()));
    assert_eq!(store.withdraw(&key, b"b", 9).await.unwrap(), Some(before));
    assert_eq!(store.withdraw(&key, b"a", 4).await.unwrap(), None);
    assert_eq!(store.get(&key).await.unwrap(), None);
    for counter in [3, 4] {
        let straggler = store
            .report(&key, b"a", counter, bytes("late"), LONG)
            .await
            .unwrap();
        assert_eq!(straggler, Reported::Stale { stored: 4 });
    }
    let other = file(&store, &key, "b", 1, LONG).await;
    assert_eq!(reporters(&other), ["b 1"]);
    assert_eq!(reporters(&file(&store, &key, "a", 5, LONG).await), ["b 1", "a 5"]);
    let left = store.withdraw(&key, b"b", 1).await.unwrap().unwrap();
    assert_eq!(reporters(&left), ["a 5"]);
    // A record of which only marks are left is absent.
    store.withdraw(&key, b"a", 5).await.unwrap();
    write(&store, &key, Expected::Absent, "decided").await;
}

pub async fn a_decision_about_older_reports_loses(store: SharedStore) {
    let key = key(Table::Pairs);
    file(&store, &key, "a", 1, LONG).await;
    let seen = file(&store, &key, "b", 1, LONG).await;
    let newer = file(&store, &key, "a", 2, LONG).await;
    let late = store
        .swap(&key, Expected::At(seen.revision), bytes("old"), LONG)
        .await
        .unwrap();
    assert_eq!(late, Swap::Lost(Some(newer.clone())));
    write(&store, &key, Expected::At(newer.revision), "new").await;
    let seen = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (seen.value.clone(), reporters(&seen)),
        (Some(bytes("new")), vec!["b 1".into(), "a 2".into()])
    );
    store.withdraw(&key, b"b", 1).await.unwrap();
    let late = store
        .swap(&key, Expected::At(seen.revision), bytes("old"), LONG)
        .await
        .unwrap();
    assert!(
        matches!(late, Swap::Lost(Some(_))),
        "a withdrawal is a change too"
    );
}

pub async fn many_deciders_decide_once(store: SharedStore) {
    let key = key(Table::Pairs);
    file(&store, &key, "a", 1, LONG).await;
    let seen = file(&store, &key, "b", 1, LONG).await.revision;
    let swaps = join_all((0..16).map(|number| {
        let value = Bytes::from(format!("decision {number}"));
        store.swap(&key, Expected::At(seen), value, LONG)
    }))
    .await;
    let done: Vec<usize> = (0..16)
        .filter(|at| matches!(swaps[*at], Ok(Swap::Done(_))))
        .collect();
    assert_eq!(done.len(), 1);
    let stored = store.get(&key).await.unwrap().unwrap().value.unwrap();
    assert_eq!(stored, format!("decision {}", done[0]));
    for (number, swap) in swaps.into_iter().enumerate() {
        match swap.unwrap() {
            Swap::Lost(Some(record)) => assert_eq!(record.value.as_ref(), Some(&stored)),
            Swap::Done(_) => assert_eq!(number, done[0]),
            Swap::Lost(None) => panic!("the record is there"),
        }
    }
}

pub async fn a_record_has_room_for_so_many_reporters(store: SharedStore) {
    let key = key(Table::Pairs);
    for number in 0..MAX_REPORTERS {
        file(&store, &key, &format!("agent {number}"), 1, LONG).await;
    }
    let crowded = store
        .report(&key, b"one more", 1, bytes("x"), LONG)
        .await
        .unwrap();
    assert_eq!(crowded, Reported::Crowded);
    // Who is in stays in.
    let record = file(&store, &key, "agent 0", 2, LONG).await;
    assert_eq!(record.reports.len(), MAX_REPORTERS);
}

/// All records of a table, page by page, as often as each came.
async fn listed(store: &SharedStore, table: Table, limit: usize) -> BTreeMap<Key, usize> {
    let mut times = BTreeMap::new();
    let mut after = None;
    loop {
        let page = store.list(table, after, limit).await.unwrap();
        for record in page.records {
            *times.entry(record.key).or_default() += 1;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return times,
        }
    }
}

pub async fn a_listing_has_every_record(store: SharedStore) {
    let keys: Vec<Key> = (0..60).map(|_| key(Table::Agents)).collect();
    for key in &keys {
        write(&store, key, Expected::Absent, "x").await;
    }
    let withdrawn = key(Table::Agents);
    file(&store, &withdrawn, "a", 1, LONG).await;
    store.withdraw(&withdrawn, b"a", 1).await.unwrap();
    for limit in [0, 1, 7, 60, 1000] {
        let times = listed(&store, Table::Agents, limit).await;
        for key in &keys {
            assert!(times.contains_key(key), "{key:?} with pages of {limit}");
        }
        assert!(!times.contains_key(&withdrawn));
    }
}

pub async fn a_listing_sees_what_stays_while_others_go(store: SharedStore) {
    let keys: Vec<Key> = (0..90).map(|_| key(Table::Revocations)).collect();
    for key in &keys {
        write(&store, key, Expected::Absent, "x").await;
    }
    let mut seen = Vec::new();
    let mut after = None;
    let mut going = keys.iter().enumerate().filter(|(at, _)| at % 3 == 0);
    loop {
        let page = store.list(Table::Revocations, after, 5).await.unwrap();
        seen.extend(page.records.into_iter().map(|record| record.key));
        for (_, key) in going.by_ref().take(2) {
            store.remove(key, None).await.unwrap();
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    for (_, key) in keys.iter().enumerate().filter(|(at, _)| at % 3 != 0) {
        assert!(seen.contains(key), "{key:?} was there all the time");
    }
}

pub async fn tables_are_apart(store: SharedStore) {
    let name = name("same");
    for table in Table::ALL {
        let key = Key::new(table, name.clone()).unwrap();
        store
            .swap(&key, Expected::Absent, Bytes::from(table.name()), LONG)
            .await
            .unwrap();
    }
    for table in Table::ALL {
        let key = Key::new(table, name.clone()).unwrap();
        let record = store.get(&key).await.unwrap().unwrap();
        assert_eq!(record.value.unwrap(), table.name());
        assert!(listed(&store, table, 10).await.contains_key(&key));
    }
}

pub async fn every_byte_is_allowed_in_names_and_values(store: SharedStore) {
    let all: Vec<u8> = (0..=255).collect();
    let mut names = vec![Bytes::from(all.clone())];
    for tricky in ["{", "}", "{}", "*", "[a]", "\\", "\r\n", "a:b:c", "%s", "\0"] {
        names.push(Bytes::from([tricky.as_bytes(), &name("tricky")].concat()));
    }
    for name in names {
        let key = Key::new(Table::Relays, name.clone()).unwrap();
        store.remove(&key, None).await.unwrap();
        let value = Bytes::from(all.clone());
        let Swap::Done(_) = store
            .swap(&key, Expected::Absent, value.clone(), LONG)
            .await
            .unwrap()
        else {
            panic!("{name:?} is there already")
        };
        let Reported::Filed(record) = store.report(&key, &name, 1, value.clone(), LONG).await.unwrap() else {
            panic!("{name:?} cannot file")
        };
        assert_eq!(record.value.as_ref(), Some(&value));
        assert_eq!(
            (&record.reports[0].agent, &record.reports[0].body),
            (&name, &value)
        );
        assert!(
            listed(&store, Table::Relays, 10).await.contains_key(&key),
            "{name:?} is listed"
        );
        store.remove(&key, None).await.unwrap();
    }
}

pub async fn limits_are_errors(store: SharedStore) {
    assert!(matches!(
        Key::new(Table::Pairs, Bytes::new()),
        Err(StoreError::Key { length: 0 })
    ));
    assert!(Key::new(Table::Pairs, vec![7; MAX_KEY + 1]).is_err());
    let key = Key::new(Table::Pairs, [name("long").as_ref(), &[7; MAX_KEY - 64]].concat()).unwrap();
    let over = Bytes::from(vec![1; MAX_VALUE + 1]);
    let full = over.slice(1..);
    let refused = store.swap(&key, Expected::Absent, over.clone(), LONG).await;
    assert!(matches!(refused, Err(StoreError::TooLong { .. })), "{refused:?}");
    assert!(store.report(&key, b"a", 1, over, LONG).await.is_err());
    assert!(store.report(&key, b"", 1, bytes("x"), LONG).await.is_err());
    assert!(store.subscribe(&[0; MAX_KEY + 1]).await.is_err());
    assert!(
        store
            .notify(b"topic", Bytes::from(vec![0; MAX_NOTE + 1]))
            .await
            .is_err()
    );
    assert_eq!(store.get(&key).await.unwrap(), None);
    let done = store
        .swap(&key, Expected::Absent, full.clone(), LONG)
        .await
        .unwrap();
    assert!(matches!(done, Swap::Done(_)));
    assert_eq!(store.get(&key).await.unwrap().unwrap().value, Some(full));
    store.remove(&key, None).await.unwrap();
}

pub async fn the_epoch_stays(store: SharedStore) {
    let epoch = store.epoch().await.unwrap();
    write(&store, &key(Table::Pairs), Expected::Absent, "x").await;
    assert_eq!(store.epoch().await.unwrap(), epoch);
    assert_ne!(epoch.0, [0; 16]);
}

/// The next note that says something.
async fn said(notes: &mut Notes) -> Bytes {
    loop {
        if let Note::Said(note) = notes.next().await.expect("a subscription does not end by itself") {
            return note;
        }
    }
}

pub async fn a_subscriber_hears_every_note(store: SharedStore) {
    let topic = name("topic");
    let mut first = store.subscribe(&topic).await.unwrap();
    let mut second = store.subscribe(&topic).await.unwrap();
    for number in 0..20 {
        store
            .notify(&topic, Bytes::from(format!("note {number}")))
            .await
            .unwrap();
    }
    for number in 0..20 {
        assert_eq!(said(&mut first).await, format!("note {number}"));
        assert_eq!(said(&mut second).await, format!("note {number}"));
    }
}

pub async fn a_topic_is_heard_by_its_subscribers_only(store: SharedStore) {
    let (here, there) = (name("here"), name("there"));
    let mut notes = store.subscribe(&here).await.unwrap();
    store.notify(&there, bytes("not for you")).await.unwrap();
    store.notify(&here, bytes("for you")).await.unwrap();
    assert_eq!(said(&mut notes).await, "for you");
}

pub async fn who_left_a_topic_can_come_again(store: SharedStore) {
    let topic = name("topic");
    for number in 0..5 {
        let mut notes = store.subscribe(&topic).await.unwrap();
        store
            .notify(&topic, Bytes::from(format!("note {number}")))
            .await
            .unwrap();
        // What was said while nobody listened may be under way still.
        let expected = format!("note {number}");
        while said(&mut notes).await != expected {}
        drop(notes);
        store.notify(&topic, bytes("nobody listens")).await.unwrap();
    }
}

pub async fn a_token_is_spent_as_often_as_it_says(store: SharedStore) {
    let token = name("token");
    assert!(
        tokens::create(&*store, token.clone(), 5, b"name=phone", LONG)
            .await
            .unwrap()
    );
    assert!(
        !tokens::create(&*store, token.clone(), 9, b"", LONG)
            .await
            .unwrap()
    );
    let spent = join_all((0..12).map(|_| tokens::spend(&*store, token.clone()))).await;
    let mut left: Vec<u32> = Vec::new();
    for outcome in spent {
        if let Spent::Granted { left: now, note } = outcome.unwrap() {
            assert_eq!(note, "name=phone");
            left.push(now);
        }
    }
    left.sort_unstable();
    assert_eq!(left, [0, 1, 2, 3, 4]);
    assert_eq!(tokens::spend(&*store, token).await.unwrap(), Spent::Refused);
    assert_eq!(
        tokens::spend(&*store, name("unknown")).await.unwrap(),
        Spent::Refused
    );
}
