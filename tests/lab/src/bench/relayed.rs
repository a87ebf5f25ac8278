//! What a relay costs: a terminal with MPTCP and a server without, and between them the relay, or what could stand there
//! instead, in turns.
//!
//! | between | |
//! |---|---|
//! | forwarding | a router; the server has MPTCP itself, and both speak it end to end |
//! | the relay | `mptcp-relay` |
//! | haproxy | in TCP mode under mptcpize; the terminal must be told its address |
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use super::pair::{End, Program};
use super::short::{self, PORTS, Rate};
use super::table;
use super::throughput::Comparison;
use super::traffic::{Counted, Description, Opened, Role};
use super::world::{join, station};
use super::{Bench, clock};
use crate::language::ast::RelayKind;
use crate::machine::{MachineError, Station, command, netns};
use crate::relays::Relays;
use crate::servers::Servers;
use crate::story::board::Board;
use crate::story::programs::{Launch, Programs};
use crate::story::timeline::Timeline;

const MIDDLE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
/// Ports of streams, and of connections that come and go.
const STREAMS: std::ops::Range<u16> = 7000..7004;
const SHORT: u16 = 7100;
/// Of each path where two are compared with one.
const PATH_RATE: &str = "50mbit";
/// The stream finds its rate before it is measured, and what is in the buffers has arrived.
const WARM: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Forwarding,
    Relay,
    Haproxy,
}

impl Between {
    fn name(self) -> &'static str {
        match self {
            Self::Forwarding => "forwarding",
            Self::Relay => "relay",
            Self::Haproxy => "haproxy",
        }
    }
}

/// A terminal with two paths, what is between, and a server.
struct Road {
    between: Between,
    phone: Station,
    server: Station,
    next_port: u16,
    /// What runs in the middle ends with it.
    _programs: Programs,
}

impl Road {
    /// `shaped`: both paths have [`PATH_RATE`].
    fn build(bench: &Bench, name: &str, between: Between, shaped: bool) -> Result<Road, String> {
        let make = |role: &str| station(bench, &format!("{name}-{role}"));
        let (phone, middle, server) = (make("phone")?, make("core")?, make("server")?);
        lay(&phone, &middle, &server, shaped).map_err(|error| error.to_string())?;
        let logs = bench.claim.directory.join("logs");
        let mut programs = Programs::new(Board::default(), Timeline::new(false), logs)?;
        match between {
            Between::Forwarding => {}
            Between::Relay => {
                let mut relays = Relays::default();
                let settings = BTreeMap::from([("log".to_owned(), "warn".to_owned())]);
                relays.prepare(&middle, RelayKind::Mptcp, &settings, &Servers::none())?;
                // It says that it is ready, at this level only to whom it notifies.
                relays.start(&middle, &mut programs, 3.0)?;
            }
            Between::Haproxy => haproxy(&middle, &mut programs)?,
        }
        Ok(Road {
            between,
            phone,
            server,
            next_port: STREAMS.start,
            _programs: programs,
        })
    }

    /// One connection of the terminal, and who sends on it.
    fn connect(&mut self, upload: bool) -> Result<Stream, String> {
        let port = self.next_port;
        self.next_port += 1;
        let (client, server) = if upload {
            (Role::Source, Role::Sink)
        } else {
            (Role::Sink, Role::Source)
        };
        let description = Description {
            address: SocketAddr::from((SERVER, port)),
            connections: 0,
            role: server,
            mptcp: self.between == Between::Forwarding,
            send_buffer: None,
        };
        let mut server = End::start(&self.server, &Program::Traffic(description.clone()))?;
        let description = Description {
            address: SocketAddr::from((self.dialled(), port)),
            connections: 1,
            role: client,
            mptcp: true,
            ..description
        };
        let client = End::start(&self.phone, &Program::Traffic(description))?;
        server.ask::<Opened>("accepted 1")?;
        let (source, sink) = if upload {
            (client, server)
        } else {
            (server, client)
        };
        Ok(Stream { source, sink })
    }

    fn dialled(&self) -> Ipv4Addr {
        match self.between {
            Between::Haproxy => MIDDLE,
            _ => SERVER,
        }
    }

    /// Connections that come and go; the server has no MPTCP.
    fn shop(&self) -> Result<Shop, String> {
        let program = |serve: bool, address| {
            Program::Short(short::Description {
                address: SocketAddr::from((address, SHORT)),
                serve,
                mptcp: !serve,
            })
        };
        Ok(Shop {
            _server: End::start(&self.server, &program(true, SERVER))?,
            client: End::start(&self.phone, &program(false, self.dialled()))?,
        })
    }
}

fn lay(phone: &Station, middle: &Station, server: &Station, shaped: bool) -> Result<(), MachineError> {
    for device in ["wifi", "lte"] {
        join(device, phone, middle)?;
        for station in [phone, middle].into_iter().filter(|_| shaped) {
            let shape = ["qdisc", "add", "dev", device, "root", "tbf", "rate", PATH_RATE];
            let room = ["burst", "128kb", "latency", "50ms"];
            netns::inside(&station.netns, || {
                command::run(Command::new("tc").args(shape).args(room), "")
            })?;
        }
    }
    join("lan", middle, server)?;
    netns::ip(
        &phone.netns,
        "addr add 10.1.0.2/24 dev wifi\naddr add 10.2.0.2/24 dev lte\n\
         route add default via 10.1.0.1 dev wifi metric 100\nroute add default via 10.2.0.1 dev lte metric 110\n\
         mptcp limits set subflows 2 add_addr_accepted 2\n",
    )?;
    // Sockets of programs in the middle take their congestion control from the route.
    netns::ip(
        &middle.netns,
        "addr add 10.1.0.1/24 dev wifi\naddr add 10.2.0.1/24 dev lte\naddr add 10.3.0.1/24 dev lan\n\
         route change 10.1.0.0/24 dev wifi proto kernel scope link src 10.1.0.1 congctl cubic\n\
         route change 10.2.0.0/24 dev lte proto kernel scope link src 10.2.0.1 congctl cubic\n\
         route change 10.3.0.0/24 dev lan proto kernel scope link src 10.3.0.1 congctl cubic\n",
    )?;
    netns::ip(
        &server.netns,
        "addr add 10.3.0.2/24 dev lan\nroute add default via 10.3.0.1\n",
    )
}

fn haproxy(middle: &Station, programs: &mut Programs) -> Result<(), String> {
    let mut text = String::from(
        "defaults\n mode tcp\n option splice-auto\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n",
    );
    for port in STREAMS.chain(SHORT..SHORT + PORTS) {
        text += &format!("listen p{port}\n bind {MIDDLE}:{port}\n server s {SERVER}:{port}\n");
    }
    let file = middle.directory.join("haproxy.cfg");
    std::fs::write(&file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    let mut command = Command::new("mptcpize");
    command.args(["run", "haproxy", "-db", "-f"]).arg(&file);
    let launch = Launch {
        name: "haproxy".to_owned(),
        what: "haproxy".to_owned(),
        command,
        reports: false,
        stands: true,
        connections: 0,
    };
    programs.launch(middle, launch)?;
    let until = Instant::now() + Duration::from_secs(30);
    while !netns::is_listening(&middle.netns, SHORT).map_err(|error| error.to_string())? {
        if Instant::now() > until {
            return Err("haproxy does not listen; are haproxy and mptcpize installed?".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One connection that sends one way.
struct Stream {
    source: End,
    sink: End,
}

impl Stream {
    /// Gbit/s at the receiving application.
    fn run(&mut self, time: Duration) -> Result<f64, String> {
        self.source.tell("go")?;
        std::thread::sleep(WARM);
        let before: Counted = self.sink.ask("count")?;
        clock::sleep_until(before.at + time.as_nanos() as u64);
        let after: Counted = self.sink.ask("count")?;
        self.source.tell("hold")?;
        std::thread::sleep(DRAIN);
        Ok((after.bytes - before.bytes) as f64 * 8.0 / (after.at - before.at) as f64)
    }
}

struct Shop {
    client: End,
    _server: End,
}

impl Shop {
    /// Milliseconds for a connection from its beginning to its end.
    fn run(&mut self, millis: u64) -> Result<f64, String> {
        let rate: Rate = self.client.ask(&format!("rate {millis}"))?;
        match rate.failures {
            0 if rate.connections > 0 => Ok(rate.nanoseconds as f64 / 1e6 / rate.connections as f64),
            failures => Err(format!("{failures} connections failed")),
        }
    }
}

pub fn measure(bench: &Bench) -> Result<Vec<Comparison>, String> {
    let (rounds, time) = if bench.quick {
        (3, Duration::from_millis(600))
    } else {
        (7, Duration::from_millis(1000))
    };
    let mut rows = Vec::new();
    let mut direct = Road::build(bench, "direct", Between::Forwarding, false)?;
    for between in [Between::Relay, Between::Haproxy] {
        let mut road = Road::build(bench, between.name(), between, false)?;
        direct.next_port = STREAMS.start;
        for upload in [false, true] {
            let direction = if upload { "upload" } else { "download" };
            let (mut without, mut with) = (direct.connect(upload)?, road.connect(upload)?);
            let mut pairs = Vec::new();
            for _ in 0..rounds {
                pairs.push((without.run(time)?, with.run(time)?));
            }
            bench.progress(&format!("{direction}, {}", between.name()));
            let what = format!("{}, {direction}", between.name());
            rows.push(against(
                &what,
                "end to end, forwarded",
                "one path",
                "Gbit/s",
                &pairs,
            ));
        }
        let (mut without, mut with) = (direct.shop()?, road.shop()?);
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let millis = time.as_millis() as u64;
            pairs.push((without.run(millis)?, with.run(millis)?));
        }
        bench.progress(&format!("short connections, {}", between.name()));
        let what = format!("{}, connect, ask, answer, close", between.name());
        rows.push(against(
            &what,
            "plain TCP after fallback",
            "one processor",
            "ms",
            &pairs,
        ));
    }
    rows.push(two_paths(bench, rounds, time)?);
    table::comparisons("A relay between", &rows);
    Ok(rows)
}

fn against(
    what: &str,
    against: &str,
    conditions: &str,
    unit: &'static str,
    pairs: &[(f64, f64)],
) -> Comparison {
    Comparison {
        against: against.to_owned(),
        ..Comparison::new(what, conditions, unit, pairs)
    }
}

/// One connection over both paths against the sum of what each carries alone.
fn two_paths(bench: &Bench, rounds: usize, time: Duration) -> Result<Comparison, String> {
    let mut road = Road::build(bench, "two", Between::Relay, true)?;
    // Opened while there is no endpoint: each stays on the path of its address.
    let mut alone = road.connect(false)?;
    let mut single = Vec::new();
    for _ in 0..rounds {
        single.push(alone.run(time)?);
    }
    drop(alone);
    let endpoint = "mptcp endpoint add 10.2.0.2 dev lte id 1 subflow\n";
    netns::ip(&road.phone.netns, endpoint).map_err(|error| error.to_string())?;
    let mut both = road.connect(false)?;
    let mut pairs = Vec::new();
    for single in single {
        // Both paths are alike.
        pairs.push((single * 2e3, both.run(time)? * 1e3));
    }
    bench.progress("two paths");
    let conditions = format!("{PATH_RATE} each");
    Ok(against(
        "relay, download over two paths",
        "twice one of them",
        &conditions,
        "Mbit/s",
        &pairs,
    ))
}
