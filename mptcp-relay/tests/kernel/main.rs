//! Claims about the relay in a kernel: what it sets up and takes away, and what happens when it is asked for what is
//! wrong, too much, or missing. Needs root; everything happens in network namespaces of the test's own.
mod downlink;
mod lacking;
mod place;
mod segment;
mod uplink;

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use mptcp_pm::{Client, Endpoint, EndpointFlags, Token};
use nix::sys::signal::Signal;
use place::{Place, SECOND, SERVER, TERMINAL, until};
use segment::{ACK, RST, Raw, SYN, Segment};

/// Rules of programs that have nothing to do with the relay, in the tables and chains it uses itself.
fn firewall(place: &Place) {
    place.nft(
        "r",
        "table inet firewall { chain in { type filter hook input priority 0; policy accept; \
         tcp dport 23 drop; }; chain pre { type filter hook prerouting priority -301; policy accept; }; }
         table ip nat { chain post { type nat hook postrouting priority 100; oifname \"none\" masquerade; }; }",
    );
    place.on(
        "r",
        "iptables-legacy -t raw -A PREROUTING -p udp --dport 9 -j DROP",
    );
    place.on("r", "ip rule add fwmark 0x7 lookup 77 priority 80");
}

/// A connection through the relay says and hears something.
fn talks(place: &Place, port: u16) -> (TcpStream, TcpStream) {
    let listener = place.listen(port);
    let terminal = place.connect(port).expect("a connection");
    let (server, from) = listener.accept().expect("it arrives");
    // Whoever is between, the server sees the terminal, and the terminal the server.
    assert_eq!(from, terminal.local_addr().expect("an address"));
    assert_eq!(terminal.peer_addr().ok(), server.local_addr().ok());
    still_talks(&terminal, &server);
    (terminal, server)
}

fn still_talks(terminal: &TcpStream, server: &TcpStream) {
    for (mut from, mut to) in [(terminal, server), (server, terminal)] {
        let patience = Some(Duration::from_secs(60));
        to.set_read_timeout(patience).expect("a timeout");
        from.write_all(b"something").expect("said");
        let mut heard = [0; 9];
        to.read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"something");
    }
}

/// The token of the only connection that is relayed.
fn token(place: &Place) -> u32 {
    until("a connection is relayed", || {
        let sessions = place.ask(&["sessions"])?;
        u32::from_str_radix(sessions.get(0)?["token"].as_str()?, 16).ok()
    })
}

/// The kernel of the terminal does not interfere with connections it knows nothing of.
fn no_resets(place: &Place) {
    place.nft(
        "t",
        "table ip quiet { chain out { type filter hook output priority 0; tcp flags & rst == rst drop; }; }",
    );
}

fn join(token: u32) -> Vec<u8> {
    let mut option = vec![30, 12, 0x10, 9];
    option.extend(token.to_be_bytes());
    option.extend([1, 2, 3, 4]);
    option
}

fn segment(port: u16, flags: u8, options: &[u8]) -> Segment<'_> {
    Segment {
        from: SocketAddrV4::new(TERMINAL, port),
        to: SocketAddrV4::new(SERVER, 7000),
        seq: 1000,
        ack: 0,
        flags,
        options,
    }
}

#[test]
fn rules_of_other_programs_stay_and_its_own_go_with_it() {
    let place = Place::new();
    firewall(&place);
    let before = place.tables();
    let relay = place.relay("");
    let during = place.tables();
    for table in ["table inet firewall", "table ip nat", "table inet mptcp_relay"] {
        assert!(during["nft list ruleset"].contains(table), "{table}");
    }
    assert_ne!(during["ip rule"], before["ip rule"]);
    drop(talks(&place, 7000));
    relay.signal(Signal::SIGTERM);
    assert_eq!(place.tables(), before);
}

#[test]
fn cleanup_takes_away_what_a_killed_relay_has_left_and_nothing_else() {
    let place = Place::new();
    firewall(&place);
    let before = place.tables();
    let relay = place.relay("");
    let busy = place.command(&["cleanup"]).output().expect("ip");
    assert!(!busy.status.success(), "a relay that runs is not swept away");
    relay.signal(Signal::SIGKILL);
    assert_ne!(place.tables(), before, "it could take nothing away");
    let removed = place.ask(&["cleanup"]).expect("it succeeds");
    assert!(
        removed["removed"].as_array().is_some_and(|what| what.len() >= 3),
        "{removed}"
    );
    assert_eq!(place.tables(), before);
    assert_eq!(
        place.ask(&["cleanup"]),
        Some(serde_json::json!({ "removed": [] }))
    );
}

#[test]
fn a_relay_that_starts_after_a_crash_replaces_what_was_left() {
    let place = Place::new();
    let before = place.tables();
    place.relay("").signal(Signal::SIGKILL);
    let relay = place.relay("");
    drop(talks(&place, 7000));
    relay.signal(Signal::SIGTERM);
    assert_eq!(place.tables(), before, "the settings are those before the first");
}

#[test]
fn a_host_without_ipv6_relays_ipv4() {
    let place = Place::new();
    place.set("r", "net/ipv6/conf/all/disable_ipv6", "1");
    let before = place.tables();
    let relay = place.relay("");
    drop(talks(&place, 7000));
    assert_eq!(place.counted("counters", "multipath"), 1);
    relay.signal(Signal::SIGTERM);
    assert_eq!(place.tables(), before);
}

#[test]
fn a_syn_with_malformed_mptcp_options_is_no_question_to_the_server() {
    let place = Place::new();
    let _relay = place.relay("");
    let listener = place.listen(7000);
    no_resets(&place);
    let broken: [&[u8]; 7] = [
        // MP_CAPABLE too long, too short, and cut off by the end of the header.
        &[30, 8, 0x01, 0x01, 0, 0, 0, 0],
        &[30, 3, 0x01, 0x01],
        &[1, 1, 30, 12],
        // MP_JOIN too short, and with a length of nothing.
        &[30, 8, 0x10, 1, 0, 0, 0, 0],
        &[30, 0, 0x10, 1],
        // No known subtype; another one that never opens anything.
        &[30, 4, 0xf0, 0],
        &[30, 4, 0x20, 0],
    ];
    place.inside("t", || {
        let mut raw = Raw::open();
        for (port, options) in (41_000..).zip(broken) {
            raw.send(&segment(port, SYN, options));
            let answer = raw.hear(port);
            assert_eq!(
                answer.flags & (SYN | ACK),
                SYN | ACK,
                "{options:?}: the server itself"
            );
        }
    });
    assert_eq!(place.counted("counters", "asked"), 0, "nobody was asked for them");
    drop(listener);
    drop(talks(&place, 7001));
    assert_eq!(place.counted("counters", "multipath"), 1);
}

#[test]
fn a_join_with_a_wrong_token_or_mac_is_refused_and_counted() {
    let place = Place::new();
    let _relay = place.relay("metrics = \"127.0.0.1:9782\"");
    let (terminal, server) = talks(&place, 7000);
    let token = token(&place);
    no_resets(&place);
    place.inside("t", || {
        let mut raw = Raw::open();
        let wrong = join(token ^ 1);
        raw.send(&segment(42_000, SYN, &wrong));
        assert_ne!(raw.hear(42_000).flags & RST, 0, "there is no such token");

        let right = join(token);
        raw.send(&segment(42_001, SYN, &right));
        let answer = raw.hear(42_001);
        assert_eq!(answer.flags & (SYN | ACK), SYN | ACK);
        assert!(
            answer.options.windows(2).any(|kind| kind == [30, 16]),
            "{answer:?}"
        );
        let mut forged = vec![30, 24, 0x10, 0];
        forged.extend([7; 20]);
        raw.send(&Segment {
            seq: 1001,
            ack: answer.seq.wrapping_add(1),
            ..segment(42_001, ACK, &forged)
        });
        until("it is reset", || {
            (raw.hear(42_001).flags & RST != 0).then_some(())
        });
    });
    until("both are counted", || {
        let counted = ["MPJoinNoTokenFound", "MPJoinAckHMacFailure"];
        counted
            .iter()
            .all(|name| place.counted("kernel", name) >= 1)
            .then_some(())
    });
    // Where Prometheus looks, too: once a second they are brought up to date.
    until("both are exported", || {
        let text = place.on("r", "curl -s http://127.0.0.1:9782/metrics");
        ["MPJoinNoTokenFound", "MPJoinAckHMacFailure"]
            .iter()
            .all(|name| text.contains(&format!("mptcp_relay_kernel_total{{what=\"{name}\"}} ")))
            .then_some(())
    });
    still_talks(&terminal, &server);
}

#[test]
fn servers_in_a_refused_range_are_reached_directly() {
    let place = Place::new();
    let _relay = place.relay("refuse = [\"192.0.2.0/24\"]");
    drop(talks(&place, 7000));
    assert_eq!(place.counted("counters", "asked"), 0);
    assert_eq!(place.ask(&["sessions"]), Some(serde_json::json!([])));
}

#[test]
fn a_flood_of_syns_holds_no_more_than_the_limit_and_the_rest_goes_directly() {
    let place = Place::new();
    let _relay = place.relay("timeouts = { server = 30.0 }\nlimits = { half_open = 5 }");
    no_resets(&place);
    // Nobody is there to answer; packets wait in vain for the neighbour.
    place.on(
        "r",
        "ip neigh replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev lan nud permanent",
    );
    place.inside("t", || {
        let raw = Raw::open();
        for port in 43_000..43_050 {
            raw.send(&Segment {
                to: SocketAddrV4::new([192, 0, 2, 9].into(), 80),
                ..segment(port, SYN, &[30, 4, 0x01, 0x01])
            });
        }
    });
    until("the limit is counted", || {
        (place.counted("counters", "passed_half_open") == 45).then_some(())
    });
    let status = place.ask(&["status"]).expect("the relay runs");
    assert_eq!(status["half_open"], 5);
}

#[test]
fn a_terminal_that_opens_ten_thousand_subflows_keeps_as_many_as_it_may_and_its_connection() {
    const MANY: usize = 10_000;
    let place = Place::new();
    place.set("t", "net/mptcp/pm_type", "1");
    let _relay = place.relay("limits = { subflows = 8 }");
    let (terminal, server) = talks(&place, 7000);
    let token = place.inside("t", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let client = Client::connect().await.expect("the path manager");
            let own = mptcp_pm::connections().await.expect("a list");
            let token: Token = own.first().expect("its connection").token;
            let local = Endpoint {
                id: 2,
                interface: nix::net::if_::if_nametoindex("lte").ok(),
                ..Endpoint::new(SECOND.into(), EndpointFlags::SUBFLOW)
            };
            let mut refused = 0;
            for _ in 0..MANY {
                let to = SocketAddr::from((SERVER, 7000));
                refused += usize::from(client.create_subflow(token, &local, to).await.is_err());
            }
            assert!(refused < MANY, "none could be opened at all");
            token
        })
    });
    assert_ne!(token.0, 0);
    // Each is heard of: one that joined is among the eight or was ended.
    until("most are ended", || {
        (place.counted("counters", "subflows_too_many") > 100).then_some(())
    });
    until("eight are left", || {
        let subflows = place.ask(&["subflows"])?;
        (subflows.as_array()?.len() == 8).then_some(())
    });
    still_talks(&terminal, &server);
    // Another connection of the same terminal, with the path manager as busy as it is.
    drop(talks(&place, 7001));
    still_talks(&terminal, &server);
}

#[test]
fn an_idle_end_that_vanishes_is_a_reset_for_the_other() {
    for vanishes in ["t", "s"] {
        let place = Place::new();
        let _relay = place.relay("timeouts = { keepalive = 1.0, no_path = 1.0 }");
        let (terminal, server) = talks(&place, 7000);
        place.nft(
            vanishes,
            "table inet gone { chain in { type filter hook input priority 0; policy drop; }; }",
        );
        let mut left = if vanishes == "t" { server } else { terminal };
        left.set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a timeout");
        let error = left.read(&mut [0; 1]).expect_err("nobody has said goodbye");
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::ConnectionReset,
            "{vanishes} vanished"
        );
    }
}

#[test]
fn doctor_names_what_is_missing_and_what_to_do() {
    let place = Place::new();
    drop(place.relay(""));
    let verdict = |subject: &str| {
        let findings = place.ask(&["doctor"]).expect("findings");
        let found = findings.as_array().into_iter().flatten();
        let mut found = found.filter(|finding| finding["subject"] == subject);
        let finding = found.next().unwrap_or_else(|| panic!("nothing about {subject}"));
        let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        (word("verdict"), word("detail"))
    };
    assert_eq!(verdict("mptcp").0, "good");
    assert_eq!(verdict("forwarding").0, "less", "IPv4 alone");
    place.set("r", "net/mptcp/enabled", "0");
    let (word, detail) = verdict("mptcp");
    assert_eq!(word, "bad");
    assert!(detail.contains("net.mptcp.enabled=1"), "{detail}");
    place.set("r", "net/mptcp/enabled", "1");
    place.set("r", "net/ipv4/ip_forward", "0");
    assert_eq!(verdict("forwarding").0, "bad");
    // Without the program that sets rules.
    let output = place.inside("r", || {
        let mut doctor = std::process::Command::new(env!("CARGO_BIN_EXE_mptcp-relay"));
        doctor
            .arg("doctor")
            .env("PATH", "/nowhere")
            .output()
            .expect("it runs")
    });
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("nftables") && !output.status.success(), "{said}");
}
