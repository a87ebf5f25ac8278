//! The daemon among operators and other programs: killed, restarted under another configuration, drained, reloaded, asked
//! nonsense, its devices and addresses taken away. What is relayed goes on.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use nix::sys::signal::Signal;
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use wire::Flags;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::desk::{Desk, agents};
use crate::knocks::splice;
use crate::place::{isolated, run};
use crate::world::{World, end, msyn};

fn plug() -> World {
    World::plug("near", &["198.51.100.1/24", "2001:db8:100::1/64"], &["default"])
}

/// A segment of this size gets from one end to the other, and one back.
fn passes(world: &mut World, from: [Endpoint; 2], at: [Endpoint; 2], length: usize) {
    for (own, other) in [(0, 1), (1, 0)] {
        let mut segment = Segment::bare(Tuple::new(from[own], at[own]), Flags::ACK, 1, 1, 100);
        segment.payload = vec![1; length + own];
        world.send(&segment);
        world.hear("what was passed on", |heard| {
            heard.payload.len() == length + own && heard.tuple() == Tuple::new(at[other], from[other])
        });
    }
}

#[test]
fn killed_and_started_with_other_ports_a_proxy_keeps_what_it_relays() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("ports = [20000, 20999]\n");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        let ticket = desk.ticket(2);
        let waiting = desk.lease(2, &ticket);
        desk.end(Signal::SIGKILL);
        passes(&mut world, from, at, 100);
        desk.configure("ports = [30000, 30999]\n");
        desk.start();
        passes(&mut world, from, at, 200);
        desk.status("both are known", |status| {
            status["leases"] == 2 && status["relayed"] == 1
        });
        // Its ports are no longer in the range, and answer nobody all the same.
        let stranger = Segment::bare(Tuple::new(end("192.0.2.66:1"), at[0]), Flags::ACK, 1, 1, 1);
        world.send(&stranger);
        desk.counted("segments", "stray", 1);
        // An end that moves is heard at the old port, and answered.
        let moved = end("192.0.2.77:7000");
        world.send(&msyn(moved, at[0], 4, &desk.keys(1)[0].to_proxy()));
        world.hear("an answer at the new place", |segment| {
            segment.tuple().remote == moved
        });
        // The agents of the other lease come.
        let others = [end("192.0.2.3:1"), end("192.0.2.4:2")];
        for (leg, other) in others.into_iter().enumerate() {
            let key = desk.keys(2)[leg].to_proxy();
            world.send(&msyn(other, waiting[leg], 2 + leg as u32, &key));
        }
        for other in others {
            world.hear("an answer", |segment| segment.tuple().remote == other);
        }
        // What is new gets a port of the new range; the old range is the kernel's again but for those two.
        let ticket = desk.ticket(3);
        assert!(desk.lease(3, &ticket)[0].port >= 30_000);
        let free = Endpoint::new(
            at[0].address,
            if at[0].port == 20_500 || waiting[0].port == 20_500 {
                20_501
            } else {
                20_500
            },
        );
        world.send(&Segment::bare(
            Tuple::new(end("192.0.2.66:1"), free),
            Flags::SYN,
            1,
            0,
            1,
        ));
        world.hear("the kernel's own reset", |segment| {
            segment.source == free && segment.flags.contains(Flags::RST)
        });
    });
}

#[test]
fn drained_it_takes_nothing_new_says_so_over_restarts_and_is_done_when_empty() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("[timeouts]\nlinger = 0.5\n");
        let from = agents();
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, from);
        let mut waiting = desk.program(&["drain", "--wait", "--json"]);
        let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
        desk.word("the server hears of it", |word| match word {
            Says::Load(load) if load.draining && load.connections == 1 => Some(()),
            _ => None,
        });
        let answer = desk.present(2, &desk.sign(&desk.ticket(2)));
        assert!(answer.refusal.contains("drained"), "{answer:?}");
        desk.end(Signal::SIGTERM);
        let waited = waiting.wait_with_output().unwrap();
        assert!(
            !waited.status.success(),
            "the proxy went away while it was waited for"
        );
        desk.start();
        let hello = desk.word("a hello", |word| match word {
            Says::Hello(hello) => Some(hello),
            _ => None,
        });
        assert!(hello.draining);
        assert_eq!((hello.leases.len(), hello.leases[0].label), (1, 7));
        passes(&mut world, from, at, 300);
        let mut waiting = desk.program(&["drain", "--wait", "--json"]);
        let waiting = waiting.stdout(Stdio::piped()).spawn().unwrap();
        // The server has moved the connection and lets go of the lease.
        desk.order(said::relay_order::Body::Release(said::LeaseRelease {
            lease_id: vec![1; 16],
        }));
        let waited = waiting.wait_with_output().unwrap();
        assert!(waited.status.success());
        let last: serde_json::Value = serde_json::from_slice(&waited.stdout).unwrap();
        assert_eq!((&last["draining"], &last["relays"]), (&true.into(), &0.into()));
        assert_eq!(desk.ask(&["drain", "--end"]).unwrap()["draining"], false);
        splice(&mut desk, &mut [&mut world], 3, from);
    });
}

#[test]
fn a_reload_takes_limits_and_ranges_and_nothing_from_a_bad_file() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, agents());
        desk.configure("limits = 7\n");
        desk.signal(Signal::SIGHUP);
        desk.configure("[limits]\nconnections_of_agent = 1\n");
        desk.signal(Signal::SIGHUP);
        desk.status("reloaded once", |status| {
            status["events"]["reloaded"].as_u64() >= Some(1)
        });
        let answer = desk.present(2, &desk.sign(&desk.ticket(2)));
        assert!(
            answer.refusal.contains("limits.connections_of_agent"),
            "{answer:?}"
        );
        passes(&mut world, agents(), at, 100);
    });
}

#[test]
fn nonsense_on_the_control_socket_is_refused_and_costs_nothing() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, agents());
        let socket = desk.directory.path().join("control");
        for line in [
            &b"\n"[..],
            b"{}\n",
            b"\xff\xfe\x00\n",
            b"{\"command\":\"explode\"}\n",
            b"{\"command\":\"drain\",\"on\":\"perhaps\"}\n",
            b"{\"command\":\"relays\",\"limit\":-1}\n",
        ] {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(line).unwrap();
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).unwrap();
            assert!(answer.contains("refused"), "{line:?}: {answer}");
        }
        let mut endless = UnixStream::connect(&socket).unwrap();
        // It hangs up, or answers that this is no request: either way one megabyte without an end is no harm.
        let _ = endless.write_all(&vec![b'x'; 1 << 20]);
        let idle: Vec<_> = (0..100)
            .filter_map(|_| UnixStream::connect(&socket).ok())
            .collect();
        assert_eq!(desk.ask(&["status"]).unwrap()["relayed"], 1);
        passes(&mut world, agents(), at, 100);
        drop(idle);
    });
}

#[test]
fn a_second_proxy_on_the_same_devices_is_refused_and_the_first_goes_on() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let (at, _) = splice(&mut desk, &mut [&mut world], 1, agents());
        // The same configuration: the control socket tells.
        let output = desk.program(&["run"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("another symmetric-proxy"),
            "{said}"
        );
        // Everything of its own but the devices.
        let file = desk.directory.path().join("proxy.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text
            .replace("/control\"", "/control2\"")
            .replace("bpf/proxy", "bpf/proxy2");
        let other = desk.directory.path().join("other.toml");
        std::fs::write(&other, text).unwrap();
        let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_symmetric-proxy"));
        let output = second.arg("--config").arg(&other).arg("run").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("device near"), "{said}");
        passes(&mut world, agents(), at, 100);
        let output = desk.program(&["cleanup"]).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("running"));
        desk.end(Signal::SIGTERM);
        passes(&mut world, agents(), at, 200);
        let removed = desk.ask(&["cleanup"]).unwrap();
        assert!(removed["removed"].as_array().unwrap().len() >= 2, "{removed}");
        assert_eq!(desk.ask(&["cleanup"]).unwrap()["removed"], serde_json::json!([]));
    });
}

#[test]
fn doctor_says_whether_the_proxy_runs_and_what_must_be_mended() {
    isolated(|| {
        let _world = plug();
        let mut desk = Desk::open("ports = [40000, 40999]\n");
        let examined = |desk: &Desk| -> (bool, serde_json::Value) {
            let output = desk.program(&["doctor", "--json"]).output().unwrap();
            let findings = serde_json::from_slice(&output.stdout).unwrap();
            (output.status.success(), findings)
        };
        let verdict = |findings: &serde_json::Value, subject: &str| -> String {
            let of = findings.as_array().unwrap().iter();
            let mut of = of.filter(|finding| finding["subject"] == subject);
            of.next().expect(subject)["verdict"].as_str().unwrap().to_owned()
        };
        let (well, findings) = examined(&desk);
        assert!(well, "{findings}");
        for (subject, expected) in [
            ("certificate", "good"),
            ("servers", "good"),
            ("addresses", "good"),
            // This host's own connections use them as well.
            ("ports", "less"),
            ("proxy", "good"),
        ] {
            assert_eq!(verdict(&findings, subject), expected, "{subject}: {findings}");
        }
        desk.end(Signal::SIGKILL);
        std::fs::remove_file(desk.directory.path().join("identity/host.pem")).unwrap();
        let (well, findings) = examined(&desk);
        assert!(!well);
        assert_eq!(verdict(&findings, "certificate"), "bad");
        assert_eq!(verdict(&findings, "proxy"), "less");
    });
}

#[test]
fn addresses_come_and_go() {
    isolated(|| {
        let mut world = plug();
        let mut desk = Desk::open("");
        let hello = |desk: &mut Desk| {
            desk.word("a hello", |word| match word {
                Says::Hello(hello) => Some(hello.addresses.len()),
                _ => None,
            })
        };
        assert_eq!(hello(&mut desk), 2);
        splice(&mut desk, &mut [&mut world], 1, agents());
        run("ip addr add 198.51.100.7/24 dev near");
        assert_eq!(hello(&mut desk), 3);
        run("ip addr del 198.51.100.7/24 dev near");
        assert_eq!(hello(&mut desk), 2);
        run("ip addr del 198.51.100.1/24 dev near");
        assert_eq!(hello(&mut desk), 1);
        let mut ticket = desk.ticket(2);
        ticket.legs[0].expected = Some("192.0.2.9".parse().unwrap());
        desk.attended();
        let answer = desk.present(2, &desk.sign(&ticket));
        assert!(!answer.refusal.is_empty(), "there is no IPv4 here: {answer:?}");
        run("ip addr add 198.51.100.1/24 dev near");
        run("ip -4 route replace default via 198.51.100.254 dev near onlink");
        assert_eq!(hello(&mut desk), 2);
        desk.status("what was relayed still is", |status| status["relayed"] == 1);
    });
}
