//! Wireshark's view of migration (`packaging/wireshark/mobility.lua`), by tshark, over captures of scenarios.
//!
//! `golden/*.pcapng` are a few frames each of a scenario's links; `golden/*.txt` is what tshark must say of them:
//! a line a frame, its fields as `FIELDS` names them. The frames of one file are one connection's, first as the host
//! behind the NAPT sees them, then as the NAPT's outer link does.

use std::path::{Path, PathBuf};
use std::process::Command;

/// What is compared of a frame, in order.
const FIELDS: [&str; 13] = [
    "frame.number",
    "ip.src",
    "tcp.srcport",
    "mobility.version",
    "mobility.type",
    "mobility.direct_port",
    "mobility.agent_port",
    "mobility.token",
    "mobility.req_no",
    "mobility.rcv_nxt",
    "mobility.translated",
    "mobility.answers",
    "mobility.through_proxy",
];

/// Where the option's first byte is in a frame of Ethernet, IPv4 and TCP whose first option it is.
const FIRST_OPTION: usize = 14 + 20 + 20;

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What tshark says of a capture with the dissector loaded; whatever it says of Lua itself is a failure.
fn tshark(capture: &Path, arguments: &[&str]) -> String {
    let script = here("../../packaging/wireshark/mobility.lua");
    let output = Command::new("tshark")
        .arg("-r")
        .arg(capture)
        .arg("-X")
        .arg(format!("lua_script:{}", script.display()))
        .args(arguments)
        .output()
        .expect("tshark runs: .ci/setup installs it");
    let (said, complained) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    assert!(output.status.success(), "tshark failed: {complained}");
    for text in [&said, &complained] {
        assert!(
            !text.to_lowercase().contains("lua error") && !text.contains("mobility.lua:"),
            "the dissector failed: {text}"
        );
    }
    said
}

fn fields(capture: &Path) -> String {
    let mut arguments = vec!["-T", "fields", "-E", "separator=|"];
    for field in FIELDS {
        arguments.extend(["-e", field]);
    }
    tshark(capture, &arguments)
}

/// The frames of a pcapng file: the bytes in its Enhanced Packet Blocks.
fn frames(capture: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(capture).expect("the capture is there");
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    let (mut at, mut found) = (0, Vec::new());
    while at + 12 <= bytes.len() {
        if word(at) == 6 {
            let length = word(at + 20) as usize;
            found.push(bytes[at + 28..at + 28 + length].to_vec());
        }
        at += word(at + 4) as usize;
    }
    found
}

/// Writes frames as a capture of the older format, a microsecond apart.
fn write_capture(file: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    let mut put = |word: u32| bytes.extend(word.to_le_bytes());
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 0x4_0000, 1] {
        put(word);
    }
    for (at, frame) in frames.iter().enumerate() {
        let length = frame.len() as u32;
        for word in [0, at as u32, length, length] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(file, bytes).expect("the capture is written");
}

#[test]
fn captures_of_scenarios_read_as_their_golden_texts_say() {
    let mut seen = 0;
    for entry in std::fs::read_dir(here("golden")).expect("the golden captures") {
        let capture = entry.expect("an entry").path();
        if capture.extension().is_some_and(|extension| extension == "pcapng") {
            let golden = std::fs::read_to_string(capture.with_extension("txt")).expect("its golden text");
            let expected: Vec<&str> = golden.lines().filter(|line| !line.starts_with('#')).collect();
            let said = fields(&capture);
            let said: Vec<&str> = said.lines().collect();
            assert_eq!(said, expected, "{}", capture.display());
            seen += 1;
        }
    }
    assert!(seen >= 3, "only {seen} golden captures");
}

#[test]
fn a_reader_sees_the_segment_and_what_it_says_in_one_line() {
    let said = tshark(&here("golden/resumption.pcapng"), &["-Y", "mobility.type == 2"]);
    assert!(said.contains("[MSYN-ACK token 0x"), "{said}");
    assert!(said.contains("ReqNo 2]"), "{said}");
}

#[test]
fn another_version_and_a_wrong_length_are_told_and_other_experiments_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let capture = directory.path().join("changed.pcap");
    let msyn = frames(&here("golden/resumption.pcapng"))[0].clone();
    assert_eq!(msyn[FIRST_OPTION], 253, "the option is the segment's first");
    let changed = |offset: usize, value: u8| {
        let mut frame = msyn.clone();
        frame[FIRST_OPTION + offset] = value;
        frame
    };
    write_capture(
        &capture,
        &[
            msyn.clone(),
            changed(4, 0x21),
            changed(1, 26),
            changed(4, 0x17),
            changed(2, 0xf9),
        ],
    );
    let said = tshark(
        &capture,
        &[
            "-T",
            "fields",
            "-E",
            "separator=|",
            "-e",
            "mobility.type",
            "-e",
            "_ws.expert.message",
        ],
    );
    let lines: Vec<&str> = said.lines().collect();
    assert!(
        !lines[0].contains("version") && !lines[0].contains("length"),
        "{said}"
    );
    assert!(lines[1].contains("Another version"), "{said}");
    assert!(lines[2].contains("not the length of its type"), "{said}");
    assert!(lines[3].contains("not the length of its type"), "{said}");
    assert!(
        lines[4].starts_with('|'),
        "a foreign experiment is not ours: {said}"
    );
}

#[test]
fn no_byte_of_an_option_makes_the_dissector_fail() {
    let directory = tempfile::tempdir().expect("a directory");
    let capture = directory.path().join("mangled.pcap");
    let mut mangled = Vec::new();
    for golden in ["golden/permits.pcapng", "golden/resumption.pcapng"] {
        for frame in frames(&here(golden)) {
            for at in FIRST_OPTION..frame.len() {
                for value in [0, 1, 2, 4, 5, 27, 0x7f, 0xff] {
                    let mut one = frame.clone();
                    one[at] = value;
                    mangled.push(one);
                }
                mangled.push(frame[..at].to_vec());
            }
        }
    }
    write_capture(&capture, &mangled);
    let said = tshark(&capture, &["-V", "-Y", "mobility"]);
    assert!(said.contains("Connection Migration"), "none was looked at");
}
