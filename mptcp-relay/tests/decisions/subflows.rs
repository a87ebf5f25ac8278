//! What a connection's subflows are for.
use std::net::IpAddr;

use mptcp_pm::{Announced, Created, Event, SubflowEvent, Token};
use mptcp_relay::paths::{Command, Mode, NoChoice, Policy};

use crate::socket;

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

#[test]
fn what_joined_and_left_unheard_of_is_found_when_stock_is_taken() {
    let mut policy = two_paths().at_most(3);
    policy
        .prefer(TOKEN, Some([10, 0, 2, 2].into()))
        .expect("it has this path");
    let flow = |token, remote: &str| (token, (socket("203.0.113.3:80"), socket(remote)));
    let unheard = Token(11);
    let now = [
        flow(TOKEN, "10.0.0.2:40000"),
        flow(TOKEN, "10.0.2.2:5"),
        flow(TOKEN, "10.0.3.2:6"),
        flow(TOKEN, "10.0.4.2:7"),
        flow(unheard, "10.0.0.2:50000"),
    ];
    let told = policy.take_stock(|_| true, &now);
    // One more is a backup like the first, the next is too many.
    assert_eq!(backups(&told), [("10.0.3.2:6".into(), true)]);
    let ended = told
        .iter()
        .filter(|command| matches!(command, Command::End { .. }));
    assert_eq!(ended.count(), 1);
    assert_eq!(policy.subflows(unheard).count(), 1);
    // The chosen one has left, and so has the other connection.
    let told = policy.take_stock(|token| token == TOKEN, &[now[0], now[2]]);
    assert_eq!(
        backups(&told),
        [("10.0.0.2:40000".into(), false), ("10.0.3.2:6".into(), false)]
    );
    assert_eq!(policy.primary(TOKEN), None);
    assert_eq!(policy.prefer(unheard, None), Err(NoChoice::Connection(unheard)));
}
