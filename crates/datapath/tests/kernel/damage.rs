//! Options of every length, bits flipped, frames cut and filled with garbage.

use datapath::{Datapath, Event};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::segment::Segment;

use crate::equality::{all_bytes, vectors};
use crate::place::{Host, isolated};
use crate::stealing::{DROPPED, PASSES, arrives, counted, direct_segments, ethernet, listen};

/// A TCP segment on IPv4 with this options area (a multiple of four) and payload.
fn segment(options: &[u8], flags: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0; 40];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&((20 + header + payload.len()) as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    packet[20..24].copy_from_slice(&[0x9c, 0x40, 0x01, 0xbb]);
    packet[32..34].copy_from_slice(&[(header as u8 / 4) << 4, flags]);
    packet.extend(options);
    packet.extend(payload);
    ethernet(&packet)
}

#[test]
fn malformed_options_of_every_length_are_stolen_and_counted_and_nothing_else() {
    isolated(|| {
        let mut datapath = Host::first().open();
        listen(&mut datapath);
        let good = Segment::parse(&all_bytes(vectors::SEGMENTS[0].packet))
            .unwrap()
            .migrate
            .unwrap()
            .to_bytes();
        for area in (4..=40).step_by(4) {
            for length in 0..=40u8 {
                for version_type in [0x11, 0x13, 0x16, 0x17, 0x1f, 0x01, 0x21, 0xf1] {
                    let mut options = vec![1; area];
                    let fits = area.min(good.len());
                    options[..fits].copy_from_slice(&good[..fits]);
                    options[1] = length;
                    if area > 4 {
                        options[4] = version_type;
                    }
                    let (verdict, changed) = arrives(&datapath, &segment(&options, 2, &[]));
                    let what =
                        format!("{length} bytes in an area of {area}, version and type {version_type:#x}");
                    if area == 4 {
                        // Too short to say which of our options it is: the stack does not know it either.
                        assert_eq!((verdict, changed), (PASSES, counted(&[])), "{what}");
                        continue;
                    }
                    let whole = length == 27 && area >= 27 && (0x11..=0x16).contains(&version_type);
                    assert_eq!(verdict, DROPPED, "{what}");
                    match whole {
                        false => assert_eq!(changed, counted(&["stolen", "malformed_option"]), "{what}"),
                        true => assert!(!changed.contains_key("malformed_option"), "{what}"),
                    }
                }
            }
        }
        assert_eq!(datapath.events(), []);
    });
}

#[test]
fn what_is_not_ours_passes() {
    isolated(|| {
        let mut datapath = Host::first().open();
        listen(&mut datapath);
        let permit = all_bytes(vectors::PERMIT);
        let mut others: Vec<Vec<u8>> = vec![
            vec![],
            vec![1; 40],
            vec![0; 40],
            // The head of one of ours without its last byte.
            vec![253, 27, 0x4d, 0x49],
            vec![253, 4, 0x4d, 0x49],
            // Another experiment of the same kind, and other kinds with our bytes.
            [&[253, 27, 0x4d, 0x4a, 0x11][..], &[7; 23]].concat(),
            [&[254, 27, 0x4d, 0x49, 0x11][..], &[7; 23]].concat(),
            [&[30, 12, 0x4d, 0x49, 0x11][..], &[7; 7]].concat(),
            [&permit[..], &[1]].concat(),
        ];
        for length in 0..=40 {
            let mut short = vec![1; 12];
            short[..2].copy_from_slice(&[253, length]);
            others.push(short);
        }
        for options in others {
            // As data it may look like whatever it likes.
            let payload = [0x11, 253, 27, 0x4d, 0x49, 0x11, 0, 0];
            for payload in [&[][..], &payload] {
                let frame = segment(&options, 2, payload);
                assert_eq!(arrives(&datapath, &frame), (PASSES, counted(&[])), "{options:?}");
            }
        }
    });
}

#[test]
fn a_flipped_bit_is_counted_and_never_told() {
    isolated(|| {
        let mut datapath = Host::first().open();
        listen(&mut datapath);
        for vector in direct_segments() {
            let packet = all_bytes(vector.packet);
            let genuine = Segment::parse(&packet).unwrap();
            let l4 = if genuine.tuple().is_ipv4() { 20 } else { 40 };
            for bit in (l4 + 4) * 8..packet.len() * 8 {
                let mut flipped = packet.clone();
                flipped[bit / 8] ^= 0x80 >> (bit % 8);
                let (verdict, changed) = arrives(&datapath, &ethernet(&flipped));
                let told = datapath.events();
                let what = format!(
                    "{} with bit {} of byte {} flipped",
                    vector.name,
                    bit % 8,
                    bit / 8 - l4
                );
                // What the MAC leaves out: the acknowledgement of an MSYN, where the header ends, ECN, checksum and
                // urgent pointer, and the options behind ours.
                let still_genuine = match bit / 8 - l4 {
                    8..12 => genuine.flags == wire::Flags::SYN,
                    12 | 16..20 | 47.. => true,
                    13 => bit % 8 < 2,
                    _ => false,
                };
                match told[..] {
                    [Event::Segment(..)] => assert!(still_genuine, "{what}"),
                    [Event::UnknownToken { .. }] => assert!(changed.contains_key("unknown_token"), "{what}"),
                    [] if changed.contains_key("stale_ack") => assert!(still_genuine, "{what}"),
                    [] if verdict == PASSES => assert_eq!(changed, counted(&[]), "{what}"),
                    [] => {
                        let reasons = ["malformed_option", "unknown_token", "bad_mac"];
                        let reason = reasons
                            .into_iter()
                            .filter(|name| changed.contains_key(name))
                            .count();
                        assert_eq!((verdict, reason), (DROPPED, 1), "{what}: {changed:?}");
                    }
                    _ => panic!("{what}: {told:?}"),
                }
            }
        }
    });
}

#[test]
fn frames_cut_anywhere_and_garbage_do_no_harm() {
    isolated(|| {
        let mut datapath = Host::first().open();
        listen(&mut datapath);
        for vector in &vectors::SEGMENTS {
            let frame = ethernet(&all_bytes(vector.packet));
            // The kernel itself refuses test frames without an Ethernet header.
            for length in 15..frame.len() {
                let Ok(verdict) = datapath.run_ingress(&frame[..length]) else {
                    continue;
                };
                assert!(
                    [PASSES, DROPPED].contains(&verdict),
                    "{} cut to {length}",
                    vector.name
                );
            }
        }
        let mut random = StdRng::seed_from_u64(77);
        let mut ran = 0;
        for round in 0..5_000 {
            let mut frame = ethernet(&all_bytes(vectors::SEGMENTS[round % 2 * 6].packet));
            for _ in 0..random.random_range(1..12) {
                let at = random.random_range(14..frame.len());
                frame[at] = random.random();
            }
            let Ok(verdict) = datapath.run_ingress(&frame) else {
                continue;
            };
            ran += 1;
            assert!([PASSES, DROPPED].contains(&verdict), "{frame:?}");
        }
        assert!(ran > 1_000, "{ran}");
        let committed = datapath
            .counters()
            .into_iter()
            .find(|(name, _)| *name == "committed");
        assert_eq!(committed, Some(("committed", 0)));
    });
}
