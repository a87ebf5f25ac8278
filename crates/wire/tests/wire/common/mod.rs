//! Arbitrary values of every type, and packets with known contents.
#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;
use wire::{
    ConnectionKeys, Digest, Endpoint, Flags, Mac, PairKey, Permit, ReqNo, Request, RequestType, Role,
    Segment, Standing, SynOptions, Token, Tuple,
};

pub fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("a socket address").into()
}

pub fn tuple(local: &str, remote: &str) -> Tuple {
    Tuple::new(endpoint(local), endpoint(remote))
}

/// One tuple of each family, as the mover sees it.
pub fn tuples() -> [Tuple; 2] {
    [
        tuple("192.0.2.7:40000", "203.0.113.3:443"),
        tuple("[2001:db8::7]:40000", "[2001:db8:f::3]:443"),
    ]
}

pub fn keys() -> ConnectionKeys {
    ConnectionKeys::derive(&PairKey::new([0x5a; 32]), 3, 1000, 2000)
}

/// Every segment with a Migrate-Request, signed by the initiator, on both families.
pub fn signed_segments() -> Vec<Segment> {
    let keys = keys();
    let standing = Standing {
        token: keys.token(ReqNo::UNMOVED),
        req_no: ReqNo(2),
        seq: 0x1122_3344,
        rcv_nxt: 0x5566_7788,
        window: 64240,
    };
    let syn = SynOptions {
        window_scale: 7,
        mss: 1400,
    };
    let ack = 0x0a0b_0c0d;
    let mut segments: Vec<Segment> = tuples()
        .into_iter()
        .flat_map(|tuple| {
            [
                Segment::msyn(tuple, standing, syn),
                Segment::msyn_ack(tuple, standing, ack, syn),
                Segment::migrate_ack(tuple, standing, ack),
                Segment::migrate_reset(tuple, standing, ack),
                Segment::query(tuple, standing, ack),
                Segment::answer(tuple, standing, ack),
            ]
        })
        .collect();
    for segment in &mut segments {
        segment
            .sign(keys.outgoing(Role::Initiator), ReqNo(5))
            .expect("it has a request");
    }
    segments
}

/// [`signed_segments`] and those without a Migrate-Request.
pub fn all_segments() -> Vec<Segment> {
    let mut segments = signed_segments();
    for tuple in tuples() {
        let mut syn = Segment::bare(tuple, Flags::SYN | Flags::ECE | Flags::CWR, 77, 0, 64240);
        syn.mss = Some(1460);
        syn.timestamps = Some((1, 0));
        syn.permit = Some(Permit::new(tuple.local, 7253, syn.seq));
        segments.push(syn);
        segments.push(Segment::pure_ack(tuple, 1, 2, 3, None));
        segments.push(Segment::pure_ack(tuple, 1, 2, 3, Some((4, 5))));
        segments.push(Segment::probe(tuple, 0, 2, 3, Some((4, 5))));
    }
    segments
}

pub fn any_endpoint_v4() -> impl Strategy<Value = Endpoint> {
    (any::<u32>(), any::<u16>())
        .prop_map(|(address, port)| Endpoint::new(Ipv4Addr::from(address).into(), port))
}

pub fn any_endpoint_v6() -> impl Strategy<Value = Endpoint> {
    (any::<u128>().prop_map(Ipv6Addr::from), any::<u16>())
        .prop_filter("an IPv4-mapped address is IPv4", |(address, _)| {
            address.to_ipv4_mapped().is_none()
        })
        .prop_map(|(address, port)| Endpoint::new(address.into(), port))
}

pub fn any_tuple() -> impl Strategy<Value = Tuple> {
    prop_oneof![
        (any_endpoint_v4(), any_endpoint_v4()).prop_map(|(local, remote)| Tuple::new(local, remote)),
        (any_endpoint_v6(), any_endpoint_v6()).prop_map(|(local, remote)| Tuple::new(local, remote)),
    ]
}

pub fn any_permit() -> impl Strategy<Value = Permit> {
    any::<(u16, u16, u16)>().prop_map(|(direct_port, agent_port, digest)| Permit {
        direct_port,
        agent_port,
        digest: Digest(digest),
    })
}

pub fn any_request() -> impl Strategy<Value = Request> {
    (
        proptest::sample::select(&RequestType::ALL[..]),
        any::<(u32, u32, u32, u16, [u8; 8])>(),
    )
        .prop_map(|(r#type, (token, req_no, rcv_nxt, digest, mac))| Request {
            r#type,
            token: Token(token),
            req_no: ReqNo(req_no),
            rcv_nxt,
            digest: Digest(digest),
            mac: Mac(mac),
        })
}

/// Any segment; its options may need more room than there is.
pub fn any_segment() -> impl Strategy<Value = Segment> {
    (
        any_tuple(),
        any::<(u8, u32, u32, u8, u16)>(),
        any::<(Option<u8>, bool, Option<u16>, Option<(u32, u32)>)>(),
        (
            proptest::option::of(any_request()),
            proptest::option::of(any_permit()),
        ),
        proptest::collection::vec(any::<u8>(), 0..200),
    )
        .prop_map(|(tuple, header, options, (migrate, permit), payload)| {
            let (hop_limit, seq, ack, flags, window) = header;
            let (window_scale, sack_permitted, mss, timestamps) = options;
            Segment {
                hop_limit,
                window_scale,
                sack_permitted,
                mss,
                timestamps,
                migrate,
                permit,
                payload,
                ..Segment::bare(tuple, Flags(flags), seq, ack, window)
            }
        })
}

/// Where the TCP header of a packet without extension headers begins, in bytes.
pub fn tcp_offset(packet: &[u8]) -> usize {
    match packet[0] >> 4 {
        4 => 20,
        _ => 40,
    }
}
