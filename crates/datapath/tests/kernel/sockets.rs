//! What the data path reads of live sockets, and what it asks of them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use datapath::{Datapath, Event, KernelDatapath, Session, SessionFlags, Source};
use socket2::SockRef;
use wire::flags::Flags;
use wire::keys::{MacKey, Role};
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::Tuple;

use crate::equality::{all_bytes, vectors};
use crate::offering::{connect, listen, tuple_of};
use crate::place::{Host, MARK, RAISED, isolated, run, until};
use crate::stealing::ethernet;

const AT: &str = "10.77.0.2:4430";

pub fn session(flags: SessionFlags) -> Session {
    Session {
        key_out: MacKey::new([1; 16]),
        key_in: MacKey::new([2; 16]),
        key_token: MacKey::new([3; 16]),
        pair_id: [4; 16],
        epoch: 5,
        isn_initiator: 6,
        isn_acceptor: 7,
        req_committed: ReqNo(8),
        req_stored: ReqNo(10),
        flags,
        role: Role::Acceptor,
    }
}

struct Connected {
    client: TcpStream,
    server: TcpStream,
    tuple: Tuple,
    datapath: KernelDatapath,
    host_a: Host,
    host_b: Host,
}

/// A connection from a host with a data path to one without.
fn connected() -> Connected {
    let (host_a, host_b) = (Host::first(), Host::second());
    let datapath = host_a.open();
    let listener = listen(&host_b, AT);
    let client = connect(&host_a, AT);
    let (server, _) = listener.accept().unwrap();
    let tuple = tuple_of(&client);
    Connected {
        client,
        server,
        tuple,
        datapath,
        host_a,
        host_b,
    }
}

fn user_timeout(stream: &TcpStream) -> Option<Duration> {
    SockRef::from(stream).tcp_user_timeout().unwrap()
}

fn mark(stream: &TcpStream) -> u32 {
    SockRef::from(stream).mark().unwrap()
}

#[test]
fn numbers_windows_and_states_are_those_of_the_socket() {
    isolated(|| {
        let Connected {
            mut client,
            mut server,
            tuple,
            mut datapath,
            host_a,
            host_b,
        } = connected();
        let mut other = host_b.open();
        host_a.enter();
        let before = datapath.read_tcp(&tuple).unwrap().unwrap();
        assert_eq!((before.tcp_state, before.packets_out), (1, 0));
        assert_eq!(before.snd_una, before.snd_nxt);
        assert!(before.receive_scale.is_some() && before.timestamps.is_some());
        client.write_all(&[7; 1000]).unwrap();
        server.read_exact(&mut [0; 1000]).unwrap();
        until("acknowledged", || {
            datapath.read_tcp(&tuple).unwrap().unwrap().packets_out == 0
        });
        let after = datapath.read_tcp(&tuple).unwrap().unwrap();
        assert_eq!(after.snd_nxt.wrapping_sub(before.snd_nxt), 1000);
        host_b.enter();
        let peer = other.read_tcp(&tuple.reversed()).unwrap().unwrap();
        assert_eq!((peer.rcv_nxt, peer.snd_nxt), (after.snd_nxt, after.rcv_nxt));
        host_a.enter();
        assert_eq!(
            datapath.read_tcp(&tuple.reversed()).unwrap(),
            None,
            "seen from the other side it is another"
        );
        drop((client, server));
        until("closed", || datapath.read_tcp(&tuple).unwrap().is_none());
    });
}

#[test]
fn marks_and_timeouts_are_set_and_the_applications_own_come_back() {
    isolated(|| {
        let Connected {
            client,
            tuple,
            mut datapath,
            ..
        } = connected();
        const OWN_MARK: u32 = 0x1234;
        SockRef::from(&client).set_mark(OWN_MARK).unwrap();
        SockRef::from(&client)
            .set_tcp_user_timeout(Some(Duration::from_secs(9)))
            .unwrap();
        let wanted = SessionFlags {
            mark: true,
            raise: true,
            ..SessionFlags::default()
        };
        for _ in 0..2 {
            datapath.put_session(&tuple, &session(wanted)).unwrap();
            datapath.reconcile();
            until("marked and raised", || {
                mark(&client) == OWN_MARK | MARK && user_timeout(&client) == Some(RAISED)
            });
            // A second walk must not take the raised value for the application's.
            datapath.reconcile();
            datapath
                .put_session(&tuple, &session(SessionFlags::default()))
                .unwrap();
            datapath.reconcile();
            until("as the application had it", || {
                mark(&client) == OWN_MARK && user_timeout(&client) == Some(Duration::from_secs(9))
            });
        }
        // Nor is anything left by an agent that goes for good.
        datapath.put_session(&tuple, &session(wanted)).unwrap();
        datapath.reconcile();
        until("marked and raised", || {
            mark(&client) == OWN_MARK | MARK
                && user_timeout(&client).is_some_and(|now| now > Duration::from_secs(9))
        });
        assert_eq!(datapath.let_go(), 1);
        until("as the application had it", || {
            mark(&client) == OWN_MARK && user_timeout(&client) == Some(Duration::from_secs(9))
        });
        assert_eq!(datapath.let_go(), 0);
        // Other sockets are not touched.
        datapath.remove_session(&tuple);
        datapath.reconcile();
        assert_eq!(mark(&client), OWN_MARK);
    });
}

#[test]
fn the_first_timeout_makes_a_connection_suspect_and_the_next_ones_do_not_chatter() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        // Only connections that both ends can migrate are watched.
        let (mut datapath, _other) = (host_a.open(), host_b.open());
        let _listener = listen(&host_b, AT);
        let mut client = connect(&host_a, AT);
        let tuple = tuple_of(&client);
        until("registered", || datapath.connection(&tuple).is_some());
        datapath
            .put_session(&tuple, &session(SessionFlags::default()))
            .unwrap();
        datapath
            .put_source(
                tuple.local.address,
                Source {
                    ifindex: 2,
                    usable: true,
                },
            )
            .unwrap();
        datapath.set_load(1, 0).unwrap();
        datapath.events();
        host_b.enter();
        run("nft add table inet hole");
        run("nft add chain inet hole in { type filter hook prerouting priority -400 ; }");
        run("nft add rule inet hole in tcp dport 4430 drop");
        host_a.enter();
        client.write_all(b"into the void").unwrap();
        let mut told = Vec::new();
        until("suspect", || {
            told.extend(datapath.events());
            !told.is_empty()
        });
        assert_eq!(told, [Event::Suspect { identity: tuple }]);
        assert_eq!(mark(&client), MARK);
        assert_eq!(user_timeout(&client), Some(RAISED));
        // The next timeouts say it again at most once in two seconds.
        let quiet = Instant::now() + Duration::from_millis(700);
        until("a second timeout", || {
            Instant::now() > quiet && datapath.read_tcp(&tuple).unwrap().unwrap().backoff >= 2
        });
        let again = datapath.events();
        assert!(again.len() <= 1, "{again:?}");
    });
}

#[test]
fn a_change_of_state_is_told_for_sessions_that_are_watched() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (mut a, _b) = (host_a.open(), host_b.open());
        let listener = listen(&host_b, AT);
        for watch in [true, false] {
            let client = connect(&host_a, AT);
            let (server, _) = listener.accept().unwrap();
            let tuple = tuple_of(&client);
            a.put_session(
                &tuple,
                &session(SessionFlags {
                    watch,
                    ..SessionFlags::default()
                }),
            )
            .unwrap();
            a.events();
            drop(client);
            drop(server);
            until("closed", || a.connection(&tuple).is_none());
            let changes: Vec<(u32, u32)> = a
                .events()
                .iter()
                .filter_map(|event| match event {
                    Event::TcpState {
                        identity, old, new, ..
                    } if *identity == tuple => Some((*old, *new)),
                    _ => None,
                })
                .collect();
            // ESTABLISHED, FIN-WAIT-1, FIN-WAIT-2, closed.
            let expected: &[(u32, u32)] = if watch { &[(1, 4), (4, 5), (5, 7)] } else { &[] };
            assert_eq!(changes, expected);
        }
    });
}

#[test]
fn resets_are_held_while_the_agent_lives_and_pass_when_it_does_not() {
    isolated(|| {
        let host = Host::first();
        host.enter();
        let limit = Duration::from_millis(300);
        let options = datapath::Options {
            heartbeat_limit: limit,
            ..host.options()
        };
        let mut datapath = KernelDatapath::open(&options).unwrap();
        let end = |last: u8, port| wire::Endpoint::new([192, 0, 2, last].into(), port);
        let identity = Tuple::new(end(1, 1000), end(2, 2000));
        let reset = Segment::bare(identity.reversed(), Flags::RST, 5, 6, 0)
            .emit()
            .unwrap();
        let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0][..], &reset].concat();
        datapath.set_load(1, 0).unwrap();
        assert_eq!(datapath.run_ingress(&frame).unwrap(), 0, "nobody's");
        let held = SessionFlags {
            hold_reset: true,
            ..SessionFlags::default()
        };
        datapath
            .put_session(&identity, &session(SessionFlags::default()))
            .unwrap();
        assert_eq!(datapath.run_ingress(&frame).unwrap(), 0, "not asked for");
        datapath.put_session(&identity, &session(held)).unwrap();
        datapath.beat();
        assert_eq!(datapath.run_ingress(&frame).unwrap(), 2);
        let told = datapath.events();
        let expected = Event::ResetHeld {
            identity,
            wire: identity,
            seq: 5,
            ack: 6,
            flags: Flags::RST.0,
        };
        assert_eq!(told, [expected]);
        until("the last sign of life is too old", || {
            // The ring must not be what lets it pass.
            datapath.events();
            datapath.run_ingress(&frame).unwrap() == 0
        });
        let passed = datapath
            .counters()
            .into_iter()
            .find(|(name, _)| *name == "reset_passed");
        assert_eq!(passed, Some(("reset_passed", 1)));
    });
}

#[test]
fn a_flood_of_resets_fills_no_ring_and_a_ring_that_is_full_lets_them_pass() {
    isolated(|| {
        let host = Host::first();
        let mut datapath = host.open();
        let end = |last: u8, port| wire::Endpoint::new([192, 0, 2, last].into(), port);
        let identity = Tuple::new(end(1, 1000), end(2, 2000));
        let reset = Segment::bare(identity.reversed(), Flags::RST, 5, 6, 0)
            .emit()
            .unwrap();
        let reset = ethernet(&reset);
        datapath.set_load(1, 0).unwrap();
        let held = SessionFlags {
            hold_reset: true,
            ..SessionFlags::default()
        };
        datapath.put_session(&identity, &session(held)).unwrap();
        const FLOOD: u64 = 20_000;
        for number in 0..FLOOD {
            datapath.beat();
            assert_eq!(datapath.run_ingress(&reset).unwrap(), 2, "reset {number} passed");
        }
        let counters = |datapath: &KernelDatapath| -> std::collections::BTreeMap<_, _> {
            datapath.counters().into_iter().collect()
        };
        let after = counters(&datapath);
        assert_eq!((after["reset_held"], after["event_lost"]), (FLOOD, 0));
        // Others' events still find room, until they have filled it.
        let vector = &vectors::SEGMENTS[0];
        let msyn = ethernet(&all_bytes(vector.packet));
        let told = (0..FLOOD).find(|_| {
            datapath.run_ingress(&msyn).unwrap();
            counters(&datapath)["event_lost"] > 0
        });
        assert!(told.expect("the ring is full some time") > 1000);
        datapath.beat();
        assert_eq!(
            datapath.run_ingress(&reset).unwrap(),
            0,
            "nobody could ask about it"
        );
        assert_eq!(counters(&datapath)["reset_passed"], 1);
        assert!(datapath.events().len() > 1000, "what was told is all there");
        datapath.beat();
        assert_eq!(datapath.run_ingress(&reset).unwrap(), 2, "there is room again");
    });
}
