//! Frames whatever their bytes: what is recognised, and what a flipped bit changes.
use lab::emulator::segment::{Packet, flip, reset_behind};
use lab::language::ast::{Flip, Segments};
use pnet::packet::ethernet::{EtherTypes, MutableEthernetPacket};
use pnet::packet::ip::IpNextHeaderProtocols;
use pnet::packet::ipv4::{self, MutableIpv4Packet};
use pnet::packet::ipv6::MutableIpv6Packet;
use pnet::packet::tcp::{self, MutableTcpPacket, TcpPacket};

const SYN: u8 = 2;
const ACK: u8 = 16;

/// An Ethernet frame with a TCP segment, built by somebody else's code.
fn frame(ipv6: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len().next_multiple_of(4);
    let network = if ipv6 { 40 } else { 20 };
    let mut frame = vec![0; 14 + network + header + payload.len()];
    let mut ethernet = MutableEthernetPacket::new(&mut frame).unwrap();
    ethernet.set_ethertype(if ipv6 { EtherTypes::Ipv6 } else { EtherTypes::Ipv4 });
    let body = &mut frame[14 + network..];
    body[20..20 + options.len()].copy_from_slice(options);
    body[header..].copy_from_slice(payload);
    let mut segment = MutableTcpPacket::new(body).unwrap();
    segment.set_source(4000);
    segment.set_destination(80);
    segment.set_sequence(0x0102_0304);
    segment.set_data_offset((header / 4) as u8);
    segment.set_flags(flags);
    if ipv6 {
        let (source, destination) = ("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap());
        let sum = tcp::ipv6_checksum(&segment.to_immutable(), &source, &destination);
        segment.set_checksum(sum);
        let mut packet = MutableIpv6Packet::new(&mut frame[14..]).unwrap();
        packet.set_version(6);
        packet.set_payload_length((header + payload.len()) as u16);
        packet.set_next_header(IpNextHeaderProtocols::Tcp);
        packet.set_source(source);
        packet.set_destination(destination);
    } else {
        let (source, destination) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let sum = tcp::ipv4_checksum(&segment.to_immutable(), &source, &destination);
        segment.set_checksum(sum);
        let mut packet = MutableIpv4Packet::new(&mut frame[14..]).unwrap();
        packet.set_version(4);
        packet.set_header_length(5);
        packet.set_total_length((network + header + payload.len()) as u16);
        packet.set_next_level_protocol(IpNextHeaderProtocols::Tcp);
        packet.set_source(source);
        packet.set_destination(destination);
        let sum = ipv4::checksum(&packet.to_immutable());
        packet.set_checksum(sum);
    }
    frame
}

/// A Migrate option of a type, as long as a Migrate-Request.
fn migrate(kind: u8) -> Vec<u8> {
    let mut option = vec![253, 27, 0x4d, 0x49, 0x10 | kind];
    option.resize(27, 0xaa);
    option
}

fn checksum_is_right(frame: &[u8], ipv6: bool) -> bool {
    let body = &frame[14 + if ipv6 { 40 } else { 20 }..];
    let segment = TcpPacket::new(body).unwrap();
    let sum = if ipv6 {
        tcp::ipv6_checksum(&segment, &"fd00::1".parse().unwrap(), &"fd00::2".parse().unwrap())
    } else {
        tcp::ipv4_checksum(
            &segment,
            &"10.0.0.1".parse().unwrap(),
            &"10.0.0.2".parse().unwrap(),
        )
    };
    sum == segment.get_checksum()
}

#[test]
fn segments_are_told_apart_on_both_families() {
    for ipv6 in [false, true] {
        let is = |flags, options: &[u8], payload: &[u8]| -> Vec<&str> {
            let packet = Packet::read(&frame(ipv6, flags, options, payload)).expect("a packet");
            let all = Segments::ALL.iter().filter(|(_, segments)| packet.is(*segments));
            all.map(|(word, _)| *word).collect()
        };
        let padded = |kind| [vec![1, 1, 2, 4, 5, 180], migrate(kind)].concat();
        assert_eq!(is(SYN, &[2, 4, 5, 180], b""), ["any", "syn"]);
        assert_eq!(is(SYN | ACK, &[], b""), ["any", "syn-ack"]);
        assert_eq!(is(ACK, &[], b"x"), ["any", "data"]);
        assert_eq!(is(ACK, &[], b""), ["any"]);
        assert_eq!(is(ACK | 1, &[], b""), ["any", "fin"]);
        assert_eq!(is(4, &[], b""), ["any", "rst"]);
        assert_eq!(is(SYN, &padded(1), b""), ["any", "msyn"]);
        assert_eq!(is(SYN | ACK, &padded(2), b""), ["any", "msyn-ack"]);
        assert_eq!(is(ACK, &padded(3), b""), ["any", "migrate-ack"]);
        assert_eq!(is(ACK, &padded(4), b""), ["any", "migrate-reset"]);
        // A Permit is an ordinary SYN; another experiment's option is nobody's.
        assert_eq!(is(SYN, &padded(0), b""), ["any", "syn"]);
        assert_eq!(is(SYN, &[253, 6, 0x12, 0x34, 1, 0], b""), ["any", "syn"]);
    }
}

#[test]
fn a_flipped_bit_keeps_the_checksum_right_unless_it_is_to_be_stale() {
    for ipv6 in [false, true] {
        let whole = frame(ipv6, SYN, &migrate(1), b"");
        assert!(checksum_is_right(&whole, ipv6));
        let tcp = Packet::read(&whole).unwrap().tcp.unwrap();
        for in_option in [false, true] {
            for bit in 0..27 * 8 {
                // The checksum itself, and the length of the header that a reader needs.
                let sensitive = (96..100).contains(&bit) || (128..144).contains(&bit);
                if !in_option && sensitive {
                    continue;
                }
                let mut changed = whole.clone();
                assert!(flip(
                    &mut changed,
                    &tcp,
                    Flip {
                        bit,
                        in_option,
                        stale: false
                    }
                ));
                let differing = whole.iter().zip(&changed).filter(|(a, b)| a != b).count();
                assert!(
                    (2..=3).contains(&differing),
                    "bit {bit}: {differing} bytes differ"
                );
                assert!(
                    checksum_is_right(&changed, ipv6),
                    "bit {bit}, in the option: {in_option}"
                );
                let mut stale = whole.clone();
                flip(
                    &mut stale,
                    &tcp,
                    Flip {
                        bit,
                        in_option,
                        stale: true,
                    },
                );
                assert!(!checksum_is_right(&stale, ipv6));
            }
        }
        assert!(!flip(
            &mut whole.clone(),
            &tcp,
            Flip {
                bit: 27 * 8,
                in_option: true,
                stale: false
            }
        ));
    }
}

#[test]
fn no_frame_whatever_its_bytes_makes_the_reader_panic() {
    for ipv6 in [false, true] {
        let whole = frame(ipv6, SYN, &migrate(1), b"payload");
        for end in 0..whole.len() {
            let _ = Packet::read(&whole[..end]);
        }
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                if let Some(tcp) = Packet::read(&changed).and_then(|packet| packet.tcp) {
                    flip(
                        &mut changed,
                        &tcp,
                        Flip {
                            bit: 479,
                            in_option: false,
                            stale: false,
                        },
                    );
                    flip(
                        &mut changed,
                        &tcp,
                        Flip {
                            bit: 8,
                            in_option: true,
                            stale: false,
                        },
                    );
                }
            }
        }
    }
}

#[test]
fn a_reset_behind_a_segment_has_the_number_that_follows_it() {
    for ipv6 in [false, true] {
        let segment = frame(ipv6, ACK, &[1, 1, 1, 1], b"seven b");
        let reset = reset_behind(&segment).unwrap();
        let tcp = Packet::read(&reset).unwrap().tcp.unwrap();
        assert_eq!((tcp.header, tcp.payload, tcp.flags), (20, 0, 4 | ACK));
        let read = TcpPacket::new(&reset[tcp.at..]).unwrap();
        assert_eq!(read.get_sequence(), 0x0102_0304 + 7);
        assert!(checksum_is_right(&reset, ipv6));
        let whole = Packet::read(&segment).unwrap();
        let read = Packet::read(&reset).unwrap();
        assert_eq!((read.source, read.destination), (whole.source, whole.destination));
        if !ipv6 {
            let header = pnet::packet::ipv4::Ipv4Packet::new(&reset[14..]).unwrap();
            assert_eq!(ipv4::checksum(&header), header.get_checksum());
        }
    }
    assert_eq!(reset_behind(b"nothing of the kind"), None);
}
