//! A symmetric proxy that lies, for stories of the laboratory: a member of the deployment with a good certificate, which
//! says that it has room for everybody, grants a port for every ticket, knows the keys of both legs, and brings nobody
//! together. What it does with a connection goes by turns ([`Lie`]).
//!
//! `lying_proxy CONFIG`: the configuration file of a symmetric proxy. Says what it does, a line each.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use datapath::relay::{Direction, Door, Knocked, LeaseId, RelayDatapath, RelayEvent, RelayOptions};
use identity::ticket::{Ticket, TicketVerifier};
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;
use symmetric_proxy::config::Config;
use symmetric_proxy::server::{Attendance, ServerEvent, address, endpoint};
use symmetric_proxy::{drive, watch};
use tokio::sync::{mpsc, watch as channel};
use wire::handshake::Standing;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

/// Between two looks at who has knocked.
const LOOK: Duration = Duration::from_millis(2);
/// How far its numbers are from the true ones.
const WRONG_BY: u32 = 100_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Lie {
    /// It grants a port and says nothing there.
    Silent,
    /// It answers each end as if the peer were there, and sends everything back to where it came from.
    Mirrors,
    /// It waits for both and passes on what they send, but has told each wrong numbers of the other.
    Invents,
}

const LIES: [Lie; 3] = [Lie::Silent, Lie::Mirrors, Lie::Invents];

struct Connection {
    lie: Lie,
    ticket: Ticket,
    heard: [Option<Knocked>; 2],
}

struct Liar {
    me: String,
    verifier: TicketVerifier,
    datapath: RelayDatapath,
    addresses: Vec<IpAddr>,
    first_port: u16,
    device: u32,
    connections: HashMap<LeaseId, Connection>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("the configuration file")?;
    let config = Config::load(Some(Path::new(&path)))?;
    let credentials = drive::credentials(&config)?;
    let me = credentials.identity().uri().to_owned();
    let authorities = config.identity.join("ca.pem");
    let handle = watch::open()?;
    let addresses = watch::addresses(&handle, &config).await?;
    let datapath = RelayDatapath::open(&RelayOptions {
        pin_dir: config.pin_dir.clone(),
        addresses: addresses.clone(),
        ports: config.ports,
        mark: config.mark,
    })?;
    let devices = watch::chosen(watch::devices(&handle).await?, &config);
    for device in &devices {
        datapath.attach_device(device.index, device.link)?;
    }
    let (_keep, credentials) = channel::channel(credentials);
    let (_quiet, again) = channel::channel(0);
    let (events, mut heard) = mpsc::channel(64);
    for (index, url) in drive::servers_of(&config)?.into_iter().enumerate() {
        let attendance = Attendance {
            index,
            url,
            credentials: credentials.clone(),
            authorities: authorities.clone(),
            mark: config.mark,
            events: events.clone(),
            again: again.clone(),
        };
        tokio::spawn(attendance.run());
    }
    let mut liar = Liar {
        me,
        verifier: TicketVerifier::load(&authorities)?,
        datapath,
        addresses,
        first_port: config.ports.0,
        device: devices.first().context("a device")?.index,
        connections: HashMap::new(),
    };
    let mut servers = HashMap::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            Some(event) = heard.recv() => match event {
                ServerEvent::Opened(index, words) => {
                    let hello = Says::Hello(liar.hello());
                    let _ = words.try_send(said::RelayMessage { body: Some(hello) });
                    servers.insert(index, words);
                }
                ServerEvent::Said(index, Hears::Lease(request)) => {
                    if let (Some(answer), Some(words)) = (liar.grant(&request), servers.get(&index)) {
                        let answer = Says::Answer(answer);
                        let _ = words.try_send(said::RelayMessage { body: Some(answer) });
                    }
                }
                ServerEvent::Said(..) | ServerEvent::Closed(..) => {}
            },
            _ = look.tick() => {
                for event in liar.datapath.events() {
                    if let RelayEvent::Knocked { lease, leg, knocked } = event {
                        liar.knocked(lease, leg & 1, knocked)?;
                    }
                }
            }
        }
    }
}

impl Liar {
    fn hello(&self) -> said::RelayHello {
        said::RelayHello {
            version: 1,
            kind: said::relay_hello::Kind::SymmetricProxy.into(),
            addresses: self.addresses.iter().map(|one| address(*one)).collect(),
            capacity: 1_000_000,
            ..said::RelayHello::default()
        }
    }

    /// None: it is no ticket, and even this proxy has nothing to do with it.
    fn grant(&mut self, request: &said::LeaseRequest) -> Option<said::LeaseAnswer> {
        let now = SystemTime::now();
        let ticket = self
            .verifier
            .verify(&request.ticket, &request.signature, &self.me, now);
        let ticket = ticket.ok()?;
        let number = self.connections.len();
        let port = self.first_port.checked_add(u16::try_from(number).ok()?)?;
        let at = Endpoint::new(*self.addresses.first()?, port);
        let door = Door {
            lease: ticket.lease,
            legs: ticket.legs.each_ref().map(|leg| Some((leg.key.to_proxy(), None))),
        };
        self.datapath.open_door(at, &door).ok()?;
        let lie = LIES[number % LIES.len()];
        println!("grants {at} for connection {number}: {lie:?}");
        let connection = Connection {
            lie,
            ticket,
            heard: [None; 2],
        };
        self.connections.insert(connection.ticket.lease, connection);
        Some(said::LeaseAnswer {
            lease_id: request.lease_id.clone(),
            first: Some(endpoint(at)),
            second: Some(endpoint(at)),
            refusal: String::new(),
        })
    }

    fn knocked(&mut self, lease: LeaseId, leg: usize, knocked: Knocked) -> anyhow::Result<()> {
        let Some(connection) = self.connections.get_mut(&lease) else {
            return Ok(());
        };
        connection.heard[leg] = Some(knocked);
        let lie = connection.lie;
        println!("{lie:?}, when {} knocks", knocked.wire.remote);
        match (lie, connection.heard) {
            (Lie::Mirrors, _) => {
                self.pass(lease, leg, knocked.wire, knocked.wire)?;
                // A number that the peer could have.
                let of_peer = Knocked {
                    req_no: ReqNo(knocked.req_no.0 + 1),
                    ..knocked
                };
                self.answer(lease, leg, &knocked, &of_peer)
            }
            (Lie::Invents, [Some(first), Some(second)]) => {
                self.pass(lease, 0, first.wire, second.wire)?;
                self.pass(lease, 1, second.wire, first.wire)?;
                for (leg, own, other) in [(0, first, second), (1, second, first)] {
                    let wrong = Knocked {
                        seq: other.seq.wrapping_add(WRONG_BY),
                        rcv_nxt: other.rcv_nxt.wrapping_add(WRONG_BY),
                        ..other
                    };
                    self.answer(lease, leg, &own, &wrong)?;
                }
                Ok(())
            }
            (Lie::Silent | Lie::Invents, _) => Ok(()),
        }
    }

    fn pass(&self, lease: LeaseId, leg: usize, from: Tuple, to: Tuple) -> anyhow::Result<()> {
        let path = datapath::Path {
            ifindex: self.device,
            next_hop: None,
        };
        let direction = Direction {
            lease,
            leg,
            to,
            path,
            pending: false,
        };
        Ok(self.datapath.install(&from, &direction)?)
    }

    /// An MSYN-ACK that says this of the peer.
    fn answer(&self, lease: LeaseId, leg: usize, own: &Knocked, peer: &Knocked) -> anyhow::Result<()> {
        let (Some(connection), Some(syn)) = (self.connections.get(&lease), peer.syn) else {
            return Ok(());
        };
        let standing = Standing {
            token: own.token,
            req_no: peer.req_no,
            seq: peer.seq,
            rcv_nxt: peer.rcv_nxt,
            window: peer.window,
        };
        let mut segment = Segment::msyn_ack(own.wire, standing, own.seq.wrapping_add(1), syn);
        segment.sign(&connection.ticket.legs[leg].key.to_agent(), ReqNo::UNMOVED)?;
        Ok(self.datapath.send(&segment.emit()?)?)
    }
}
