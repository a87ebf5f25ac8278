//! What must hold for any bytes.
//!
//! The fuzz targets run these functions on what libFuzzer invents; `tests/wire/fuzz.rs` of the crate includes this
//! file and runs them on the committed seeds and on mutations of them, on any toolchain.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::{
    Checksums, ConnectionKeys, Endpoint, FrameError, MacError, MigrateOption, Options, PairKey, ReqNo, Role,
    Segment, SegmentError, Tuple, rewrite_frame,
};

/// Reads the bytes as an IP packet, as strictly and as leniently as the crate does.
pub fn segment(bytes: &[u8]) {
    let lenient = Segment::parse_with(bytes, Checksums::Ignore);
    if let Ok(strict) = Segment::parse(bytes) {
        assert_eq!(
            lenient.as_ref(),
            Ok(&strict),
            "checksums decide whether, not what"
        );
    }
    if let Ok(segment) = lenient {
        let packet = segment.emit().expect("what was read can be written");
        assert!(packet.len() <= bytes.len(), "and needs no more room");
        assert_eq!(Segment::parse(&packet).as_ref(), Ok(&segment));
        assert!(!segment.to_string().contains('\n'));
        proof(segment);
    }
    for wire in wire_tuples() {
        frame(bytes, wire);
    }
}

/// Reads the bytes as the options area of a TCP header, and as a single option.
pub fn option(bytes: &[u8]) {
    let mut used = 0;
    let mut failed = false;
    for option in Options::of(bytes) {
        assert!(!failed, "nothing follows an error");
        match option {
            Ok(option) => {
                used += option.bytes().len();
                assert_eq!(option.data().len() + 2, option.bytes().len());
                if let Ok(Some(ours)) = option.migrate() {
                    assert_eq!(written(ours), option.bytes());
                }
            }
            Err(error) => failed = !error.to_string().is_empty(),
        }
    }
    assert!(used <= bytes.len());
    if let Ok(ours) = MigrateOption::parse(bytes) {
        assert_eq!(written(ours), bytes);
    }
}

/// A MAC holds for its own key only; a segment without a request has none.
fn proof(mut segment: Segment) {
    let keys = ConnectionKeys::derive(&PairKey::new([7; 32]), 1, 2, 3);
    let (right, wrong) = (keys.outgoing(Role::Initiator), keys.incoming(Role::Initiator));
    match segment.sign(right, ReqNo(1)) {
        Ok(()) => {
            assert_eq!(segment.verify(right, ReqNo(1)), Ok(()));
            assert_eq!(segment.verify(wrong, ReqNo(1)), Err(MacError::Mismatch));
        }
        Err(error) => assert_eq!((error, segment.migrate), (MacError::NoRequest, None)),
    }
}

/// A rewritten frame is a right packet of its tuple, except for options that were damaged before.
fn frame(bytes: &[u8], wire: Tuple) {
    const MOST: usize = 100;
    match rewrite_frame(bytes, wire, MOST) {
        Ok(packet) => match Segment::parse(&packet) {
            Ok(segment) => {
                assert_eq!(segment.tuple(), wire);
                assert!(segment.payload.len() <= MOST);
            }
            Err(SegmentError::Option(_)) => {}
            Err(error) => panic!("a rewritten frame is damaged: {error}"),
        },
        Err(FrameError::Unreadable(_)) => {}
        Err(error) => panic!("nothing else can be wrong: {error}"),
    }
}

fn written(option: MigrateOption) -> Vec<u8> {
    match option {
        MigrateOption::Permit(permit) => permit.to_bytes().to_vec(),
        MigrateOption::Request(request) => request.to_bytes().to_vec(),
    }
}

fn wire_tuples() -> [Tuple; 2] {
    let v4 = |last| Endpoint::new(Ipv4Addr::new(198, 51, 100, last).into(), 1000);
    let v6 = |last| Endpoint::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into(), 1000);
    [Tuple::new(v4(1), v4(2)), Tuple::new(v6(1), v6(2))]
}
