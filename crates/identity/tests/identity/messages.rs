//! Any bytes are a message or an error, and every message survives the wire.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use identity::Message;
use identity::message::{Enrol, EnrolSecret, EnrolStep, ResetVerdict};
use proptest::prelude::*;
use prost::Message as _;
use proto::pair::v1 as pb;
use proto::pair::v1::envelope::Body;
use wire::{Endpoint, Tuple};

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| Endpoint::new(address, port))
}

fn tuple() -> impl Strategy<Value = Tuple> {
    (endpoint(), endpoint()).prop_map(|(local, remote)| Tuple::new(local, remote))
}

fn message() -> impl Strategy<Value = Message> {
    let verdict = prop_oneof![
        Just(ResetVerdict::Genuine),
        Just(ResetVerdict::NotMine),
        Just(ResetVerdict::Unknown)
    ];
    let step = prop_oneof![
        Just(EnrolStep::Offer),
        Just(EnrolStep::Accept),
        Just(EnrolStep::Decline)
    ];
    prop_oneof![
        (any::<u64>(), any::<u32>(), any::<u32>(), tuple()).prop_map(
            |(question, isn_initiator, isn_acceptor, tuple)| {
                Message::AskReset {
                    question,
                    isn_initiator,
                    isn_acceptor,
                    tuple,
                }
            }
        ),
        (any::<u64>(), verdict).prop_map(|(question, verdict)| Message::ResetAnswer { question, verdict }),
        (any::<u32>(), any::<u32>(), any::<u32>(), tuple()).prop_map(
            |(isn_initiator, isn_acceptor, req_no, tuple)| {
                Message::ObservedTuple {
                    isn_initiator,
                    isn_acceptor,
                    req_no,
                    tuple,
                }
            }
        ),
        (any::<u64>(), step, tuple(), any::<[u32; 3]>(), any::<[u8; 16]>()).prop_map(
            |(question, step, tuple, [snd_una, snd_nxt, rcv_nxt], random)| {
                let random = EnrolSecret(random);
                Message::Enrol(Enrol {
                    question,
                    step,
                    tuple,
                    snd_una,
                    snd_nxt,
                    rcv_nxt,
                    random,
                })
            }
        ),
        any::<[u32; 2]>().prop_map(|[isn_initiator, isn_acceptor]| Message::Unheard {
            isn_initiator,
            isn_acceptor
        }),
        any::<u32>().prop_map(|highest_epoch| Message::KeysLost { highest_epoch }),
        any::<u32>().prop_map(|s| Message::GoingToSleep {
            longest: Duration::from_secs(s.into())
        }),
        any::<u64>().prop_map(|number| Message::Ping { number }),
        any::<u64>().prop_map(|number| Message::Pong { number }),
        Just(Message::Bye),
    ]
}

fn encoded(message: &Message) -> BytesMut {
    let mut body = BytesMut::new();
    message.encode(&mut body);
    body
}

/// Messages whose shape is right and whose fields are anything.
fn shaped() -> impl Strategy<Value = pb::Envelope> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..20);
    let endpoint = move || (bytes(), any::<u32>()).prop_map(|(address, port)| pb::Endpoint { address, port });
    let tuple = move || {
        (prop::option::of(endpoint()), prop::option::of(endpoint()))
            .prop_map(|(local, remote)| pb::Tuple { local, remote })
    };
    let body = prop_oneof![
        (any::<u64>(), any::<i32>())
            .prop_map(|(question, verdict)| Body::ResetAnswer(pb::ResetAnswer { question, verdict })),
        (any::<u64>(), prop::option::of(tuple())).prop_map(|(question, tuple)| {
            Body::AskReset(pb::AskReset {
                question,
                isn_initiator: 1,
                isn_acceptor: 2,
                tuple,
            })
        }),
        (any::<i32>(), prop::option::of(tuple()), bytes()).prop_map(|(step, tuple, random)| {
            Body::Enrol(pb::Enrol {
                question: 1,
                step,
                tuple,
                snd_una: 0,
                snd_nxt: 0,
                rcv_nxt: 0,
                random,
            })
        }),
        (
            any::<u32>(),
            any::<u32>(),
            bytes(),
            bytes(),
            any::<u32>(),
            ".{0,9}"
        )
            .prop_map(|(version, agent_port, address, random, epoch, server)| {
                let facts = pb::Facts {
                    version: version % 3,
                    agent_port,
                    direct_addresses: vec![address],
                    servers: vec![server],
                    random,
                    epoch,
                    ..pb::Facts::default()
                };
                Body::Hello(pb::Hello { facts: Some(facts) })
            }),
        bytes().prop_map(|mac| Body::Confirm(pb::Confirm { mac })),
        (any::<i32>(), any::<u32>())
            .prop_map(|(reason, version)| Body::Refuse(pb::Refuse { reason, version })),
    ];
    prop::option::of(body).prop_map(|body| pb::Envelope { body })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_message_survives_the_wire(message in message()) {
        prop_assert_eq!(Message::decode(&encoded(&message)).unwrap(), message);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(error) = Message::decode(&bytes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn any_fields_are_a_message_or_an_error(envelope in shaped()) {
        if let Ok(message) = Message::decode(&envelope.encode_to_vec()) {
            // What is accepted means the same when it is said again.
            prop_assert_eq!(Message::decode(&encoded(&message)).unwrap(), message);
        }
    }

    #[test]
    fn a_truncated_message_is_never_taken_for_another(message in message(), cut in any::<prop::sample::Index>()) {
        let whole = encoded(&message);
        let cut = cut.index(whole.len());
        if let Ok(other) = Message::decode(&whole[..cut]) {
            prop_assert_ne!(other, message);
        }
    }

    #[test]
    fn a_message_with_one_bit_flipped_is_a_message_or_an_error(message in message(), at in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message);
        let bit = at.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let _ = Message::decode(&bytes);
    }
}

#[test]
fn a_message_of_nothing_and_one_of_the_future_are_errors() {
    assert!(Message::decode(&[]).is_err());
    // Field 1000, which no version has.
    assert!(Message::decode(&[0xc2, 0x3e, 0]).is_err());
}
