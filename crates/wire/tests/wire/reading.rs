//! What else arrives: other people's options, extension headers, fragments, padding and strange addresses.
use crate::common::*;
use wire::{Checksums, Endpoint, OptionError, Options, Segment, SegmentError, Unreadable};

#[test]
fn extension_headers_do_not_hide_a_segment() {
    let segment = signed_segments()
        .into_iter()
        .find(|segment| segment.source.address.is_ipv6())
        .unwrap();
    let mut packet = segment.emit().unwrap();
    packet.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]);
    packet[6] = 0;
    packet[5] += 16;
    assert_eq!(Segment::parse(&packet).unwrap(), segment);
}

#[test]
fn a_payload_length_of_zero_is_refused_on_the_wire() {
    let [_, v6] = tuples();
    let mut packet = Segment::pure_ack(v6, 1, 2, 3, None).emit().unwrap();
    packet[4..6].fill(0);
    let error = Segment::parse(&packet).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not an IP packet: payload length 0 in an IPv6 header"
    );
}

#[test]
fn fragments_are_refused_as_such() {
    let fragment = |change: &dyn Fn(&mut Vec<u8>), which: usize| {
        let mut packet = Segment::probe(tuples()[which], 1, 2, 3, None).emit().unwrap();
        change(&mut packet);
        Segment::parse_with(&packet, Checksums::Ignore)
    };
    let refused = Err(SegmentError::Unreadable(Unreadable::Fragment));
    assert_eq!(fragment(&|packet| packet[6] = 0x20, 0), refused); // the first of several
    assert_eq!(fragment(&|packet| packet[7] = 1, 0), refused); // a later one
    let with_header = |offset_and_more: u8| {
        move |packet: &mut Vec<u8>| {
            packet.splice(40..40, [6, 0, 0, offset_and_more, 0, 0, 0, 7]);
            packet[6] = 44;
            packet[5] += 8;
        }
    };
    assert_eq!(fragment(&with_header(1), 1), refused);
    assert_eq!(fragment(&with_header(8), 1), refused);
    assert!(
        fragment(&with_header(0), 1).is_ok(),
        "an atomic fragment is a whole packet (RFC 6946)"
    );
}

#[test]
fn other_protocols_and_mapped_addresses_are_refused() {
    let [v4, v6] = tuples();
    let mut udp = Segment::pure_ack(v4, 1, 2, 3, None).emit().unwrap();
    udp[9] = 17;
    assert_eq!(
        Segment::parse_with(&udp, Checksums::Ignore),
        Err(SegmentError::Unreadable(Unreadable::NotTcp { protocol: 17 }))
    );
    let mut mapped = Segment::pure_ack(v6, 1, 2, 3, None).emit().unwrap();
    mapped[8..24].copy_from_slice(&v4.local.address_bytes());
    assert_eq!(
        Segment::parse_with(&mapped, Checksums::Ignore),
        Err(SegmentError::Unreadable(Unreadable::Mapped(
            std::net::Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped()
        )))
    );
}

#[test]
fn wrong_checksums_are_refused_unless_ignored() {
    for segment in all_segments() {
        let packet = segment.emit().unwrap();
        let at = tcp_offset(&packet);
        let mut partial = packet.clone();
        partial[at + 16] ^= 0x40;
        let error = Segment::parse(&partial).unwrap_err();
        assert!(
            matches!(error, SegmentError::Unreadable(Unreadable::TcpChecksum { .. })),
            "{error}"
        );
        assert_eq!(Segment::parse_with(&partial, Checksums::Ignore).unwrap(), segment);
        if at == 20 {
            let mut partial = packet.clone();
            partial[10] ^= 0x40;
            let error = Segment::parse(&partial).unwrap_err();
            assert!(
                matches!(error, SegmentError::Unreadable(Unreadable::IpChecksum { .. })),
                "{error}"
            );
        }
    }
}

/// An incremental update may write the other zero of one's complement.
#[test]
fn both_zero_checksums_are_right() {
    let [tuple, _] = tuples();
    let zero = (0..=u16::MAX)
        .map(|window| Segment::pure_ack(tuple, 1, 2, window, None))
        .find(|segment| segment.emit().unwrap()[36..38] == [0, 0])
        .expect("some window makes the checksum zero");
    let mut packet = zero.emit().unwrap();
    packet[36..38].fill(0xff);
    assert_eq!(Segment::parse(&packet).unwrap(), zero);
}

#[test]
fn options_of_others_are_left_alone() {
    let mptcp = [30, 4, 0, 0];
    let sack = [5, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    let experiment = [253, 4, 0xf9, 0x89];
    let area = [&mptcp[..], &[1], &sack[..], &experiment[..], &[0, 253, 1]].concat();
    let found: Vec<_> = Options::of(&area).map(|option| option.unwrap()).collect();
    let kinds: Vec<u8> = found.iter().map(|option| option.kind()).collect();
    assert_eq!(kinds, [30, 5, 253], "what follows the end of the list is padding");
    assert_eq!(found[0].data(), [0, 0]);
    assert!(found.iter().all(|option| option.migrate() == Ok(None)));
}

#[test]
fn a_walk_over_options_ends_after_its_first_error() {
    let mut walk = Options::of(&[2, 4, 5, 0xb4, 3, 0, 4, 2]);
    assert!(walk.next().unwrap().is_ok());
    assert_eq!(walk.next(), Some(Err(OptionError::NoLength { kind: 3 })));
    assert_eq!(walk.next(), None);
    assert_eq!(
        Options::of(&[1, 1, 3]).next(),
        Some(Err(OptionError::NoLength { kind: 3 }))
    );
    assert_eq!(Options::of(&[]).next(), None);
}

#[test]
fn a_segment_knows_its_tuple() {
    let [tuple, _] = tuples();
    let segment = Segment::pure_ack(tuple, 1, 2, 3, None);
    assert_eq!(
        (segment.tuple(), segment.destination),
        (tuple, endpoint("203.0.113.3:443"))
    );
    assert_eq!(Endpoint::new(tuple.local.address, 40000), segment.source);
}
