//! What is read from segments, and what is written.
use mptcp_pm::Token;
use mptcp_relay::reset::{self, Purpose};
use mptcp_relay::syn::{Asks, Syn, SynAck};
use proptest::prelude::*;

use crate::{ends, socket};

fn packet(options: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = vec![0_u8; 20];
    bytes[0] = 0x45;
    bytes[9] = 6;
    bytes[12..16].copy_from_slice(&[10, 0, 0, 2]);
    bytes[16..20].copy_from_slice(&[203, 0, 113, 3]);
    let mut header = vec![0_u8; 20];
    header[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    header[2..4].copy_from_slice(&80_u16.to_be_bytes());
    header[12] = (((20 + options.len()) / 4) << 4) as u8;
    header[13] = flags;
    bytes.extend(header);
    bytes.extend(options);
    bytes
}

const CAPABLE: [u8; 4] = [30, 4, 0x01, 0x01];

#[test]
fn a_syn_says_whether_it_asks_for_a_connection_or_a_subflow() {
    let capable = Syn::read(&packet(&CAPABLE, 2)).expect("a SYN");
    assert_eq!((capable.ends, capable.asks), (ends(40_000), Asks::Capable));
    let join = [1, 1, 1, 1, 30, 12, 0x10, 2, 0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0];
    let join = Syn::read(&packet(&join, 2)).expect("a SYN");
    assert_eq!(join.asks, Asks::Join(Token(0xcafe_babe)));
}

#[test]
fn a_syn_of_a_terminal_without_mptcp_says_whether_its_agent_offers_to_migrate() {
    let permit = [253, 11, b'M', b'I', 0x10, 0x9c, 0x40, 0x1e, 0x79, 7, 7, 1];
    let asks = |options: &[u8]| Syn::read(&packet(options, 2)).expect("a SYN").asks;
    assert_eq!(asks(&permit), Asks::Migrate);
    // Another experiment, and a Migrate-Request, which is longer.
    assert_eq!(asks(&[253, 11, b'M', b'J', 0, 0, 0, 0, 0, 0, 0, 1]), Asks::Plain);
    assert_eq!(asks(&[253, 12, b'M', b'I', 0, 0, 0, 0, 0, 0, 0, 0]), Asks::Plain);
    let both = [&CAPABLE[..], &permit].concat();
    assert_eq!(asks(&both), Asks::Capable);
}

#[test]
fn what_is_no_syn_or_malformed_is_never_taken_for_mptcp() {
    assert_eq!(Syn::read(&packet(&CAPABLE, 0x12)), None, "a SYN-ACK");
    for broken in [
        [30, 3, 0x01, 0x01],
        [30, 0, 0x01, 0x01],
        [30, 40, 0x01, 0x01],
        [30, 4, 0x11, 0x01],
        [2, 1, 30, 4],
    ] {
        let syn = Syn::read(&packet(&broken, 2)).expect("a SYN all the same");
        assert_eq!(syn.asks, Asks::Plain, "{broken:?}");
    }
}

proptest! {
    #[test]
    fn no_packet_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        Syn::read(&bytes);
    }
}

#[test]
fn an_answer_says_whether_a_terminal_agrees_to_mptcp() {
    let mut agreed = vec![30, 12, 0x01, 0x01];
    agreed.extend([7; 8]);
    let answer = SynAck::read(&packet(&agreed, 0x12)).expect("a SYN-ACK");
    assert!(answer.capable);
    for plain in [&[][..], &[1, 1, 1, 1], &CAPABLE, &[30, 0, 0, 0]] {
        let answer = SynAck::read(&packet(plain, 0x12)).expect("a SYN-ACK");
        assert!(!answer.capable, "{plain:?}");
    }
    assert_eq!(SynAck::read(&packet(&agreed, 2)), None, "a SYN");
}

#[test]
fn a_reset_is_a_packet_with_right_checksums_in_both_families() {
    for (from, to, headers) in [
        ("192.0.2.1:80", "10.0.0.2:4000", 40),
        ("[2001:db8::1]:80", "[2001:db8::2]:4000", 60),
    ] {
        let packet = reset::packet(
            socket(from),
            socket(to),
            Purpose::Reset {
                sequence: 0x0102_0304,
            },
        );
        assert_eq!(packet.len(), headers);
        let segment = &packet[headers - 20..];
        assert_eq!(segment[4..8], [1, 2, 3, 4]);
        assert_eq!(segment[13], 4, "RST alone");
        let addresses = if headers == 40 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        let all = [addresses, &[0, 6, 0, 20], segment].concat();
        let sum: u32 = all
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
