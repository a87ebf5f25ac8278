//! What a NAPT that tracks windows on the new path makes of a resumption.

use wire::flags::Flags;
use wire::request::RequestType;
use wire::segment::Segment;
use wire::tuple::Endpoint;

use crate::world::{Fate, Side, World, address, millis};

/// As much of connection tracking as decides here: what acknowledges more than was seen of the other end is invalid,
/// and what is invalid was not seen.
#[derive(Default)]
struct Tracker {
    ends: Vec<(Endpoint, u32)>,
    invalid: Vec<Segment>,
}

impl Tracker {
    fn passes(&mut self, segment: &Segment) {
        let end_of = |from: Endpoint, ends: &[(Endpoint, u32)]| {
            ends.iter().find(|(known, _)| *known == from).map(|(_, end)| *end)
        };
        let other = end_of(segment.destination, &self.ends);
        if segment.flags.contains(Flags::ACK)
            && other.is_some_and(|end| segment.ack.wrapping_sub(end) as i32 > 0)
        {
            return self.invalid.push(segment.clone());
        }
        let syn = u32::from(segment.flags.contains(Flags::SYN));
        let end = segment
            .seq
            .wrapping_add(syn)
            .wrapping_add(segment.payload.len() as u32);
        match self.ends.iter_mut().find(|(known, _)| *known == segment.source) {
            Some((_, seen)) if end.wrapping_sub(*seen) as i32 > 0 => *seen = end,
            Some(_) => {}
            None => self.ends.push((segment.source, end)),
        }
    }
}

#[test]
fn a_connection_that_went_on_meanwhile_in_both_directions_is_let_through_by_a_napt() {
    let mut world = World::new();
    let connection = world.connect();
    world.gain(Side::A, "192.168.7.9");
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::MsynAck) => Fate::After(millis(100)),
        _ => Fate::Arrives,
    });
    let now = world.now;
    world.a.migrate(connection, address("192.168.7.9"), None, now);
    world.settle();
    for side in [Side::A, Side::B] {
        world.write(side, connection, b"over the old tuple");
        world.settle();
    }
    world.run(millis(500));
    world.assert_resumed(connection, "192.168.7.9", "203.0.113.3");
    let settled = world.trace.len();
    world.assert_data_flows(connection);

    let new = address("192.168.7.9");
    let mut tracker = Tracker::default();
    let mut late = 0;
    for (place, (segment, _)) in world.trace.iter().enumerate() {
        if segment.source.address != new && segment.destination.address != new {
            continue;
        }
        let before = tracker.invalid.len();
        tracker.passes(segment);
        late += usize::from(place >= settled && tracker.invalid.len() > before);
    }
    assert_eq!(late, 0, "still invalid: {:?}\n{}", tracker.invalid, world.story());
}

#[test]
fn more_in_flight_than_an_unscaled_window_holds_makes_the_responder_show_its_scaled_one() {
    for (written, shown) in [(40_000, 0), (80_000, 1)] {
        let mut world = World::new();
        let connection = world.connect();
        world.lose(Side::A, "10.0.1.2");
        for _ in 0..written / 1000 {
            world.write(Side::A, connection, &[7; 1000]);
        }
        world.gain(Side::A, "192.168.7.9");
        world.run(millis(100));
        let from_b = |kind| {
            world
                .trace
                .iter()
                .map(|(segment, _)| segment)
                .filter(move |segment| {
                    let is = segment.migrate.is_some_and(|request| request.r#type == kind);
                    is && segment.source.address == address("203.0.113.3")
                })
        };
        let answer = from_b(RequestType::MsynAck).next().expect("an answer");
        let windows: Vec<_> = from_b(RequestType::MigrateAck).collect();
        assert_eq!(windows.len().min(1), shown, "{written}: {}", world.story());
        for window in windows {
            assert_eq!((window.seq, window.ack), (answer.seq.wrapping_add(1), answer.ack));
        }
    }
}
