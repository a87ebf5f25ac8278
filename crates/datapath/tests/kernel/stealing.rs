//! What the ingress of a device does with segments that carry a Migrate-Request, good and bad.

use std::collections::BTreeMap;

use datapath::{Datapath, Event, KernelDatapath};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::equality::{all_bytes, key_of, vectors};
use crate::place::{Host, isolated};

/// Verdicts of tc programs.
const PASSES: u32 = 0;
const DROPPED: u32 = 2;

const TCP: usize = 14 + 20;

/// Runs a frame through the ingress program; the verdict and the counters that have changed, by how much.
fn arrives(datapath: &KernelDatapath, frame: &[u8]) -> (u32, BTreeMap<&'static str, u64>) {
    let before = datapath.counters();
    let verdict = datapath.run_ingress(frame).unwrap();
    let after = datapath.counters();
    let changed = before
        .iter()
        .zip(&after)
        .filter(|((_, before), (_, after))| before != after);
    (
        verdict,
        changed
            .map(|((name, before), (_, after))| (*name, after - before))
            .collect(),
    )
}

fn counted(names: &[&'static str]) -> BTreeMap<&'static str, u64> {
    names.iter().map(|name| (*name, 1)).collect()
}

fn ethernet(packet: &[u8]) -> Vec<u8> {
    let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(protocol.to_be_bytes());
    frame.extend(packet);
    frame
}

/// A TCP segment on IPv4 with this options area (a multiple of four) and payload.
fn segment(options: &[u8], flags: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    let total = (20 + header + payload.len()) as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet.extend([
        0x9c,
        0x40,
        0x01,
        0xbb,
        0,
        0,
        0,
        9,
        0,
        0,
        0,
        0,
        (header as u8 / 4) << 4,
        flags,
        1,
        0,
        0,
        0,
        0,
        0,
    ]);
    packet.extend(options);
    packet.extend(payload);
    ethernet(&packet)
}

/// The table's segments between two ends without a proxy.
fn direct_segments() -> impl Iterator<Item = &'static vectors::SegmentVector> {
    vectors::SEGMENTS.iter().filter(|vector| vector.other_req_no == 0)
}

/// Lets the table's segments be heard; their identity tuple is made up.
fn listen(datapath: &mut KernelDatapath) -> Tuple {
    let end = |last| Endpoint::new([192, 168, 5, last].into(), 5000);
    let identity = Tuple::new(end(1), end(2));
    for vector in &vectors::SEGMENTS {
        let segment = Segment::parse(&all_bytes(vector.packet)).unwrap();
        let token = segment.migrate.unwrap().token;
        // Both directions have the same token here; each has its key as a candidate.
        datapath
            .put_token(token, &identity, &key_of(vector.sender), vector.sender as u32)
            .unwrap();
    }
    identity
}

#[test]
fn genuine_segments_are_stolen_and_told() {
    isolated(|| {
        let mut datapath = Host::first().open();
        let identity = listen(&mut datapath);
        for vector in direct_segments() {
            let packet = all_bytes(vector.packet);
            let segment = Segment::parse(&packet).unwrap();
            let request = segment.migrate.unwrap();
            let (verdict, changed) = arrives(&datapath, &ethernet(&packet));
            assert_eq!(verdict, DROPPED, "{}", vector.name);
            let told = datapath.events();
            if request.r#type == wire::RequestType::MigrateAck {
                assert_eq!(
                    changed,
                    counted(&["stolen", "stale_ack"]),
                    "{}: nobody waits for it",
                    vector.name
                );
                assert_eq!(told, []);
                continue;
            }
            assert_eq!(changed, counted(&["stolen"]), "{}", vector.name);
            let [Event::Segment(kind, heard)] = told[..] else {
                panic!("{}: {told:?}", vector.name)
            };
            assert_eq!(kind, request.r#type);
            assert_eq!(
                (heard.identity, heard.wire),
                (identity, segment.tuple().reversed())
            );
            assert_eq!((heard.token, heard.req_no), (request.token, request.req_no));
            assert_eq!(
                (heard.seq, heard.rcv_nxt, heard.digest),
                (segment.seq, request.rcv_nxt, request.digest.0)
            );
            assert_eq!(heard.candidate, vector.sender as u32);
        }
    });
}

#[test]
fn a_migrate_ack_commits_what_was_answered_and_nothing_else() {
    use datapath::{Arrival, ArrivalState, Path};
    isolated(|| {
        let mut datapath = Host::first().open();
        let identity = listen(&mut datapath);
        let vector = vectors::SEGMENTS
            .iter()
            .find(|vector| vector.name == "Migrate-Ack IPv4")
            .unwrap();
        let packet = all_bytes(vector.packet);
        let ack = Segment::parse(&packet).unwrap();
        let wire = ack.tuple().reversed();
        let answered = Arrival {
            identity,
            path: Path {
                ifindex: 1,
                next_hop: None,
            },
            req_no: ack.migrate.unwrap().req_no,
            state: ArrivalState::Answered,
            expect_seq: ack.seq,
            expect_ack: ack.ack,
            confirm: false,
        };
        let other = Tuple::new(identity.remote, identity.local);
        let stale = [
            Arrival {
                req_no: wire::ReqNo(answered.req_no.0 + 2),
                ..answered
            },
            Arrival {
                expect_seq: ack.seq.wrapping_add(1),
                ..answered
            },
            Arrival {
                expect_ack: ack.ack.wrapping_sub(1),
                ..answered
            },
            Arrival {
                identity: other,
                ..answered
            },
        ];
        for arrival in stale {
            datapath.put_arrival(&wire, &arrival).unwrap();
            let (_, changed) = arrives(&datapath, &ethernet(&packet));
            assert_eq!(changed, counted(&["stolen", "stale_ack"]), "{arrival:?}");
            assert_eq!(datapath.wire(&identity), None);
        }
        for state in [ArrivalState::Attempted, ArrivalState::Linger] {
            datapath
                .put_arrival(&wire, &Arrival { state, ..answered })
                .unwrap();
            arrives(&datapath, &ethernet(&packet));
            assert_eq!(datapath.wire(&identity), None, "{state:?}");
        }
        datapath.put_arrival(&wire, &answered).unwrap();
        let (_, changed) = arrives(&datapath, &ethernet(&packet));
        assert_eq!(changed, counted(&["stolen", "committed"]));
        let state = datapath.wire(&identity).unwrap();
        assert_eq!(
            (state.wire, state.req_no, state.path),
            (wire, answered.req_no, answered.path)
        );
        assert_eq!(datapath.arrival(&wire).unwrap().state, ArrivalState::Committed);
        // Said again, it is told again and changes nothing.
        let (_, changed) = arrives(&datapath, &ethernet(&packet));
        assert_eq!(changed, counted(&["stolen"]));
        let told: Vec<bool> = datapath
            .events()
            .iter()
            .filter_map(|event| match event {
                Event::Committed { again, .. } => Some(*again),
                _ => None,
            })
            .collect();
        assert_eq!(told, [false, true]);
        // A lower number does not take the place of a higher one, nor park it.
        datapath
            .commit(
                &identity,
                &identity,
                &Path {
                    ifindex: 9,
                    next_hop: None,
                },
                wire::ReqNo(1),
            )
            .unwrap();
        datapath.park(&identity, &identity, wire::ReqNo(1)).unwrap();
        assert_eq!(datapath.wire(&identity), Some(state));
        datapath.park(&identity, &wire, answered.req_no).unwrap();
        assert_eq!(datapath.wire(&identity).unwrap().path.ifindex, 0);
    });
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
fn an_unknown_token_is_counted_and_only_an_msyn_is_told() {
    isolated(|| {
        let mut datapath = Host::first().open();
        for vector in &vectors::SEGMENTS {
            let packet = all_bytes(vector.packet);
            let request = Segment::parse(&packet).unwrap().migrate.unwrap();
            let (verdict, changed) = arrives(&datapath, &ethernet(&packet));
            assert_eq!(
                (verdict, changed),
                (DROPPED, counted(&["stolen", "unknown_token"])),
                "{}",
                vector.name
            );
            let told = datapath.events();
            match request.r#type {
                wire::RequestType::Msyn => assert!(
                    matches!(told[..], [Event::UnknownToken { token, .. }] if token == request.token),
                    "{told:?}"
                ),
                _ => assert_eq!(told, [], "{}", vector.name),
            }
        }
    });
}

#[test]
fn colliding_tokens_are_tried_one_after_another() {
    isolated(|| {
        let mut datapath = Host::first().open();
        let vector = &vectors::SEGMENTS[0];
        let packet = all_bytes(vector.packet);
        let token = Segment::parse(&packet).unwrap().migrate.unwrap().token;
        let identity = |last: u8| {
            Tuple::new(
                Endpoint::new([10, 9, 9, last].into(), 1),
                Endpoint::new([10, 8, 8, 8].into(), 2),
            )
        };
        for last in 0..3 {
            datapath
                .put_token(token, &identity(last), &wire::MacKey::new([last; 16]), 0)
                .unwrap();
        }
        let (_, changed) = arrives(&datapath, &ethernet(&packet));
        assert_eq!(changed, counted(&["stolen", "bad_mac"]));
        datapath
            .put_token(token, &identity(3), &key_of(vector.sender), 5)
            .unwrap();
        arrives(&datapath, &ethernet(&packet));
        match datapath.events()[..] {
            [Event::Segment(_, heard)] => assert_eq!((heard.identity, heard.candidate), (identity(3), 5)),
            ref other => panic!("{other:?}"),
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
        assert_eq!(frame_offset(), TCP);
    });
}

/// Where the TCP header begins in a frame of the table's IPv4 segments.
fn frame_offset() -> usize {
    let frame = ethernet(&all_bytes(vectors::SEGMENTS[0].packet));
    14 + usize::from(frame[14] & 15) * 4
}
