//! Listings, tables, names and values, the epoch.
use super::*;

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

pub async fn a_count_is_that_of_a_whole_listing(store: SharedStore) {
    // Others use the same cluster meanwhile; the other stores are this test's own.
    let alone = store.backend() != "redis";
    let keys: Vec<Key> = (0..40).map(|_| key(Table::Sessions)).collect();
    for key in &keys {
        write(&store, key, Expected::Absent, "x").await;
    }
    let withdrawn = key(Table::Sessions);
    file(&store, &withdrawn, "a", 1, LONG).await;
    let counted = store.count(Table::Sessions).await.unwrap();
    assert!(counted == 41 || !alone && counted > 41, "{counted}");
    store.withdraw(&withdrawn, b"a", 1).await.unwrap();
    for key in &keys[..10] {
        store.remove(key, None).await.unwrap();
    }
    let counted = store.count(Table::Sessions).await.unwrap();
    assert!(counted == 30 || !alone && counted > 30, "{counted}");
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
