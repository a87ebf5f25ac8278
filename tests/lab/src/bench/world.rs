//! The hosts of a measurement: a phone and a server, with agents or without.
//!
//! | network | |
//! |---|---|
//! | road | the phone has two links to a router, of one of which it has an address; the server is behind the router |
//! | cable | phone and server are neighbours, as fast as the machine can copy |
//!
//! All links are plain pairs of virtual devices that nobody watches.
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use super::netlink::Netlink;
use super::pair::{End, Pair, Program};
use super::traffic::{Description, Opened, Role};
use super::{Bench, clock};
use crate::agents::Agents;
use crate::language::ast::AgentList;
use crate::machine::{MachineError, Station, command, netns};
use crate::servers::Servers;
use crate::story::board::Board;
use crate::story::programs::Programs;
use crate::story::timeline::Timeline;

/// What carries connections over a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    Agents,
    /// Nothing: the same address returns, and TCP is left to itself.
    Plain,
    Multipath,
}

impl Means {
    pub const ALL: [Means; 3] = [Means::Agents, Means::Plain, Means::Multipath];

    pub fn name(self) -> &'static str {
        match self {
            Means::Agents => "agents",
            Means::Plain => "plain TCP",
            Means::Multipath => "MPTCP",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Road,
    Cable,
}

const PORT: u16 = 7000;
/// A link of the road, in each direction.
const ROAD_RATE: &str = "1gbit";
/// Less than the send buffer of one connection holds: bulk always has bytes that have not arrived.
const ROAD_QUEUE: &str = "1ms";
const LENGTH: u8 = 16;
/// How long agents may need to learn of new connections.
const KNOWN: Duration = Duration::from_secs(120);

pub struct World {
    pub means: Means,
    layout: Layout,
    phone: Station,
    server: Station,
    agents: Agents,
    /// Starts the agents and reads what they say.
    _programs: Programs,
    board: Board,
    /// A host without agent, next to the phone on a link of its own.
    neighbour: Option<Station>,
    netlink: Netlink,
    /// How many addresses the phone has had.
    moves: u16,
    next_port: u16,
}

impl World {
    /// # Errors
    /// The machine lacks something, or an agent does not start.
    pub fn build(bench: &Bench, name: &str, means: Means, layout: Layout) -> Result<World, String> {
        World::assemble(bench, name, means, layout).map_err(|reason| format!("{name}: {reason}"))
    }

    fn assemble(bench: &Bench, name: &str, means: Means, layout: Layout) -> Result<World, String> {
        let make = |role: &str| station(bench, &format!("{name}-{role}"));
        let (phone, server) = (make("phone")?, make("server")?);
        match layout {
            Layout::Road => lay_road(&phone, &make("core")?, &server),
            Layout::Cable => lay_cable(&phone, &server),
        }
        .map_err(|error| error.to_string())?;
        let devices: &[&str] = match layout {
            Layout::Road => &["wifi", "lte"],
            Layout::Cable => &["wifi"],
        };
        let netlink = Netlink::open(&phone.netns, devices).map_err(|error| error.to_string())?;
        let executable = (means == Means::Agents).then(|| bench.agent.clone());
        let logs = bench.claim.directory.join("logs");
        let board = Board::default();
        let mut world = World {
            means,
            layout,
            agents: Agents::new(&bench.claim.directory, executable),
            _programs: Programs::new(board.clone(), Timeline::new(false), logs)?,
            board,
            neighbour: None,
            phone,
            server,
            netlink,
            moves: 0,
            next_port: PORT,
        };
        if means == Means::Multipath {
            for station in [&world.phone, &world.server] {
                let limits = "mptcp limits set subflow 8 add_addr_accepted 8\n";
                netns::ip(&station.netns, limits).map_err(|error| error.to_string())?;
            }
        }
        world.appear().map_err(|error| error.to_string())?;
        let settings = BTreeMap::from([("log".to_owned(), "warn".to_owned())]);
        for station in [world.phone.clone(), world.server.clone()] {
            let prepared = world.agents.prepare(&station, &settings, &Servers::none());
            prepared.map_err(|error| error.to_string())?;
            world.agents.start(&station, &mut world._programs, 3.0)?;
        }
        Ok(world)
    }

    /// The device that the phone uses now.
    fn device(&self) -> &'static str {
        match self.layout {
            Layout::Road if self.moves.is_multiple_of(2) => "wifi",
            Layout::Road => "lte",
            Layout::Cable => "wifi",
        }
    }

    /// The address that the phone has now: another one after every move.
    fn address(&self) -> Ipv4Addr {
        let [high, low] = (self.moves + 2).to_be_bytes();
        let network = if self.device() == "wifi" { 1 } else { 2 };
        Ipv4Addr::new(10, network, 0x80 | high, low)
    }

    fn gateway(&self) -> Option<Ipv4Addr> {
        let network = if self.device() == "wifi" { 1 } else { 2 };
        (self.layout == Layout::Road).then(|| Ipv4Addr::new(10, network, 0, 1))
    }

    fn server_address(&self) -> Ipv4Addr {
        match self.layout {
            Layout::Road => Ipv4Addr::new(10, 3, 0, 2),
            Layout::Cable => Ipv4Addr::new(10, 1, 0, 1),
        }
    }

    /// The address goes, and with it the routes. What knows of it is told.
    pub fn disappear(&mut self) -> std::io::Result<()> {
        match self.means {
            Means::Plain | Means::Agents => {
                self.netlink.remove_address(self.device(), self.address(), LENGTH)
            }
            Means::Multipath => {
                self.netlink.remove_endpoint(self.endpoint(), self.address())?;
                self.netlink.remove_address(self.device(), self.address(), LENGTH)
            }
        }
    }

    /// Another address comes on the other link (for plain TCP: the same address); returns when it was usable.
    pub fn reappear(&mut self) -> std::io::Result<u64> {
        if self.means != Means::Plain {
            self.moves += 1;
        }
        self.appear()
    }

    fn appear(&mut self) -> std::io::Result<u64> {
        self.netlink.add_address(self.device(), self.address(), LENGTH)?;
        if let Some(gateway) = self.gateway() {
            self.netlink.add_default_route(self.device(), gateway)?;
        }
        let usable = clock::now();
        if self.means == Means::Multipath {
            self.netlink
                .add_endpoint(self.endpoint(), self.device(), self.address())?;
        }
        Ok(usable)
    }

    fn endpoint(&self) -> u8 {
        (self.moves % 200) as u8 + 1
    }

    /// Opens connections between a client's program on the phone and a server's; with agents, until both know
    /// them all.
    pub fn connect(
        &mut self,
        connections: u32,
        client: Role,
        server: Role,
        send_buffer: Option<u32>,
    ) -> Result<Pair, String> {
        let known = |world: &World| [&world.phone, &world.server].map(|station| world.known_at(station));
        let before = known(self);
        let address = SocketAddr::new(IpAddr::V4(self.server_address()), self.next_port);
        self.next_port += 100;
        let description = Description {
            address,
            connections: 0,
            role: server,
            mptcp: self.means == Means::Multipath,
            send_buffer,
        };
        let mut server = End::start(&self.server, &Program::Traffic(description.clone()))?;
        let description = Description {
            connections,
            role: client,
            ..description
        };
        let client = End::start(&self.phone, &Program::Traffic(description))?;
        let opened: Opened = server.ask(&format!("accepted {connections}"))?;
        if self.means == Means::Multipath && opened.multipath < connections as usize {
            return Err("this kernel's connections are not MPTCP; see net.mptcp.enabled".into());
        }
        let until = Instant::now() + KNOWN;
        if self.means == Means::Agents {
            loop {
                let now = known(self);
                if (0..2).all(|end| now[end] >= before[end] + connections as usize) {
                    break;
                }
                if Instant::now() > until {
                    return Err(format!("the agents know {now:?} connections, not {connections}"));
                }
                // The agent's list is asked for, nobody announces it.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(Pair { client, server })
    }

    /// Gives the phone a neighbour that has no agent: connections with it are plain TCP, whatever the phone runs.
    pub fn add_neighbour(&mut self, bench: &Bench, name: &str) -> Result<(), String> {
        let neighbour = station(bench, &format!("{name}-other"))?;
        let laid = join("side", &self.phone, &neighbour)
            .and_then(|()| netns::ip(&self.phone.netns, "addr add 10.9.0.1/24 dev side\n"))
            .and_then(|()| netns::ip(&neighbour.netns, "addr add 10.9.0.2/24 dev side\n"));
        laid.map_err(|error| error.to_string())?;
        self.neighbour = Some(neighbour);
        Ok(())
    }

    /// One connection with the neighbour.
    pub fn connect_to_neighbour(&mut self, client: Role, server: Role) -> Result<Pair, String> {
        let neighbour = self.neighbour.as_ref().ok_or("there is no neighbour")?;
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)), self.next_port);
        self.next_port += 100;
        let end = |role, connections| {
            Program::Traffic(Description {
                address,
                connections,
                role,
                mptcp: false,
                send_buffer: None,
            })
        };
        let mut server = End::start(neighbour, &end(server, 0))?;
        let client = End::start(&self.phone, &end(client, 1))?;
        let _: Opened = server.ask("accepted 1")?;
        Ok(Pair { client, server })
    }

    /// The process of the phone's agent.
    pub fn agent_pid(&self) -> Option<i32> {
        let program = self.agents.program(&self.phone.name)?;
        self.board.lock().programs.get(&program)?.pid
    }

    /// Programs whose connections come and go.
    pub fn serve_short(&mut self) -> Result<Pair, String> {
        let address = SocketAddr::new(IpAddr::V4(self.server_address()), self.next_port);
        self.next_port += 100;
        let program = |serve| {
            Program::Short(super::short::Description {
                address,
                serve,
                mptcp: false,
            })
        };
        Ok(Pair {
            server: End::start(&self.server, &program(true))?,
            client: End::start(&self.phone, &program(false))?,
        })
    }

    /// Waits until so many of the phone's connections have moved and are resumed.
    pub fn await_moved(&self, connections: usize) -> Result<(), String> {
        let until = Instant::now() + KNOWN;
        loop {
            let rows = self
                .agents
                .ask(&self.phone.name, AgentList::Connections)
                .unwrap_or_default();
            let resumed = |row: &&serde_json::Value| {
                row["state"] == "Established" && row["moves"].as_u64().is_some_and(|moves| moves > 0)
            };
            let moved = rows.iter().filter(resumed).count();
            if moved >= connections {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("{moved} of {connections} connections have moved"));
            }
            // The agent's list is asked for, nobody announces it.
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn known_at(&self, station: &Station) -> usize {
        let rows = self.agents.ask(&station.name, AgentList::Connections);
        rows.map_or(0, |rows| rows.len())
    }

    /// Segmentation and receive offloads of every device that carries the connections, the agents' among them.
    pub fn set_offloads(&self, on: bool) -> Result<(), String> {
        let word = if on { "on" } else { "off" };
        for station in [&self.phone, &self.server].into_iter().chain(&self.neighbour) {
            let beside = self
                .neighbour
                .as_ref()
                .is_some_and(|other| other.name == station.name);
            let mut devices = if beside { vec![] } else { vec!["wifi"] };
            if self.neighbour.is_some() && station.name != self.server.name {
                devices.push("side");
            }
            if self.means == Means::Agents && !beside {
                devices.push("mob0");
            }
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
}

pub(super) fn station(bench: &Bench, name: &str) -> Result<Station, String> {
    let made = || -> Result<Station, MachineError> {
        let station = Station::create(&bench.claim, name)?;
        let settings = [
            (
                "net.ipv4.ip_forward",
                if name.ends_with("core") { "1" } else { "0" },
            ),
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
            ("net.ipv6.conf.all.disable_ipv6", "1"),
            ("net.ipv6.conf.default.disable_ipv6", "1"),
            ("net.mptcp.enabled", "1"),
            ("net.mptcp.close_timeout", "600"),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        netns::sysctl(&station.netns, &settings, true)?;
        netns::ip(&station.netns, "link set dev lo up\n")?;
        Ok(station)
    };
    made().map_err(|error| error.to_string())
}

pub(super) fn join(device: &str, near: &Station, far: &Station) -> Result<(), MachineError> {
    let first = [
        "link",
        "add",
        "name",
        device,
        "netns",
        &near.netns,
        "type",
        "veth",
    ];
    let second = ["peer", "name", device, "netns", &far.netns];
    command::run(Command::new("ip").args(first).args(second), "")?;
    for station in [near, far] {
        netns::ip(&station.netns, &format!("link set dev {device} up\n"))?;
    }
    Ok(())
}

fn lay_road(phone: &Station, core: &Station, server: &Station) -> Result<(), MachineError> {
    for device in ["wifi", "lte"] {
        join(device, phone, core)?;
        for station in [phone, core] {
            // A burst holds a segment of 64 KiB as the kernel hands it down.
            let shape = ["qdisc", "add", "dev", device, "root", "tbf", "rate", ROAD_RATE];
            let room = ["burst", "128kb", "latency", ROAD_QUEUE];
            netns::inside(&station.netns, || {
                command::run(Command::new("tc").args(shape).args(room), "")
            })?;
        }
    }
    join("lan", core, server)?;
    netns::ip(
        &core.netns,
        "addr add 10.1.0.1/16 dev wifi\naddr add 10.2.0.1/16 dev lte\naddr add 10.3.0.1/24 dev lan\n",
    )?;
    netns::ip(
        &server.netns,
        "addr add 10.3.0.2/24 dev lan\nroute add default via 10.3.0.1\n",
    )
}

fn lay_cable(phone: &Station, server: &Station) -> Result<(), MachineError> {
    join("wifi", phone, server)?;
    netns::ip(&server.netns, "addr add 10.1.0.1/16 dev wifi\n")
}
