//! A client, a middle and a server in namespaces, and what can stand in the middle.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use datapath::Path;
use datapath::attach::Link;
use datapath::relay::{Direction, RelayDatapath, RelayOptions};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::SockRef;
use wire::tuple::{Endpoint, Tuple};

use crate::repair::{open, prepared};
use crate::turn;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const MIDDLE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 3, 0, 2);
const PORT: u16 = 7000;
const RELAYED: u16 = 20_000;
const PORTION: usize = 256 * 1024;
const WARM: Duration = Duration::from_millis(300);

/// What stands in the middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    Forwarding,
    /// With so many other entries in its map.
    Relay(usize),
    Nat,
    Haproxy,
    Socat,
    /// By TURN over TCP (RFC 6062).
    Coturn,
}

impl Between {
    pub fn name(self) -> String {
        match self {
            Self::Forwarding => "kernel forwarding".into(),
            Self::Relay(0) => "symmetric-proxy".into(),
            Self::Relay(entries) => format!("symmetric-proxy, {entries} entries"),
            Self::Nat => "nft NAT".into(),
            Self::Haproxy => "haproxy, splice".into(),
            Self::Socat => "socat, 256 KiB".into(),
            Self::Coturn => "coturn, RFC 6062".into(),
        }
    }

    /// The program that it takes, if it takes one.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Nat => Some("nft"),
            Self::Haproxy => Some("haproxy"),
            Self::Socat => Some("socat"),
            Self::Coturn => Some("turnserver"),
            _ => None,
        }
    }
}

/// A namespace.
struct Place(File);

impl Place {
    fn make() -> Place {
        let first = here();
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        let place = Place(here());
        run("ip link set lo up");
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        place
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("into the namespace");
                work()
            });
            worker.join().expect("it works there")
        })
    }

    /// As `inside`, on this thread: what is made there need not go to another.
    fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let first = here();
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("into the namespace");
        let made = work();
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        made
    }

    fn name(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

fn here() -> File {
    File::open("/proc/thread-self/ns/net").expect("our namespace")
}

fn run(line: &str) {
    crate::place::run(line);
}

/// The three places, with connections between the outer ones.
pub struct Road {
    pub between: Between,
    places: [Place; 3],
    connections: Vec<(TcpStream, TcpStream)>,
    program: Option<Child>,
    /// What has to stay open beside them.
    _controls: Vec<TcpStream>,
    _relay: Option<RelayDatapath>,
}

impl Road {
    /// Builds it, with so many connections.
    pub fn build(between: Between, connections: u16, directory: &std::path::Path) -> io::Result<Road> {
        let places = [Place::make(), Place::make(), Place::make()];
        let [client, middle, server] = &places;
        middle.inside(|| {
            for (device, place, near, far) in [("near", client, MIDDLE, CLIENT), ("far", server, FAR, SERVER)]
            {
                run(&format!(
                    "ip link add {device} type veth peer name {device} netns {}",
                    place.name()
                ));
                run(&format!("ip addr add {near}/24 dev {device}"));
                run(&format!("ip link set {device} up"));
                // Sockets of programs in the middle take their congestion control from the route.
                let net = Ipv4Addr::from(u32::from(near) & !0xff);
                run(&format!(
                    "ip route change {net}/24 dev {device} proto kernel scope link src {near} congctl cubic"
                ));
                place.inside(|| {
                    run(&format!("ip addr add {far}/24 dev {device}"));
                    run(&format!("ip link set {device} up"));
                    run(&format!("ip route add default via {near}"));
                });
            }
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        })?;
        let relay = match between {
            Between::Relay(entries) => Some(middle.enter(|| relay(entries, connections))),
            Between::Nat => {
                let rules = format!(
                    "table ip t {{\n chain pre {{ type nat hook prerouting priority -100; ip daddr {MIDDLE} tcp dport {PORT} dnat \
                     to {SERVER}; }}\n chain post {{ type nat hook postrouting priority 100; oifname \"far\" masquerade; }}\n}}\n"
                );
                let file = directory.join("nft");
                std::fs::write(&file, rules)?;
                middle.inside(|| run(&format!("nft -f {}", file.display())));
                None
            }
            _ => None,
        };
        let program = match between {
            Between::Haproxy => {
                let file = directory.join("haproxy.cfg");
                std::fs::write(
                    &file,
                    format!(
                        "defaults\n mode tcp\n option splice-auto\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n\
                         listen p\n bind {MIDDLE}:{PORT}\n server s {SERVER}:{PORT}\n"
                    ),
                )?;
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(&file);
                Some(start(middle, command)?)
            }
            Between::Socat => {
                let mut command = Command::new("socat");
                command.args(["-b", "262144"]);
                command.arg(format!("TCP-LISTEN:{PORT},bind={MIDDLE},fork,reuseaddr,nodelay"));
                command.arg(format!("TCP:{SERVER}:{PORT},nodelay"));
                Some(start(middle, command)?)
            }
            Between::Coturn => {
                let mut command = Command::new("turnserver");
                command.args(["-n", "--no-auth", "--no-tls", "--no-dtls", "--no-cli"]);
                command.args(["-L", &MIDDLE.to_string(), "-E", &FAR.to_string()]);
                for (option, name) in [("--pidfile", "pid"), ("--userdb", "db"), ("--log-file", "log")] {
                    command.arg(option).arg(directory.join(format!("turn-{name}")));
                }
                Some(start(middle, command)?)
            }
            _ => None,
        };
        let mut road = Road {
            between,
            places,
            connections: Vec::new(),
            program,
            _controls: Vec::new(),
            _relay: relay,
        };
        road.connect(connections)?;
        Ok(road)
    }

    fn connect(&mut self, connections: u16) -> io::Result<()> {
        let [client, _, server] = &self.places;
        if let Between::Relay(_) = self.between {
            for number in 0..connections {
                let at = |address: Ipv4Addr, port: u16| SocketAddr::new(IpAddr::V4(address), port + number);
                let far = server.inside(|| prepared(at(SERVER, PORT), at(FAR, RELAYED), 5000, 1000))?;
                let near = client.inside(|| prepared(at(CLIENT, PORT), at(MIDDLE, RELAYED), 1000, 5000))?;
                let (far, near) = (open(far)?, open(near)?);
                self.connections.push((near, far));
            }
            return Ok(());
        }
        let listener = server.inside(|| TcpListener::bind((SERVER, PORT)))?;
        SockRef::from(&listener).set_tcp_congestion(b"cubic")?;
        let to = match self.between {
            Between::Forwarding => SERVER,
            _ => MIDDLE,
        };
        for _ in 0..connections {
            let through_turn = self.between == Between::Coturn;
            let (near, control) = crate::place::until("a connection", || {
                client.inside(|| match through_turn {
                    true => {
                        let peer = std::net::SocketAddrV4::new(SERVER, PORT);
                        let (near, control) = turn::connect(turn::at(MIDDLE), peer).ok()?;
                        Some((near, Some(control)))
                    }
                    false => Some((TcpStream::connect((to, PORT)).ok()?, None)),
                })
            });
            self._controls.extend(control);
            let (far, _) = listener.accept()?;
            for stream in [&near, &far] {
                stream.set_nodelay(true)?;
                SockRef::from(stream).set_tcp_congestion(b"cubic")?;
            }
            self.connections.push((near, far));
        }
        Ok(())
    }

    /// Switches segmentation offloads everywhere.
    pub fn set_offloads(&self, on: bool) {
        let word = if on { "on" } else { "off" };
        let devices: [&[&str]; 3] = [&["near"], &["near", "far"], &["far"]];
        for (place, devices) in self.places.iter().zip(devices) {
            place.inside(|| {
                for device in devices {
                    run(&format!("ethtool -K {device} gso {word} tso {word} gro {word}"));
                }
            });
        }
    }

    /// Gbit/s from the client to the server, over so many connections.
    pub fn throughput(&self, connections: usize, time: Duration) -> f64 {
        let (stop, received) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let between = self.between;
        std::thread::scope(|scope| {
            for (near, far) in &self.connections[..connections] {
                scope.spawn(move || {
                    let portion = vec![0x5a; PORTION];
                    while !stop.load(Ordering::Relaxed) {
                        let written = (&*near).write_all(&portion);
                        written.unwrap_or_else(|error| panic!("{between:?}: {error}"));
                    }
                });
                far.set_read_timeout(Some(Duration::from_millis(200)))
                    .expect("a socket");
                scope.spawn(move || {
                    let mut portion = vec![0; PORTION];
                    loop {
                        match (&*far).read(&mut portion) {
                            Ok(0) => panic!("{between:?}: the connection has ended"),
                            Ok(length) => received.fetch_add(length as u64, Ordering::Relaxed),
                            // Nothing for a while: all is here, if no more is sent.
                            Err(_) if stop.load(Ordering::Relaxed) => return,
                            Err(_) => 0,
                        };
                    }
                });
            }
            std::thread::sleep(WARM);
            let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
            std::thread::sleep(time);
            let bytes = received.load(Ordering::Relaxed) - before;
            let rate = bytes as f64 * 8e-9 / began.elapsed().as_secs_f64();
            stop.store(true, Ordering::Relaxed);
            rate
        })
    }

    /// Microseconds from a question of 64 bytes to its answer, on the first connection.
    pub fn round_trip(&self, time: Duration) -> f64 {
        let (near, far) = &self.connections[0];
        far.set_read_timeout(None).expect("a socket");
        let until = Instant::now() + time;
        let mut rounds = 0u64;
        std::thread::scope(|scope| {
            let answerer = scope.spawn(|| {
                let mut word = [0; 64];
                loop {
                    (&*far).read_exact(&mut word).expect("the connection lives");
                    (&*far).write_all(&word).expect("the connection lives");
                    if word[0] == 1 {
                        return;
                    }
                }
            });
            let began = Instant::now();
            let mut word = [0; 64];
            while word[0] == 0 {
                word[0] = u8::from(Instant::now() >= until);
                (&*near).write_all(&word).expect("the connection lives");
                (&*near).read_exact(&mut word).expect("the connection lives");
                rounds += 1;
            }
            let elapsed = began.elapsed();
            answerer.join().expect("it answers");
            elapsed.as_secs_f64() * 1e6 / rounds as f64
        })
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
    }
}

fn start(place: &Place, mut command: Command) -> io::Result<Child> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    place.inside(move || command.spawn())
}

/// The relay's data path, with these connections and so many entries that nobody uses.
fn relay(entries: usize, connections: u16) -> RelayDatapath {
    let relay = RelayDatapath::open(&RelayOptions {
        // A BPF file system takes no dots in names.
        pin_dir: format!("/sys/fs/bpf/relay-{entries}").into(),
        addresses: vec![MIDDLE.into(), FAR.into()],
        ports: (20_000, 29_999),
        mark: 0,
    })
    .expect("the relay opens");
    let index = |device: &str| nix::net::if_::if_nametoindex(device).expect("a device");
    let (near, far) = (index("near"), index("far"));
    for device in [near, far] {
        relay.attach_device(device, Link::Ethernet).expect("attaches");
    }
    let direction = |to, ifindex| Direction {
        lease: [1; 16],
        leg: 0,
        to,
        path: Path {
            ifindex,
            next_hop: None,
        },
        pending: false,
    };
    let end = |address: Ipv4Addr, port: u16| Endpoint::new(address.into(), port);
    for number in 0..connections {
        let first = Tuple::new(end(MIDDLE, RELAYED + number), end(CLIENT, PORT + number));
        let second = Tuple::new(end(FAR, RELAYED + number), end(SERVER, PORT + number));
        relay.install(&first, &direction(second, far)).expect("installs");
        relay.install(&second, &direction(first, near)).expect("installs");
    }
    for number in 0..entries as u32 {
        let nobody = end(Ipv4Addr::from(0xc000_0000 + number), 1);
        let from = Tuple::new(end(MIDDLE, 29_999), nobody);
        relay.install(&from, &direction(from, near)).expect("installs");
    }
    relay
}
