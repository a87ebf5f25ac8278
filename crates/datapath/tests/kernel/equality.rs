//! MACs and digests of the BPF programs against those of the wire crate.

use std::net::IpAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use wire::keys::MacKey;
use wire::tuple::Endpoint;

use crate::place::{Host, isolated};

/// The table that any second implementation is compared with.
#[path = "../../../wire/tests/wire/vectors.rs"]
#[allow(dead_code)]
pub mod vectors;

pub fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    all_bytes(hex)
        .try_into()
        .expect("as many bytes as the table says")
}

pub fn all_bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).expect("hexadecimal")
}

/// The key that signs what this role sends in the table's segments.
pub fn key_of(sender: wire::Role) -> MacKey {
    let keys = &vectors::KEYS[vectors::SEGMENT_KEYS];
    MacKey::new(bytes(match sender {
        wire::Role::Initiator => keys.initiator_to_acceptor,
        wire::Role::Acceptor => keys.acceptor_to_initiator,
    }))
}

#[test]
fn macs_and_digests_are_those_of_the_table() {
    isolated(|| {
        let datapath = Host::first().open();
        for vector in &vectors::SEGMENTS {
            let mac = datapath
                .mac(&key_of(vector.sender), bytes(vector.mac_input))
                .unwrap();
            assert_eq!(mac.to_le_bytes(), bytes::<8>(vector.mac), "{}", vector.name);
        }
        for vector in &vectors::DIGESTS {
            let endpoint = Endpoint::new(vector.address.parse().unwrap(), vector.port);
            assert_eq!(
                datapath.digest(endpoint, vector.seq).unwrap(),
                vector.digest,
                "{endpoint}"
            );
        }
    });
}

#[test]
fn macs_and_digests_are_those_of_the_wire_crate_for_ten_thousand_random_inputs() {
    isolated(|| {
        let datapath = Host::first().open();
        let mut random = StdRng::seed_from_u64(0x6d6f_6269_6c65);
        for _ in 0..10_000 {
            let key = MacKey::new(random.random());
            let input = wire::MacInput {
                version_type: random.random(),
                flags: wire::Flags(random.random::<u8>() & 0x3f),
                window: random.random(),
                token: wire::Token(random.random()),
                req_no: wire::ReqNo(random.random()),
                other_req_no: wire::ReqNo(random.random()),
                seq: random.random(),
                ack: random.random(),
                rcv_nxt: random.random(),
                digest: wire::Digest(random.random()),
            };
            let mac = datapath.mac(&key, input.to_bytes()).unwrap();
            assert_eq!(mac.to_le_bytes(), input.sign(&key).0, "{input:?}");

            let address: IpAddr = match random.random() {
                true => IpAddr::from(random.random::<[u8; 4]>()),
                false => IpAddr::from(random.random::<[u8; 16]>()),
            };
            let (endpoint, seq) = (Endpoint::new(address, random.random()), random.random());
            assert_eq!(
                datapath.digest(endpoint, seq).unwrap(),
                wire::digest(endpoint, seq).0,
                "{endpoint} {seq}"
            );
        }
    });
}
