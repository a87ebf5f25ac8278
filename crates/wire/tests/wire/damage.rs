//! Whatever happens to the bytes: an error, never a panic, and never a segment that passes for genuine.
use crate::common::*;
use proptest::prelude::*;
use wire::option::{EXPERIMENT, KIND, VERSION};
use wire::{
    Checksums, Flags, MacError, MacInput, MigrateOption, OptionError, Options, Permit, ReqNo, Request, Role,
    Segment, SegmentError, Unreadable, rewrite_frame,
};

#[test]
fn every_truncation_of_every_packet_is_an_error() {
    for segment in all_segments() {
        let packet = segment.emit().unwrap();
        for len in 0..packet.len() {
            for checksums in [Checksums::Verify, Checksums::Ignore] {
                let error = Segment::parse_with(&packet[..len], checksums).unwrap_err();
                assert!(
                    matches!(error, SegmentError::Unreadable(Unreadable::Ip(_))),
                    "{len}: {error}"
                );
            }
        }
    }
}

/// The lengths in the IP header fit, the contents are cut: the TCP header itself or the options in it.
#[test]
fn every_truncation_with_adjusted_lengths_is_read_or_an_error() {
    for segment in all_segments() {
        let packet = segment.emit().unwrap();
        let at = tcp_offset(&packet);
        let header_len = usize::from(packet[at + 12] >> 4) * 4;
        for len in at..packet.len() {
            let mut cut = packet[..len].to_vec();
            match at {
                20 => cut[2..4].copy_from_slice(&(len as u16).to_be_bytes()),
                _ => cut[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()),
            }
            let parsed = Segment::parse_with(&cut, Checksums::Ignore);
            assert_eq!(parsed.is_ok(), len >= at + header_len, "{len}: {parsed:?}");
            if len >= at + 20 {
                // A shorter data offset: the last option that had to go is cut through or missing.
                cut[at + 12] = (((len - at) / 4) as u8) << 4;
                if let Ok(parsed) = Segment::parse_with(&cut, Checksums::Ignore) {
                    assert!(parsed.migrate == segment.migrate || parsed.migrate.is_none());
                }
            }
        }
    }
}

#[test]
fn every_other_length_of_our_options_is_an_error() {
    let layouts = [(0, Permit::LEN)]
        .into_iter()
        .chain((1..=6).map(|r#type| (r#type, Request::LEN)));
    for (r#type, right) in layouts {
        for length in 0..=40usize {
            let mut area = [0x55; 40];
            area[..2].copy_from_slice(&[KIND, length as u8]);
            area[2..4].copy_from_slice(&EXPERIMENT.to_be_bytes());
            area[4] = VERSION << 4 | r#type;
            for area in [&area[..], &area[..length.max(1)]] {
                let first = Options::of(area).next().expect("there is an option");
                let outcome = first.and_then(|option| option.migrate());
                match length {
                    0 | 1 => assert_eq!(outcome, Err(OptionError::NoLength { kind: KIND })),
                    2..=4 => assert_eq!(
                        outcome,
                        Err(OptionError::Length {
                            expected: 5,
                            got: length
                        })
                    ),
                    _ if length == right => assert!(outcome.unwrap().is_some()),
                    _ => assert_eq!(
                        outcome,
                        Err(OptionError::Length {
                            expected: right,
                            got: length
                        })
                    ),
                }
            }
            // Told about one option directly, the length byte and the bytes at hand must agree too.
            let bytes = &area[..length];
            assert_eq!(
                MigrateOption::parse(bytes).is_ok(),
                length == right,
                "type {type} length {length}"
            );
        }
        for length in [right, 41, 127, 255] {
            let mut short = vec![0x55; right - 1];
            short[..2].copy_from_slice(&[KIND, length as u8]);
            let left = right - 1;
            let outcome = Options::of(&short).next();
            assert_eq!(
                outcome,
                Some(Err(OptionError::Overrun {
                    kind: KIND,
                    claimed: length,
                    left
                }))
            );
        }
    }
}

#[test]
fn every_other_length_of_a_standard_option_is_an_error() {
    let [tuple, _] = tuples();
    for (kind, right) in [(2u8, 4usize), (3, 3), (4, 2), (8, 10)] {
        for length in (2..=40usize).filter(|&length| length != right) {
            let mut option = vec![0; length];
            option[..2].copy_from_slice(&[kind, length as u8]);
            let packet = with_options(Segment::pure_ack(tuple, 1, 2, 3, None), &option);
            assert_eq!(
                Segment::parse_with(&packet, Checksums::Ignore),
                Err(OptionError::Length {
                    expected: right,
                    got: length
                }
                .into())
            );
        }
    }
}

#[test]
fn versions_and_types_to_come_are_refused_by_name() {
    for version_type in 0..=255u8 {
        let (version, r#type) = (version_type >> 4, version_type & 0xf);
        let length = if r#type == 0 { Permit::LEN } else { Request::LEN };
        let mut option = vec![0; length];
        option[..5].copy_from_slice(&[KIND, length as u8, 0x4d, 0x49, version_type]);
        let outcome = MigrateOption::parse(&option);
        match (version, r#type) {
            (1, 0..=6) => assert!(outcome.is_ok()),
            (1, _) => assert_eq!(outcome, Err(OptionError::Type { got: r#type })),
            _ => assert_eq!(outcome, Err(OptionError::Version { got: version })),
        }
    }
}

#[test]
fn a_second_migration_option_is_an_error() {
    let [tuple, _] = tuples();
    let permit = Permit::new(tuple.local, 7253, 1).to_bytes();
    let packet = with_options(
        Segment::pure_ack(tuple, 1, 2, 3, None),
        &[permit, permit].concat(),
    );
    assert_eq!(
        Segment::parse_with(&packet, Checksums::Ignore),
        Err(OptionError::Duplicate.into())
    );
}

#[test]
fn every_flipped_bit_of_a_signed_packet_is_noticed() {
    let keys = keys();
    for segment in signed_segments() {
        let packet = segment.emit().unwrap();
        for bit in 0..packet.len() * 8 {
            let mut flipped = packet.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(parsed) = Segment::parse(&flipped) else {
                continue;
            };
            // Only traffic class, flow label and hop limit of IPv6 are under no checksum.
            assert!(
                segment.source.address.is_ipv6() && (bit / 8 < 4 || bit / 8 == 7),
                "bit {bit}: {parsed}"
            );
            assert_eq!(
                Segment {
                    hop_limit: segment.hop_limit,
                    ..parsed.clone()
                },
                segment
            );
            parsed.verify(keys.incoming(Role::Acceptor), ReqNo(5)).unwrap();
        }
    }
}

/// Whoever flips bits and repairs the checksum is stopped by the MAC.
#[test]
fn every_flipped_bit_under_the_mac_is_noticed_without_checksums() {
    let keys = keys();
    let mut flips = 0;
    for segment in signed_segments() {
        let packet = segment.emit().unwrap();
        let at = tcp_offset(&packet);
        let is_ack = segment.flags.contains(Flags::ACK);
        let covered = (4..8)
            .chain(if is_ack { 8..12 } else { 0..0 }) // without ACK the field means nothing
            .chain(13..16) // flags and window
            .chain(20..20 + Request::LEN);
        for byte in covered {
            for bit in (0..8).filter(|bit| byte != 13 || *bit < 6) {
                let mut flipped = packet.clone();
                flipped[at + byte] ^= 1 << bit;
                let outcome = Segment::parse_with(&flipped, Checksums::Ignore)
                    .map(|parsed| parsed.verify(keys.incoming(Role::Acceptor), ReqNo(5)));
                // An option that is no longer ours leaves a segment without a request.
                let refused = matches!(
                    outcome,
                    Err(_) | Ok(Err(MacError::Mismatch)) | Ok(Err(MacError::NoRequest))
                );
                assert!(refused, "TCP byte {byte} bit {bit}: {outcome:?}");
                flips += 1;
            }
        }
    }
    // Per family: 5 segments with 38 bytes less two bits, and the MSYN with 4 fewer.
    assert_eq!(flips, 2 * (6 * (38 * 8 - 2) - 4 * 8));
}

#[test]
fn a_segment_is_genuine_only_from_its_sender_and_for_its_attempt() {
    let keys = keys();
    for segment in signed_segments() {
        assert_eq!(segment.verify(keys.incoming(Role::Acceptor), ReqNo(5)), Ok(()));
        assert_eq!(
            segment.verify(keys.incoming(Role::Acceptor), ReqNo(7)),
            Err(MacError::Mismatch)
        );
        assert_eq!(
            segment.verify(keys.incoming(Role::Initiator), ReqNo(5)),
            Err(MacError::Mismatch)
        );
    }
    let [tuple, _] = tuples();
    let mut plain = Segment::pure_ack(tuple, 1, 2, 3, None);
    assert_eq!(
        plain.sign(keys.outgoing(Role::Initiator), ReqNo(0)),
        Err(MacError::NoRequest)
    );
    assert_eq!(
        plain.verify(keys.outgoing(Role::Initiator), ReqNo(0)),
        Err(MacError::NoRequest)
    );
}

#[test]
fn ecn_bits_and_an_ack_field_without_meaning_are_not_under_the_mac() {
    let msyn = signed_segments().swap_remove(0);
    let keys = keys();
    let changed = Segment {
        flags: msyn.flags | Flags::ECE | Flags::CWR,
        ack: 99,
        ..msyn
    };
    assert_eq!(changed.verify(keys.incoming(Role::Acceptor), ReqNo(5)), Ok(()));
}

proptest! {
    #[test]
    fn a_mac_covers_every_bit_of_its_input(segment in any_segment(), request in any_request(), bit in 0usize..240) {
        let segment = Segment { migrate: Some(request), ..segment };
        let input = MacInput::of(&segment, ReqNo(1)).unwrap();
        let mac = input.sign(&keys().acceptor_to_initiator);
        prop_assert!(input.verify(&keys().acceptor_to_initiator, &mac));
        let mut bytes = input.to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Some(changed) = mac_input_from(bytes) {
            prop_assert!(!changed.verify(&keys().acceptor_to_initiator, &mac));
        }
    }

    #[test]
    fn any_bytes_give_a_segment_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let [tuple, _] = tuples();
        let _ = Segment::parse(&bytes);
        let _ = Segment::parse_with(&bytes, Checksums::Ignore);
        let _ = rewrite_frame(&bytes, tuple, 10);
        let _ = Options::of(&bytes).count();
    }
}

/// The inverse of [`MacInput::to_bytes`]; none for flags that no input has.
fn mac_input_from(bytes: [u8; 32]) -> Option<MacInput> {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let half = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    (bytes[1] < 0x40).then(|| MacInput {
        version_type: bytes[0],
        flags: Flags(bytes[1]),
        window: half(2),
        token: wire::Token(word(4)),
        req_no: ReqNo(word(8)),
        other_req_no: ReqNo(word(12)),
        seq: word(16),
        ack: word(20),
        rcv_nxt: word(24),
        digest: wire::Digest(half(28)),
    })
}

/// The packet of an IPv4 segment with these options instead of its own; checksums are stale.
fn with_options(segment: Segment, options: &[u8]) -> Vec<u8> {
    let mut packet = segment.emit().unwrap()[..40].to_vec();
    packet.extend(options);
    packet.resize(packet.len().next_multiple_of(4), 1);
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[32] = (((total - 20) / 4) as u8) << 4;
    packet
}
