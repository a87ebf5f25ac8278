//! The relay's ports: who is heard there, what is dropped, what passes.

use datapath::Path;
use datapath::relay::{Direction, Door, RelayDatapath, RelayEvent, RelayOptions};
use wire::handshake::{Standing, SynOptions};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};
use wire::{Flags, digest};

use crate::place::{Host, isolated};

const PASSED_ON: u32 = u32::MAX;
const DROPPED: u32 = 2;
const STOLEN: u32 = 4;
/// What `bpf_redirect_neigh` makes of a packet.
const REDIRECTED: u32 = 7;

fn end(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an endpoint").into()
}

fn keys() -> [MacKey; 2] {
    [MacKey::new([1; 16]), MacKey::new([2; 16])]
}

/// A relay at 10.77.0.1 and fd77::1 whose port 20000 is that of one lease.
fn relay(host: &Host, expected: Option<&str>) -> RelayDatapath {
    host.enter();
    let relay = RelayDatapath::open(&RelayOptions {
        pin_dir: host.pin_dir.clone(),
        addresses: vec![
            "10.77.0.1".parse().expect("an address"),
            "fd77::1".parse().expect("an address"),
        ],
        ports: (20000, 29999),
        mark: 0,
    })
    .expect("the relay opens");
    let [first, second] = keys();
    let expected = expected.map(|text| text.parse().expect("an address"));
    for at in ["10.77.0.1:20000", "[fd77::1]:20000"] {
        let legs = [Some((first.clone(), expected)), Some((second.clone(), None))];
        relay
            .open_door(end(at), &Door { lease: [9; 16], legs })
            .expect("a door");
    }
    relay
}

fn frame(segment: &Segment) -> Vec<u8> {
    let packet = segment.emit().expect("a packet");
    let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0u8; 12][..], &kind, &packet].concat()
}

fn msyn(from: &str, to: &str, key: &MacKey) -> Segment {
    let standing = Standing {
        token: Token(7),
        req_no: ReqNo(2),
        seq: 1000,
        rcv_nxt: 5000,
        window: 60000,
    };
    let syn = SynOptions {
        window_scale: 9,
        mss: 1400,
    };
    let mut segment = Segment::msyn(Tuple::new(end(from), end(to)), standing, syn);
    segment.sign(key, ReqNo::UNMOVED).expect("a request");
    segment
}

fn count(relay: &RelayDatapath, name: &str) -> u64 {
    let counters = relay.counters();
    counters
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a counter")
        .1
}

#[test]
fn only_the_two_agents_of_a_port_are_heard() {
    isolated(|| {
        let mut relay = relay(&Host::first(), None);
        let [first, second] = keys();
        for (index, (from, to, key)) in [
            ("192.0.2.1:4000", "10.77.0.1:20000", &first),
            ("192.0.2.2:4000", "10.77.0.1:20000", &second),
            ("[2001:db8::1]:4000", "[fd77::1]:20000", &second),
        ]
        .into_iter()
        .enumerate()
        {
            let segment = msyn(from, to, key);
            assert_eq!(relay.run_ingress(&frame(&segment)).expect("runs"), STOLEN);
            let events = relay.events();
            let [RelayEvent::Knocked { lease, leg, knocked }] = events[..] else {
                panic!("{events:?}");
            };
            assert_eq!((lease, leg), ([9; 16], index.min(1)));
            assert_eq!(knocked.wire, Tuple::new(end(to), end(from)));
            assert_eq!(
                (knocked.seq, knocked.rcv_nxt, knocked.window),
                (1000, 5000, 60000)
            );
            assert_eq!(
                knocked.syn.map(|syn| (syn.window_scale, syn.mss)),
                Some((9, 1400))
            );
            assert_eq!(knocked.digest, digest(end(from), 1000).0);
        }
        let stranger = msyn("192.0.2.1:4000", "10.77.0.1:20000", &MacKey::new([3; 16]));
        assert_eq!(relay.run_ingress(&frame(&stranger)).expect("runs"), DROPPED);
        assert_eq!(count(&relay, "bad_mac"), 1);
        let elsewhere = msyn("192.0.2.1:4000", "10.77.0.1:20001", &first);
        assert_eq!(relay.run_ingress(&frame(&elsewhere)).expect("runs"), DROPPED);
        assert_eq!(count(&relay, "unknown_port"), 1);
        assert!(relay.events().is_empty());
    });
}

#[test]
fn an_agent_that_is_expected_elsewhere_is_not_heard() {
    isolated(|| {
        let mut relay = relay(&Host::first(), Some("192.0.2.9"));
        let wrong = msyn("192.0.2.1:4000", "10.77.0.1:20000", &keys()[0]);
        assert_eq!(relay.run_ingress(&frame(&wrong)).expect("runs"), DROPPED);
        assert_eq!(count(&relay, "wrong_address"), 1);
        let right = msyn("192.0.2.9:4000", "10.77.0.1:20000", &keys()[0]);
        assert_eq!(relay.run_ingress(&frame(&right)).expect("runs"), STOLEN);
        assert_eq!(relay.events().len(), 1);
    });
}

#[test]
fn nothing_to_an_owned_port_reaches_the_kernel_and_everything_else_does() {
    isolated(|| {
        let relay = relay(&Host::first(), None);
        let to = |port: u16| {
            Tuple::new(
                end("192.0.2.1:4000"),
                Endpoint::new(end("10.77.0.1:0").address, port),
            )
        };
        let verdict = |tuple, flags| {
            let segment = Segment::bare(tuple, flags, 1, 1, 100);
            relay.run_ingress(&frame(&segment)).expect("runs")
        };
        for flags in [
            Flags::SYN,
            Flags::ACK,
            Flags::RST,
            Flags::FIN | Flags::ACK,
            Flags::SYN | Flags::ACK,
        ] {
            for port in [20000, 25000, 29999] {
                assert_eq!(verdict(to(port), flags), DROPPED, "{flags} to {port}");
            }
            for port in [22, 19999, 30000] {
                assert_eq!(verdict(to(port), flags), PASSED_ON, "{flags} to {port}");
            }
        }
        let passing = Tuple::new(end("192.0.2.1:4000"), end("192.0.2.2:20000"));
        assert_eq!(verdict(passing, Flags::ACK), PASSED_ON);
        assert_eq!(count(&relay, "stray_reset"), 3);
        assert_eq!(count(&relay, "stray_syn"), 6);
        assert_eq!(count(&relay, "stray"), 6);
        // A first fragment, as the kernel would put together and answer.
        let mut fragment = frame(&Segment::bare(to(20000), Flags::ACK, 1, 1, 100));
        fragment[14 + 6] = 0x20;
        assert_eq!(relay.run_ingress(&fragment).expect("runs"), DROPPED);
        assert_eq!(count(&relay, "fragment"), 1);
    });
}

#[test]
fn what_is_spliced_passes_and_is_counted_and_outlives_the_daemon() {
    isolated(|| {
        let host = Host::first();
        let first = relay(&host, None);
        let from = Tuple::new(end("10.77.0.1:20000"), end("192.0.2.1:4000"));
        let to = Tuple::new(end("10.77.0.1:20000"), end("192.0.2.2:5000"));
        let direction = Direction {
            lease: [9; 16],
            leg: 0,
            to,
            path: Path {
                ifindex: 1,
                next_hop: None,
            },
            pending: false,
        };
        first.install(&from, &direction).expect("installs");
        let mut segment = Segment::bare(
            Tuple::new(from.remote, from.local),
            Flags::FIN | Flags::ACK,
            1,
            1,
            100,
        );
        segment.payload = vec![7; 100];
        assert_eq!(first.run_ingress(&frame(&segment)).expect("runs"), REDIRECTED);
        drop(first);
        let second = relay(&host, None);
        assert!(second.adopted());
        let all = second.all_traffic();
        let [(key, traffic)] = &all[..] else {
            panic!("{all:?}");
        };
        assert_eq!((key, &traffic.direction), (&from, &direction));
        assert_eq!((traffic.packets, traffic.fin, traffic.ordinary), (1, true, true));
        assert!(traffic.bytes >= 140 && traffic.last_ns > 0 && !traffic.reset);
        second.uninstall(&from);
        assert_eq!(second.run_ingress(&frame(&segment)).expect("runs"), DROPPED);
    });
}

/// A door and both directions of each.
#[test]
fn half_a_million_connections_fit() {
    isolated(|| {
        let relay = relay(&Host::first(), None);
        let ifindex = 1;
        let [first, second] = keys();
        let ends = |number: u32, leg: u32| {
            let address = std::net::Ipv4Addr::from(0x0900_0000 + number);
            Endpoint::new(address.into(), 4000 + leg as u16)
        };
        let at = |number: u32| {
            let address = std::net::Ipv4Addr::from(0x0a4d_0001 + number / 50_000);
            Endpoint::new(address.into(), (10_000 + number % 50_000) as u16)
        };
        for number in 0..500_000u32 {
            let mut lease = [0; 16];
            lease[..4].copy_from_slice(&number.to_be_bytes());
            let legs = [Some((first.clone(), None)), Some((second.clone(), None))];
            relay
                .open_door(at(number), &Door { lease, legs })
                .expect("a door");
            let tuples = [0, 1].map(|leg| Tuple::new(at(number), ends(number, leg)));
            for leg in 0..2 {
                let direction = Direction {
                    lease,
                    leg,
                    to: tuples[1 - leg],
                    path: Path {
                        ifindex,
                        next_hop: None,
                    },
                    pending: false,
                };
                relay.install(&tuples[leg], &direction).expect("a direction");
            }
        }
        assert_eq!(relay.all_traffic().len(), 1_000_000, "what the next daemon finds");
        let last = Tuple::new(at(499_999), ends(499_999, 0));
        assert_eq!(relay.traffic(&last).expect("it is there").packets, 0);
    });
}
