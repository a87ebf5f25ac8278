//! Against the kernel, in a network namespace of each test's own: both ends of a connection on its loopback device.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use mptcp_pm::{
    Client, Connection, ConnectionFlags, Endpoint, EndpointFlags, Error, Event, Events, Limits, SubflowFlags,
    Token,
};
use socket2::{Domain, Protocol, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test in a namespace that ends with it.
fn alone<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let run = |arguments: &str| {
            let status = std::process::Command::new("ip")
                .args(arguments.split(' '))
                .status();
            assert!(status.is_ok_and(|status| status.success()), "ip {arguments}");
        };
        run("link set lo up");
        for last in 1..=4 {
            run(&format!("address add 10.1.0.{last}/24 dev lo"));
        }
        run("address add fd01::1/64 dev lo nodad");
        run("address add fd01::2/64 dev lo nodad");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// From now on the program is the path manager of its namespace.
fn by_program() {
    // The name since Linux 6.15, the number before.
    let named = std::fs::write("/proc/sys/net/mptcp/path_manager", "userspace");
    if named.is_err() {
        std::fs::write("/proc/sys/net/mptcp/pm_type", "1").expect("this kernel has MPTCP");
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

struct Pair {
    client: TcpStream,
    server: TcpStream,
}

/// An MPTCP connection from one address to another.
fn connect(from: &str, to: &str) -> Pair {
    let (from, to) = (SocketAddr::new(address(from), 0), SocketAddr::new(address(to), 0));
    let protocol = Some(Protocol::MPTCP);
    let listener = Socket::new(Domain::for_address(to), Type::STREAM, protocol).expect("an MPTCP socket");
    listener.bind(&to.into()).expect("bound");
    listener.listen(8).expect("listening");
    let to = listener.local_addr().expect("an address");
    let client = Socket::new(Domain::for_address(from), Type::STREAM, protocol).expect("an MPTCP socket");
    client.bind(&from.into()).expect("bound");
    client.connect(&to).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    // Joins go to the port of the listener, which therefore stays.
    std::mem::forget(listener);
    let (client, server): (TcpStream, TcpStream) = (client.into(), server.into());
    let mut pair = Pair { client, server };
    pair.talk();
    pair
}

impl Pair {
    /// One byte each way: the handshake of MPTCP ends with the first data.
    fn talk(&mut self) {
        let mut byte = [0];
        self.client.write_all(b"?").expect("sent");
        self.server.read_exact(&mut byte).expect("received");
        self.server.write_all(b"!").expect("sent");
        self.client.read_exact(&mut byte).expect("received");
    }
}

async fn wait_for<T>(events: &mut Events, what: &str, mut pick: impl FnMut(&Event) -> Option<T>) -> T {
    let mut heard = Vec::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            let event = events.next().await.expect("the subscription goes on");
            if let Some(picked) = pick(&event) {
                return picked;
            }
            heard.push(event);
        }
    });
    match waited.await {
        Ok(picked) => picked,
        Err(_) => panic!("no {what}; heard {heard:#?}"),
    }
}

/// Tokens of the connecting and of the accepting end.
async fn established(events: &mut Events) -> (Token, Token) {
    let (mut client, mut server) = (None, None);
    wait_for(events, "connection at both ends", |event| {
        if let Event::Established(created) = event {
            let end = if created.accepted {
                &mut server
            } else {
                &mut client
            };
            *end = Some(created.token);
        }
        client.zip(server)
    })
    .await
}

#[test]
fn endpoints_and_limits_are_what_was_set() {
    alone(|| async {
        let client = Client::connect().await.expect("connected");
        assert_eq!(client.endpoints().await.expect("a list"), []);
        let limits = Limits {
            subflows: 5,
            accepted_addresses: 3,
        };
        client.set_limits(limits).await.expect("set");
        assert_eq!(client.limits().await.expect("limits"), limits);

        let flags = EndpointFlags::SUBFLOW | EndpointFlags::BACKUP;
        client
            .add_endpoint(&Endpoint::new(address("10.1.0.2"), flags))
            .await
            .expect("added");
        let signal = Endpoint {
            port: Some(4242),
            id: 9,
            ..Endpoint::new(address("fd01::1"), EndpointFlags::SIGNAL)
        };
        client.add_endpoint(&signal).await.expect("added");
        let listed = client.endpoints().await.expect("a list");
        assert_eq!(listed.len(), 2, "{listed:?}");
        assert!(listed.contains(&signal), "{listed:?}");
        let first = listed
            .iter()
            .find(|endpoint| endpoint.address == address("10.1.0.2"));
        let first = *first.expect("the first endpoint");
        assert_eq!(first.flags, flags);
        assert_ne!(first.id, 0, "the kernel has numbered it");

        let active = Endpoint {
            flags: EndpointFlags::SUBFLOW,
            ..first
        };
        client.set_endpoint_flags(&active).await.expect("changed");
        assert!(client.endpoints().await.expect("a list").contains(&active));
        client.remove_endpoint(&active).await.expect("removed");
        assert_eq!(client.endpoints().await.expect("a list"), [signal]);
        client.flush_endpoints().await.expect("flushed");
        assert_eq!(client.endpoints().await.expect("a list"), []);
    });
}

#[test]
fn a_subflow_is_opened_made_a_backup_and_closed_by_command() {
    alone(|| async {
        by_program();
        let client = Client::connect().await.expect("connected");
        let mut events = Events::subscribe().await.expect("subscribed");
        let mut pair = connect("10.1.0.2", "10.1.0.1");
        let (token, peer) = established(&mut events).await;
        let server = pair.client.peer_addr().expect("an address");

        let local = Endpoint {
            id: 7,
            ..Endpoint::new(address("10.1.0.3"), EndpointFlags::empty())
        };
        client
            .create_subflow(token, &local, server)
            .await
            .expect("opened");
        let joined = wait_for(&mut events, "joined subflow", |event| match event {
            Event::SubflowEstablished(subflow) if subflow.token == token => Some(subflow.clone()),
            _ => None,
        });
        let joined = joined.await;
        assert_eq!((joined.local.ip(), joined.remote), (local.address, server));
        assert_eq!((joined.local_id, joined.backup, joined.error), (7, false, None));

        let listed = mptcp_pm::subflows().await.expect("a list");
        let mine: Vec<_> = listed.iter().filter(|subflow| subflow.token == token).collect();
        assert_eq!(mine.len(), 2, "{listed:#?}");
        let added = mine.iter().find(|subflow| subflow.local == joined.local);
        let added = added.expect("the added subflow");
        assert!(
            added
                .flags
                .contains(SubflowFlags::JOINED_LOCAL | SubflowFlags::FULLY_ESTABLISHED)
        );
        assert_eq!(added.remote_token, peer.0);
        assert!(!added.is_backup());

        client
            .set_backup(token, joined.local, joined.remote, true)
            .await
            .expect("changed");
        let told = wait_for(&mut events, "priority at the peer", |event| match event {
            Event::SubflowPriority(subflow) if subflow.token == peer => Some(subflow.clone()),
            _ => None,
        });
        let told = told.await;
        assert!(told.backup);
        assert_eq!((told.remote, told.local), (joined.local, joined.remote));
        let listed = mptcp_pm::subflows().await.expect("a list");
        let backups: Vec<_> = listed.iter().filter(|subflow| subflow.is_backup()).collect();
        assert_eq!(backups.len(), 2, "both ends know: {listed:#?}");
        client
            .set_backup(token, joined.local, joined.remote, false)
            .await
            .expect("changed back");
        wait_for(&mut events, "priority at the peer", |event| match event {
            Event::SubflowPriority(subflow) if subflow.token == peer && !subflow.backup => Some(()),
            _ => None,
        })
        .await;

        client
            .destroy_subflow(token, joined.local, joined.remote)
            .await
            .expect("closed");
        wait_for(&mut events, "closed subflow", |event| match event {
            Event::SubflowClosed(subflow) if subflow.token == token && subflow.local == joined.local => {
                Some(())
            }
            _ => None,
        })
        .await;
        pair.talk();

        drop(pair);
        let mut open = vec![token, peer];
        wait_for(&mut events, "closed connection at both ends", |event| {
            if let Event::Closed(closed) = event {
                open.retain(|token| token != closed);
            }
            open.is_empty().then_some(())
        })
        .await;
        let refused = client.destroy_subflow(token, joined.local, joined.remote).await;
        assert!(
            matches!(&refused, Err(error) if error.is_gone() || matches!(error, Error::Refused { .. })),
            "{refused:?}"
        );
    });
}

#[test]
fn a_connection_of_the_kernels_own_path_manager_keeps_it_and_is_switched_by_endpoints_alone() {
    alone(|| async {
        let client = Client::connect().await.expect("connected");
        let second = Endpoint {
            id: 7,
            ..Endpoint::new(address("10.1.0.3"), EndpointFlags::SUBFLOW)
        };
        client.add_endpoint(&second).await.expect("added");
        let mut events = Events::subscribe().await.expect("subscribed");
        let mut pair = connect("10.1.0.2", "10.1.0.1");
        let (token, _) = established(&mut events).await;
        let joined = wait_for(&mut events, "joined subflow", |event| match event {
            Event::SubflowEstablished(subflow) if subflow.token == token => Some(subflow.clone()),
            _ => None,
        })
        .await;
        // The path manager of new connections does not matter to it.
        by_program();
        let refused = client.set_backup(token, joined.local, joined.remote, true).await;
        let refused = refused.expect_err("the kernel manages it");
        assert!(matches!(refused, Error::Refused { .. }), "{refused}");
        let refused = client.destroy_subflow(token, joined.local, joined.remote).await;
        assert!(refused.is_err(), "the kernel manages it");
        // All connections by this endpoint at once: that it still does.
        let reserve = Endpoint {
            flags: EndpointFlags::SUBFLOW | EndpointFlags::BACKUP,
            ..second
        };
        client.set_endpoint_flags(&reserve).await.expect("changed");
        let backups = || async {
            let listed = mptcp_pm::subflows().await.expect("a list");
            listed.iter().filter(|subflow| subflow.is_backup()).count()
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while backups().await != 2 {
            assert!(std::time::Instant::now() < deadline, "not a backup at both ends");
            pair.talk();
        }
    });
}

#[test]
fn an_address_is_announced_and_taken_back() {
    alone(|| async {
        by_program();
        let client = Client::connect().await.expect("connected");
        let mut events = Events::subscribe().await.expect("subscribed");
        let _pair = connect("fd01::2", "fd01::1");
        let (token, peer) = established(&mut events).await;
        let endpoint = Endpoint {
            id: 5,
            port: Some(5555),
            ..Endpoint::new(address("10.1.0.4"), EndpointFlags::empty())
        };
        client.announce(peer, &endpoint).await.expect("announced");
        let announced = wait_for(&mut events, "announced address", |event| match event {
            Event::AddressAnnounced(announced) if announced.token == token => Some(*announced),
            _ => None,
        });
        let announced = announced.await;
        assert_eq!(
            (announced.id, announced.address, announced.port),
            (5, endpoint.address, endpoint.port)
        );
        client.remove(peer, 5).await.expect("taken back");
        let removed = wait_for(&mut events, "removed address", |event| match event {
            Event::AddressRemoved { token: of, id } if *of == token => Some(*id),
            _ => None,
        });
        assert_eq!(removed.await, 5);
    });
}

#[test]
fn connections_say_what_they_carried_and_whether_they_fell_back() {
    alone(|| async {
        let mut pair = connect("10.1.0.2", "10.1.0.1");
        pair.client.write_all(&[0; 100_000]).expect("sent");
        pair.server.read_exact(&mut vec![0; 100_000]).expect("received");
        let client = pair.client.local_addr().expect("an address");
        let find = |listed: &[Connection]| {
            listed
                .iter()
                .find(|connection| connection.local == client)
                .cloned()
        };
        let listed = mptcp_pm::connections().await.expect("a list");
        let mine = find(&listed).unwrap_or_else(|| panic!("not in {listed:#?}"));
        assert_eq!(
            mine.bytes_sent.map(|bytes| bytes >= 100_001),
            Some(true),
            "{mine:?}"
        );
        assert!(!mine.flags.contains(ConnectionFlags::FALLBACK));
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let subflows = mptcp_pm::subflows().await.expect("a list");
            let mut of_mine = subflows.iter().filter(|subflow| subflow.token == mine.token);
            if of_mine.any(|subflow| subflow.bytes_acknowledged > 100_000) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{mine:?} in {subflows:#?}");
        }
    });
}

#[test]
fn who_reads_too_slowly_is_told_that_events_are_missed() {
    alone(|| async {
        let mut events = Events::subscribe().await.expect("subscribed");
        let listener =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).expect("an MPTCP socket");
        let to = SocketAddr::new(address("10.1.0.1"), 7000);
        listener.bind(&to.into()).expect("bound");
        listener.listen(8).expect("listening");
        // Nothing is read while this goes on: all is done by one thread.
        for _ in 0..6000 {
            let client =
                Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)).expect("an MPTCP socket");
            client.connect(&to.into()).expect("connected");
            drop(listener.accept().expect("accepted"));
        }
        wait_for(&mut events, "word of a loss", |event| {
            (*event == Event::Missed).then_some(())
        })
        .await;
        // What the kernel has kept comes behind that; as long as there is no room, more is missed.
        let goes_on = async {
            loop {
                let pair = connect("10.1.0.2", "10.1.0.1");
                let client = pair.client.local_addr().expect("an address");
                let heard = async {
                    loop {
                        match events.next().await.expect("the subscription goes on") {
                            Event::Created(created) if created.local == client => return,
                            _ => {}
                        }
                    }
                };
                if tokio::time::timeout(Duration::from_secs(1), heard).await.is_ok() {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, goes_on).await.expect("it goes on");
    });
}

#[test]
fn joins_are_taken_while_a_stand_in_is_subscribed_that_nobody_reads() {
    alone(|| async {
        by_program();
        let client = Client::connect().await.expect("connected");
        let mut events = Events::subscribe().await.expect("subscribed");
        let mut pair = connect("10.1.0.2", "10.1.0.1");
        let (token, _) = established(&mut events).await;
        let subflows = || async {
            let listed = mptcp_pm::subflows().await.expect("a list");
            listed.iter().filter(|subflow| subflow.token == token).count()
        };
        let stand_in = mptcp_pm::stand_in().await.expect("subscribed");
        drop(events);
        let server = pair.client.peer_addr().expect("an address");
        let from = |id, last| Endpoint {
            id,
            ..Endpoint::new(address(last), EndpointFlags::empty())
        };
        client
            .create_subflow(token, &from(7, "10.1.0.3"), server)
            .await
            .expect("a SYN");
        let deadline = std::time::Instant::now() + PATIENCE;
        while subflows().await < 2 {
            assert!(std::time::Instant::now() < deadline, "it is not taken");
            pair.talk();
        }
        // What becomes of joins without it is a claim of `mptcp-relay/tests/kernel/uplink.rs`.
        drop(stand_in);
    });
}

#[test]
fn refusals_say_what_was_asked_for() {
    alone(|| async {
        by_program();
        let client = Client::connect().await.expect("connected");
        let stranger = Token(0x1234_5678);
        let remote = SocketAddr::new(address("10.1.0.1"), 80);
        let local = Endpoint::new(address("10.1.0.2"), EndpointFlags::empty());
        let refused = client
            .create_subflow(stranger, &local, remote)
            .await
            .expect_err("no such connection");
        let text = refused.to_string();
        assert!(
            text.contains("10.1.0.2 -> 10.1.0.1:80 of connection 12345678"),
            "{text}"
        );
        let unnumbered = client
            .announce(stranger, &local)
            .await
            .expect_err("without a number");
        assert!(
            matches!(&unnumbered, Error::Parameter(text) if text.contains("set `id`")),
            "{unnumbered}"
        );
    });
}
