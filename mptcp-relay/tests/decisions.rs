//! Claims about what the relay decides, without a kernel: which SYN it takes, what its subflows are for, who moves.
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mptcp_pm::{Announced, Created, Event, SubflowEvent, Token};
use mptcp_relay::admission::{Admission, Admitted, Why};
use mptcp_relay::answers::Said;
use mptcp_relay::balance::{self, Eagerness, Flow, Point};
use mptcp_relay::config::{AccessPoint, Balance, Config, Mobility, TerminalPolicy};
use mptcp_relay::neighbours;
use mptcp_relay::paths::{Command, Mode, NoChoice, Policy};
use mptcp_relay::points::{Balancer, Carried, Others, Who};
use mptcp_relay::reset;
use mptcp_relay::rules::{Holder, Rules};
use mptcp_relay::syn::{Asks, Ends, Syn, SynAck};
use proptest::prelude::*;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

fn ends(port: u16) -> Ends {
    Ends {
        terminal: SocketAddr::new([10, 0, 0, 2].into(), port),
        server: socket("203.0.113.3:80"),
    }
}

fn packet(options: &[u8], flags: u8) -> Vec<u8> {
    let mut bytes = vec![0_u8; 20];
    bytes[0] = 0x45;
    bytes[9] = 6;
    bytes[12..16].copy_from_slice(&[10, 0, 0, 2]);
    bytes[16..20].copy_from_slice(&[203, 0, 113, 3]);
    let mut header = vec![0_u8; 20];
    header[0..2].copy_from_slice(&40_000_u16.to_be_bytes());
    header[2..4].copy_from_slice(&80_u16.to_be_bytes());
    header[12] = (((20 + options.len()) / 4) << 4) as u8;
    header[13] = flags;
    bytes.extend(header);
    bytes.extend(options);
    bytes
}

const CAPABLE: [u8; 4] = [30, 4, 0x01, 0x01];

#[test]
fn a_syn_says_whether_it_asks_for_a_connection_or_a_subflow() {
    let capable = Syn::read(&packet(&CAPABLE, 2)).expect("a SYN");
    assert_eq!((capable.ends, capable.asks), (ends(40_000), Asks::Capable));
    let join = [1, 1, 1, 1, 30, 12, 0x10, 2, 0xca, 0xfe, 0xba, 0xbe, 0, 0, 0, 0];
    let join = Syn::read(&packet(&join, 2)).expect("a SYN");
    assert_eq!(join.asks, Asks::Join(Token(0xcafe_babe)));
}

#[test]
fn what_is_no_syn_or_malformed_is_never_taken_for_mptcp() {
    assert_eq!(Syn::read(&packet(&CAPABLE, 0x12)), None, "a SYN-ACK");
    for broken in [
        [30, 3, 0x01, 0x01],
        [30, 0, 0x01, 0x01],
        [30, 40, 0x01, 0x01],
        [30, 4, 0x11, 0x01],
        [2, 1, 30, 4],
    ] {
        let syn = Syn::read(&packet(&broken, 2)).expect("a SYN all the same");
        assert_eq!(syn.asks, Asks::Plain, "{broken:?}");
    }
}

proptest! {
    #[test]
    fn no_packet_makes_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        Syn::read(&bytes);
    }
}

#[test]
fn an_answer_says_whether_a_terminal_agrees_to_mptcp() {
    let mut agreed = vec![30, 12, 0x01, 0x01];
    agreed.extend([7; 8]);
    let answer = SynAck::read(&packet(&agreed, 0x12)).expect("a SYN-ACK");
    assert!(answer.capable);
    for plain in [&[][..], &[1, 1, 1, 1], &CAPABLE, &[30, 0, 0, 0]] {
        let answer = SynAck::read(&packet(plain, 0x12)).expect("a SYN-ACK");
        assert!(!answer.capable, "{plain:?}");
    }
    assert_eq!(SynAck::read(&packet(&agreed, 2)), None, "a SYN");
}

#[test]
fn a_terminal_is_asked_once_and_its_answer_believed_for_a_while() {
    let config = Config::default();
    let lifetime = Config::seconds(config.timeouts.known);
    let mut admission = Admission::new(&config);
    let now = Duration::ZERO;
    assert_eq!(admission.syn_down(ends(1), now), Admitted::Ask);
    assert_eq!(admission.syn_down(ends(1), now), Admitted::Drop, "repeated");
    // It does not: this connection goes directly, and so does the next.
    admission.learn(ends(1).terminal, Said::Plain, now);
    admission.give_up(ends(1), now);
    let other = Ends {
        server: socket("203.0.113.3:81"),
        ..ends(1)
    };
    assert_eq!(admission.syn_down(other, now), Admitted::Pass(Why::KnownPlain));
    // A service on another port may well.
    assert_eq!(admission.syn_down(ends(2), now), Admitted::Ask);
    assert_eq!(admission.syn_down(other, lifetime), Admitted::Ask);
    // Silence is believed for less long: it may have been out of reach.
    let direct = Config::seconds(config.timeouts.direct);
    admission.learn(ends(3).terminal, Said::Nothing, now);
    assert_eq!(admission.syn_down(ends(3), now), Admitted::Pass(Why::KnownSilent));
    assert_eq!(admission.syn_down(ends(3), direct), Admitted::Ask);
}

#[test]
fn servers_that_connect_do_not_use_up_what_terminals_may_open() {
    let config = Config::default();
    let mut admission = Admission::new(&config);
    for port in 0..config.limits.half_open as u16 {
        let ends = Ends {
            server: SocketAddr::new([203, 0, 113, 3].into(), 1000 + port),
            ..ends(7)
        };
        assert_eq!(admission.syn_down(ends, Duration::ZERO), Admitted::Ask);
    }
    assert_eq!(
        admission.syn_down(ends(7), Duration::ZERO),
        Admitted::Pass(Why::HalfOpen)
    );
    assert_eq!(admission.syn(&capable(8), Duration::ZERO), Admitted::Ask);
}

#[test]
fn a_reset_is_a_packet_with_right_checksums_in_both_families() {
    for (from, to, headers) in [
        ("192.0.2.1:80", "10.0.0.2:4000", 40),
        ("[2001:db8::1]:80", "[2001:db8::2]:4000", 60),
    ] {
        let packet = reset::packet(socket(from), socket(to), 0x0102_0304);
        assert_eq!(packet.len(), headers);
        let segment = &packet[headers - 20..];
        assert_eq!(segment[4..8], [1, 2, 3, 4]);
        assert_eq!(segment[13], 4, "RST alone");
        let addresses = if headers == 40 {
            &packet[12..20]
        } else {
            &packet[8..40]
        };
        let all = [addresses, &[0, 6, 0, 20], segment].concat();
        let sum: u32 = all
            .chunks(2)
            .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
            .sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}

fn capable(port: u16) -> Syn {
    Syn {
        ends: ends(port),
        asks: Asks::Capable,
    }
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn a_terminal_that_repeats_its_syn_never_opens_a_second_connection() {
    let mut admission = Admission::new(&Config::default());
    assert_eq!(admission.syn(&capable(1), NOW), Admitted::Ask);
    assert_eq!(admission.syn(&capable(1), NOW), Admitted::Drop);
    admission.answered(ends(1), NOW);
    assert_eq!(admission.syn(&capable(1), NOW), Admitted::Release);
    assert!(admission.accepted(ends(1)));
    assert_eq!(admission.half_open(), 0);
    admission.ended(ends(1));
    assert_eq!(admission.syn(&capable(1), NOW), Admitted::Ask);
}

#[test]
fn a_silent_server_is_left_to_its_terminal_for_a_while() {
    let config = Config::default();
    let mut admission = Admission::new(&config);
    admission.syn(&capable(1), NOW);
    admission.give_up(ends(1), NOW);
    assert_eq!(admission.syn(&capable(1), NOW), Admitted::Pass(Why::GivenUp));
    let later = NOW + Config::seconds(config.timeouts.direct);
    assert_eq!(admission.syn(&capable(1), later), Admitted::Ask);
}

#[test]
fn spoofed_syns_of_one_terminal_open_no_more_than_its_share() {
    let config = Config::default();
    let mut admission = Admission::new(&config);
    let most = config.limits.half_open as u16;
    for port in 1..=most {
        assert_eq!(admission.syn(&capable(port), NOW), Admitted::Ask);
    }
    assert_eq!(
        admission.syn(&capable(most + 1), NOW),
        Admitted::Pass(Why::HalfOpen)
    );
    admission.answered(ends(1), NOW);
    assert_eq!(
        admission.half_open(),
        usize::from(most),
        "answered is not established"
    );
    let late = NOW + Config::seconds(config.timeouts.terminal);
    assert_eq!(admission.overdue(late), [ends(1)]);
    assert_eq!(admission.syn(&capable(most + 1), late), Admitted::Ask);
}

#[test]
fn a_subflow_is_taken_only_where_its_connection_may_be() {
    let mut admission = Admission::new(&Config::default());
    let join = |server: &str| Syn {
        ends: Ends {
            terminal: socket("10.0.2.2:5"),
            server: socket(server),
        },
        asks: Asks::Join(Token(7)),
    };
    let (here, elsewhere) = (join("203.0.113.3:80"), join("203.0.113.4:80"));
    assert_eq!(admission.syn(&here, NOW), Admitted::Pass(Why::Stranger));
    admission.syn(&capable(1), NOW);
    admission.answered(ends(1), NOW);
    // The news of the token may come after the subflow.
    assert_eq!(admission.syn(&here, NOW), Admitted::Release);
    assert_eq!(admission.syn(&elsewhere, NOW), Admitted::Pass(Why::Stranger));
    admission.accepted(ends(1));
    admission.name(ends(1), Token(7));
    assert_eq!(admission.syn(&elsewhere, NOW), Admitted::Release);
    admission.ended(ends(1));
    assert_eq!(admission.syn(&here, NOW), Admitted::Pass(Why::Stranger));
}

const TOKEN: Token = Token(9);

fn created() -> Created {
    Created {
        token: TOKEN,
        local: socket("203.0.113.3:80"),
        remote: socket("10.0.0.2:40000"),
        accepted: true,
        deny_join_id0: false,
    }
}

fn subflow(remote: &str) -> SubflowEvent {
    SubflowEvent {
        token: TOKEN,
        local: socket("203.0.113.3:80"),
        remote: socket(remote),
        local_id: 0,
        remote_id: 1,
        backup: false,
        interface: None,
        error: None,
        reset_reason: None,
    }
}

fn backups(commands: &[Command]) -> Vec<(String, bool)> {
    let said = commands.iter().filter_map(|command| match command {
        Command::SetBackup { remote, backup, .. } => Some((remote.to_string(), *backup)),
        Command::Announce { .. } | Command::Open { .. } | Command::End { .. } => None,
    });
    said.collect()
}

#[test]
fn a_path_manager_opens_what_its_rule_says() {
    let opened = |mode| {
        let mut policy = Policy::new(vec![]).by(mode);
        let made = Created {
            accepted: false,
            ..created()
        };
        policy.hear(&Event::Created(made));
        let first = policy.hear(&Event::Established(made)).len();
        let told = Event::AddressAnnounced(Announced {
            token: TOKEN,
            id: 3,
            address: [10, 0, 9, 9].into(),
            port: None,
        });
        let then = policy.hear(&told);
        let joined = policy.hear(&Event::SubflowEstablished(subflow("10.0.2.2:5")));
        let ended = joined
            .iter()
            .any(|command| matches!(command, Command::End { .. }));
        (first, then.len(), ended)
    };
    assert_eq!(opened(Mode::None), (0, 0, true));
    assert_eq!(opened(Mode::Fullmesh), (0, 1, false));
    assert_eq!(opened(Mode::Ports(3)), (2, 0, false));
    // Terminals that connect open their subflows themselves.
    let mut policy = Policy::new(vec![]).by(Mode::Ports(3));
    policy.hear(&Event::Created(created()));
    assert_eq!(policy.hear(&Event::Established(created())), []);
}

fn two_paths() -> Policy {
    let mut policy = Policy::new(vec![socket("192.0.2.1:7821")]);
    policy.hear(&Event::Created(created()));
    let told = policy.hear(&Event::Established(created()));
    let announce = Command::Announce {
        token: TOKEN,
        id: 1,
        address: socket("192.0.2.1:7821"),
    };
    assert_eq!(told, [announce]);
    assert!(
        policy
            .hear(&Event::SubflowEstablished(subflow("10.0.2.2:5")))
            .is_empty()
    );
    policy
}

#[test]
fn a_subflow_beyond_the_limit_is_ended_until_another_one_goes() {
    let mut policy = two_paths().at_most(2);
    let third = Event::SubflowEstablished(subflow("10.0.3.2:6"));
    let end = Command::End {
        token: TOKEN,
        local: subflow("10.0.3.2:6").local,
        remote: socket("10.0.3.2:6"),
    };
    assert_eq!(policy.hear(&third), [end]);
    policy.hear(&Event::SubflowClosed(subflow("10.0.3.2:6")));
    assert_eq!(policy.subflows(TOKEN).count(), 2);
    policy.hear(&Event::SubflowClosed(subflow("10.0.2.2:5")));
    assert!(policy.hear(&third).is_empty());
}

#[test]
fn a_chosen_path_is_active_before_the_other_is_a_backup() {
    let mut policy = two_paths();
    let path: IpAddr = [10, 0, 2, 2].into();
    let told = policy.prefer(TOKEN, Some(path)).expect("it has this path");
    assert_eq!(backups(&told), [("10.0.0.2:40000".into(), true)]);
    let back: IpAddr = [10, 0, 0, 2].into();
    let told = policy.prefer(TOKEN, Some(back)).expect("it has this path");
    assert_eq!(
        backups(&told),
        [("10.0.0.2:40000".into(), false), ("10.0.2.2:5".into(), true)]
    );
    let told = policy.prefer(TOKEN, None).expect("all paths");
    assert_eq!(backups(&told), [("10.0.2.2:5".into(), false)]);
}

#[test]
fn a_subflow_that_joins_later_is_a_backup_and_serves_when_the_choice_is_lost() {
    let mut policy = two_paths();
    policy
        .prefer(TOKEN, Some([10, 0, 2, 2].into()))
        .expect("it has this path");
    let told = policy.hear(&Event::SubflowEstablished(subflow("10.0.3.2:6")));
    assert_eq!(backups(&told), [("10.0.3.2:6".into(), true)]);
    let told = policy.hear(&Event::SubflowClosed(subflow("10.0.2.2:5")));
    assert_eq!(
        backups(&told),
        [("10.0.0.2:40000".into(), false), ("10.0.3.2:6".into(), false)]
    );
    assert_eq!(policy.primary(TOKEN), None);
}

#[test]
fn a_path_that_is_not_there_cannot_be_chosen() {
    let mut policy = two_paths();
    let refused = policy.prefer(TOKEN, Some([10, 9, 9, 9].into()));
    assert!(matches!(refused, Err(NoChoice::Path { .. })), "{refused:?}");
    assert_eq!(policy.prefer(Token(1), None), Err(NoChoice::Connection(Token(1))));
    assert_eq!(policy.primary(TOKEN), None);
}

const EAGERNESS: Eagerness = Eagerness {
    hysteresis: 0.05,
    stay: Duration::from_secs(5),
};

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    let flow = (
        0.0..50.0_f64,
        0..3_usize,
        any::<[bool; 3]>(),
        any::<[bool; 2]>(),
        0..20_u64,
    );
    prop::collection::vec(flow, 0..12).prop_map(|flows| {
        let flow =
            |(rate, at, sees, [bulk, may_move], stayed): (f64, usize, [bool; 3], [bool; 2], u64)| Flow {
                rate,
                bulk,
                at,
                sees: (0..3).filter(|point| *point == at || sees[*point]).collect(),
                may_move,
                stayed: Duration::from_secs(stayed),
            };
        flows.into_iter().map(flow).collect()
    })
}

proptest! {
    #[test]
    fn balancing_ends_lowers_the_greatest_load_and_moves_only_who_may(mut flows in flows()) {
        let points = [50.0, 100.0, 25.0].map(Point::alone);
        let greatest = |flows: &[Flow]| balance::loads(&points, flows).into_iter().fold(0.0, f64::max);
        let mut moves = 0;
        while let Some(chosen) = balance::next(&points, &flows, EAGERNESS) {
            let before = greatest(&flows);
            let flow = &mut flows[chosen.flow];
            prop_assert!(flow.may_move && flow.stayed >= EAGERNESS.stay);
            prop_assert!(flow.sees.contains(&chosen.to) && flow.at != chosen.to);
            flow.at = chosen.to;
            prop_assert!(greatest(&flows) <= before + 1e-9);
            moves += 1;
            prop_assert!(moves < 1000, "connections are handed to and fro");
        }
    }
}

#[test]
fn two_access_points_in_balance_are_left_alone() {
    let points = [Point::alone(10.0); 2];
    let flow = |at, rate| Flow {
        rate,
        bulk: false,
        at,
        sees: vec![0, 1],
        may_move: true,
        stayed: Duration::from_secs(60),
    };
    assert_eq!(
        balance::next(&points, &[flow(0, 4.0), flow(1, 4.0)], EAGERNESS),
        None
    );
    let crowded = [flow(0, 4.0), flow(0, 4.0)];
    assert!(balance::next(&points, &crowded, EAGERNESS).is_some());
}

#[test]
fn bulk_transfers_count_as_asking_for_equal_shares_whatever_they_carry() {
    let points = [Point::alone(20.0); 2];
    // Seven share one access point, one has the other: both are full.
    let at = [0, 0, 0, 0, 0, 0, 0, 1];
    let mut flows: Vec<Flow> = at
        .iter()
        .map(|at| Flow {
            rate: if *at == 0 { 20.0 / 7.0 } else { 20.0 },
            bulk: true,
            at: *at,
            // The last two of the first access point see no other.
            sees: vec![0, 1],
            may_move: true,
            stayed: Duration::from_secs(60),
        })
        .collect();
    flows[5].sees = vec![0];
    flows[6].sees = vec![0];
    let mut moves = 0;
    while let Some(chosen) = balance::next(&points, &flows, EAGERNESS) {
        assert!(chosen.flow < 5, "who sees one access point stays");
        flows[chosen.flow].at = chosen.to;
        moves += 1;
    }
    assert_eq!(moves, 3, "four and four");
    // Others of another relay count as well: with four of theirs on the second, ours go back.
    let shared = [
        points[0],
        Point {
            others: 4.0,
            ..points[1]
        },
    ];
    while let Some(chosen) = balance::next(&shared, &flows, EAGERNESS) {
        flows[chosen.flow].at = chosen.to;
    }
    let here = flows.iter().filter(|flow| flow.at == 1).count();
    assert_eq!(here, 2, "six and two with four others");
}

#[test]
fn the_balancer_measures_moves_one_at_a_time_and_leaves_alone_what_it_may_not_move() {
    let range = |text: &str| text.parse().expect("a range");
    let point = |name: &str, range| AccessPoint {
        name: name.into(),
        addresses: vec![range],
        capacity: 2e6,
    };
    let config = Balance {
        enabled: true,
        stay: 2.0,
        points: vec![point("a", range("10.1.0.0/16")), point("b", range("10.2.0.0/16"))],
        terminals: vec![TerminalPolicy {
            addresses: vec![range("10.1.0.1/32")],
            policy: Mobility::Stay,
        }],
        ..Balance::default()
    };
    let mut balancer = Balancer::new(&config);
    let mut primary: std::collections::HashMap<Token, IpAddr> = Default::default();
    let mut moved = Vec::new();
    // Six terminals download on a; 1 may not be moved, 2 types, 3 sees one access point, 4 was chosen by an operator.
    balancer.chosen(Token(4), Some([10, 1, 0, 4].into()));
    for second in 0..20_u64 {
        let mut carried = Vec::new();
        for number in 1..=6_u8 {
            let rate = if number == 2 { 1000 } else { 300_000 };
            let who = Who::Multipath(Token(number.into()));
            let at = primary.get(&Token(number.into())).copied();
            let here: IpAddr = [10, 1, 0, number].into();
            let there: IpAddr = [10, 2, 0, number].into();
            let bytes = |path| {
                if at.unwrap_or(here) == path {
                    second * rate
                } else {
                    0
                }
            };
            carried.push(Carried {
                who,
                terminal: here,
                bytes: bytes(here),
            });
            if number != 3 {
                carried.push(Carried {
                    who,
                    terminal: there,
                    bytes: bytes(there),
                });
            }
        }
        let now = Duration::from_secs(second);
        let choices = balancer.round(&carried, |token| primary.get(&token).copied(), now);
        assert!(
            choices.iter().filter(|choice| choice.moved).count() <= 1,
            "{choices:?}"
        );
        for choice in choices {
            if choice.moved {
                moved.push(choice.token.0);
            }
            primary.insert(choice.token, choice.path);
        }
    }
    moved.sort_unstable();
    assert_eq!(moved, [5, 6], "{}", balancer.show());
}

#[test]
fn what_another_relay_says_of_an_access_point_is_read_and_nonsense_is_not() {
    let text = "# TYPE mptcp_relay_point_bulk gauge\nmptcp_relay_point_bulk{point=\"a\"} 3\n\
                mptcp_relay_point_steady{point=\"a\"} 1200.5\nmptcp_relay_point_bulk{point=\"b\"} -1\n\
                mptcp_relay_point_steady{point=\"b\"} NaN\nmptcp_relay_point_bulk{point=\"c\"\n";
    let said = neighbours::read(text);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(
        said["a"],
        Others {
            steady: 1200.5,
            bulk: 3.0
        }
    );
}

#[test]
fn the_table_is_replaced_in_one_transaction_and_fails_open() {
    let config = Config {
        interfaces: vec!["wifi".into()],
        refuse: vec!["192.0.2.0/24".parse().expect("a range")],
        ..Config::default()
    };
    let script = Rules::new(&config, Holder::Nft).script();
    let head = "table inet mptcp_relay\ndelete table inet mptcp_relay\ntable inet mptcp_relay {";
    assert!(script.starts_with(head), "{script}");
    assert!(!script.contains("flush ruleset"));
    assert!(script.contains("queue flags bypass to 7820"));
    assert!(script.contains("iifname { \"wifi\" } goto up"));
    assert!(script.contains("fib daddr oifname { \"wifi\" } goto down"));
    assert!(script.contains("ip daddr 192.0.2.0/24 return"));
    assert!(script.contains("ip saddr 192.0.2.0/24 return"));
    assert!(!Rules::new(&config, Holder::Xtables).script().contains("queue"));
}

#[test]
fn servers_are_listened_to_only_where_it_is_known_who_the_terminals_are() {
    let unknown = Rules::new(&Config::default(), Holder::Nft).script();
    assert!(
        unknown.contains("goto up") && !unknown.contains("down"),
        "{unknown}"
    );
    let config = Config {
        terminals: ["10.0.0.0/8", "fd00::/8"]
            .map(|range| range.parse().expect("a range"))
            .into(),
        ..Config::default()
    };
    let known = Rules::new(&config, Holder::Nft).script();
    for line in [
        "ip saddr 10.0.0.0/8 goto up",
        "ip6 saddr fd00::/8 goto up",
        "ip daddr 10.0.0.0/8 goto down",
        "ip6 daddr fd00::/8 goto down",
    ] {
        assert!(known.contains(line), "{line}: {known}");
    }
    let unwanted = Config {
        downlink: false,
        ..config
    };
    assert!(!Rules::new(&unwanted, Holder::Nft).script().contains("goto down"));
}

#[test]
fn mistakes_in_the_configuration_are_named_with_their_key() {
    let directory = tempfile::tempdir().expect("a directory for a moment");
    let file = directory.path().join("relay.toml");
    for (text, key) in [
        ("mark = 3", "mark"),
        ("mark = 0x8000_0000", "mark"),
        ("nft_table = \"a b\"", "nft_table"),
        ("interfaces = [\"a\\\" } accept\"]", "interfaces"),
        ("refuse = [\"10.0.0.0/40\"]", "refuse"),
        ("announce = [\"0.0.0.0:1\"]", "announce"),
        ("table = 254", "table"),
        ("timeouts.server = 0", "timeouts.server"),
        ("timeouts.probe = 1.5", "timeouts.probe"),
        ("listen_port = 65535", "listen_port"),
        ("terminals = [\"here\"]", "terminals"),
        ("balance = { enabled = true }", "balance.enabled"),
        ("path_manager = { mode = \"binder\" }", "source routes"),
        (
            "path_manager = { mode = \"ports\", ports = 0 }",
            "path_manager.ports",
        ),
        ("balance = { interval = 0 }", "balance.interval"),
        (
            "[[balance.points]]\nname = \"a\\\"\"\naddresses = [\"10.0.0.0/8\"]\ncapacity = 1.0",
            "balance.points",
        ),
        (
            "[[balance.points]]\nname = \"a\"\naddresses = []\ncapacity = 1.0",
            "balance.points",
        ),
        ("unheard_of = 1", "unheard_of"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let error = Config::load(Some(&file)).expect_err(text).to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn the_packaged_configuration_says_what_is_in_force_without_it() {
    let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/mptcp-relay.toml");
    let read = Config::load(Some(packaged.as_ref())).expect("the packaged file is right");
    let shown = |config: &Config| toml::to_string(config).expect("it can be shown");
    assert_eq!(shown(&read), shown(&Config::default()));
}
