//! What strangers try: nothing they send moves, stops or ends a connection.

use wire::flags::Flags;
use wire::keys::MacKey;
use wire::request::RequestType;
use wire::segment::{Checksums, Segment};
use wire::tuple::{Endpoint, Tuple};

use crate::world::{Fate, Side, World, address, millis};

const STRANGER: &str = "198.51.100.66";

/// A connection that has moved once, and the handshake that moved it.
fn moved() -> (World, Tuple, Vec<Segment>) {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    world.trace.clear();
    world.gain(Side::A, "192.168.7.9");
    world.run(millis(200));
    let handshake = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .filter(|s| s.migrate.is_some())
        .collect();
    (world, connection, handshake)
}

fn stays_where_it_is(world: &mut World, connection: Tuple, what: &str) {
    world.run(millis(20_000));
    let (a, b) = (world.wire(Side::A, connection), world.wire(Side::B, connection));
    assert_eq!(a, b.reversed(), "{what}\n{}", world.story());
    assert_eq!(a.local.address, address("192.168.7.9"), "{what}");
    assert!(
        world.a.stack.reset.is_empty() && world.b.stack.reset.is_empty(),
        "{what}"
    );
    world.assert_data_flows(connection);
}

#[test]
fn replayed_handshake_segments_change_nothing() {
    let (mut world, connection, handshake) = moved();
    assert_eq!(handshake.len(), 3);
    let source = Endpoint::new(address(STRANGER), 61_234);
    for segment in &handshake {
        let elsewhere = Segment {
            source,
            ..segment.clone()
        };
        for replayed in [segment.clone(), elsewhere] {
            world.inject(replayed);
        }
    }
    stays_where_it_is(&mut world, connection, "replay");
    let to_stranger = world
        .trace
        .iter()
        .filter(|(segment, _)| segment.destination.address == address(STRANGER));
    assert!(to_stranger.count() <= 3, "no more is answered than was asked");
}

#[test]
fn an_msyn_replayed_from_elsewhere_before_the_commit_does_not_commit() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::A, "10.0.1.2");
    // The stranger sees the MSYN and holds back the answer.
    world.interfere(|segment| match segment.migrate.map(|request| request.r#type) {
        Some(RequestType::MsynAck) => Fate::Lost,
        _ => Fate::Arrives,
    });
    world.gain(Side::A, "192.168.7.9");
    let msyn = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .rfind(|s| s.migrate.is_some())
        .unwrap();
    let msyn = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .find(|s| {
            s.migrate
                .is_some_and(|request| request.r#type == RequestType::Msyn)
        })
        .unwrap_or(msyn);
    let source = Endpoint::new(address(STRANGER), 61_234);
    world.inject(Segment {
        source,
        ..msyn.clone()
    });
    // It guesses at the third segment: right numbers, no key.
    let answer = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .rfind(|s| s.destination == source)
        .unwrap();
    let standing = wire::Standing {
        token: msyn.migrate.unwrap().token,
        req_no: msyn.migrate.unwrap().req_no,
        seq: answer.ack,
        rcv_nxt: answer.seq.wrapping_add(1),
        window: 512,
    };
    let mut guess = Segment::migrate_ack(
        Tuple::new(source, msyn.destination),
        standing,
        answer.seq.wrapping_add(1),
    );
    guess.sign(&MacKey::new([7; 16]), wire::ReqNo::UNMOVED).unwrap();
    world.inject(guess);
    assert_eq!(world.b.agent.datapath.counter("bad_mac"), 1);
    assert_eq!(world.b.agent.datapath.counter("committed"), 0);
    assert_eq!(world.wire(Side::B, connection), connection.reversed());
    world.leave_alone();
    stays_where_it_is(&mut world, connection, "stolen handshake");
}

#[test]
fn no_flipped_bit_of_a_handshake_segment_does_harm() {
    let (mut world, connection, handshake) = moved();
    // Fresh numbers, so that what is tried is not refused as a repetition already.
    world.interfere(|_| Fate::Lost);
    world.lose(Side::A, "192.168.7.9");
    world.trace.clear();
    world.gain(Side::A, "192.168.7.9");
    let msyn = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .find(|s| s.migrate.is_some())
        .unwrap();
    world.leave_alone();
    let mut tried = 0;
    for segment in handshake.iter().chain([&msyn]) {
        let packet = segment.emit().unwrap();
        // The TCP header begins after 20 bytes of IPv4.
        for bit in 20 * 8..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 0x80 >> (bit % 8);
            let Ok(flipped) = Segment::parse_with(&flipped, Checksums::Ignore) else {
                continue;
            };
            tried += 1;
            world.inject(flipped);
        }
    }
    assert!(tried > 1000, "{tried}");
    let counted: u64 = [&world.a, &world.b]
        .iter()
        .flat_map(|host| ["bad_mac", "unknown_token"].map(|name| host.agent.datapath.counter(name)))
        .sum();
    assert!(counted > 800, "{counted} of {tried} were counted");
    world.until("resumed", millis(30_000), |world| {
        world.wire(Side::B, connection).remote.port == world.wire(Side::A, connection).local.port
    });
    stays_where_it_is(&mut world, connection, "bit flips");
}

#[test]
fn an_unknown_token_is_counted_and_not_answered() {
    let (mut world, connection, handshake) = moved();
    let mut msyn = handshake[0].clone();
    let mut request = msyn.migrate.unwrap();
    request.token = wire::Token(request.token.0 ^ 1);
    msyn.migrate = Some(request);
    world.trace.clear();
    world.inject(msyn);
    assert_eq!(world.trace.len(), 1, "silence");
    assert_eq!(world.b.agent.datapath.counter("unknown_token"), 1);
    assert_eq!(world.b.agent.timeline.counts().get("unknown_token"), Some(&1));
    stays_where_it_is(&mut world, connection, "unknown token");
}

#[test]
fn plain_segments_on_the_tuple_that_was_left_are_dropped() {
    let (mut world, connection, _) = moved();
    world.run(millis(61_000));
    // The stranger who owns A's old address now.
    for flags in [Flags::ACK, Flags::RST, Flags::FIN | Flags::ACK] {
        let tcp = world.b.agent.datapath.socket(&connection.reversed()).unwrap().tcp;
        let mut forged = Segment::bare(connection, flags, tcp.rcv_nxt, tcp.snd_nxt, 512);
        forged.payload = if flags == Flags::ACK {
            b"forged".to_vec()
        } else {
            Vec::new()
        };
        world.inject(forged);
    }
    assert_eq!(world.b.agent.datapath.counter("stranger_dropped"), 3);
    assert_eq!(world.b.received(connection), b"");
    stays_where_it_is(&mut world, connection, "stranger");
}

#[test]
fn a_strange_listener_at_the_peers_address_gets_a_reset_and_no_data() {
    let mut world = World::new();
    let connection = world.connect();
    world.lose(Side::B, "203.0.113.3");
    world.lose(Side::A, "10.0.1.2");
    world.write(Side::A, connection, b"secret");
    world.gain(Side::A, "192.168.7.9");
    let msyn = world
        .trace
        .iter()
        .map(|(segment, _)| segment.clone())
        .rfind(|s| s.migrate.is_some())
        .unwrap();
    let back = msyn.tuple().reversed();
    let flags = Flags::SYN | Flags::ACK;
    // One that has not seen the MSYN does not know its number.
    world.inject(Segment::bare(back, flags, 5, msyn.seq.wrapping_add(77), 512));
    assert!(
        world
            .trace
            .iter()
            .all(|(segment, _)| !segment.flags.contains(Flags::RST))
    );
    world.inject(Segment::bare(back, flags, 5, msyn.seq.wrapping_add(1), 512));
    let reset = world
        .trace
        .iter()
        .map(|(segment, _)| segment)
        .find(|s| s.flags.contains(Flags::RST))
        .unwrap();
    assert_eq!(
        (reset.tuple(), reset.seq),
        (msyn.tuple(), msyn.seq.wrapping_add(1))
    );
    assert!(
        world.trace.iter().all(|(segment, _)| segment.payload.is_empty()),
        "{}",
        world.story()
    );

    world.gain(Side::B, "203.0.113.3");
    world.until("resumed", millis(15_000), |world| {
        !world.b.received(connection).is_empty()
    });
    assert_eq!(world.b.received(connection), b"secret");
}
