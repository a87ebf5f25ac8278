//! How segments and errors read in logs and timelines.
use crate::common::*;
use insta::assert_snapshot;
use wire::{ReqNo, Role, Segment};

#[test]
fn segments_print_as_one_line_each() {
    let lines: Vec<String> = all_segments().iter().map(Segment::to_string).collect();
    assert_snapshot!(lines.join("\n"));
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let packet = all_segments()[0].emit().unwrap();
    let change = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        Segment::parse(&packet).unwrap_err().to_string()
    };
    let unchecked = |at: usize, byte: u8| {
        let mut packet = packet.clone();
        packet[at] = byte;
        Segment::parse_with(&packet, wire::Checksums::Ignore)
            .unwrap_err()
            .to_string()
    };
    let lines = [
        Segment::parse(&packet[..30]).unwrap_err().to_string(),
        change(6, 0x20),
        change(9, 17),
        change(8, 1),
        change(24, 1),
        change(32, 0x40),
        unchecked(41, 26),
        unchecked(41, 1),
        unchecked(41, 60),
        unchecked(44, 0x21),
        unchecked(44, 0x1f),
        Segment {
            timestamps: Some((1, 2)),
            ..all_segments()[0].clone()
        }
        .emit()
        .unwrap_err()
        .to_string(),
        ReqNo::next_for(Role::Initiator, ReqNo(u32::MAX))
            .unwrap_err()
            .to_string(),
    ];
    assert_snapshot!(lines.join("\n"));
}
