//! The cached head-of-line frame, sent again on another path.
use crate::common::*;
use proptest::prelude::*;
use wire::{EmitError, Endpoint, Flags, FrameError, Segment, Tuple, Unreadable, rewrite_frame};

/// A data segment as the kernel made it, with everything that must survive.
fn head(tuple: Tuple, payload_len: usize) -> Segment {
    let mut head = Segment::pure_ack(tuple, 100, 200, 300, Some((4, 5)));
    head.flags = Flags::ACK | Flags::PSH | Flags::FIN;
    head.payload = (0..payload_len).map(|i| i as u8).collect();
    head.hop_limit = 77;
    head
}

/// What the frame of `head` must become.
fn expected(head: &Segment, wire: Tuple, kept: usize) -> Segment {
    let cut = kept < head.payload.len();
    Segment {
        source: wire.local,
        destination: wire.remote,
        flags: if cut {
            head.flags.without(Flags::FIN)
        } else {
            head.flags
        },
        payload: head.payload[..kept].to_vec(),
        ..head.clone()
    }
}

fn wire_tuples() -> [Tuple; 2] {
    [
        tuple("100.64.2.2:61000", "203.0.113.9:62000"),
        tuple("[2001:db8:2::2]:61000", "[2001:db8:9::9]:62000"),
    ]
}

#[test]
fn a_frame_moves_between_all_families_and_is_cut() {
    for from in tuples() {
        for to in wire_tuples() {
            for (len, most, kept) in [
                (3000, 1388, 1388),
                (1388, 1388, 1388),
                (10, 1388, 10),
                (0, 1388, 0),
                (2, 1, 1),
            ] {
                let head = head(from, len);
                let frame = rewrite_frame(&head.emit().unwrap(), to, most).unwrap();
                assert_eq!(Segment::parse(&frame).unwrap(), expected(&head, to, kept));
            }
        }
    }
}

#[test]
fn garbage_in_checksums_and_lengths_does_no_harm() {
    for from in tuples() {
        let head = head(from, 3000);
        let packet = head.emit().unwrap();
        let at = tcp_offset(&packet);
        for declared in [0u16, 10, 65535] {
            let mut captured = packet.clone();
            captured[at + 16..at + 18].copy_from_slice(&[0xab, 0xcd]);
            if at == 20 {
                captured[2..4].copy_from_slice(&declared.to_be_bytes());
                captured[10..12].copy_from_slice(&[0xab, 0xcd]);
            } else if declared != 10 {
                captured[4..6].copy_from_slice(&declared.to_be_bytes());
            }
            for to in wire_tuples() {
                let frame = rewrite_frame(&captured, to, 1000).unwrap();
                assert_eq!(Segment::parse(&frame).unwrap(), expected(&head, to, 1000));
            }
        }
    }
}

/// The end of the data is unknown: a FIN right behind what was captured would cut the stream short.
#[test]
fn a_fin_goes_when_the_length_in_the_header_is_not_that_of_the_frame() {
    for from in tuples() {
        let head = head(from, 100);
        let packet = head.emit().unwrap();
        let whole = rewrite_frame(&packet, from, 1000).unwrap();
        assert!(Segment::parse(&whole).unwrap().flags.contains(Flags::FIN));
        let field = if tcp_offset(&packet) == 20 { 2 } else { 4 };
        let without_length = {
            let mut packet = packet.clone();
            packet[field..field + 2].fill(0);
            packet
        };
        for captured in [&packet[..packet.len() - 1], &without_length] {
            let parsed = Segment::parse(&rewrite_frame(captured, from, 1000).unwrap()).unwrap();
            assert!(!parsed.flags.contains(Flags::FIN));
            assert!(parsed.flags.contains(Flags::PSH));
        }
    }
}

#[test]
fn traffic_class_travels_across_families_and_the_flow_label_within_ipv6() {
    let [from4, from6] = tuples();
    let [to4, to6] = wire_tuples();
    let class = 0b1011_1001;
    let mut v4 = head(from4, 10).emit().unwrap();
    v4[1] = class;
    let mut v6 = head(from6, 10).emit().unwrap();
    v6[..4].copy_from_slice(&(6 << 28 | u32::from(class) << 20 | 0xabcde).to_be_bytes());
    let first_word = |frame: Vec<u8>| u32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(rewrite_frame(&v4, to4, 10).unwrap()[1], class);
    assert_eq!(rewrite_frame(&v6, to4, 10).unwrap()[1], class);
    assert_eq!(
        first_word(rewrite_frame(&v4, to6, 10).unwrap()),
        6 << 28 | u32::from(class) << 20
    );
    assert_eq!(
        first_word(rewrite_frame(&v6, to6, 10).unwrap()),
        6 << 28 | u32::from(class) << 20 | 0xabcde
    );
}

#[test]
fn ip_options_and_extension_headers_stay_behind() {
    let [from4, from6] = tuples();
    let [to4, to6] = wire_tuples();
    let head4 = head(from4, 10);
    let mut with_options = head4.emit().unwrap();
    with_options.splice(20..20, [0x94, 4, 0, 0]);
    with_options[0] = 0x46;
    with_options[3] += 4;
    let head6 = head(from6, 10);
    let mut with_extensions = head6.emit().unwrap();
    with_extensions.splice(40..40, [60, 0, 1, 4, 0, 0, 0, 0, 6, 0, 1, 4, 0, 0, 0, 0]);
    with_extensions[6] = 0;
    with_extensions[5] += 16;
    for (captured, head) in [(with_options, head4), (with_extensions, head6)] {
        for to in [to4, to6] {
            let frame = rewrite_frame(&captured, to, 10).unwrap();
            assert_eq!(Segment::parse(&frame).unwrap(), expected(&head, to, 10));
        }
    }
}

#[test]
fn a_frame_that_cannot_be_sent_is_an_error() {
    let [from, _] = tuples();
    let packet = head(from, 70).emit().unwrap();
    assert_eq!(rewrite_frame(&packet, from, 0), Err(FrameError::NoRoom));
    let mixed = Tuple::new(tuples()[0].local, tuples()[1].remote);
    assert!(matches!(
        rewrite_frame(&packet, mixed, 10),
        Err(FrameError::Emit(EmitError::Families { .. }))
    ));
    let mut fragment = packet.clone();
    fragment[6] = 0x20;
    let error = rewrite_frame(&fragment, from, 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "an IP fragment, not a whole segment: capture behind reassembly"
    );
    let mut cut_extension = head(tuples()[1], 0).emit().unwrap()[..44].to_vec();
    cut_extension[6] = 60;
    assert!(matches!(
        rewrite_frame(&cut_extension, from, 10),
        Err(FrameError::Unreadable(Unreadable::Ip(_)))
    ));
    for len in 0..40 {
        assert!(
            matches!(
                rewrite_frame(&packet[..len], from, 10),
                Err(FrameError::Unreadable(_))
            ),
            "{len}"
        );
    }
}

#[test]
fn a_frame_larger_than_any_packet_is_cut_to_one() {
    let [from4, _] = tuples();
    let [to4, to6] = wire_tuples();
    let small = head(from4, 10);
    let mut huge = small.emit().unwrap();
    huge[2..4].fill(0);
    huge.resize(200_000, 7);
    for (to, header) in [(to4, 52), (to6, 32)] {
        let frame = rewrite_frame(&huge, to, 1388).unwrap();
        assert_eq!(Segment::parse(&frame).unwrap().payload.len(), 1388);
        let most = 65535 - header;
        assert!(rewrite_frame(&huge, to, most).is_ok());
        assert!(matches!(
            rewrite_frame(&huge, to, most + 1),
            Err(FrameError::Emit(EmitError::Length { .. }))
        ));
    }
}

proptest! {
    #[test]
    fn a_frame_keeps_all_but_its_tuple_and_the_cut(
        segment in any_segment(),
        wire in any_tuple(),
        most in 1usize..200,
    ) {
        let Ok(packet) = segment.emit() else { return Ok(()) };
        let frame = rewrite_frame(&packet, wire, most).unwrap();
        let kept = segment.payload.len().min(most);
        prop_assert_eq!(Segment::parse(&frame), Ok(expected(&segment, wire, kept)));
    }

    #[test]
    fn a_frame_cut_off_anywhere_is_sent_as_far_as_it_goes(segment in any_segment(), missing in 1usize..100) {
        let Ok(packet) = segment.emit() else { return Ok(()) };
        let captured = &packet[..packet.len().saturating_sub(missing)];
        if let Ok(frame) = rewrite_frame(captured, segment.tuple(), 1000) {
            let kept = segment.payload.len() - missing;
            prop_assert_eq!(Segment::parse(&frame), Ok(expected(&segment, segment.tuple(), kept)));
        }
    }
}

#[test]
fn a_frame_that_does_not_fit_leaves_in_pieces_that_join_without_a_gap() {
    let tuple = Tuple::new(
        Endpoint::new("192.0.2.1".parse().unwrap(), 1000),
        Endpoint::new("198.51.100.2".parse().unwrap(), 2000),
    );
    let mut segment = Segment::pure_ack(tuple, 0xffff_fff0, 7, 500, Some((1, 2)));
    segment.payload = (0..1448u32).map(|byte| byte as u8).collect();
    let packet = segment.emit().unwrap();
    let pieces = wire::frame::cut_frame(&packet, tuple, 600, None).unwrap();
    assert_eq!(pieces.len(), 3);
    let mut joined = Vec::new();
    for piece in &pieces {
        assert!(piece.len() <= 600);
        let piece = Segment::parse(piece).unwrap();
        assert_eq!(piece.seq, segment.seq.wrapping_add(joined.len() as u32));
        joined.extend(piece.payload);
    }
    assert_eq!(joined, segment.payload);
    assert_eq!(
        wire::frame::cut_frame(&packet, tuple, 1500, None).unwrap(),
        std::slice::from_ref(&packet)
    );
    let renewed = wire::frame::cut_frame(&packet, tuple, 1500, Some((77, 0))).unwrap();
    assert_eq!(
        Segment::parse(&renewed[0]).unwrap(),
        Segment {
            timestamps: Some((77, 0)),
            ..segment
        }
    );
}
