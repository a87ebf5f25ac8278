//! Fixed test vectors of the byte layouts: what any second implementation has to produce, the BPF programs first.
//!
//! The expected values do not come from the code under test. They were computed by an implementation of its own
//! in another language: HMAC and SHA-256 of its standard library, SipHash-2-4, HKDF and the checksums written
//! from their definitions and checked with the vector of the SipHash paper (appendix A) and RFC 5869 (A.1).
//!
//! Other test programs may include this file by `#[path]` and use the tables; all byte strings are hexadecimal,
//! in the order of the wire.

use wire::{
    Checksums, ConnectionKeys, Endpoint, MacInput, MigrateOption, PairKey, Permit, ReqNo, Role, Segment,
    Standing, SynOptions, Token, digest,
};

/// The keys of one connection and its first tokens.
pub struct KeyVector {
    pub pair_key: &'static str,
    pub epoch: u32,
    pub isn_initiator: u32,
    pub isn_acceptor: u32,
    pub initiator_to_acceptor: &'static str,
    pub acceptor_to_initiator: &'static str,
    pub token_key: &'static str,
    /// Committed request number and token.
    pub tokens: [(u32, u32); 5],
}

/// The digest of an endpoint.
pub struct DigestVector {
    pub address: &'static str,
    pub port: u16,
    pub seq: u32,
    pub digest: u16,
}

/// A signed segment: what the MAC covers, the MAC, and the IP packet on the wire.
pub struct SegmentVector {
    pub name: &'static str,
    /// Who sends it, and so whose key of [`SEGMENT_KEYS`] signs it.
    pub sender: Role,
    pub other_req_no: u32,
    pub mac_input: &'static str,
    pub mac: &'static str,
    pub packet: &'static str,
}

/// Of which of [`KEYS`] the segments are.
pub const SEGMENT_KEYS: usize = 1;

#[rustfmt::skip]
pub const KEYS: [KeyVector; 3] = [
    KeyVector {
        pair_key:              "0000000000000000000000000000000000000000000000000000000000000000",
        epoch:                 0x0,
        isn_initiator:         0x00000000,
        isn_acceptor:          0x00000000,
        initiator_to_acceptor: "915af10f15ad948b15d38af51aee1d8b",
        acceptor_to_initiator: "36f0ef934ea1a9e8afeff1013fcd4728",
        token_key:             "4a58aaee2cc7d5c3e8de6760f0f4abd4",
        tokens: [(0, 0x91071a44), (1, 0xd057e9af), (2, 0x13969963), (3, 0xb891490d), (u32::MAX, 0x1106f675)],
    },
    KeyVector {
        pair_key:              "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
        epoch:                 0x1,
        isn_initiator:         0x01020304,
        isn_acceptor:          0xa1b2c3d4,
        initiator_to_acceptor: "9e4b582ee30c715ba94f97dc247e7507",
        acceptor_to_initiator: "fdf143697938a6c073952a92b01728eb",
        token_key:             "ae02ca67efded407b822671325a70ed1",
        tokens: [(0, 0x46bbd204), (1, 0x0a904ee7), (2, 0x311351b1), (3, 0xbfee4352), (u32::MAX, 0x000a87f1)],
    },
    KeyVector {
        pair_key:              "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        epoch:                 0xffffffff,
        isn_initiator:         0xffffffff,
        isn_acceptor:          0x80000000,
        initiator_to_acceptor: "eb71b15cc168fe3b85f9d224b2b0faf9",
        acceptor_to_initiator: "6ae97a826054110a75a99eb4e6b388e1",
        token_key:             "75faa2b3d2fd7c7cce10c99b556f33aa",
        tokens: [(0, 0x25886aa2), (1, 0xd9b4512a), (2, 0x4ca5e7e3), (3, 0x27a6e75e), (u32::MAX, 0xb57e8c9b)],
    },
];

#[rustfmt::skip]
pub const DIGESTS: [DigestVector; 6] = [
    DigestVector { address: "0.0.0.0",      port:     0, seq: 0x00000000, digest: 0xc60a },
    DigestVector { address: "192.0.2.7",    port: 40000, seq: 0x11223344, digest: 0xc808 },
    DigestVector { address: "192.168.1.2",  port: 40000, seq: 0x11223344, digest: 0x9f67 },
    DigestVector { address: "203.0.113.3",  port:   443, seq: 0xffffffff, digest: 0x5d1a },
    DigestVector { address: "::",           port:     0, seq: 0x00000000, digest: 0x2576 },
    DigestVector { address: "2001:db8::7",  port: 40000, seq: 0x11223344, digest: 0x5141 },
];

/// The Migrate-Permit of 192.0.2.7:40000 with agent port 7253, in a SYN with sequence number 0x11223344.
pub const PERMIT: &str = "fd0b4d49109c401c55c808";

/// Every segment with a Migrate-Request on both families, the connection's identity endpoints being
/// 192.0.2.7:40000 (2001:db8::7) at the initiator and 203.0.113.3:443 (2001:db8:f::3) at the acceptor.
/// Hop limit 64.
#[rustfmt::skip]
pub const SEGMENTS: [SegmentVector; 12] = [
    SegmentVector {
        name: "MSYN IPv4", sender: Role::Initiator, other_req_no: 0,
        mac_input: "1102faf046bbd2040000000200000000112233440000000055667788c8080000",
        mac: "030ad511345b9e36",
        packet: "4500004c0000400040063ca1c0000207cb0071039c4001bb1122334400000000e002faf0731a0000fd1b4d491146bbd2040000000255667788c808030ad511345b9e36030307040202040578",
    },
    SegmentVector {
        name: "MSYN-ACK IPv4", sender: Role::Acceptor, other_req_no: 0,
        mac_input: "1212ffff46bbd2040000000200000000556677871122334511223345bcb80000",
        mac: "7569e69c1c39c496",
        packet: "4500004c0000400040063ca1cb007103c000020701bb9c405566778711223345e012ffff4f0e0000fd1b4d491246bbd2040000000211223345bcb87569e69c1c39c496030307040202040578",
    },
    SegmentVector {
        name: "Migrate-Ack IPv4", sender: Role::Initiator, other_req_no: 0,
        mac_input: "131001f646bbd2040000000200000000112233455566778855667788d3480000",
        mac: "1b7b1f217ff08335",
        packet: "450000440000400040063ca9c0000207cb0071039c4001bb1122334555667788c01001f677080000fd1b4d491346bbd2040000000255667788d3481b7b1f217ff0833501",
    },
    SegmentVector {
        name: "Migrate-Reset IPv4", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1410000046bbd2040000000300000002556677881122334511223345eb910000",
        mac: "17c22e6cee488e1a",
        packet: "450000440000400040063ca9cb007103c000020701bb9c405566778811223345c0100000e5e90000fd1b4d491446bbd2040000000311223345eb9117c22e6cee488e1a01",
    },
    SegmentVector {
        name: "Query IPv4", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1510000046bbd2040000000300000002556677881122334511223345eb910000",
        mac: "1a3a5962cac073e2",
        packet: "450000440000400040063ca9cb007103c000020701bb9c405566778811223345c010000036fa0000fd1b4d491546bbd2040000000311223345eb911a3a5962cac073e201",
    },
    SegmentVector {
        name: "Answer IPv4", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1610000046bbd2040000000300000002556677881122334511223345eb910000",
        mac: "a8235760c1fd086e",
        packet: "450000440000400040063ca9cb007103c000020701bb9c405566778811223345c010000085e20000fd1b4d491646bbd2040000000311223345eb91a8235760c1fd086e01",
    },
    SegmentVector {
        name: "MSYN IPv6", sender: Role::Initiator, other_req_no: 0,
        mac_input: "1102faf046bbd204000000020000000011223344000000005566778851410000",
        mac: "fac82ac577c92764",
        packet: "600000000038064020010db800000000000000000000000720010db8000f000000000000000000039c4001bb1122334400000000e002faf0cf0b0000fd1b4d491146bbd20400000002556677885141fac82ac577c92764030307040202040564",
    },
    SegmentVector {
        name: "MSYN-ACK IPv6", sender: Role::Acceptor, other_req_no: 0,
        mac_input: "1212ffff46bbd2040000000200000000556677871122334511223345b8eb0000",
        mac: "189f6e29b29d176b",
        packet: "600000000038064020010db8000f0000000000000000000320010db800000000000000000000000701bb9c405566778711223345e012ffffc3920000fd1b4d491246bbd2040000000211223345b8eb189f6e29b29d176b030307040202040564",
    },
    SegmentVector {
        name: "Migrate-Ack IPv6", sender: Role::Initiator, other_req_no: 0,
        mac_input: "131001f646bbd2040000000200000000112233455566778855667788b25b0000",
        mac: "b9141d164d610dea",
        packet: "600000000030064020010db800000000000000000000000720010db8000f000000000000000000039c4001bb1122334555667788c01001f652b60000fd1b4d491346bbd2040000000255667788b25bb9141d164d610dea01",
    },
    SegmentVector {
        name: "Migrate-Reset IPv6", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1410000046bbd204000000030000000255667788112233451122334575d20000",
        mac: "a155a603d4c909e9",
        packet: "600000000030064020010db8000f0000000000000000000320010db800000000000000000000000701bb9c405566778811223345c0100000cd7c0000fd1b4d491446bbd204000000031122334575d2a155a603d4c909e901",
    },
    SegmentVector {
        name: "Query IPv6", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1510000046bbd204000000030000000255667788112233451122334575d20000",
        mac: "545d73031c478480",
        packet: "600000000030064020010db8000f0000000000000000000320010db800000000000000000000000701bb9c405566778811223345c0100000b03a0000fd1b4d491546bbd204000000031122334575d2545d73031c47848001",
    },
    SegmentVector {
        name: "Answer IPv6", sender: Role::Acceptor, other_req_no: 2,
        mac_input: "1610000046bbd204000000030000000255667788112233451122334575d20000",
        mac: "8c27d7311e879353",
        packet: "600000000030064020010db8000f0000000000000000000320010db800000000000000000000000701bb9c405566778811223345c0100000a38d0000fd1b4d491646bbd204000000031122334575d28c27d7311e87935301",
    },
];
#[test]
fn keys_and_tokens_are_those_of_the_table() {
    for vector in &KEYS {
        let keys = vector_keys(vector);
        assert_eq!(
            hex::encode(keys.initiator_to_acceptor.as_bytes()),
            vector.initiator_to_acceptor
        );
        assert_eq!(
            hex::encode(keys.acceptor_to_initiator.as_bytes()),
            vector.acceptor_to_initiator
        );
        assert_eq!(hex::encode(keys.token_key.as_bytes()), vector.token_key);
        for (committed, token) in vector.tokens {
            assert_eq!(keys.token(ReqNo(committed)), Token(token));
        }
    }
}

#[test]
fn digests_are_those_of_the_table() {
    for vector in &DIGESTS {
        let endpoint = Endpoint::new(vector.address.parse().unwrap(), vector.port);
        assert_eq!(digest(endpoint, vector.seq).0, vector.digest, "{endpoint}");
    }
}

#[test]
fn the_permit_is_that_of_the_table() {
    let direct = Endpoint::new("192.0.2.7".parse().unwrap(), 40000);
    let permit = Permit::new(direct, 7253, 0x1122_3344);
    assert_eq!(hex::encode(permit.to_bytes()), PERMIT);
    let bytes = hex::decode(PERMIT).unwrap();
    assert_eq!(MigrateOption::parse(&bytes), Ok(MigrateOption::Permit(permit)));
}

#[test]
fn signed_segments_are_those_of_the_table() {
    let keys = vector_keys(&KEYS[SEGMENT_KEYS]);
    for vector in &SEGMENTS {
        let packet = hex::decode(vector.packet).unwrap();
        let segment = Segment::parse(&packet).unwrap();
        let other_req_no = ReqNo(vector.other_req_no);
        let input = MacInput::of(&segment, other_req_no).unwrap();
        assert_eq!(hex::encode(input.to_bytes()), vector.mac_input, "{}", vector.name);
        assert_eq!(
            input.sign(keys.outgoing(vector.sender)).to_string(),
            vector.mac,
            "{}",
            vector.name
        );
        segment
            .verify(keys.incoming(vector.sender.peer()), other_req_no)
            .unwrap();
        assert_eq!(
            hex::encode(segment.emit().unwrap()),
            vector.packet,
            "{}",
            vector.name
        );
    }
}

#[test]
fn constructors_build_the_segments_of_the_table() {
    let keys = vector_keys(&KEYS[SEGMENT_KEYS]);
    for vector in &SEGMENTS {
        let packet = hex::decode(vector.packet).unwrap();
        let expected = Segment::parse_with(&packet, Checksums::Ignore).unwrap();
        let Segment { seq, ack, window, .. } = expected;
        let request = expected.migrate.unwrap();
        let standing = Standing {
            token: keys.token(ReqNo::UNMOVED),
            req_no: request.req_no,
            seq,
            rcv_nxt: request.rcv_nxt,
            window,
        };
        let tuple = expected.tuple();
        let mss = if tuple.is_ipv4() { 1400 } else { 1380 };
        let syn = SynOptions { window_scale: 7, mss };
        let mut built = match vector.name.split(' ').next().unwrap() {
            "MSYN" => Segment::msyn(tuple, standing, syn),
            "MSYN-ACK" => Segment::msyn_ack(tuple, standing, ack, syn),
            "Migrate-Ack" => Segment::migrate_ack(tuple, standing, ack),
            "Migrate-Reset" => Segment::migrate_reset(tuple, standing, ack),
            "Query" => Segment::query(tuple, standing, ack),
            "Answer" => Segment::answer(tuple, standing, ack),
            other => panic!("no constructor for {other}"),
        };
        built
            .sign(keys.outgoing(vector.sender), ReqNo(vector.other_req_no))
            .unwrap();
        assert_eq!(
            hex::encode(built.emit().unwrap()),
            vector.packet,
            "{}",
            vector.name
        );
    }
}

fn vector_keys(vector: &KeyVector) -> ConnectionKeys {
    let mut pair_key = [0; 32];
    hex::decode_to_slice(vector.pair_key, &mut pair_key).unwrap();
    ConnectionKeys::derive(
        &PairKey::new(pair_key),
        vector.epoch,
        vector.isn_initiator,
        vector.isn_acceptor,
    )
}
