//! What is written is what is read.
use crate::common::*;
use proptest::prelude::*;
use wire::{
    Checksums, Digest, EmitError, Endpoint, MigrateOption, Options, Permit, ReqNo, Request, Segment, Token,
    Tuple, digest,
    tuple::{address_bytes, address_from_bytes},
};

proptest! {
    #[test]
    fn a_permit_survives_the_wire(permit in any_permit()) {
        let bytes = permit.to_bytes();
        prop_assert_eq!(Permit::parse(&bytes), Ok(permit));
        prop_assert_eq!(MigrateOption::parse(&bytes), Ok(MigrateOption::Permit(permit)));
    }

    #[test]
    fn a_request_survives_the_wire(request in any_request()) {
        let bytes = request.to_bytes();
        prop_assert_eq!(Request::parse(&bytes), Ok(request));
        prop_assert_eq!(MigrateOption::parse(&bytes), Ok(MigrateOption::Request(request)));
    }

    #[test]
    fn a_segment_survives_the_wire_or_has_too_many_options(segment in any_segment()) {
        match segment.emit() {
            Ok(packet) => {
                prop_assert_eq!(Segment::parse(&packet), Ok(segment.clone()));
                let mut padded = packet.clone();
                padded.extend([0; 6]);
                prop_assert_eq!(Segment::parse(&padded), Ok(segment));
            }
            Err(error) => {
                let EmitError::Options { got } = error else { panic!("{error}") };
                prop_assert!(got > 40);
                prop_assert!(segment.migrate.is_some());
            }
        }
    }

    #[test]
    fn checksums_on_the_wire_are_those_of_another_implementation(segment in any_segment()) {
        let Ok(packet) = segment.emit() else { return Ok(()) };
        let sliced = etherparse::SlicedPacket::from_ip(&packet).unwrap();
        let tcp = match sliced.transport {
            Some(etherparse::TransportSlice::Tcp(tcp)) => tcp,
            other => panic!("{other:?}"),
        };
        match sliced.net.unwrap() {
            etherparse::NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                prop_assert!(header.dont_fragment);
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(
                    tcp.checksum(),
                    tcp.calc_checksum_ipv4(header.source, header.destination).unwrap()
                );
            }
            etherparse::NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                prop_assert_eq!(
                    tcp.checksum(),
                    tcp.calc_checksum_ipv6(header.source, header.destination).unwrap()
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_are_found_in_any_order(segment in any_segment(), keys in any::<[u64; 12]>()) {
        let Ok(packet) = segment.emit() else { return Ok(()) };
        let at = tcp_offset(&packet);
        let header_len = usize::from(packet[at + 12] >> 4) * 4;
        let area = at + 20..at + header_len;
        let mut options: Vec<&[u8]> = Options::of(&packet[area.clone()]).map(|o| o.unwrap().bytes()).collect();
        let nops = area.len() - options.iter().map(|option| option.len()).sum::<usize>();
        options.extend(std::iter::repeat_n(&[1][..], nops));
        let mut order: Vec<usize> = (0..options.len()).collect();
        order.sort_by_key(|&i| keys[i % keys.len()].rotate_left(i as u32));
        let shuffled: Vec<u8> = order.iter().flat_map(|&i| options[i]).copied().collect();
        let mut packet = packet.clone();
        packet[area].copy_from_slice(&shuffled);
        prop_assert_eq!(Segment::parse_with(&packet, Checksums::Ignore), Ok(segment));
    }

    #[test]
    fn an_address_survives_its_sixteen_bytes(tuple in any_tuple()) {
        let Tuple { local: Endpoint { address, .. }, .. } = tuple;
        prop_assert_eq!(address_from_bytes(address_bytes(address)), address);
    }

    #[test]
    fn a_digest_depends_on_address_port_and_sequence_number(endpoint in any_endpoint_v6(), seq: u32) {
        // One in 65536 collides by chance: of four neighbours at least one must differ.
        let Endpoint { address, port } = endpoint;
        let here = digest(endpoint, seq);
        let differs = |change: &dyn Fn(u16) -> Digest| (1..=4).any(|step| change(step) != here);
        let by_port = differs(&|step| digest(Endpoint { address, port: port ^ step }, seq));
        let by_seq = differs(&|step| digest(endpoint, seq ^ u32::from(step)));
        let by_address = differs(&|step| {
            let mut bytes = address_bytes(address);
            bytes[15] ^= step as u8;
            digest(Endpoint { address: address_from_bytes(bytes), port }, seq)
        });
        prop_assert_eq!((by_port, by_seq, by_address), (true, true, true));
    }
}

#[test]
fn a_handshake_segment_has_the_options_of_the_protocol_in_their_order() {
    for segment in signed_segments() {
        let packet = segment.emit().unwrap();
        let at = tcp_offset(&packet);
        let area = &packet[at + 20..];
        let kinds: Vec<u8> = Options::of(area).map(|option| option.unwrap().kind()).collect();
        match segment.mss {
            Some(_) => assert_eq!((area.len(), &kinds[..]), (36, &[253, 3, 4, 2][..])),
            None => assert_eq!((area.len(), &kinds[..], area[27]), (28, &[253][..], 1)),
        }
        assert_eq!(usize::from(packet[at + 12] >> 4) * 4, 20 + area.len());
    }
}

#[test]
fn the_digest_of_a_segment_tells_a_napt_from_a_direct_path() {
    for segment in signed_segments() {
        let request = segment.migrate.unwrap();
        assert!(request.is_direct(segment.source, segment.seq));
        assert!(!request.is_direct(endpoint("198.51.100.1:40000"), segment.seq));
        assert!(!request.is_direct(
            Endpoint {
                port: 1,
                ..segment.source
            },
            segment.seq
        ));
    }
    let direct = endpoint("192.168.1.2:40000");
    let permit = Permit::new(direct, 7253, 9);
    assert!(permit.is_direct(direct, 9));
    assert!(!permit.is_direct(direct, 10));
    assert!(
        !Permit {
            direct_port: 1,
            ..permit
        }
        .is_direct(direct, 9),
        "the permit contradicts itself"
    );
    assert!(!permit.is_direct(endpoint("192.168.1.2:40001"), 9));
    assert!(!permit.is_direct(endpoint("198.51.100.1:40000"), 9));
}

#[test]
fn a_mapped_address_is_the_ipv4_address_it_maps() {
    let mapped = endpoint("[::ffff:192.0.2.7]:40000");
    assert_eq!(mapped, endpoint("192.0.2.7:40000"));
    assert_eq!(digest(mapped, 1), digest(endpoint("192.0.2.7:40000"), 1));

    let [plain, _] = tuples();
    let unfolded = |endpoint: Endpoint| Endpoint {
        address: std::net::Ipv6Addr::from(endpoint.address_bytes()).into(),
        ..endpoint
    };
    let by_hand = Tuple::new(unfolded(plain.local), unfolded(plain.remote));
    let packet = |tuple| Segment::pure_ack(tuple, 1, 2, 3, None).emit().unwrap();
    assert_eq!(packet(by_hand), packet(plain));
}

#[test]
fn a_segment_between_two_families_cannot_be_written() {
    let mixed = tuple("192.0.2.7:40000", "[2001:db8::7]:443");
    let error = Segment::pure_ack(mixed, 1, 2, 3, None).emit().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no packet can go from 192.0.2.7 to 2001:db8::7: different address families"
    );
}

#[test]
fn a_segment_longer_than_an_ip_packet_cannot_be_written() {
    let [v4, v6] = tuples();
    for (tuple, most) in [(v4, 65535 - 40), (v6, 65535 - 20)] {
        let mut segment = Segment::pure_ack(tuple, 1, 2, 3, None);
        segment.payload = vec![7; most];
        assert_eq!(Segment::parse(&segment.emit().unwrap()).unwrap(), segment);
        segment.payload.push(7);
        assert_eq!(segment.emit(), Err(EmitError::Length { got: 20 + most + 1 }));
    }
}

#[test]
fn the_probe_lies_right_below_what_is_unacknowledged() {
    let [tuple, _] = tuples();
    let probe = Segment::probe(tuple, 0, 2, 3, None);
    assert_eq!((probe.seq, probe.payload.len()), (u32::MAX, 1));
}

#[test]
fn names_print_as_in_logs() {
    assert_eq!(Token(0xab).to_string(), "000000ab");
    assert_eq!(format!("{:?}", ReqNo(4)), "ReqNo(4)");
    assert_eq!(format!("{:?}", Digest(0xab)), "Digest(00ab)");
}
