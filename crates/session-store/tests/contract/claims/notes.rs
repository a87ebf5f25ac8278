//! Notes between instances, and tokens.
use super::*;

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
