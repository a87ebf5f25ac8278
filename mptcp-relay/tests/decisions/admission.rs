//! Which SYN is relayed.
use std::net::SocketAddr;
use std::time::Duration;

use mptcp_pm::Token;
use mptcp_relay::admission::{Admission, Admitted, Why};
use mptcp_relay::answers::Said;
use mptcp_relay::config::Config;
use mptcp_relay::syn::{Asks, Ends, Syn};

use crate::{capable, ends, socket};

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

#[test]
fn many_terminals_together_open_no_more_than_the_relay_may_have() {
    let config = Config::default();
    let mut admission = Admission::new(&config);
    let from = |number: u32| {
        let terminal = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0)) + number);
        let mut syn = capable(1);
        syn.ends.terminal = SocketAddr::new(terminal.into(), 1);
        syn
    };
    let most = config.limits.sessions as u32;
    for number in 0..most {
        assert_eq!(admission.syn(&from(number), NOW), Admitted::Ask);
    }
    assert_eq!(admission.syn(&from(most), NOW), Admitted::Pass(Why::Sessions));
    admission.ended(from(0).ends);
    assert_eq!(admission.syn(&from(most), NOW), Admitted::Ask);
}
