//! What comes to the proxy's ports: two agents are heard, spliced and passed on; everybody else gets silence, and a count.

use std::time::{Duration, Instant};

use wire::Flags;
use wire::keys::MacKey;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::desk::{Desk, agents};
use crate::place::{isolated, run, until};
use crate::world::{World, end, msyn};

fn plug() -> World {
    World::plug("near", &["198.51.100.1/24", "2001:db8:100::1/64"], &["default"])
}

/// Both agents knock and are answered; gives the answers.
pub fn splice(
    desk: &mut Desk,
    worlds: &mut [&mut World],
    lease: u8,
    from: [Endpoint; 2],
) -> ([Endpoint; 2], [Segment; 2]) {
    let mut ticket = desk.ticket(lease);
    for (leg, from) in ticket.legs.iter_mut().zip(from) {
        leg.expected = Some(from.address);
    }
    let at = desk.lease(lease, &ticket);
    let keys = desk.keys(lease);
    let far = worlds.len() - 1;
    worlds[0].send(&msyn(from[0], at[0], 2, &keys[0].to_proxy()));
    worlds[far].send(&msyn(from[1], at[1], 3, &keys[1].to_proxy()));
    let first = worlds[0].hear("an answer to the first", |segment| {
        segment.tuple().remote == from[0]
    });
    let second = worlds[far].hear("an answer to the second", |segment| {
        segment.tuple().remote == from[1]
    });
    (at, [first, second])
}

fn data(from: Endpoint, to: Endpoint, length: usize) -> Segment {
    let mut segment = Segment::bare(Tuple::new(from, to), Flags::ACK, 100, 200, 500);
    segment.payload = vec![7; length];
    segment
}

#[test]
fn two_agents_are_answered_from_each_other_and_then_passed_on() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = agents();
        let (at, answers) = splice(&mut desk, &mut [&mut world], 1, from);
        for (answer, (own, other)) in answers.iter().zip([(2u32, 3u32), (3, 2)]) {
            assert_eq!(answer.flags, Flags::SYN | Flags::ACK);
            assert_eq!((answer.seq, answer.ack), (1000 * other, 1000 * own + 1));
        }
        for (own, other) in [(0, 1), (1, 0)] {
            world.send(&data(from[own], at[own], 900));
            let heard = world.hear("a segment that was passed on", |segment| {
                segment.payload.len() == 900
            });
            assert_eq!(heard.tuple(), Tuple::new(at[other], from[other]));
            assert_eq!((heard.seq, heard.ack), (100, 200));
        }
        desk.status("relayed", |status| status["relayed"] == 1);
        let relays = desk.ask(&["relays"]).unwrap();
        assert_eq!(relays[0]["state"], "relayed");
        assert!(relays[0]["bytes_from_first"].as_u64().unwrap() > 900);
        assert_eq!(
            desk.ask(&["relays", "--limit", "0"]).unwrap(),
            serde_json::json!([])
        );
    });
}

#[test]
fn ipv4_on_one_side_and_ipv6_on_the_other() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = [end("192.0.2.1:4000"), end("[2001:db8:9::2]:5000")];
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        assert!(at[0].address.is_ipv4() && at[1].address.is_ipv6());
        for (own, other) in [(0, 1), (1, 0)] {
            for length in [0, 1, 1000] {
                world.send(&data(from[own], at[own], length));
                // `Segment::parse` has checked every checksum.
                let heard = world.hear("a segment of the other family", |segment| {
                    segment.payload.len() == length && segment.tuple().remote == from[other]
                });
                assert_eq!(heard.tuple(), Tuple::new(at[other], from[other]));
            }
        }
        // 20 bytes more than the cable takes: its sender hears of it, as from a router.
        let mut big = data(from[0], at[0], 1460);
        big.seq = 0x0102_0304;
        let packet = big.emit().unwrap();
        world.send_packet(&packet);
        desk.counted("segments", "too_big", 1);
    });
}

#[test]
fn two_arms_each_agent_on_its_own() {
    isolated(|| {
        let mut left = World::plug("left", &["198.51.100.1/24"], &["192.0.2.0/25"]);
        let mut right = World::plug("right", &["198.51.101.1/24"], &[]);
        run("ip neigh add 198.51.101.254 lladdr 02:00:00:00:00:02 dev right");
        run("ip route add 192.0.2.128/25 via 198.51.101.254 dev right");
        let mut desk = Desk::open("addresses = [\"198.51.100.1\"]\n");
        let from = [end("192.0.2.1:4000"), end("192.0.2.200:5000")];
        let (at, _) = splice(&mut desk, &mut [&mut left, &mut right], 1, from);
        left.send(&data(from[0], at[0], 900));
        let heard = right.hear("on the other arm", |segment| segment.payload.len() == 900);
        assert_eq!(heard.tuple(), Tuple::new(at[1], from[1]));
        right.send(&data(from[1], at[1], 800));
        left.hear("on the first arm", |segment| segment.payload.len() == 800);
        // Routes turn: what went out on the right goes out on the left.
        run("ip route replace 192.0.2.128/25 via 198.51.100.254 dev left");
        until("the connection follows", || {
            left.send(&data(from[0], at[0], 700));
            let back = left.rest();
            back.iter()
                .any(|segment| segment.tuple().remote == from[1])
                .then_some(())
        });
    });
}

#[test]
fn who_is_no_agent_of_the_port_gets_silence_and_a_count() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = agents();
        let mut ticket = desk.ticket(1);
        ticket.legs[0].expected = Some(from[0].address);
        let [at, _] = desk.lease(1, &ticket);
        let [first, second] = desk.keys(1).map(|key| key.to_proxy());
        let stranger = end("192.0.2.66:4000");
        // A MAC under no key of this port; under a key of another lease.
        world.send(&msyn(from[0], at, 2, &MacKey::new([9; 16])));
        world.send(&msyn(from[0], at, 2, &desk.keys(2)[0].to_proxy()));
        desk.counted("segments", "bad_mac", 2);
        // A port that nobody has.
        world.send(&msyn(from[0], Endpoint::new(at.address, at.port ^ 1), 2, &first));
        desk.counted("segments", "unknown_port", 1);
        // The right key at another address than the server has told.
        world.send(&msyn(stranger, at, 2, &first));
        desk.counted("segments", "wrong_address", 1);
        // From a range that is refused, and from the proxy itself.
        world.send(&msyn(end("203.0.113.5:4000"), at, 3, &second));
        desk.counted("refusals", "knock_target", 1);
        // Both agents at one endpoint could not be told apart.
        world.send(&msyn(from[0], at, 2, &first));
        world.send(&msyn(from[0], at, 3, &second));
        desk.counted("refusals", "knock", 1);
        desk.status("one is waited for", |status| {
            status["leases"] == 1 && status["relayed"] == 0
        });
        assert!(world.rest().is_empty(), "somebody was answered");
        // After all that the other agent is heard.
        world.send(&msyn(from[1], at, 3, &second));
        world.hear("an answer", |segment| segment.tuple().remote == from[0]);
        world.hear("an answer", |segment| segment.tuple().remote == from[1]);
        // An MSYN without a window scale is none: NAPTs would judge every later window wrongly.
        let mut blind = msyn(from[1], at, 5, &second);
        blind.window_scale = None;
        blind.sign(&second, wire::ReqNo::UNMOVED).unwrap();
        world.send(&blind);
        until("it is refused", || {
            let status = desk.ask(&["status"])?;
            let malformed = status["segments"]["malformed"].as_u64() >= Some(1);
            (malformed || status["refusals"]["knock_malformed"].as_u64() >= Some(1)).then_some(())
        });
        assert!(world.rest().is_empty());
    });
}

#[test]
fn a_peer_that_never_comes_frees_the_port_and_nobody_was_answered() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let mut ticket = desk.ticket(1);
        // The time to come is over three seconds from now, with all that clocks may differ.
        ticket.not_before -= Duration::from_secs(60);
        ticket.expires -= Duration::from_secs(120 + 27);
        let at = desk.lease(1, &ticket);
        let from = agents();
        world.send(&msyn(from[0], at[0], 2, &desk.keys(1)[0].to_proxy()));
        desk.status("it is over", |status| status["events"]["ended_unused"] == 1);
        desk.status("the port is free", |status| status["ports_taken"] == 0);
        assert!(world.rest().is_empty());
        world.send(&msyn(from[1], at[1], 3, &desk.keys(1)[1].to_proxy()));
        desk.counted("segments", "unknown_port", 1);
        assert!(world.rest().is_empty());
    });
}

#[test]
fn an_agent_that_repeats_itself_is_answered_each_time_until_it_is_too_often() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        let again = msyn(from[0], at[0], 2, &desk.keys(1)[0].to_proxy());
        let size = again.emit().unwrap().len();
        world.send(&again);
        let answer = world.hear("another answer", |segment| segment.tuple().remote == from[0]);
        assert!(answer.emit().unwrap().len() <= size);
        for _ in 0..2000 {
            world.send(&again);
        }
        desk.counted("segments", "too_often", 1000);
        let answers = world.rest().len();
        assert!(answers < 500, "{answers} answers to a flood of one agent");
    });
}

#[test]
fn floods_get_no_answer_and_handshakes_go_on() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        world.rest();
        let mut sent = 0u64;
        let mut flood = |world: &mut World, round: u32| {
            for number in 0..200u32 {
                let source = Endpoint::new(
                    [192, 0, 2, (number % 250) as u8].into(),
                    1024 + (round % 50_000) as u16,
                );
                let port = 20_000 + ((round * 200 + number) % 10_000) as u16;
                let to = Endpoint::new(at[0].address, port);
                for flags in [
                    Flags::SYN,
                    Flags::ACK,
                    Flags::RST,
                    Flags::SYN | Flags::ACK,
                    Flags::FIN | Flags::ACK,
                ] {
                    world.send(&Segment::bare(Tuple::new(source, to), flags, number, round, 1000));
                    sent += 1;
                }
                // A forged MSYN costs a MAC.
                world.send(&msyn(source, at[0], number + 2, &MacKey::new([8; 16])));
                sent += 1;
            }
        };
        for round in 0..10 {
            flood(&mut world, round);
        }
        // In the middle of it two others are spliced.
        let others = [end("192.0.2.251:4000"), end("192.0.2.252:5000")];
        let ticket = desk.ticket(2);
        let doors = desk.lease(2, &ticket);
        let keys = desk.keys(2);
        world.send(&msyn(others[0], doors[0], 2, &keys[0].to_proxy()));
        flood(&mut world, 11);
        world.send(&msyn(others[1], doors[1], 3, &keys[1].to_proxy()));
        flood(&mut world, 12);
        for other in others {
            world.hear("an answer in the flood", |segment| {
                segment.tuple().remote == other
            });
        }
        let rest = world.rest();
        assert!(
            rest.is_empty(),
            "{} of {sent} were answered: {:?}",
            rest.len(),
            rest.first()
        );
        for (kind, least) in [
            ("stray_syn", 2000),
            ("stray_reset", 2000),
            ("stray", 2000),
            ("bad_mac", 2000),
        ] {
            desk.counted("segments", kind, least);
        }
    });
}

#[test]
fn the_end_of_a_connection_frees_its_port_after_a_while_and_a_foreign_reset_does_not() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("[timeouts]\nlinger = 2.0\n");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        // A NAPT that was restarted answers for its host; then the host itself speaks.
        world.send(&Segment::bare(Tuple::new(from[0], at[0]), Flags::RST, 100, 0, 0));
        world.hear("the reset, passed on", |segment| segment.flags == Flags::RST);
        world.send(&data(from[0], at[0], 10));
        world.hear("data", |segment| segment.payload.len() == 10);
        let spoke = Instant::now();
        until("longer than the linger", || {
            (spoke.elapsed() > Duration::from_secs(4)).then_some(())
        });
        assert_eq!(desk.ask(&["relays"]).unwrap()[0]["state"], "relayed");
        // One FIN is half of an end.
        world.send(&Segment::bare(
            Tuple::new(from[0], at[0]),
            Flags::FIN | Flags::ACK,
            100,
            1,
            9,
        ));
        world.hear("the FIN", |segment| segment.tuple().remote == from[1]);
        world.send(&data(from[1], at[1], 20));
        world.hear("what comes the other way", |segment| segment.payload.len() == 20);
        assert_eq!(desk.ask(&["relays"]).unwrap()[0]["state"], "relayed");
        world.send(&Segment::bare(
            Tuple::new(from[1], at[1]),
            Flags::FIN | Flags::ACK,
            100,
            1,
            9,
        ));
        // A late segment still gets through.
        world.send(&data(from[0], at[0], 30));
        world.hear("the last ACK", |segment| segment.payload.len() == 30);
        desk.status("the port is free", |status| {
            status["ports_taken"] == 0 && status["events"]["ended_finished"] == 1
        });
        world.rest();
        world.send(&data(from[0], at[0], 40));
        desk.counted("segments", "stray", 1);
        assert!(world.rest().is_empty());
        // The same without a word: silence for too long.
        desk.configure("[timeouts]\nidle = 3.0\n");
        desk.signal(nix::sys::signal::Signal::SIGHUP);
        desk.status("reloaded", |status| status["events"]["reloaded"] == 1);
        splice(&mut desk, &mut [&mut world], 2, from);
        desk.status("forgotten", |status| status["events"]["ended_idle"] == 1);
    });
}

#[test]
fn errors_of_routers_beyond_reach_the_end_whose_segment_they_are_about() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        for (lease, from) in [
            (1, [end("192.0.2.1:4000"), end("192.0.2.2:5000")]),
            (2, [end("[2001:db8:9::1]:4000"), end("[2001:db8:9::2]:5000")]),
        ] {
            let (at, _) = splice(&mut desk, &mut [&mut world], lease, from);
            // A router on the way to the second end has a smaller MTU, and quotes what it has seen.
            let error = wire::unreachable::too_big(Tuple::new(at[1], from[1]), 77, 1300).unwrap();
            world.send_packet(&error);
            desk.counted("segments", "icmp_relayed", u64::from(lease));
        }
    });
}

#[test]
fn nothing_makes_the_kernel_answer_from_an_owned_port() {
    isolated(|| {
        let mut world = plug();
        let desk = Desk::open("");
        let to = end("[2001:db8:100::1]:20007");
        let from = end("[2001:db8:9::9]:4000");
        let plain = Segment::bare(Tuple::new(from, to), Flags::SYN, 1, 0, 100)
            .emit()
            .unwrap();
        // The same behind an empty header of destination options, hop-by-hop options and routing.
        for kind in [60u8, 0, 43] {
            let mut packet = plain.clone();
            let length = (packet.len() - 40 + 8) as u16;
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet[6] = kind;
            let options: [u8; 8] = match kind {
                43 => [6, 0, 4, 0, 0, 0, 0, 0],
                _ => [6, 0, 1, 4, 0, 0, 0, 0],
            };
            packet.splice(40..40, options);
            world.send_packet(&packet);
        }
        desk.counted("segments", "extension_header", 3);
        assert!(world.rest().is_empty(), "the kernel has answered");
    });
}

#[test]
fn two_proxies_that_relay_to_each_other_do_not_do_so_for_ever() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        let mut last = data(from[0], at[0], 10);
        last.hop_limit = 2;
        world.send(&last);
        let heard = world.hear("with one hop less", |segment| segment.payload.len() == 10);
        assert_eq!(heard.hop_limit, 1);
        last.hop_limit = 1;
        world.send(&last);
        desk.counted("segments", "hops", 1);
        assert!(world.rest().is_empty());
    });
}
