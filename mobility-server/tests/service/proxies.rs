//! Which of several symmetric proxies is asked: by load, by what it can reach, and by what has come of it.

use std::time::Instant;

use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::destination::Action;
use proto::mobility::v1::relay_hello::Kind;
use proto::mobility::v1::relay_message::Body as Relays;
use proto::mobility::v1::relay_order::Body as Orders;
use proto::mobility::v1::relays_client::RelaysClient;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::common::*;

const MEMORY: &str = "[store]\nbackend = \"memory\"";

/// A proxy that does as the test says.
struct Proxy {
    uri: String,
    address: Vec<u8>,
    say: mpsc::Sender<pb::RelayMessage>,
    leases: mpsc::Receiver<pb::LeaseRequest>,
}

impl Proxy {
    /// It attends, and has room for 100 connections.
    async fn attend(server: &Deployment, name: &str, kind: Kind, address: &[u8]) -> Proxy {
        let role = match kind {
            Kind::MptcpRelay => "relay",
            _ => "proxy",
        };
        let member = server.member(name, role).await;
        let channel = connect(member.port, member.tls()).await.expect("it listens");
        let (say, words) = mpsc::channel(16);
        let (heard, leases) = mpsc::channel(16);
        let proxy = Proxy {
            uri: member.uri,
            address: address.to_vec(),
            say,
            leases,
        };
        let hello = pb::RelayHello {
            version: 1,
            kind: kind.into(),
            addresses: vec![proxy.address.clone()],
            capacity: 100,
            ..pb::RelayHello::default()
        };
        proxy.say(Relays::Hello(hello)).await;
        let orders = RelaysClient::new(channel).serve(ReceiverStream::new(words)).await;
        let mut orders = orders.expect("a member").into_inner();
        tokio::spawn(async move {
            while let Ok(Some(order)) = orders.message().await {
                if let Some(Orders::Lease(lease)) = order.body
                    && heard.send(lease).await.is_err()
                {
                    return;
                }
            }
        });
        proxy
    }

    async fn say(&self, body: Relays) {
        let message = pb::RelayMessage { body: Some(body) };
        self.say.send(message).await.expect("the stream is open");
    }

    /// Says how many connections it has, and waits until the server knows.
    async fn carries(&self, server: &Deployment, connections: u64, draining: bool) {
        self.say(Relays::Load(pb::RelayLoad {
            connections,
            bytes_per_second: 0,
            draining,
        }))
        .await;
        let until = Instant::now() + PATIENCE;
        loop {
            let rows: serde_json::Value =
                serde_json::from_str(&server.cli(&["relays", "--json"])).expect("JSON");
            let rows = rows.as_array().expect("a list");
            let fits = |row: &serde_json::Value| {
                row["relay"] == self.uri.as_str()
                    && row["connections"] == connections
                    && row["draining"] == draining
            };
            if rows.iter().any(fits) {
                return;
            }
            assert!(Instant::now() < until, "never known: {rows:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The next lease that it is asked for.
    async fn asked(&mut self) -> pb::LeaseRequest {
        let lease = tokio::time::timeout(PATIENCE, self.leases.recv()).await;
        lease.expect("it is asked in time").expect("the stream is open")
    }

    async fn answer(&self, lease: &pb::LeaseRequest, refusal: &str) {
        let end = Some(pb::Endpoint {
            address: self.address.clone(),
            port: 20_000,
        });
        let end = end.filter(|_| refusal.is_empty());
        self.say(Relays::Answer(pb::LeaseAnswer {
            lease_id: lease.lease_id.clone(),
            first: end.clone(),
            second: end,
            refusal: refusal.to_owned(),
        }))
        .await;
    }

    /// From now on it grants whatever it is asked for.
    fn grant_everything(mut self) {
        tokio::spawn(async move {
            while let Some(lease) = self.leases.recv().await {
                self.answer(&lease, "").await;
            }
        });
    }

    fn was_not_asked(&mut self) {
        assert!(self.leases.try_recv().is_err(), "{} was asked", self.uri);
    }
}

/// Two agents with one connection under a pair of this ID.
struct Ends {
    pair: u8,
    agents: [Agent; 2],
    lines: [Line; 2],
}

impl Ends {
    async fn meet(server: &Deployment, pair: u8) -> Ends {
        let name = |end: &str| format!("{end}{pair}");
        let agents = [server.agent(&name("a")).await, server.agent(&name("b")).await];
        let lines = [
            agents[0].attend(&[]).await.expect("welcome"),
            agents[1].attend(&[]).await.expect("welcome"),
        ];
        Ends { pair, agents, lines }
    }

    /// Both have moved behind a NAPT. A proxy is asked beside the first try, which is made when the second one reports.
    async fn move_both(&mut self) {
        for (own, other) in [(0, 1), (1, 0)] {
            let said = report(
                [self.pair; 16],
                &self.agents[other],
                1,
                own as u8 + 1,
                other as u8 + 1,
            );
            // Where its stream begins, as it has said: what the server sees is another address.
            let said = pb::MobilityReport {
                source_after: vec![10, 0, 0, 9],
                ..said
            };
            self.lines[own].say(Says::Report(said)).await;
            if own == 0 {
                let heard = self.lines[own].next().await;
                assert!(matches!(heard, Ok(Hears::Waiting(_))), "{heard:?}");
            }
        }
    }

    /// The next destination of both.
    async fn told(&mut self) -> [pb::Destination; 2] {
        [
            self.lines[0].destination().await,
            self.lines[1].destination().await,
        ]
    }

    async fn fails(&self, told: &pb::Destination) {
        self.lines[0]
            .say(Says::TryFailed(pb::TryFailed {
                pair_id: told.pair_id.clone(),
                move_counter: told.move_counter,
                decision: told.decision,
                cause: pb::try_failed::Cause::NoAnswer.into(),
                labels: vec![],
            }))
            .await;
    }
}

const P: [u8; 4] = [203, 0, 113, 7];
const Q: [u8; 4] = [203, 0, 113, 8];

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_with_the_least_load_is_asked_if_it_has_room_and_both_ends_reach_it() {
    let server = Deployment::start(MEMORY).await;
    let mut p = Proxy::attend(&server, "p", Kind::SymmetricProxy, &P).await;
    let mut q = Proxy::attend(&server, "q", Kind::SymmetricProxy, &Q).await;
    let mut six = Proxy::attend(&server, "six", Kind::SymmetricProxy, &[0x20; 16]).await;
    let mut relay = Proxy::attend(&server, "relay", Kind::MptcpRelay, &[203, 0, 113, 9]).await;
    for (number, (at_p, at_q, drained, p_is_asked)) in [
        (50, 10, false, false),
        (50, 90, false, true),
        // Drained, though it has less to do.
        (10, 90, true, false),
        // Full.
        (100, 99, false, false),
    ]
    .into_iter()
    .enumerate()
    {
        p.carries(&server, at_p, drained).await;
        q.carries(&server, at_q, false).await;
        let mut ends = Ends::meet(&server, 10 + number as u8).await;
        ends.move_both().await;
        let (asked, other) = match p_is_asked {
            true => (&mut p, &mut q),
            false => (&mut q, &mut p),
        };
        let lease = asked.asked().await;
        asked.answer(&lease, "").await;
        other.was_not_asked();
    }
    six.was_not_asked();
    relay.was_not_asked();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_or_says_nothing_is_passed_over_for_the_next_one() {
    let server = Deployment::start(MEMORY).await;
    let mut p = Proxy::attend(&server, "p", Kind::SymmetricProxy, &P).await;
    let mut q = Proxy::attend(&server, "q", Kind::SymmetricProxy, &Q).await;
    p.carries(&server, 1, false).await;
    q.carries(&server, 50, false).await;
    let (mut first, mut second) = (Ends::meet(&server, 1).await, Ends::meet(&server, 2).await);
    first.move_both().await;
    let lease = p.asked().await;
    p.answer(&lease, "no port is free").await;
    let lease = q.asked().await;
    q.answer(&lease, "").await;
    // For a while the other one is asked first; it says nothing.
    second.move_both().await;
    q.asked().await;
    p.was_not_asked();
    p.asked().await;
    assert!(server.status()["refusals"]["lease"].as_u64() >= Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_at_which_nothing_came_about_is_left_for_another_one() {
    let server = Deployment::start(MEMORY).await;
    let p = Proxy::attend(&server, "p", Kind::SymmetricProxy, &P).await;
    let q = Proxy::attend(&server, "q", Kind::SymmetricProxy, &Q).await;
    p.carries(&server, 1, false).await;
    q.carries(&server, 50, false).await;
    p.grant_everything();
    q.grant_everything();
    let mut ends = Ends::meet(&server, 1).await;
    ends.move_both().await;
    // Nothing leads to anything. First it looks as if both were behind one NAPT.
    let mut named: Vec<pb::Destination> = Vec::new();
    while named.len() < 2 {
        let [to_a, to_b] = ends.told().await;
        assert_eq!(
            (to_a.decision, &to_a.peer_address),
            (to_b.decision, &to_b.peer_address)
        );
        ends.fails(&to_a).await;
        if to_a.action() == Action::Proxy {
            named.push(to_a);
        }
    }
    let addresses = [&named[0].peer_address, &named[1].peer_address];
    assert_eq!(addresses, [&P.to_vec(), &Q.to_vec()]);
    assert!(!named[0].leg_keys.is_empty());
    assert_ne!(named[0].leg_keys, named[1].leg_keys);
    assert!(named[1].decision > named[0].decision);
    // There is no third.
    loop {
        match ends.lines[0].next().await.expect("the stream is open") {
            Hears::Waiting(_) => break,
            Hears::Cancelled(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
