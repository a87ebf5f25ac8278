//! Reports of two ends in one record: their order, their end, and decisions about them.
use super::*;

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
