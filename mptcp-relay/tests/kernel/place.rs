//! A terminal with two networks, a router and a server that knows no MPTCP, in network namespaces of a test's own.
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

pub const TERMINAL: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
pub const SECOND: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Nobody needs this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The three hosts. They are gone when this is.
pub struct Place {
    prefix: String,
    directory: TempDir,
}

/// A relay that runs; killed when this is dropped.
pub struct Relay {
    child: Child,
}

impl Place {
    /// Addresses, routes and forwarding as a person would set them.
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            prefix: format!("relaytest-{}-{number}", std::process::id()),
            directory: tempfile::tempdir().expect("a temporary directory"),
        };
        for host in ["t", "r", "s"] {
            run("ip", &["netns", "add", &place.name(host)]);
            place.on(host, "ip link set lo up");
            place.set(host, "net/ipv4/conf/all/rp_filter", "0");
            place.set(host, "net/ipv4/conf/default/rp_filter", "0");
        }
        for (device, near, far, ends) in [
            ("wifi", "t", "r", ["10.1.0.2/24", "10.1.0.1/24"]),
            ("lte", "t", "r", ["10.2.0.2/24", "10.2.0.1/24"]),
            ("lan", "s", "r", ["192.0.2.2/24", "192.0.2.1/24"]),
        ] {
            let (near, far) = (place.name(near), place.name(far));
            let cable = [
                "link", "add", device, "netns", &near, "type", "veth", "peer", "name", device,
            ];
            run("ip", &[&cable[..], &["netns", &far]].concat());
            for (host, address) in [near, far].iter().zip(ends) {
                run("ip", &["-n", host, "addr", "add", address, "dev", device]);
                run("ip", &["-n", host, "link", "set", device, "up"]);
            }
        }
        place.on("t", "ip route add default via 10.1.0.1 dev wifi metric 100");
        place.on("t", "ip route add default via 10.2.0.1 dev lte metric 110");
        place.on("s", "ip route add default via 192.0.2.1");
        place.set("r", "net/ipv4/ip_forward", "1");
        place.set("s", "net/mptcp/enabled", "0");
        place
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs a command line on a host; what it says.
    pub fn on(&self, host: &str, line: &str) -> String {
        let name = self.name(host);
        let words: Vec<&str> = ["netns", "exec", &name]
            .into_iter()
            .chain(line.split(' '))
            .collect();
        run("ip", &words)
    }

    /// Runs a script of nft on a host.
    pub fn nft(&self, host: &str, script: &str) {
        let file = self.directory.path().join("rules.nft");
        std::fs::write(&file, script).expect("a file");
        self.on(host, &format!("nft -f {}", file.display()));
    }

    pub fn set(&self, host: &str, key: &str, value: &str) {
        self.inside(host, || {
            let path = PathBuf::from("/proc/sys").join(key);
            std::fs::write(&path, value).unwrap_or_else(|error| panic!("{key}: {error}"));
        });
    }

    /// Runs something in a thread that is on a host; its sockets stay there.
    pub fn inside<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name(host))).expect("the host");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET).expect("these tests need root");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn config(&self) -> PathBuf {
        self.directory.path().join("relay.toml")
    }

    /// The relay's program with these words, on the router.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command
            .args([
                "netns",
                "exec",
                &self.name("r"),
                env!("CARGO_BIN_EXE_mptcp-relay"),
                "--config",
            ])
            .arg(self.config())
            .args(words);
        command
    }

    /// What the relay's program says as JSON; none: it failed.
    pub fn ask(&self, words: &[&str]) -> Option<Value> {
        let output = self.command(&[words, &["--json"]].concat()).output().expect("ip");
        serde_json::from_slice(&output.stdout).ok()
    }

    /// A number of the relay's `status`; 0 if it is not there.
    pub fn counted(&self, group: &str, what: &str) -> u64 {
        let status = self.ask(&["status"]).expect("the relay runs");
        status[group][what].as_u64().unwrap_or(0)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts the relay, with these lines in its configuration, and waits until it answers.
    pub fn relay(&self, config: &str) -> Relay {
        self.relay_with(config, &[])
    }

    /// The same with more in its environment.
    pub fn relay_with(&self, config: &str, environment: &[(&str, &Path)]) -> Relay {
        let directory = self.directory.path();
        let text = format!(
            "{config}\nstate_dir = \"{0}/state\"\ncontrol_socket = \"{0}/control\"\nlog = \"debug\"\n",
            directory.display()
        );
        std::fs::write(self.config(), text).expect("a configuration");
        std::fs::create_dir_all(directory.join("state")).expect("a directory");
        let log = File::create(directory.join("log")).expect("a log");
        let mut child = self
            .command(&["run"])
            .envs(environment.iter().copied())
            .stderr(log)
            .stdout(Stdio::null())
            .spawn()
            .expect("ip");
        until("the relay is ready", || {
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the relay ended: {}", self.log());
            self.log().contains("ready").then_some(())
        });
        Relay { child }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Everything in the router's tables that programs set, and two of the relay's settings.
    pub fn tables(&self) -> BTreeMap<&'static str, String> {
        let mut tables: BTreeMap<&'static str, String> = [
            "nft list ruleset",
            "ip rule",
            "ip -6 rule",
            "ip route show table all",
            "sysctl net.mptcp.pm_type net.mptcp.close_timeout net.ipv4.tcp_tw_reuse",
        ]
        .map(|line| (line, self.on("r", line)))
        .into();
        // The kernel's own addresses of IPv6 come when they like.
        for routes in tables.values_mut() {
            let kept = routes
                .lines()
                .filter(|line| !line.contains("fe80:") && !line.contains("ff00:"));
            *routes = kept.collect::<Vec<_>>().join("\n");
        }
        tables.insert(
            "raw",
            without_counts(&self.on("r", "iptables-legacy-save -t raw")),
        );
        tables
    }

    /// A server that accepts on a port and holds what it accepts.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.inside("s", || TcpListener::bind((SERVER, port)).expect("a free port"))
    }

    /// Connects from the terminal to the server, by MPTCP.
    pub fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        self.inside("t", || {
            let protocol = Some(Protocol::from(libc::IPPROTO_MPTCP));
            let socket = Socket::new(Domain::IPV4, Type::STREAM, protocol)?;
            socket.connect_timeout(&SocketAddr::V4(SocketAddrV4::new(SERVER, port)).into(), PATIENCE)?;
            Ok(socket.into())
        })
    }
}

/// Policy lines of chains nobody has used appear with the first rule; packet counts are no rules.
fn without_counts(saved: &str) -> String {
    let rules = saved.lines().filter(|line| line.starts_with("-A"));
    rules.collect::<Vec<_>>().join("\n")
}

impl Relay {
    /// The memory of its program, in bytes.
    pub fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        kibibytes.expect("its memory") * 1024
    }

    pub fn signal(mut self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("the relay runs");
        self.child.wait().expect("a child");
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the relay's log:\n{}", self.log());
        }
        for host in ["t", "r", "s"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(host)])
                .status();
        }
    }
}

/// Takes the hosts of tests that were killed.
fn sweep() {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix("relaytest-")
            .and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !PathBuf::from("/proc").join(pid).exists()) {
            let _ = Command::new("ip").args(["netns", "del", &name]).status();
        }
    }
}

/// Waits until something is there.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output().expect(program);
    assert!(
        output.status.success(),
        "{program} {}: {}",
        words.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
