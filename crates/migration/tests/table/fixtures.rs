//! One machine for every state, brought there by events, and one event for every thing that can happen to it.

use std::net::IpAddr;
use std::time::Duration;

use migration::{
    Endpoint, Event, Machine, Policy, ReqNo, ResetAnswer, Role, TcpSnapshot, TcpState, Timestamp, Tuple, step,
};

pub fn at(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an endpoint").into()
}

/// The wire tuple before any move, and the two other places.
pub fn identity() -> Tuple {
    Tuple::new(at("10.0.0.1:4000"), at("10.9.9.9:80"))
}
pub const NEW: &str = "10.0.1.1:4001";
const NEWER: &str = "10.0.2.1:4002";
pub const PEERS_NEW: &str = "10.8.8.8:81";

pub const TCP: TcpSnapshot = TcpSnapshot {
    snd_una: 900,
    snd_nxt: 1_000,
    rcv_nxt: 5_000,
    rto: Duration::from_millis(200),
};

/// A machine on its way, with the time it has come to.
#[derive(Clone)]
pub struct Walk {
    pub machine: Machine,
    pub now: Timestamp,
}

impl Walk {
    pub fn start() -> Self {
        Self {
            machine: Machine::new(Role::Initiator, identity(), Policy::default()),
            now: Timestamp::from_millis(10_000),
        }
    }

    pub fn then(mut self, event: Event) -> Self {
        self.machine = step(self.machine, event, self.now).0;
        self
    }

    /// Lets alarms ring until `until` says that it is enough.
    pub fn ring_until(mut self, until: impl Fn(&Machine) -> bool) -> Self {
        while !until(&self.machine) {
            self.now = self.machine.next_alarm().expect("an alarm leads there").0;
            self = self.then(Event::TimerFired);
        }
        self
    }
}

pub fn usable(local: &str) -> Event {
    Event::AddressUsable {
        local: at(local),
        candidates: vec![identity().remote],
        tcp: TCP,
        random: 7,
    }
}

pub fn lost(local: &str) -> Event {
    Event::AddressLost {
        local: at(local).address,
    }
}

pub fn msyn(req_no: u32, to: Endpoint) -> Event {
    let from = at(PEERS_NEW);
    let (req_no, token_of) = (ReqNo(req_no), ReqNo::UNMOVED);
    Event::MsynHeard {
        from,
        to,
        req_no,
        token_of,
        seq: 4_999,
        rcv_nxt: 900,
        tcp: TCP,
    }
}

pub fn msyn_ack(req_no: u32, local: &str, ack: u32) -> Event {
    let (from, to) = (identity().remote, at(local));
    Event::MsynAckHeard {
        from,
        to,
        req_no: ReqNo(req_no),
        seq: 4_999,
        ack,
        rcv_nxt: 900,
    }
}

pub fn close(tcp_state: TcpState) -> Event {
    Event::LocalClose {
        tcp_state,
        reset: false,
    }
}

fn is_exhausted(machine: &Machine) -> bool {
    machine.attempts().iter().all(|attempt| attempt.exhausted)
}

/// Every row: its name and a machine in that state.
pub fn rows() -> Vec<(&'static str, Walk)> {
    use TcpState::*;
    let open = Walk::start;
    let moved = || open().then(lost("10.0.0.1:0")).then(usable(NEW));
    let unconfirmed = || moved().then(msyn_ack(2, NEW, 1_000));
    let confirmed = || unconfirmed().then(Event::PeerSegmentOn { req_no: ReqNo(2) });
    let aborted = || {
        open().then(Event::LocalClose {
            tcp_state: Closed,
            reset: true,
        })
    };
    vec![
        ("Established", open()),
        ("Established, moved once", confirmed()),
        ("Established, unconfirmed", unconfirmed()),
        (
            "Established, reset held",
            open().then(Event::ResetHeard { exact: true }),
        ),
        ("FinWait1", open().then(close(FinWait1))),
        ("FinWait2", open().then(close(FinWait1)).then(close(FinWait2))),
        ("CloseWait", open().then(close(CloseWait))),
        ("Closing", open().then(close(FinWait1)).then(close(Closing))),
        ("LastAck", open().then(close(CloseWait)).then(close(LastAck))),
        ("TimeWait", open().then(close(FinWait2)).then(close(TimeWait))),
        ("Suspect", open().then(Event::RetransmissionTimeout)),
        ("SynRecv", open().then(msyn(1, identity().local))),
        ("MigSent", moved()),
        (
            "MigSent by command, previous tuple in use",
            open().then(usable(NEW)),
        ),
        (
            "MigSent, crossed",
            moved().then(usable(NEWER)).then(msyn(5, at(NEWER))),
        ),
        ("MigWait (no address)", open().then(lost("10.0.0.1:0"))),
        ("MigWait (no answer)", moved().ring_until(is_exhausted)),
        (
            "MigWait (unconfirmed)",
            unconfirmed().ring_until(|machine| machine.state().to_string() == "MigWait (unconfirmed)"),
        ),
        ("MigWait (keys gone)", moved().then(Event::KeysGone)),
        ("Closed by a reset", aborted()),
        (
            "Closed in order",
            open()
                .then(close(CloseWait))
                .then(close(LastAck))
                .then(close(Closed)),
        ),
        (
            "Buried",
            aborted().ring_until(|machine| machine.state().to_string() == "Buried"),
        ),
    ]
}

/// Every column: its name and the event as it looks to this machine.
pub fn columns(machine: &Machine) -> Vec<(&'static str, Event)> {
    use TcpState::*;
    let wire = machine.wire();
    let committed = machine.committed();
    let attempt = machine.attempts().first();
    let (number, local) = match attempt {
        Some(attempt) => (attempt.req_no, attempt.from),
        None => (committed, wire.local),
    };
    let here = machine
        .answered()
        .first()
        .map_or(if machine.is_parked() { at(NEW) } else { local }, |a| {
            a.tuple.local
        });
    let answer = machine.answered().first();
    let peers = ReqNo::next_for(machine.role().peer(), machine.highest_seen()).expect("low numbers");
    let heard = |req_no: ReqNo, seq: u32| Event::MsynHeard {
        from: at(PEERS_NEW),
        to: here,
        req_no,
        token_of: machine.known(),
        seq,
        rcv_nxt: 900,
        tcp: TCP,
    };
    let answered = |req_no: ReqNo, ack: u32| Event::MsynAckHeard {
        from: identity().remote,
        to: local,
        req_no,
        seq: 4_999,
        ack,
        rcv_nxt: 900,
    };
    let spliced = |req_no: ReqNo, ack: u32| Event::RelayAnswered {
        from: identity().remote,
        to: local,
        req_no,
        seq: 4_999,
        ack,
    };
    let relayed = |req_no: ReqNo, seq: u32, ack: u32| Event::RelayedAckHeard {
        from: wire.remote,
        to: wire.local,
        req_no,
        seq,
        ack,
        tcp: TCP,
    };
    let lost_heard = match heard(peers, 4_999) {
        Event::MsynHeard {
            from,
            req_no,
            token_of,
            seq,
            rcv_nxt,
            tcp,
            ..
        } => Event::MsynHeard {
            from,
            to: identity().local,
            req_no,
            token_of,
            seq,
            rcv_nxt,
            tcp,
        },
        other => other,
    };
    let commits = |req_no: ReqNo| Event::Committed {
        req_no,
        wire: Tuple::new(here, at(PEERS_NEW)),
    };
    let next_commit = answer.map_or(peers, |answer| answer.req_no);
    let strange = |ack: u32| Event::StrangeSynAck {
        from: identity().remote,
        to: local,
        ack,
    };
    let gone = |address: IpAddr| Event::AddressLost { local: address };
    vec![
        ("AddressLost: of the wire tuple", gone(wire.local.address)),
        ("AddressLost: of the attempt", gone(local.address)),
        ("AddressLost: another", lost("10.7.7.7:0")),
        (
            "AddressReturned: of the wire tuple",
            Event::AddressReturned {
                local: wire.local.address,
            },
        ),
        ("AddressUsable", usable("10.0.3.1:4003")),
        (
            "AddressUsable: the same address",
            usable(&format!("{}:4003", wire.local.address)),
        ),
        (
            "AddressUsable: without candidates",
            Event::AddressUsable {
                local: at(NEWER),
                candidates: Vec::new(),
                tcp: TCP,
                random: 7,
            },
        ),
        (
            "MigrateCommand",
            Event::MigrateCommand {
                local: at("10.0.3.1:4003"),
                peer: at(PEERS_NEW),
                crossing: false,
                tcp: TCP,
                random: 7,
            },
        ),
        ("MsynHeard: a higher number", heard(peers, 4_999)),
        ("MsynHeard: repeated", heard(next_commit, 4_999)),
        (
            "MsynHeard: repeated with another sequence number",
            heard(next_commit, 5_555),
        ),
        (
            "MsynHeard: not higher (after a move)",
            heard(ReqNo(1).min(peers), 4_999),
        ),
        ("MsynHeard: to an address that is lost", lost_heard),
        (
            "MsynHeard: a number of our side",
            heard(ReqNo(peers.0 + 1), 4_999),
        ),
        ("MsynAckHeard: fits", answered(number, 1_000)),
        (
            "MsynAckHeard: another attempt",
            answered(ReqNo(number.0 + 20), 1_000),
        ),
        ("MsynAckHeard: wrong acknowledgement", answered(number, 999)),
        (
            "RelayNamed",
            Event::RelayNamed {
                local: at("10.0.3.1:4003"),
                proxy: at("10.7.7.7:20000"),
                tcp: TCP,
                random: 7,
            },
        ),
        ("RelayAnswered: fits", spliced(peers, 1_000)),
        (
            "RelayAnswered: a number of our side",
            spliced(ReqNo(peers.0 + 1), 1_000),
        ),
        ("RelayAnswered: wrong acknowledgement", spliced(peers, 999)),
        (
            "RelayedAckHeard: the peer has moved",
            relayed(peers, 5_000, 1_000),
        ),
        (
            "RelayedAckHeard: a number that is committed",
            relayed(ReqNo::UNMOVED, 5_000, 1_000),
        ),
        ("Committed: the answered attempt", commits(next_commit)),
        (
            "Committed: again",
            Event::Committed {
                req_no: committed,
                wire,
            },
        ),
        (
            "PeerSegmentOn: the wire tuple",
            Event::PeerSegmentOn { req_no: committed },
        ),
        (
            "PeerSegmentOn: another",
            Event::PeerSegmentOn {
                req_no: ReqNo(committed.0 + 1),
            },
        ),
        ("StrangeSynAck", strange(1_000)),
        ("StrangeSynAck: forged", strange(77)),
        ("RetransmissionTimeout", Event::RetransmissionTimeout),
        ("ProbeUnanswered", Event::ProbeUnanswered),
        ("Progress", Event::Progress),
        ("ResetHeard: exact", Event::ResetHeard { exact: true }),
        ("ResetHeard: not exact", Event::ResetHeard { exact: false }),
        ("ResetAnswer: genuine", Event::ResetAnswer(ResetAnswer::Genuine)),
        ("ResetAnswer: not mine", Event::ResetAnswer(ResetAnswer::NotMine)),
        ("ResetAnswer: unknown", Event::ResetAnswer(ResetAnswer::Unknown)),
        ("MigrateResetHeard", Event::MigrateResetHeard),
        ("LocalClose: FinWait1", close(FinWait1)),
        ("LocalClose: FinWait2", close(FinWait2)),
        ("LocalClose: CloseWait", close(CloseWait)),
        ("LocalClose: Closing", close(Closing)),
        ("LocalClose: LastAck", close(LastAck)),
        ("LocalClose: TimeWait", close(TimeWait)),
        ("LocalClose: Closed", close(Closed)),
        (
            "LocalClose: by a reset",
            Event::LocalClose {
                tcp_state: Closed,
                reset: true,
            },
        ),
        ("KeysGone", Event::KeysGone),
        ("TimerFired: in time", Event::TimerFired),
        ("TimerFired: too early", Event::TimerFired),
    ]
}
