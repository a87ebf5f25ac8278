//! Offers on real connections over a cable between two hosts.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use datapath::{Connection, Datapath, Event, KernelDatapath};
use socket2::{Domain, Socket, Type};
use wire::Role;
use wire::tuple::{Endpoint, Tuple};

use crate::place::{AGENT_MARK, AGENT_PORT, Host, isolated, run, until};

const V4: &str = "10.77.0.2:4430";
const V6: &str = "[fd77::2]:4430";

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A listener on a host, and what connects to it from another.
pub fn listen(host: &Host, at: &str) -> TcpListener {
    host.enter();
    TcpListener::bind(address(at)).expect("a listener")
}

pub fn connect(host: &Host, to: &str) -> TcpStream {
    host.enter();
    TcpStream::connect(address(to)).expect("a connection")
}

/// A connection as its socket knows it.
pub fn tuple_of(stream: &TcpStream) -> Tuple {
    let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    Tuple::new(Endpoint::from(local), Endpoint::from(remote))
}

fn is_known(datapath: &KernelDatapath, tuple: &Tuple) -> bool {
    datapath.connection(tuple).is_some()
}

/// Both data paths know the connection, and say the same of it.
fn assert_permitted(a: &KernelDatapath, b: &KernelDatapath, client: &TcpStream) -> (Connection, Connection) {
    let tuple = tuple_of(client);
    until("the acceptor knows the connection", || {
        is_known(b, &tuple.reversed())
    });
    let at_a = a.connection(&tuple).expect("the initiator knows the connection");
    let at_b = b.connection(&tuple.reversed()).unwrap();
    assert_eq!((at_a.role, at_b.role), (Role::Initiator, Role::Acceptor));
    assert_eq!(
        (at_a.isn_local, at_a.isn_remote),
        (at_b.isn_remote, at_b.isn_local)
    );
    for end in [at_a, at_b] {
        assert_eq!(end.peer_agent_port, AGENT_PORT);
    }
    assert_eq!(at_a.peer_direct_port, tuple.remote.port);
    (at_a, at_b)
}

fn assert_plain(datapath: &KernelDatapath, client: &TcpStream, server: &TcpStream) {
    use std::io::{Read, Write};
    let (mut client, mut server) = (client, server);
    client.write_all(b"plain").unwrap();
    let mut heard = [0; 5];
    server.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"plain");
    assert_eq!(datapath.connections(), []);
}

#[test]
fn both_ends_of_a_connection_know_it_and_each_other() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (mut a, mut b) = (host_a.open(), host_b.open());
        for at in [V4, V6] {
            let listener = listen(&host_b, at);
            let client = connect(&host_a, at);
            let (at_a, at_b) = assert_permitted(&a, &b, &client);
            assert!(at_a.peer_unmapped && at_b.peer_unmapped, "no NAPT on a cable");
            let tuple = tuple_of(&client);
            assert_eq!(at_b.peer_direct_port, tuple.local.port);
            assert_eq!((a.opened(), b.opened()), (vec![tuple], vec![tuple.reversed()]));
            for (datapath, identity, initiated) in [(&mut a, tuple, true), (&mut b, tuple.reversed(), false)]
            {
                let told = datapath.events();
                let expected = Event::Peer {
                    identity,
                    agent_port: AGENT_PORT,
                    initiated_here: initiated,
                };
                assert_eq!(told, [expected]);
            }
            drop(listener);
        }
    });
}

#[test]
fn a_peer_is_told_once_until_it_is_forgotten() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (mut a, _b) = (host_a.open(), host_b.open());
        let _listener = listen(&host_b, V4);
        let _clients = [connect(&host_a, V4), connect(&host_a, V4)];
        assert_eq!(a.events().len(), 1);
        assert_eq!(a.opened().len(), 2);
        a.forget_peer(address(V4).ip(), AGENT_PORT);
        let _third = connect(&host_a, V4);
        assert_eq!(a.events().len(), 1);
    });
}

#[test]
fn a_dual_stack_listener_answers_ipv4_too() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, b) = (host_a.open(), host_b.open());
        let _listener = listen(&host_b, "[::]:4430");
        for to in [V4, V6] {
            assert_permitted(&a, &b, &connect(&host_a, to));
        }
    });
}

#[test]
fn a_listener_that_is_older_than_the_agent_answers_too() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let _listeners = [listen(&host_b, V4), listen(&host_b, V6)];
        let (a, b) = (host_a.open(), host_b.open());
        for to in [V4, V6] {
            assert_permitted(&a, &b, &connect(&host_a, to));
        }
    });
}

#[test]
fn a_listener_that_forgets_syns_for_cookies_answers_too() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let older = listen(&host_b, "10.77.0.2:4431");
        let (a, b) = (host_a.open(), host_b.open());
        std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
        let younger = [listen(&host_b, V4), listen(&host_b, V6)];
        for to in [V4, V6, "10.77.0.2:4431"] {
            assert_permitted(&a, &b, &connect(&host_a, to));
        }
        host_b.enter();
        let sent = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let column = |line: usize| {
            sent.lines()
                .nth(line)
                .unwrap()
                .split(' ')
                .nth(1)
                .unwrap()
                .to_string()
        };
        assert_eq!(
            (column(0), column(1)),
            ("SyncookiesSent".into(), "3".into()),
            "they were cookies"
        );
        drop((older, younger));
    });
}

#[test]
fn a_peer_without_an_agent_stays_plain() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let mut a = host_a.open();
        let listener = listen(&host_b, V4);
        let client = connect(&host_a, V4);
        assert_plain(&a, &client, &listener.accept().unwrap().0);
        // The other way round: nobody offers, nobody answers.
        let listener = listen(&host_a, "10.77.0.1:4430");
        let client = connect(&host_b, "10.77.0.1:4430");
        assert_plain(&a, &client, &listener.accept().unwrap().0);
        assert_eq!((a.events(), a.opened()), (vec![], vec![]));
        let offered = a.counters().into_iter().find(|(name, _)| *name == "offered");
        assert_eq!(offered, Some(("offered", 1)), "by the one who connected");
    });
}

#[test]
fn a_connection_whose_first_syn_is_lost_is_offered_all_the_same() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, b) = (host_a.open(), host_b.open());
        host_b.enter();
        run("nft add table inet box");
        run("nft add set inet box seen { type inet_service ; flags dynamic ; }");
        run("nft add chain inet box in { type filter hook prerouting priority -400 ; }");
        run("nft add rule inet box in tcp flags syn tcp sport != @seen add @seen { tcp sport } drop");
        let listener = listen(&host_b, V4);
        let begun = Instant::now();
        let client = connect(&host_a, V4);
        assert!(begun.elapsed() > Duration::from_millis(900), "the first was lost");
        let _server = listener.accept().unwrap();
        assert_permitted(&a, &b, &client);
    });
}

#[test]
fn a_middlebox_that_drops_the_option_costs_two_retransmissions() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, _b) = (host_a.open(), host_b.open());
        host_b.enter();
        run("nft add table inet box");
        run("nft add chain inet box in { type filter hook prerouting priority -400 ; }");
        run("nft add rule inet box in tcp flags & syn == syn tcp option 253 exists counter drop");
        let listener = listen(&host_b, V4);
        let begun = Instant::now();
        let client = connect(&host_a, V4);
        let took = begun.elapsed();
        assert!(
            (Duration::from_millis(1900)..Duration::from_millis(6000)).contains(&took),
            "{took:?}"
        );
        assert_plain(&a, &client, &listener.accept().unwrap().0);
    });
}

#[test]
fn a_napt_on_the_way_shows_in_the_digest() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, b) = (host_a.open(), host_b.open());
        host_a.enter();
        run("ip addr add 10.77.0.9/24 dev cable");
        run("nft add table ip napt");
        run("nft add chain ip napt out { type nat hook postrouting priority 100 ; }");
        run("nft add rule ip napt out ip protocol tcp snat to 10.77.0.9:50000-50099");
        let listener = listen(&host_b, V4);
        let client = connect(&host_a, V4);
        let (server, seen) = listener.accept().unwrap();
        assert_eq!(seen.ip(), "10.77.0.9".parse::<IpAddr>().unwrap());
        let tuple = tuple_of(&server);
        until("the acceptor knows the connection", || is_known(&b, &tuple));
        let (at_a, at_b) = (
            a.connection(&tuple_of(&client)).unwrap(),
            b.connection(&tuple).unwrap(),
        );
        assert!(at_a.peer_unmapped && !at_b.peer_unmapped);
        assert_eq!(
            at_b.peer_direct_port,
            client.local_addr().unwrap().port(),
            "the port before the NAPT"
        );
    });
}

#[test]
fn to_whom_it_is_offered_is_a_setting() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (mut a, b) = (host_a.open(), host_b.open());
        let _listeners = [listen(&host_b, V4), listen(&host_b, V6)];
        let prefix = |text: &str, length, offer| (text.parse::<IpAddr>().unwrap(), length, offer);
        let settings = [
            (false, vec![], false, false),
            (false, vec![prefix("10.77.0.0", 24, true)], true, false),
            (true, vec![prefix("10.77.0.0", 24, false)], false, true),
            (
                false,
                vec![prefix("10.0.0.0", 8, false), prefix("10.77.0.2", 32, true)],
                true,
                false,
            ),
            (false, vec![prefix("fd00::", 8, true)], false, true),
            (true, vec![], true, true),
        ];
        for (offer_all, offer, to_v4, to_v6) in settings {
            host_a.enter();
            a.set_offer(&datapath::Options {
                offer_all,
                offer: offer.clone(),
                ..host_a.options()
            })
            .unwrap();
            for (to, expected) in [(V4, to_v4), (V6, to_v6)] {
                let client = connect(&host_a, to);
                assert_eq!(
                    is_known(&a, &tuple_of(&client)),
                    expected,
                    "{to} with {offer_all} {offer:?}"
                );
            }
        }
        drop(b);
    });
}

#[test]
fn the_agents_own_connections_are_left_alone() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, b) = (host_a.open(), host_b.open());
        let marked = |host: &Host| {
            host.enter();
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_mark(AGENT_MARK).unwrap();
            socket
        };
        let listener = listen(&host_b, V4);
        let client = marked(&host_a);
        client.connect(&address(V4).into()).unwrap();
        assert_plain(&a, &client.into(), &listener.accept().unwrap().0);
        let listener = marked(&host_b);
        listener.bind(&address("10.77.0.2:4431").into()).unwrap();
        listener.listen(1).unwrap();
        let client = connect(&host_a, "10.77.0.2:4431");
        let (server, _) = listener.accept().unwrap();
        assert_plain(&b, &client, &server.into());
    });
}

#[test]
fn a_connection_is_forgotten_when_its_socket_closes() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let (a, b) = (host_a.open(), host_b.open());
        let listener = listen(&host_b, V4);
        for reset in [false, true] {
            let client = connect(&host_a, V4);
            let (server, _) = listener.accept().unwrap();
            assert_permitted(&a, &b, &client);
            if reset {
                Socket::from(client.try_clone().unwrap())
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
            }
            drop(client);
            drop(server);
            until("both have forgotten it", || {
                a.connections().is_empty() && b.connections().is_empty()
            });
        }
    });
}
