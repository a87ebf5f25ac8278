//! README's five commands for three machines, as they stand there, on three machines that have nothing yet.
//!
//! A machine is a station of the laboratory with mounts of its own: `/etc`, `/run`, `/var/lib`, the BPF file system and
//! the control groups are the machine's, so that the commands need no other arguments than README gives them.
//!
//! Needs root, and the programs built before (`make test` does).
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lab::machine::{Claim, Station, cgroup, netns, spawn, sweep};

/// Longer than this nothing takes on a machine that is not broken.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: usize = 1 << 20;
/// The laboratory, beside which the programs are.
const LAB: &str = env!("CARGO_BIN_EXE_lab");

/// What a command line of README ends in while it runs: these stay in the foreground.
const STANDS: &str = " run";

/// One of the three machines. What it runs ends with the claim.
struct Machine {
    station: Station,
    programs: PathBuf,
}

impl Machine {
    fn new(claim: &Claim, name: &str) -> Self {
        let station = Station::create(claim, name).expect("a station");
        for directory in ["etc", "run", "lib"] {
            fs::create_dir_all(station.directory.join(directory)).expect("a directory");
        }
        let etc = station.directory.join("etc");
        for file in ["passwd", "group", "nsswitch.conf", "ld.so.cache", "localtime"] {
            // What this machine lacks, those do without.
            let _ = fs::copy(Path::new("/etc").join(file), etc.join(file));
        }
        fs::write(etc.join("hosts"), "100.64.9.2 server.example.org\n").expect("a file");
        Machine {
            station,
            programs: Path::new(LAB).parent().expect("a directory").into(),
        }
    }

    /// Runs a line of shell on the machine. Mounts do not outlive a command, files do.
    fn spawn(&self, line: &str, out: Stdio) -> Child {
        const ENTER: &str = r#"
            set -e
            mount --make-rprivate /
            mount --bind "$FILES/etc" /etc
            mount --bind "$FILES/run" /run
            mount --bind "$FILES/lib" /var/lib
            mount -t bpf bpf /sys/fs/bpf
            mount --bind "$GROUP" "$CGROUPS"
            hostname "$LAB_HOST"
            set +e
            eval "$LINE""#;
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--uts", "bash", "-c", ENTER])
            .env("FILES", &self.station.directory)
            .env("GROUP", &self.station.cgroup)
            .env("CGROUPS", cgroup::mount().expect("cgroup2"))
            .env("LINE", line)
            .env("PATH", path_with(&self.programs))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(
                fs::File::options()
                    .create(true)
                    .append(true)
                    .open(self.log())
                    .expect("a log"),
            );
        spawn::spawn(&self.station, &mut command).expect("the machine runs programs")
    }

    fn log(&self) -> PathBuf {
        self.station.directory.join("log")
    }

    /// Runs a line to its end; none: it failed.
    fn run(&self, line: &str) -> Option<String> {
        let output = self
            .spawn(line, Stdio::piped())
            .wait_with_output()
            .expect("it ends");
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn ip(&self, batch: &str) {
        netns::ip(&self.station.netns, batch).expect("ip takes it");
    }
}

fn path_with(programs: &Path) -> String {
    format!(
        "{}:{}",
        programs.display(),
        std::env::var("PATH").unwrap_or_default()
    )
}

/// The commands of README behind their prompts: `server`, `host1`, `host2`.
fn commands() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../README.md");
    let page = fs::read_to_string(page).expect("README.md");
    let prompted = page.lines().filter_map(|line| line.split_once("$ "));
    let known = prompted.filter(|(machine, _)| ["server", "host1", "host2"].contains(&machine.trim()));
    known
        .map(|(machine, line)| {
            let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
            // These machines have no service manager; README says what to do then.
            let command = match command.trim().starts_with("systemctl ") {
                true => comment.split_once("or: ").expect("an alternative to systemctl").1,
                false => command,
            };
            (machine.trim().to_owned(), command.trim().to_owned())
        })
        .collect()
}

/// Awaits something; the logs of the machines say why it did not come.
fn await_that<T>(what: &str, machines: &[&Machine], mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        if Instant::now() > until {
            let logs = machines.iter().map(|machine| {
                let log = fs::read_to_string(machine.log()).unwrap_or_default();
                format!("--- {}\n{log}", machine.station.name)
            });
            panic!("{what} never came\n{}", logs.collect::<String>());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Gives a run back, also one that failed.
struct Held(Claim);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = sweep::release(&self.0, true) {
            eprintln!("{error}");
        }
    }
}

/// `core` routes between a network of each host, another one of each, and the server's.
fn connect(core: &Machine, [server, host1, host2]: [&Machine; 3]) {
    core.ip("link set lo up\n");
    let links = [
        (server, "eth0", "s", "100.64.9"),
        (host1, "eth0", "a1", "198.51.100"),
        (host1, "eth1", "a2", "192.0.2"),
        (host2, "eth0", "b1", "203.0.113"),
        (host2, "eth1", "b2", "198.18.0"),
    ];
    for (machine, device, at_core, prefix) in links {
        let own = &machine.station.netns;
        core.ip(&format!(
            "link add {at_core} type veth peer name {device} netns {own}\n\
             addr add {prefix}.1/24 dev {at_core}\nlink set {at_core} up\n"
        ));
        if device == "eth0" {
            machine.ip("link set lo up\n");
            arrive(machine, device, prefix);
        }
    }
    let forward = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())];
    netns::sysctl(&core.station.netns, &forward, false).expect("it routes");
}

fn arrive(machine: &Machine, device: &str, prefix: &str) {
    machine.ip(&format!(
        "addr add {prefix}.2/24 dev {device}\nlink set {device} up\nroute add default via {prefix}.1\n"
    ));
}

#[test]
fn the_five_commands_of_readme_make_a_deployment_whose_connections_survive_both_ends_moving() {
    let held = Held(Claim::take().expect("root, and a cgroup2"));
    let machine = |name| Machine::new(&held.0, name);
    let (core, server, host1, host2) = (
        machine("core"),
        machine("server"),
        machine("host1"),
        machine("host2"),
    );
    connect(&core, [&server, &host1, &host2]);
    let all = [&server, &host1, &host2];

    let commands = commands();
    assert_eq!(commands.len(), 5, "README promises five commands: {commands:?}");
    let mut standing = Vec::new();
    let mut token: Option<String> = None;
    for (name, line) in &commands {
        let machine = all.into_iter().find(|machine| machine.station.name == *name);
        let machine = machine.expect("one of three");
        let line = match (&token, line.contains("TOKEN")) {
            (Some(token), true) => line.replace("TOKEN", token),
            (None, true) => panic!("{line}: no command before has printed a token"),
            (_, false) => line.clone(),
        };
        if line.ends_with(STANDS) {
            standing.push(machine.spawn(&line, Stdio::null()));
            let program = line
                .rsplit("&& ")
                .next()
                .and_then(|last| last.strip_suffix(STANDS));
            let ask = format!("{} status", program.expect("a program that runs"));
            await_that(&line, &all, || machine.run(&ask));
            continue;
        }
        let said = machine.run(&line);
        let said = said.unwrap_or_else(|| {
            panic!(
                "{line}: {}",
                fs::read_to_string(machine.log()).unwrap_or_default()
            )
        });
        if line.contains("enroll-token") {
            token = Some(said.trim().to_owned());
        }
    }
    await_that("both hosts at the server", &all, || {
        let agents = server.run("mobility-server agents")?;
        (agents.contains("host1") && agents.contains("host2")).then_some(())
    });

    let files = host2.station.directory.join("www");
    fs::create_dir_all(&files).expect("a directory");
    let bytes: Vec<u8> = (0..24 * MIB as u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(files.join("file"), &bytes).expect("a file");
    let serve = format!(
        "exec {LAB} app '{{\"httpd\":{{\"port\":80,\"directory\":\"{}\"}}}}'",
        files.display()
    );
    standing.push(host2.spawn(&serve, Stdio::null()));
    await_that("the web server", &all, || {
        netns::is_listening(&host2.station.netns, 80).ok()?.then_some(())
    });
    let got = host1.station.directory.join("got");
    let fetch = format!(
        "exec curl --silent --show-error --limit-rate 3M --output {} http://203.0.113.2/file",
        got.display()
    );
    let mut curl = host1.spawn(&fetch, Stdio::null());
    let size = || fs::metadata(&got).map_or(0, |facts| facts.len() as usize);
    await_that("a part of the file", &all, || (size() > 2 * MIB).then_some(()));
    await_that("a connection that can move", &all, || {
        host1
            .run("host-agent connections")?
            .contains("Established")
            .then_some(())
    });
    let buffered = 12 * MIB;
    assert!(
        size() < bytes.len() - buffered,
        "the rest may be in buffers already: the move shows nothing"
    );
    for (host, prefix) in [(&host1, "192.0.2"), (&host2, "198.18.0")] {
        host.ip("link set eth0 down\naddr flush dev eth0\n");
        arrive(host, "eth1", prefix);
    }
    let status = await_that("the whole file", &all, || curl.try_wait().expect("our child"));
    assert!(
        status.success(),
        "{}",
        fs::read_to_string(host1.log()).unwrap_or_default()
    );
    assert!(
        fs::read(&got).expect("a file") == bytes,
        "what arrived is something else"
    );
    let events = host1.run("host-agent events").expect("the agent answers");
    assert!(events.contains("192.0.2.2"), "it has not moved: {events}");
    drop(standing);
}
