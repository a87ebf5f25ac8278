//! What the ingress of a device does with segments that carry a Migrate-Request, good and bad.

use std::collections::BTreeMap;

use datapath::{Datapath, Event, KernelDatapath};
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::equality::{all_bytes, key_of, vectors};
use crate::place::{Host, isolated, run};

/// Verdicts of tc programs.
pub const PASSES: u32 = 0;
pub const DROPPED: u32 = 2;

/// Runs a frame through the ingress program; the verdict and the counters that have changed, by how much.
pub fn arrives(datapath: &KernelDatapath, frame: &[u8]) -> (u32, BTreeMap<&'static str, u64>) {
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

pub fn counted(names: &[&'static str]) -> BTreeMap<&'static str, u64> {
    names.iter().map(|name| (*name, 1)).collect()
}

pub fn ethernet(packet: &[u8]) -> Vec<u8> {
    let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(protocol.to_be_bytes());
    frame.extend(packet);
    frame
}

/// The table's segments between two ends without a proxy.
pub fn direct_segments() -> impl Iterator<Item = &'static vectors::SegmentVector> {
    vectors::SEGMENTS.iter().filter(|vector| vector.other_req_no == 0)
}

/// Lets the table's segments be heard; their identity tuple is made up.
pub fn listen(datapath: &mut KernelDatapath) -> Tuple {
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
fn a_router_lets_the_handshakes_of_hosts_behind_it_pass_and_steals_its_own() {
    isolated(|| {
        let vector = direct_segments().next().expect("a segment");
        let frame = ethernet(&all_bytes(vector.packet));
        let mut datapath = Host::first().open();
        assert_eq!(arrives(&datapath, &frame).0, DROPPED, "this host is no router");
        run("sysctl -qw net.ipv4.ip_forward=1");
        datapath.beat();
        assert_eq!(
            arrives(&datapath, &frame),
            (PASSES, BTreeMap::new()),
            "another host's"
        );
        listen(&mut datapath);
        assert_eq!(arrives(&datapath, &frame).0, DROPPED, "its token is known here");
    });
}
