//! A place of its own for each test: a process in fresh network and mount namespaces and in a cgroup that nobody
//! else uses. Everything in it goes when the process ends.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use datapath::{KernelDatapath, Options};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Set in the process that is inside: the directory of its cgroup.
const INSIDE: &str = "DATAPATH_TEST_CGROUP";
/// What the cgroups of these tests are called.
const PREFIX: &str = "datapath-test-";

/// What the data path makes of timeouts.
pub const RAISED: Duration = Duration::from_secs(86_400);
pub const MARK: u32 = 0x0040_0000;
pub const AGENT_MARK: u32 = 0x0100_0000;
pub const AGENT_PORT: u16 = 7801;

/// Runs the body of a test in a place of its own.
///
/// # Panics
/// When the body does, and without root.
pub fn isolated<F: FnOnce()>(body: F) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test loads BPF programs and makes namespaces and cgroups: run it as root"
    );
    // "kernel::offers::name_of_the_test::{{closure}}": what the test harness calls the test is in the middle.
    let path = std::any::type_name::<F>();
    let name = path
        .trim_end_matches("::{{closure}}")
        .split_once("::")
        .map_or(path, |(_, name)| name);
    let cgroup = Cgroup::make();
    let directory = cgroup.0.clone();
    let mut command = Command::new(std::env::current_exe().expect("this test program"));
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, &directory);
    // SAFETY: only system calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            fs::write(directory.join("cgroup.procs"), "0")?;
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
            mount(
                Some("bpf"),
                "/sys/fs/bpf",
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )?;
            Ok(())
        });
    }
    let output = command.output().expect("the test starts in its own place");
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complained}");
    assert!(said.contains("1 passed"), "`{name}` is no test: {said}");
}

/// A cgroup that goes with this value, and with everything in it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> Cgroup {
        let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts");
        let mount = datapath::requirements::cgroup2_mount(&mounts).expect("cgroup2 is mounted");
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let path = mount.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Cgroup(path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let mut directories: Vec<PathBuf> = fs::read_dir(&self.0)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect();
        directories.retain(|path| path.is_dir());
        directories.push(self.0.clone());
        let deadline = Instant::now() + Duration::from_secs(5);
        for directory in directories {
            // The kernel needs some milliseconds to see the last process gone.
            while fs::remove_dir(&directory).is_err() && Instant::now() < deadline {
                std::thread::yield_now();
            }
        }
    }
}

/// One host: a network namespace and a cgroup of its own.
pub struct Host {
    namespace: File,
    pub cgroup: PathBuf,
    pub pin_dir: PathBuf,
}

impl Host {
    /// The host that the process begins in.
    pub fn first() -> Host {
        Host::here("a")
    }

    /// Another host, with a cable from the first: `10.77.0.1` and `fd77::1` there, `10.77.0.2` and `fd77::2` here.
    pub fn second() -> Host {
        let first = File::open("/proc/thread-self/ns/net").expect("our namespace");
        unshare(CloneFlags::CLONE_NEWNET).expect("another namespace");
        let host = Host::here("b");
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        let pid = std::process::id();
        // The name of a namespace for `ip`: a descriptor of ours.
        let other = format!(
            "/proc/{pid}/fd/{}",
            std::os::fd::AsRawFd::as_raw_fd(&host.namespace)
        );
        run(&format!(
            "ip link add cable type veth peer name cable netns {other}"
        ));
        for (at, number) in [(None, 1), (Some(&host), 2)] {
            if let Some(host) = at {
                host.enter();
            }
            run("ip link set lo up");
            // No addresses but ours, so that nothing changes by itself.
            run("ip link set cable addrgenmode none");
            run(&format!("ip addr add 10.77.0.{number}/24 dev cable"));
            run(&format!("ip -6 addr add fd77::{number}/64 dev cable nodad"));
            run("ip link set cable up");
        }
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        for host in [None, Some(&host)] {
            if let Some(host) = host {
                host.enter();
            }
            until("the cable is plugged", || {
                said("ip -o link show cable").contains("state UP")
            });
        }
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        host
    }

    fn here(name: &str) -> Host {
        let parent = PathBuf::from(std::env::var_os(INSIDE).expect("an isolated test"));
        let cgroup = parent.join(name);
        fs::create_dir(&cgroup).expect("a cgroup of the host");
        Host {
            namespace: File::open("/proc/thread-self/ns/net").expect("our namespace"),
            cgroup,
            pin_dir: Path::new("/sys/fs/bpf").join(name),
        }
    }

    /// From now on this process is on that host: what it opens belongs there for good.
    pub fn enter(&self) {
        setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("into the namespace");
        fs::write(self.cgroup.join("cgroup.procs"), "0").expect("into the cgroup");
    }

    /// Settings for a data path on this host that offers migration to everybody.
    pub fn options(&self) -> Options {
        Options {
            pin_dir: self.pin_dir.clone(),
            cgroup: self.cgroup.clone(),
            mark: MARK,
            agent_mark: AGENT_MARK,
            parking_ifindex: 1,
            parking_mac: [2, 0, 0, 0, 0, 1],
            agent_port: AGENT_PORT,
            offer_all: true,
            offer: Vec::<(IpAddr, u8, bool)>::new(),
            heartbeat_limit: Duration::from_secs(5),
            raised_timeout: RAISED,
            max_connections: 131_072,
            padding: 0,
        }
    }

    /// A data path on this host.
    pub fn open(&self) -> KernelDatapath {
        self.enter();
        KernelDatapath::open(&self.options()).expect("the data path loads")
    }
}

/// Runs a command of the system.
///
/// # Panics
/// When it fails, with what it said.
pub fn run(line: &str) {
    said(line);
}

/// What a command of the system prints.
///
/// # Panics
/// When it fails, with what it said about that.
pub fn said(line: &str) -> String {
    let mut words = line.split(' ');
    let program = words.next().expect("a program");
    let output = Command::new(program).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Awaits a condition.
///
/// # Panics
/// When it does not hold within five seconds.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(Duration::from_secs(5), what, holds);
}

/// Awaits a condition.
///
/// # Panics
/// When it does not hold in time.
pub fn until_within(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::yield_now();
    }
}
