//! Servers that connect to terminals, and what the terminals' applications and kernels see of it.
use std::io::ErrorKind;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use mptcp_pm::{Client, Endpoint, EndpointFlags, Event, Events};
use socket2::{Domain, Protocol, Socket, Type};

use crate::place::{Place, SECOND, SERVER, TERMINAL, until};
use crate::segment::{Raw, SYN, Segment};
use crate::still_talks;

const SIDE: &str = "interfaces = [\"wifi\", \"lte\"]";

/// A program of the terminal's that accepts on a port.
pub fn listen(place: &Place, port: u16, mptcp: bool) -> TcpListener {
    place.inside("t", || {
        let protocol = if mptcp {
            libc::IPPROTO_MPTCP
        } else {
            libc::IPPROTO_TCP
        };
        let socket =
            Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(protocol))).expect("a socket");
        socket
            .bind(&SocketAddrV4::new(TERMINAL, port).into())
            .expect("a free port");
        socket.listen(16).expect("it listens");
        socket.into()
    })
}

fn connect(place: &Place, port: u16) -> std::io::Result<TcpStream> {
    place.inside("s", || TcpStream::connect((TERMINAL, port)))
}

fn nobody_else(listener: &TcpListener) {
    listener.set_nonblocking(true).expect("an option");
    let next = listener.accept().map(|(_, from)| from);
    assert_eq!(next.expect_err("one connection").kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_terminal_without_mptcp_sees_the_servers_own_connection_and_no_other() {
    let place = Place::new();
    let _relay = place.relay(SIDE);
    let listener = listen(&place, 7000, false);
    let server = connect(&place, 7000).expect("it answers");
    let (terminal, from) = listener.accept().expect("it arrives");
    assert_eq!(from, server.local_addr().expect("its address"));
    still_talks(&terminal, &server);
    assert_eq!(place.counted("counters", "probed_plain"), 1);
    assert_eq!(place.ask(&["sessions"]), Some(serde_json::json!([])));
    // Nothing waits half open: the reset has ended what was asked.
    let embryos = place.on("t", "ss -Htn state syn-recv");
    assert_eq!(embryos.trim(), "");
    nobody_else(&listener);
}

#[test]
fn a_terminal_with_mptcp_sees_one_connection_from_the_server() {
    let place = Place::new();
    let _relay = place.relay(SIDE);
    let listener = listen(&place, 7000, true);
    let server = connect(&place, 7000).expect("it answers");
    let (terminal, from) = listener.accept().expect("it arrives");
    assert_eq!(from, server.local_addr().expect("its address"));
    still_talks(&terminal, &server);
    let sessions = place.ask(&["sessions"]).expect("a list");
    assert_eq!(sessions[0]["opened_by"], "server");
    assert_eq!(sessions[0]["kind"], "multipath");
    nobody_else(&listener);
}

/// Segments that a host's kernel has had to repeat.
fn repeated(place: &Place, host: &str) -> u64 {
    let text = place.on(host, "cat /proc/net/snmp");
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find_map(|(name, value)| (name == "RetransSegs").then_some(value));
    value
        .and_then(|value| value.parse().ok())
        .expect("the kernel counts them")
}

#[test]
fn a_question_that_hangs_is_given_up_before_the_server_repeats_its_syn() {
    let place = Place::new();
    let _relay = place.relay(&format!("{SIDE}\ntimeouts = {{ probe = 0.3 }}"));
    let listener = listen(&place, 7000, false);
    // Something on the terminal's side swallows what asks for MPTCP.
    place.nft(
        "t",
        "table inet middlebox { chain in { type filter hook input priority 0; tcp option mptcp exists drop; }; }",
    );
    let server = connect(&place, 7000).expect("it answers");
    let (terminal, _) = listener.accept().expect("it arrives");
    // Its kernel would have done so after a second: `timeouts.probe` may not be longer.
    assert_eq!(repeated(&place, "s"), 0);
    still_talks(&terminal, &server);
    assert_eq!(place.counted("counters", "probed_silent"), 1);
    // And nobody asks again for a while.
    let again = connect(&place, 7000).expect("it answers");
    let (other, _) = listener.accept().expect("it arrives");
    still_talks(&other, &again);
    assert_eq!(place.counted("counters", "passed_known_silent"), 1);
    assert_eq!(place.counted("counters", "probed"), 1);
}

#[test]
fn a_subflow_that_joins_before_anybody_has_said_anything_is_taken() {
    let place = Place::new();
    // The terminal's path manager is this test: its join comes when the connection stands here, and only once.
    place.set("t", "net/mptcp/pm_type", "1");
    let _relay = place.relay(SIDE);
    let listener = listen(&place, 7000, true);
    place.inside("t", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = Client::connect().await.expect("the path manager");
            let mut events = Events::subscribe().await.expect("its events");
            let server = connect(&place, 7000).expect("it answers");
            let (terminal, _) = listener.accept().expect("it arrives");
            let own = mptcp_pm::connections().await.expect("a list");
            let token = own.first().expect("its connection").token;
            let local = Endpoint {
                id: 2,
                interface: nix::net::if_::if_nametoindex("lte").ok(),
                ..Endpoint::new(SECOND.into(), EndpointFlags::SUBFLOW)
            };
            let to = server.local_addr().expect("its address");
            client.create_subflow(token, &local, to).await.expect("a SYN");
            let joined = async {
                loop {
                    match events.next().await.expect("the path manager goes on") {
                        Event::SubflowEstablished(subflow) => return subflow.local.ip(),
                        Event::SubflowClosed(subflow) => panic!("refused: {subflow:?}"),
                        _ => {}
                    }
                }
            };
            let joined = tokio::time::timeout(Duration::from_secs(60), joined).await;
            assert_eq!(joined.expect("it joins"), SECOND);
            still_talks(&terminal, &server);
        });
    });
    assert_eq!(place.counted("counters", "joined_early"), 1);
    assert_eq!(place.counted("kernel", "MPJoinAckRx"), 1);
}

#[test]
fn a_server_that_never_completes_its_handshake_leaves_no_trace_at_the_terminal() {
    let place = Place::new();
    let _relay = place.relay(&format!("{SIDE}\ntimeouts = {{ terminal = 1.0 }}"));
    let listener = listen(&place, 7000, true);
    // Somebody uses the server's address who cannot answer for it.
    place.nft(
        "s",
        "table ip quiet { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }",
    );
    place.inside("s", || {
        Raw::open().send(&Segment {
            from: SocketAddrV4::new(SERVER, 45_000),
            to: SocketAddrV4::new(TERMINAL, 7000),
            seq: 1000,
            ack: 0,
            flags: SYN,
            options: &[],
        });
    });
    until("it is given up", || {
        (place.counted("counters", "never_completed") == 1).then_some(())
    });
    until("the terminal's kernel forgets it", || {
        place
            .on("t", "ss -Htn state syn-recv")
            .trim()
            .is_empty()
            .then_some(())
    });
    nobody_else(&listener);
    assert_eq!(place.ask(&["status"]).expect("the relay runs")["half_open"], 0);
}

#[test]
fn a_server_in_a_refused_range_connects_directly() {
    let place = Place::new();
    let _relay = place.relay(&format!("{SIDE}\nrefuse = [\"192.0.2.0/24\"]"));
    let listener = listen(&place, 7000, true);
    let server = connect(&place, 7000).expect("it answers");
    let (terminal, _) = listener.accept().expect("it arrives");
    still_talks(&terminal, &server);
    assert_eq!(place.counted("counters", "probed"), 0);
}
