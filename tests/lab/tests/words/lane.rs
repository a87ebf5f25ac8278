//! The arithmetic of a link, without a machine.
use std::time::{Duration, Instant};

use lab::emulator::lane::{Fate, Lane};
use lab::language::ast::Shape;

const FRAME: usize = 1476;

fn arrivals(lane: &mut Lane, shape: &Shape, count: usize, now: Instant) -> Vec<Option<Duration>> {
    let fates = (0..count).map(|_| lane.fate(shape, FRAME, now));
    fates
        .map(|fate| match fate {
            Fate::Arrives(due) => Some(due - now),
            Fate::Lost => None,
        })
        .collect()
}

#[test]
fn an_unshaped_link_adds_only_its_delay() {
    let now = Instant::now();
    let shape = Shape {
        delay: Duration::from_millis(7),
        ..Shape::default()
    };
    let found = arrivals(&mut Lane::new(1), &shape, 3, now);
    assert_eq!(found, [Some(Duration::from_millis(7)); 3]);
}

#[test]
fn a_rate_spaces_frames_by_their_time_on_the_wire() {
    let now = Instant::now();
    // 1476 bytes and 24 of framing are 12,000 bits: one millisecond at 12 Mbit/s.
    let shape = Shape {
        rate: Some(12_000_000),
        delay: Duration::from_millis(5),
        ..Shape::default()
    };
    let mut lane = Lane::new(1);
    let found: Vec<u128> = arrivals(&mut lane, &shape, 4, now)
        .into_iter()
        .flatten()
        .map(|due| due.as_millis())
        .collect();
    assert_eq!(found, [6, 7, 8, 9]);
    // After a pause the wire is free again.
    let later = now + Duration::from_secs(1);
    assert_eq!(
        lane.fate(&shape, FRAME, later),
        Fate::Arrives(later + Duration::from_millis(6))
    );
}

#[test]
fn what_does_not_fit_into_the_queue_is_lost() {
    let now = Instant::now();
    let shape = Shape {
        rate: Some(12_000_000),
        queue: Some(15_000),
        ..Shape::default()
    };
    let mut lane = Lane::new(1);
    let found = arrivals(&mut lane, &shape, 30, now);
    let kept = found.iter().flatten().count();
    // Ten frames wait (1500 bytes each with framing), and one is on the wire.
    assert_eq!(kept, 11, "{found:?}");
    assert!(found[..kept].iter().all(Option::is_some), "the tail is dropped");
    assert_eq!(lane.dropped, 19);
}

#[test]
fn loss_is_the_share_that_was_asked_and_repeats_with_the_seed() {
    let now = Instant::now();
    let shape = Shape {
        loss: 0.1,
        ..Shape::default()
    };
    let pattern = |seed| arrivals(&mut Lane::new(seed), &shape, 20_000, now);
    let lost = pattern(3).iter().filter(|fate| fate.is_none()).count();
    assert!((1800..2200).contains(&lost), "{lost} of 20000 lost at 10%");
    assert_eq!(pattern(3), pattern(3));
    assert_ne!(pattern(3), pattern(4));
}

#[test]
fn frames_leave_in_the_order_they_are_due_and_equal_ones_in_the_order_they_came() {
    let now = Instant::now();
    let mut lane = Lane::new(1);
    let at = |milliseconds| now + Duration::from_millis(milliseconds);
    for (milliseconds, frame) in [(5, b"c"), (1, b"a"), (5, b"d"), (3, b"b")] {
        lane.put(at(milliseconds), frame);
    }
    assert_eq!(lane.next_due(), Some(at(1)));
    assert_eq!(lane.take_due(at(0)), None);
    let mut taken = Vec::new();
    while let Some(frame) = lane.take_due(at(5)) {
        taken.extend(frame);
    }
    assert_eq!(taken, b"abcd");
    lane.put(at(9), b"gone");
    lane.clear();
    assert!(lane.is_empty());
}
