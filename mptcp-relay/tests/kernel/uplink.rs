//! Terminals that connect to servers: who may, who is asked, how much the relay holds, and what goes on without it.
use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use mptcp_pm::{Client, Endpoint, EndpointFlags, Event, Events};
use nix::sys::signal::Signal;
use socket2::{Domain, MaybeUninitSlice, MsgHdrMut, Protocol, SockRef, Socket, Type};

use crate::place::{Place, SECOND, SERVER, TERMINAL, until};
use crate::segment::{Raw, SYN, Segment};
use crate::{no_resets, segment, still_talks, talks};

/// The relay's own address on the first network.
const ROUTER: [u8; 4] = [10, 1, 0, 1];

#[test]
fn a_server_that_a_router_cannot_reach_is_that_for_its_terminal() {
    let place = Place::new();
    let _relay = place.relay("timeouts = { server = 0.3 }");
    // The server's host is a router that knows no way.
    place.on("r", "ip route add 198.51.100.0/24 via 192.0.2.2");
    place.on("s", "ip route add unreachable 198.51.100.0/24");
    place.set("s", "net/ipv4/ip_forward", "1");
    let error = place.inside("t", || {
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM,
            Some(Protocol::from(libc::IPPROTO_MPTCP)),
        );
        let to = SocketAddr::from(([198, 51, 100, 9], 80));
        let outcome = socket
            .expect("a socket")
            .connect_timeout(&to.into(), Duration::from_secs(60));
        outcome.expect_err("nobody is there")
    });
    assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH), "{error}");
    assert_eq!(place.counted("counters", "asked"), 1);
    assert_eq!(place.counted("counters", "silent"), 1);
}

#[test]
fn a_service_whose_port_is_taken_on_the_relays_host_is_relayed_all_the_same() {
    let place = Place::new();
    let _relay = place.relay("");
    let other = place.inside("r", || TcpListener::bind("0.0.0.0:7000").expect("a free port"));
    drop(talks(&place, 7000));
    assert_eq!(place.counted("counters", "multipath"), 1);
    let status = place.ask(&["status"]).expect("the relay runs");
    assert_eq!(status["ports"], serde_json::json!([]), "no listener of its own");
    other.set_nonblocking(true).expect("an option");
    let nobody = other
        .accept()
        .map(|(_, from)| from)
        .expect_err("it is not for this program");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_syn_asks_no_server_where_its_source_is_not_reached() {
    for (setting, asked) in [("", 1), ("reverse_path = false", 2)] {
        let place = Place::new();
        let _relay = place.relay(setting);
        no_resets(&place);
        // Somebody on the terminal's network uses a stranger's address, for a service that refuses.
        place.on("t", "ip address add 203.0.113.77/32 dev wifi");
        place.inside("t", || {
            Raw::open().send(&Segment {
                from: SocketAddrV4::new([203, 0, 113, 77].into(), 44_000),
                to: SocketAddrV4::new(SERVER, 7009),
                ..segment(44_000, SYN, &[30, 4, 0x01, 0x01])
            });
        });
        drop(talks(&place, 7000));
        // It came first, on the same link.
        assert_eq!(place.counted("counters", "asked"), asked, "{setting}");
    }
}

/// Far more than all buffers between two ends may hold.
const FAR_TOO_MUCH: usize = 96 << 20;

/// Writes until nothing more is taken; how much was.
fn fill(mut to: &TcpStream) -> usize {
    let chunk = [7; 64 * 1024];
    to.set_write_timeout(Some(Duration::from_secs(2)))
        .expect("a timeout");
    let mut taken = 0;
    while taken < FAR_TOO_MUCH {
        match to.write(&chunk) {
            Ok(length) => taken += length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("after {taken} bytes: {error}"),
        }
    }
    taken
}

#[test]
fn a_receiver_that_does_not_read_stops_the_sender_and_the_relay_holds_little() {
    const RESIDENT: usize = 8 << 20;
    let place = Place::new();
    let relay = place.relay("receive_buffer = 262144");
    let (terminal, server) = talks(&place, 7000);
    for (from, mut to) in [(&server, &terminal), (&terminal, &server)] {
        let before = relay.resident();
        let taken = fill(from);
        assert!(taken < FAR_TOO_MUCH, "nothing stops the sender");
        let grown = relay.resident().saturating_sub(before);
        assert!(
            grown < RESIDENT,
            "{taken} bytes are on their way, {grown} of them at the relay"
        );
        to.set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        let mut all = vec![0; taken];
        to.read_exact(&mut all).expect("all of it arrives");
        assert!(all.iter().all(|byte| *byte == 7));
        still_talks(&terminal, &server);
    }
}

/// Takes what a program gives its supervisor to keep.
fn kept(supervisor: &UnixDatagram) -> OwnedFd {
    until("a descriptor is stored", || {
        let (mut text, mut control) = (
            [std::mem::MaybeUninit::uninit(); 256],
            [std::mem::MaybeUninit::uninit(); 64],
        );
        let mut buffers = [MaybeUninitSlice::new(&mut text)];
        let mut message = MsgHdrMut::new()
            .with_buffers(&mut buffers)
            .with_control(&mut control);
        SockRef::from(supervisor)
            .recvmsg(&mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)
            .ok()?;
        let length = message.control_len();
        // SAFETY: the kernel has written so many bytes.
        let control: Vec<u8> = control[..length]
            .iter()
            .map(|byte| unsafe { byte.assume_init() })
            .collect();
        let descriptor = control.get(size_of::<libc::cmsghdr>()..)?.first_chunk()?;
        // SAFETY: the kernel has just made it for this process.
        Some(unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(*descriptor)) })
    })
}

#[test]
fn a_program_of_the_relays_host_takes_subflows_while_no_relay_runs() {
    let place = Place::new();
    place.set("t", "net/mptcp/pm_type", "1");
    let notices = place.directory().join("notices");
    let supervisor = UnixDatagram::bind(&notices).expect("a socket");
    let relay = place.relay_with("", &[("NOTIFY_SOCKET", &notices)]);
    let subscription = kept(&supervisor);
    let listener = place.inside("r", || {
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM,
            Some(Protocol::from(libc::IPPROTO_MPTCP)),
        );
        let socket = socket.expect("a socket");
        socket
            .bind(&SocketAddr::from(([0, 0, 0, 0], 9000)).into())
            .expect("a free port");
        socket.listen(4).expect("it listens");
        TcpListener::from(socket)
    });
    place.inside("t", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = Client::connect().await.expect("the path manager");
            let mut events = Events::subscribe().await.expect("its events");
            let terminal = Socket::new(
                Domain::IPV4,
                Type::STREAM,
                Some(Protocol::from(libc::IPPROTO_MPTCP)),
            );
            let terminal = terminal.expect("a socket");
            let to = SocketAddr::from((ROUTER, 9000));
            terminal.connect(&to.into()).expect("it answers");
            let terminal = TcpStream::from(terminal);
            let (program, from) = listener.accept().expect("it arrives");
            assert_eq!(from.ip(), TERMINAL);
            still_talks(&terminal, &program);
            relay.signal(Signal::SIGKILL);
            let own = mptcp_pm::connections().await.expect("a list");
            let token = own.first().expect("its connection").token;
            let local = Endpoint {
                id: 2,
                interface: nix::net::if_::if_nametoindex("lte").ok(),
                ..Endpoint::new(SECOND.into(), EndpointFlags::SUBFLOW)
            };
            client.create_subflow(token, &local, to).await.expect("a SYN");
            let taken = |event: &Event| matches!(event, Event::SubflowEstablished(_));
            heard(&mut events, "a subflow that is taken", taken).await;
            still_talks(&terminal, &program);
            let flows = mptcp_pm::subflows().await.expect("a list");
            assert_eq!(flows.len(), 2, "it was reset at once: {flows:?}");
            // The kernel refuses joins when nobody is subscribed, in any network namespace: others are, beside this test.
            assert_eq!(subscribers(&place), 1, "what the supervisor has");
            drop(subscription);
            assert_eq!(subscribers(&place), 0);
            still_talks(&terminal, &program);
        });
    });
}

/// Programs that are subscribed to anything of generic netlink on the router.
fn subscribers(place: &Place) -> usize {
    const GENERIC: &str = "16";
    let sockets = place.on("r", "cat /proc/net/netlink");
    let subscribed = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&GENERIC)
            && words
                .get(3)
                .is_some_and(|groups| groups.bytes().any(|byte| byte != b'0'))
    };
    sockets.lines().filter(subscribed).count()
}

/// Waits for the path manager to tell something.
async fn heard(events: &mut Events, what: &str, is: impl Fn(&Event) -> bool) {
    let told = async {
        while let Some(event) = events.next().await {
            if is(&event) {
                return;
            }
        }
        panic!("the path manager is gone");
    };
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    told.unwrap_or_else(|_| panic!("nobody has heard of {what}"));
}

#[test]
fn everything_that_can_be_asked_is_answered_as_json() {
    let place = Place::new();
    let points = "balance.points = [{ name = \"a\", addresses = [\"10.1.0.0/16\"], capacity = 1e6 }, \
                  { name = \"b\", addresses = [\"10.2.0.0/16\"], capacity = 1e6 }]";
    let relay = place.relay(points);
    let (terminal, server) = talks(&place, 7000);
    let ask = |words: &[&str]| {
        place
            .ask(words)
            .unwrap_or_else(|| panic!("{words:?} is not answered"))
    };
    let sessions = ask(&["sessions"]);
    let session = &sessions[0];
    assert_eq!(
        session["terminal"],
        terminal.local_addr().expect("an address").to_string()
    );
    assert_eq!(session["server"], SocketAddr::from((SERVER, 7000)).to_string());
    let token = session["token"].as_str().expect("a token");
    assert_eq!(ask(&["subflows"])[0]["token"], token);
    assert_eq!(ask(&["prefer", token, "10.1.0.2"])["token"], token);
    assert_eq!(ask(&["sessions"])[0]["primary"], "10.1.0.2");
    assert_eq!(ask(&["balance"])["points"][1]["point"], "b");
    assert_eq!(ask(&["balance", "on"])["on"], true);
    assert_eq!(ask(&["status"])["sessions"], 1);
    assert!(
        ask(&["doctor"])
            .as_array()
            .is_some_and(|findings| findings.len() > 4)
    );
    drop((terminal, server));
    relay.signal(Signal::SIGKILL);
    assert!(ask(&["cleanup"])["removed"].is_array());
}

/// Passes so much from one end to the other.
fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![7; bytes]).expect("said"));
        to.set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        to.read_exact(&mut vec![0; bytes]).expect("heard");
    });
}

#[test]
fn each_connection_of_a_terminal_has_a_primary_path_of_its_own_in_both_directions() {
    const MUCH: usize = 2 << 20;
    let place = Place::new();
    let _relay = place.relay("");
    place.on("t", "ip mptcp limits set subflows 2");
    place.on("t", "ip mptcp endpoint add 10.2.0.2 dev lte id 2 subflow");
    let connections = [talks(&place, 7000), talks(&place, 7001)];
    let subflows = || place.ask(&["subflows"]).expect("the relay runs");
    until("both have two subflows", || {
        (subflows().as_array()?.len() == 4).then_some(())
    });
    let paths = [SECOND, TERMINAL];
    for ((terminal, _), path) in connections.iter().zip(paths) {
        let name = terminal.local_addr().expect("an address").to_string();
        place
            .ask(&["prefer", &name, &path.to_string()])
            .expect("it has this path");
    }
    for (terminal, server) in &connections {
        pass(terminal, server, MUCH);
        pass(server, terminal, MUCH);
    }
    for ((terminal, _), path) in connections.iter().zip(paths) {
        let name = terminal.local_addr().expect("an address").to_string();
        let subflows = subflows();
        let own = subflows
            .as_array()
            .into_iter()
            .flatten()
            .filter(|flow| flow["terminal"] == name);
        for flow in own {
            let chosen = flow["remote"]
                .as_str()
                .is_some_and(|remote| remote.starts_with(&path.to_string()));
            assert_eq!(flow["backup"], !chosen, "{flow}");
            for way in ["sent", "received"] {
                let bytes = flow[way].as_u64().unwrap_or(0) as usize;
                // A word or two may have gone before the choice.
                assert_eq!(bytes >= MUCH, chosen, "{way}: {flow}");
                assert!(chosen || bytes < 10_000, "{way}: {flow}");
            }
        }
    }
}
