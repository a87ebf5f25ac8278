//! What a relay costs: a terminal with MPTCP and a server without, and between them the relay, or what could stand there
//! instead, in turns.
//!
//! | between | |
//! |---|---|
//! | forwarding | a router; the server has MPTCP itself, and both speak it end to end |
//! | the relay | `mptcp-relay` |
//! | haproxy | in TCP mode under mptcpize; the terminal must be told its address |
//!
//! `lost` has the silence when a path is lost, `switch` the time that `prefer` takes, `footprint` the memory of connections.
pub mod footprint;
pub mod lost;
pub mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
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
/// Clients whose connections come and go at the same time.
const CROWD: usize = 8;

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
    middle: Station,
    server: Station,
    next_port: u16,
    relays: Relays,
    board: Board,
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
        let board = Board::default();
        let mut programs = Programs::new(board.clone(), Timeline::new(false), logs)?;
        let mut relays = Relays::default();
        match between {
            Between::Forwarding => {}
            Between::Relay => {
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
            middle,
            server,
            next_port: STREAMS.start,
            relays,
            board,
            _programs: programs,
        })
    }

    /// One connection of the terminal, and who sends on it.
    fn connect(&mut self, upload: bool) -> Result<Stream, String> {
        self.connect_many(1, upload)
    }

    fn connect_many(&mut self, connections: u32, upload: bool) -> Result<Stream, String> {
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
            connections,
            role: client,
            mptcp: true,
            ..description
        };
        let client = End::start(&self.phone, &Program::Traffic(description))?;
        server.ask::<Opened>(&format!("accepted {connections}"))?;
        let (source, sink) = if upload {
            (client, server)
        } else {
            (server, client)
        };
        let stations = [&self.phone, &self.middle, &self.server];
        Ok(Stream {
            source,
            sink,
            clocks: stations.map(|station| station.cgroup.join("cpu.stat")),
        })
    }

    /// Of every device, as far as one packet may be many segments.
    fn set_offloads(&self, on: bool) -> Result<(), String> {
        let word = if on { "on" } else { "off" };
        for (station, devices) in [
            (&self.phone, &["wifi", "lte"][..]),
            (&self.middle, &["wifi", "lte", "lan"]),
            (&self.server, &["lan"]),
        ] {
            for device in devices {
                let switches = ["-K", device, "gso", word, "tso", word, "gro", word];
                let outcome = netns::inside(&station.netns, || {
                    command::run(Command::new("ethtool").args(switches), "")
                });
                outcome.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
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
        let server = End::start(&self.server, &program(true, SERVER))?;
        let client = |_| End::start(&self.phone, &program(false, self.dialled()));
        Ok(Shop {
            _server: server,
            clients: (0..CROWD).map(client).collect::<Result<_, _>>()?,
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

/// Connections that send one way.
struct Stream {
    source: End,
    sink: End,
    /// Where the processor time of all three stations stands.
    clocks: [PathBuf; 3],
}

/// What a stream has carried, and at what cost.
#[derive(Clone, Copy)]
struct Flow {
    /// Gbit/s at the receiving application.
    rate: f64,
    /// Nanoseconds of processor time for each byte, at both ends and between them.
    cost: f64,
}

impl Stream {
    fn run(&mut self, time: Duration) -> Result<Flow, String> {
        self.source.tell("go")?;
        std::thread::sleep(WARM);
        let (before, spent): (Counted, f64) = (self.sink.ask("count")?, self.spent()?);
        clock::sleep_until(before.at + time.as_nanos() as u64);
        let (after, spent): (Counted, f64) = (self.sink.ask("count")?, self.spent()? - spent);
        self.source.tell("hold")?;
        std::thread::sleep(DRAIN);
        let bytes = (after.bytes - before.bytes) as f64;
        Ok(Flow {
            rate: bytes * 8.0 / (after.at - before.at) as f64,
            cost: spent / bytes,
        })
    }

    /// Nanoseconds of processor time since the stations were made.
    fn spent(&self) -> Result<f64, String> {
        let mut all = 0.0;
        for clock in &self.clocks {
            let text = fs::read_to_string(clock)
                .map_err(|error| format!("cannot read {}: {error}", clock.display()))?;
            let micros = text
                .lines()
                .find_map(|line| line.strip_prefix("usage_usec "))
                .and_then(|number| number.trim().parse::<f64>().ok());
            all += micros.ok_or_else(|| format!("{} has no usage_usec", clock.display()))? * 1e3;
        }
        Ok(all)
    }
}

struct Shop {
    clients: Vec<End>,
    _server: End,
}

/// Of connections that come and go.
#[derive(Clone, Copy)]
struct Visits {
    /// Milliseconds from the beginning of one to its end.
    whole: f64,
    /// Milliseconds until it was connected.
    connect: f64,
}

impl Shop {
    /// One after the other.
    fn run(&mut self, millis: u64) -> Result<Visits, String> {
        let client = self.clients.first_mut().ok_or("there is no client")?;
        let rate: Rate = client.ask(&format!("rate {millis}"))?;
        let each = rate.connections as f64 * 1e6;
        match rate.failures {
            0 if rate.connections > 0 => Ok(Visits {
                whole: rate.nanoseconds as f64 / each,
                connect: rate.connecting as f64 / each,
            }),
            failures => Err(format!("{failures} connections failed")),
        }
    }

    /// As many at the same time as there are clients: thousands a second.
    fn crowd(&mut self, millis: u64) -> Result<f64, String> {
        for client in &mut self.clients {
            client.tell(&format!("rate {millis}"))?;
        }
        let mut thousands = 0.0;
        for client in &mut self.clients {
            let rate: Rate = client.hear()?;
            if rate.failures > 0 {
                return Err(format!("{} connections failed", rate.failures));
            }
            thousands += rate.connections as f64 * 1e6 / rate.nanoseconds as f64;
        }
        Ok(thousands)
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
        for offloads in [true, false] {
            direct.set_offloads(offloads)?;
            road.set_offloads(offloads)?;
            (direct.next_port, road.next_port) = (STREAMS.start, STREAMS.start);
            for upload in [false, true] {
                rows.extend(streams(
                    bench,
                    &mut direct,
                    &mut road,
                    (upload, offloads),
                    rounds,
                    time,
                )?);
            }
        }
        direct.set_offloads(true)?;
        road.set_offloads(true)?;
        rows.extend(visits(bench, &direct, &road, rounds, time)?);
    }
    rows.push(two_paths(bench, rounds, time)?);
    table::comparisons("A relay between", &rows);
    Ok(rows)
}

/// One stream in turns: what it carries, and the processor time that each byte costs all who have to do with it.
fn streams(
    bench: &Bench,
    direct: &mut Road,
    road: &mut Road,
    (upload, offloads): (bool, bool),
    rounds: usize,
    time: Duration,
) -> Result<[Comparison; 2], String> {
    let direction = if upload { "upload" } else { "download" };
    let conditions = if offloads { "offloads on" } else { "offloads off" };
    let (mut without, mut with) = (direct.connect(upload)?, road.connect(upload)?);
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (without, with) = (without.run(time)?, with.run(time)?);
        rates.push((without.rate, with.rate));
        costs.push((without.cost, with.cost));
    }
    let what = format!("{}, {direction}", road.between.name());
    bench.progress(&format!("{what}, {conditions}"));
    let forwarded = "end to end, forwarded";
    Ok([
        against(&what, forwarded, conditions, "Gbit/s", &rates),
        against(
            &format!("{what}, processor time"),
            forwarded,
            conditions,
            "ns/byte",
            &costs,
        ),
    ])
}

/// Connections that come and go, one after the other and many at a time.
fn visits(
    bench: &Bench,
    direct: &Road,
    road: &Road,
    rounds: usize,
    time: Duration,
) -> Result<[Comparison; 3], String> {
    let millis = time.as_millis() as u64;
    let (mut without, mut with) = (direct.shop()?, road.shop()?);
    let (mut whole, mut connect, mut crowd) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (one, other) = (without.run(millis)?, with.run(millis)?);
        whole.push((one.whole, other.whole));
        connect.push((one.connect, other.connect));
        crowd.push((without.crowd(millis)?, with.crowd(millis)?));
    }
    let name = road.between.name();
    bench.progress(&format!("{name}, short connections"));
    let row = |what: &str, conditions: &str, unit, pairs: &[(f64, f64)]| {
        against(
            &format!("{name}, {what}"),
            "plain TCP after fallback",
            conditions,
            unit,
            pairs,
        )
    };
    let ends = "ends on one processor";
    Ok([
        row("connect, ask, answer, close", ends, "ms", &whole),
        row("connect", ends, "ms", &connect),
        row("connections", &format!("{CROWD} at a time"), "1000/s", &crowd),
    ])
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
        single.push(alone.run(time)?.rate);
    }
    drop(alone);
    let endpoint = "mptcp endpoint add 10.2.0.2 dev lte id 1 subflow\n";
    netns::ip(&road.phone.netns, endpoint).map_err(|error| error.to_string())?;
    let mut both = road.connect(false)?;
    let mut pairs = Vec::new();
    for single in single {
        // Both paths are alike.
        pairs.push((single * 2e3, both.run(time)?.rate * 1e3));
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
