//! The FIN states, the end, and what is left of it.

use std::time::Duration;

use migration::{Action, Event, State, TcpState, Tuple};

use crate::fixtures::{NEW, PEERS_NEW, at, close, identity, lost, msyn, msyn_ack, usable};
use crate::{Bench, count, find, names};

const ABORT: Event = Event::LocalClose {
    tcp_state: TcpState::Closed,
    reset: true,
};

#[test]
fn every_fin_state_moves_like_established() {
    use TcpState::*;
    for tcp_state in [FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait] {
        let mut bench = Bench::start().after(close(tcp_state));
        let closing = bench.state();
        assert_eq!(format!("{closing:?}"), format!("{tcp_state:?}"));
        bench.tell(lost("10.0.0.1:0"));
        bench.tell(usable(NEW));
        assert_eq!(bench.state(), State::MigSent);
        bench.tell(msyn_ack(2, NEW, 1_000));
        assert_eq!((bench.state(), bench.machine.wire().local), (closing, at(NEW)));
        let answers = bench.tell(msyn(3, at(NEW)));
        assert_eq!(count(answers, "SendMsynAck"), 1, "{tcp_state:?} answers too");
    }
}

#[test]
fn a_connection_may_close_while_it_moves() {
    let bench = Bench::moved()
        .after(close(TcpState::FinWait1))
        .after(msyn_ack(2, NEW, 1_000));
    assert_eq!(bench.state(), State::FinWait1);
}

#[test]
fn after_the_last_ack_the_tuples_linger_for_a_minute_and_then_all_is_released() {
    let mut bench = Bench::unconfirmed()
        .after(close(TcpState::LastAck))
        .after(close(TcpState::Closed));
    assert_eq!(names(&bench.actions), ["Linger", "Tombstone"]);
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(count(&bench.wait(Duration::from_millis(59_999)), "Release"), 0);
    let actions = bench.wait(Duration::from_millis(1));
    assert_eq!(names(&actions), ["Release", "Bury"]);
    assert_eq!((bench.state(), bench.machine.next_alarm()), (State::Buried, None));
}

#[test]
fn time_wait_ends_after_a_minute() {
    let mut bench = Bench::start().after(close(TcpState::TimeWait));
    assert_eq!(
        names(&bench.wait(Duration::from_secs(60))),
        ["Tombstone", "Release", "Bury"]
    );
}

#[test]
fn a_tombstone_answers_an_msyn_with_a_migrate_reset_as_long_as_a_peer_can_wait() {
    let mut bench = Bench::start().after(close(TcpState::Closed));
    bench.wait(Duration::from_secs(15 * 60 + 30));
    let actions = bench.tell(msyn(1, identity().local));
    let Action::SendMigrateReset { from, to, .. } = find(actions, "SendMigrateReset") else {
        unreachable!()
    };
    assert_eq!((*from, *to), (identity().local, at(PEERS_NEW)));
    bench.wait(Duration::from_secs(31));
    assert_eq!(names(bench.tell(msyn(1, identity().local))), ["Refuse"]);
}

#[test]
fn a_reset_of_the_local_kernel_goes_out_authenticated_and_more_than_once() {
    let mut bench = Bench::start();
    let first = count(bench.tell(ABORT), "SendMigrateReset");
    let later = count(&bench.wait(Duration::from_secs(30)), "SendMigrateReset");
    assert_eq!((first, later), (1, 2));
}

#[test]
fn a_reset_made_while_parked_is_sent_from_the_next_address() {
    let mut bench = Bench::start().after(lost("10.0.0.1:0"));
    assert_eq!(count(bench.tell(ABORT), "SendMigrateReset"), 0);
    assert_eq!(
        count(&bench.wait(Duration::from_secs(100)), "SendMigrateReset"),
        0
    );
    let actions = bench.tell(usable(NEW));
    let Action::SendMigrateReset { from, to, .. } = find(actions, "SendMigrateReset") else {
        unreachable!()
    };
    assert_eq!(Tuple::new(*from, *to), Tuple::new(at(NEW), identity().remote));
}

#[test]
fn a_reset_made_during_an_attempt_takes_the_way_of_its_msyn() {
    let mut bench = Bench::moved();
    let Action::SendMigrateReset { from, .. } = find(bench.tell(ABORT), "SendMigrateReset") else {
        unreachable!()
    };
    assert_eq!(*from, at(NEW));
}

#[test]
fn an_authenticated_reset_ends_the_connection_in_every_state() {
    for mut bench in [
        Bench::start(),
        Bench::moved(),
        Bench::unconfirmed(),
        Bench::start().after(usable(NEW)),
    ] {
        let actions = bench.tell(Event::MigrateResetHeard).clone();
        assert_eq!(count(&actions, "DeliverReset"), 1);
        assert_eq!(count(&actions, "SendMigrateReset"), 0, "the peer knows");
        assert_eq!(bench.state(), State::Closed);
    }
}

#[test]
fn nothing_wakes_the_dead() {
    let mut bench = Bench::start().after(ABORT);
    let late = Event::Committed {
        req_no: migration::ReqNo(1),
        wire: identity(),
    };
    bench.tell(late);
    assert_eq!(bench.state(), State::Closed);
    for event in [
        Event::Progress,
        Event::PeerSegmentOn {
            req_no: migration::ReqNo(0),
        },
    ] {
        assert_eq!(names(bench.tell(event)), ["Refuse"]);
        assert_eq!(bench.state(), State::Closed);
    }
}

#[test]
fn a_commit_that_comes_after_the_end_still_teaches_the_token() {
    let mut bench = Bench::start().after(msyn(1, identity().local)).after(ABORT);
    let wire = Tuple::new(identity().local, at(PEERS_NEW));
    bench.tell(Event::Committed {
        req_no: migration::ReqNo(1),
        wire,
    });
    let Action::SendMigrateReset { token_of, .. } = find(bench.tell(usable(NEW)), "SendMigrateReset") else {
        unreachable!()
    };
    assert_eq!(*token_of, migration::ReqNo(1));
}
