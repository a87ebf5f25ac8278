//! What servers hear of connections: each state once, nothing of what is over before it was said, everything anew after a
//! store was lost.

use mptcp_relay::registry::{Changes, Registry, SessionId};
use proto::mobility::v1 as said;

const FIRST: &[u8] = &[1; 16];

fn session(id: SessionId, paths: usize) -> said::Session {
    said::Session {
        session_id: id.to_vec(),
        paths: vec![said::Path::default(); paths],
        ..said::Session::default()
    }
}

fn done(changes: &Changes, first: u64) -> Vec<said::PutSessionResult> {
    let numbers = first..;
    let results = changes
        .put
        .iter()
        .zip(numbers)
        .map(|(_, revision)| said::PutSessionResult {
            revision,
            refusal: String::new(),
        });
    results.collect()
}

fn refused(revision: u64, refusal: &str) -> Vec<said::PutSessionResult> {
    vec![said::PutSessionResult {
        revision,
        refusal: refusal.to_owned(),
    }]
}

#[test]
fn a_connection_is_said_once_as_it_is_now_and_then_its_end() {
    let registry = Registry::new(1);
    registry.attended(0, FIRST);
    let id = [7; 16];
    registry.put(id, session(id, 1));
    registry.put(id, session(id, 2));
    let changes = registry.take(0, 10);
    assert_eq!(changes.put.len(), 1);
    assert_eq!(changes.put[0].expected_revision, 0);
    assert_eq!(
        changes.put[0].session.as_ref().map(|session| session.paths.len()),
        Some(2)
    );
    registry.told(0, &changes, &done(&changes, 5));
    assert!(registry.take(0, 10).is_empty());
    // The same again is nothing new.
    registry.put(id, session(id, 2));
    assert!(registry.is_told(0));
    registry.put(id, session(id, 3));
    let changes = registry.take(0, 10);
    assert_eq!(changes.put[0].expected_revision, 5);
    registry.told(0, &changes, &done(&changes, 6));
    registry.gone(&id);
    assert_eq!(registry.take(0, 10).gone, [id]);
    assert!(registry.is_told(0));
}

#[test]
fn what_ends_before_it_was_said_is_never_said() {
    let registry = Registry::new(1);
    let id = [7; 16];
    registry.put(id, session(id, 1));
    registry.gone(&id);
    registry.attended(0, FIRST);
    assert!(registry.take(0, 10).is_empty());
}

#[test]
fn what_ends_while_it_is_being_said_is_taken_back() {
    let registry = Registry::new(1);
    registry.attended(0, FIRST);
    let id = [7; 16];
    registry.put(id, session(id, 1));
    let changes = registry.take(0, 10);
    registry.gone(&id);
    registry.told(0, &changes, &done(&changes, 5));
    assert_eq!(registry.take(0, 10).gone, [id]);
}

#[test]
fn a_store_that_was_lost_hears_everything_anew_and_one_that_was_not_nothing() {
    let registry = Registry::new(2);
    for number in 0..5 {
        registry.put([number; 16], session([number; 16], 1));
    }
    for server in 0..2 {
        registry.attended(server, FIRST);
        let changes = registry.take(server, 100);
        assert_eq!(changes.put.len(), 5);
        registry.told(server, &changes, &done(&changes, 1));
        registry.attended(server, FIRST);
        assert!(registry.is_told(server));
    }
    registry.attended(0, &[2; 16]);
    let again = registry.take(0, 3);
    assert_eq!(again.put.len(), 3);
    assert!(again.put.iter().all(|put| put.expected_revision == 0));
    assert_eq!(registry.take(0, 100).put.len(), 2);
    assert!(registry.is_told(1));
}

#[test]
fn another_revision_is_tried_again_and_another_s_session_is_let_be() {
    let registry = Registry::new(1);
    registry.attended(0, FIRST);
    let id = [7; 16];
    registry.put(id, session(id, 1));
    let changes = registry.take(0, 10);
    registry.told(0, &changes, &refused(9, "another revision"));
    let changes = registry.take(0, 10);
    assert_eq!(changes.put[0].expected_revision, 9);
    // The record has gone meanwhile: its lease was over.
    registry.told(0, &changes, &refused(0, "another revision"));
    let changes = registry.take(0, 10);
    assert_eq!(changes.put[0].expected_revision, 0);
    registry.told(0, &changes, &refused(0, "the session is another's"));
    assert!(registry.take(0, 10).is_empty());
}

#[test]
fn what_nobody_has_answered_is_said_again() {
    let registry = Registry::new(1);
    registry.attended(0, FIRST);
    let (stays, goes) = ([1; 16], [2; 16]);
    registry.put(stays, session(stays, 1));
    registry.put(goes, session(goes, 1));
    let changes = registry.take(0, 10);
    registry.told(0, &changes, &done(&changes, 1));
    registry.renew(0);
    registry.gone(&goes);
    let changes = registry.take(0, 10);
    assert_eq!((changes.put.len(), &changes.gone[..]), (1, &[goes][..]));
    registry.untold(0, &changes);
    let again = registry.take(0, 10);
    assert_eq!((again.put.len(), &again.gone[..]), (1, &[goes][..]));
}
