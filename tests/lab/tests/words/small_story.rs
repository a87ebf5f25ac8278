//! Artifacts of a run that never was: three captures and what programs printed.
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use lab::emulator::capture::{Capture, Way};
use lab::report::act::Act;
use lab::story::Verdict;
use lab::story::board::ProgramState;
use lab::story::timeline::Entry;

/// 2027-01-15T08:00:00 UTC.
pub const BEGAN: f64 = 1_800_000_000.0;
pub const ISN_A: u32 = 1_000;
/// Numbers wrap inside the very segment that is lost in the move.
pub const ISN_B: u32 = u32::MAX - 3_000_500;

const SERVER: &str = "10.0.3.2:80";
const SSH: &str = "10.0.3.2:22";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Syn,
    SynAck,
    Ack,
    Rst,
    Msyn,
    MsynAck,
    MigrateAck,
}

/// One frame at one device. Sequence numbers are absolute.
#[derive(Clone, Debug)]
pub struct Packet {
    pub time: f64,
    pub device: &'static str,
    pub out: bool,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub kind: Kind,
    pub seq: u32,
    pub ack: u32,
    pub payload: u32,
}

pub struct Small {
    pub packets: Vec<Packet>,
    /// What programs wrote, by file.
    pub outputs: BTreeMap<&'static str, String>,
    pub verdict: Verdict,
    /// How much of a frame is handed to the capture.
    pub keep: usize,
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// The numbers of one direction: `b(0)` is the first byte that B sends.
fn b(bytes: u32) -> u32 {
    ISN_B.wrapping_add(1).wrapping_add(bytes)
}

fn a(bytes: u32) -> u32 {
    ISN_A.wrapping_add(1).wrapping_add(bytes)
}

/// A writer of packets that puts every segment on the devices of both ends.
struct Line {
    packets: Vec<Packet>,
    /// A's device, and its end there and as B sees it.
    device: &'static str,
    direct: &'static str,
    observed: &'static str,
    server: &'static str,
}

impl Line {
    fn up(&mut self, at: f64, arrives: f64, kind: Kind, (seq, ack): (u32, u32), payload: u32) {
        for (time, device, out, source) in [
            (at, self.device, true, self.direct),
            (arrives, "B:lan", false, self.observed),
        ] {
            let (source, destination) = (address(source), address(self.server));
            self.packets.push(Packet {
                time,
                device,
                out,
                source,
                destination,
                kind,
                seq,
                ack,
                payload,
            });
        }
    }

    fn down(&mut self, at: f64, arrives: Option<f64>, kind: Kind, (seq, ack): (u32, u32), payload: u32) {
        for (time, device, out, destination) in [
            (Some(at), "B:lan", true, self.observed),
            (arrives, self.device, false, self.direct),
        ] {
            let Some(time) = time else { continue };
            let (source, destination) = (address(self.server), address(destination));
            self.packets.push(Packet {
                time,
                device,
                out,
                source,
                destination,
                kind,
                seq,
                ack,
                payload,
            });
        }
    }

    fn open(&mut self, at: f64) {
        self.up(at, at + 0.001, Kind::Syn, (ISN_A, 0), 0);
        self.down(at + 0.001, Some(at + 0.002), Kind::SynAck, (ISN_B, a(0)), 0);
    }
}

/// What both acts have in common: 3 MB arrive, then A is gone, and B repeats itself.
fn first_half() -> Vec<Packet> {
    let mut ssh = Line {
        packets: Vec::new(),
        device: "A:home",
        direct: "192.168.1.2:40022",
        observed: "10.0.1.1:41022",
        server: SSH,
    };
    let mut home = Line {
        direct: "192.168.1.2:40000",
        observed: "10.0.1.1:41000",
        server: SERVER,
        ..Line {
            packets: Vec::new(),
            ..ssh
        }
    };
    ssh.packets = Vec::new();
    ssh.open(0.5);
    home.open(1.0);
    home.up(1.01, 1.011, Kind::Ack, (a(0), b(0)), 100);
    for part in 0..30 {
        let at = 1.0 + 0.1 * f64::from(part);
        let bytes = 100_000 * part;
        home.down(at + 0.05, Some(at), Kind::Ack, (b(bytes), a(100)), 100_000);
        home.up(at + 0.06, at + 0.061, Kind::Ack, (a(100), b(bytes + 100_000)), 0);
    }
    // Ends at 3.9 s. What follows arrives nowhere.
    home.down(4.05, None, Kind::Ack, (b(3_001_448), a(100)), 1448);
    for at in [4.2, 4.6, 5.4] {
        home.down(at, None, Kind::Ack, (b(3_000_000), a(100)), 1448);
    }
    home.packets.extend(ssh.packets);
    home.packets
}

fn second_half() -> Vec<Packet> {
    let mut cafe = Line {
        packets: Vec::new(),
        device: "A:cafe",
        direct: "192.168.2.2:50000",
        observed: "10.0.2.1:51000",
        server: SERVER,
    };
    cafe.up(12.001, 12.0015, Kind::Msyn, (a(99), 0), 0);
    cafe.down(12.002, Some(12.0025), Kind::MsynAck, (b(3_002_895), a(100)), 0);
    cafe.up(12.003, 12.0035, Kind::MigrateAck, (a(100), b(3_002_896)), 0);
    cafe.up(12.0031, 12.0036, Kind::Ack, (a(100), b(3_000_000)), 0);
    cafe.up(12.0032, 12.0037, Kind::Ack, (a(99), b(3_000_000)), 1);
    cafe.down(12.004, Some(12.0045), Kind::Ack, (b(3_002_896), a(100)), 0);
    cafe.down(12.005, Some(12.006), Kind::Ack, (b(3_000_000), a(100)), 1448);
    cafe.up(12.0065, 12.007, Kind::Ack, (a(100), b(3_001_448)), 0);
    for part in 0..30 {
        let at = 12.05 + 0.06 * f64::from(part);
        let bytes = 3_000_000 + 100_000 * part;
        cafe.down(at, Some(at + 0.001), Kind::Ack, (b(bytes), a(100)), 100_000);
        cafe.up(at + 0.002, at + 0.003, Kind::Ack, (a(100), b(bytes + 100_000)), 0);
    }
    cafe.packets
}

const LOG: &str = "\
[2027-01-15T08:00:04.000000] Deleted 2: home    inet 192.168.1.2/24 scope global home
[2027-01-15T08:00:11.900000] 3: cafe    inet 192.168.2.2/24 scope global cafe
[2027-01-15T08:00:12.000000] default via 192.168.2.1 dev cafe metric 110
";

impl Small {
    /// The first act.
    pub fn moved() -> Small {
        let digest = "a".repeat(64);
        let mut packets = first_half();
        packets.extend(second_half());
        Small {
            packets,
            outputs: BTreeMap::from([
                ("kernel.out", LOG.to_owned()),
                ("curl.out", "1 192.168.1.2:40000 10.0.3.2:80 6000000\n".to_owned()),
                (
                    "shell.out",
                    "$ echo before-$((40+2)) $$\r\nbefore-42 77\r\naway-43 77\r\nafter-44 77\r\n".to_owned(),
                ),
                ("make.out", format!("{digest}  www/large.bin\n")),
                ("sum.out", format!("{digest}  large.bin\n")),
            ]),
            verdict: verdict(&[("curl", 0, &[]), ("shell", 0, &[]), ("web", 0, &[])]),
            keep: usize::MAX,
        }
    }

    /// The second act.
    pub fn alone() -> Small {
        Small {
            packets: first_half(),
            outputs: BTreeMap::from([
                ("kernel.out", LOG.to_owned()),
                ("curl.out", "1 192.168.1.2:40000 10.0.3.2:80 3000000\n".to_owned()),
                ("curl.err", "curl: (56) gone\n".to_owned()),
                ("shell.out", "before-42 78\r\n".to_owned()),
                ("shell.err", "Broken pipe\n".to_owned()),
            ]),
            verdict: verdict(&[("curl", 56, &[]), ("shell", 255, &[]), ("web", 0, &["TIMEDOUT"])]),
            keep: usize::MAX,
        }
    }

    /// Writes captures and outputs where a run would keep them.
    pub fn write(&self, directory: &Path) {
        let (links, programs) = (directory.join("links"), directory.join("programs"));
        for wanted in [&links, &programs] {
            std::fs::create_dir_all(wanted).expect("a directory");
        }
        for (file, text) in &self.outputs {
            std::fs::write(programs.join(file), text).expect("written");
        }
        for link in ["home", "cafe", "lan"] {
            let devices = vec![format!("X:{link}"), format!("A:{link}"), format!("B:{link}")];
            let mut capture = Capture::create(&links.join(link), devices.clone()).expect("a capture");
            let mut here: Vec<&Packet> = self
                .packets
                .iter()
                .filter(|packet| packet.device.ends_with(&format!(":{link}")))
                .collect();
            here.sort_by(|one, other| one.time.total_cmp(&other.time));
            for packet in here {
                let device = devices
                    .iter()
                    .position(|device| device == packet.device)
                    .expect("a device");
                let way = if packet.out { Way::Out } else { Way::In };
                let (frame, length) = packet.frame();
                let time = UNIX_EPOCH + Duration::from_micros(((BEGAN + packet.time) * 1e6).round() as u64);
                capture.note(device, way, &frame[..frame.len().min(self.keep)], length, time);
            }
        }
    }

    pub fn act(&self) -> Act {
        let directory = tempfile::tempdir().expect("a directory");
        self.write(directory.path());
        Act::gather(&self.verdict, directory.path())
    }
}

impl Packet {
    /// An Ethernet frame with as much payload as fits, and the length the whole one has.
    fn frame(&self) -> (Vec<u8>, usize) {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        let (flags, request) = match self.kind {
            Kind::Syn => (SYN, None),
            Kind::SynAck => (SYN | ACK, None),
            Kind::Ack => (ACK, None),
            Kind::Rst => (0x04, None),
            Kind::Msyn => (SYN, Some((1, b(3_000_000)))),
            Kind::MsynAck => (SYN | ACK, Some((2, a(100)))),
            Kind::MigrateAck => (ACK, Some((3, b(3_000_000)))),
        };
        let mut options = Vec::new();
        if let Some((number, rcv_nxt)) = request {
            options.extend([253, 27, 0x4d, 0x49, 0x10 | number]);
            options.extend([0; 8]);
            options.extend(rcv_nxt.to_be_bytes());
            options.extend([0; 10]);
            options.push(1);
        }
        let header = 20 + options.len();
        let total = 20 + header + self.payload as usize;
        // A kernel that leaves the cutting to the device writes 0 when the length does not fit.
        let told = u16::try_from(total).unwrap_or(0);
        let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (self.source, self.destination) else {
            panic!("the small story is IPv4");
        };
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(told.to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
        frame.extend(source.ip().octets());
        frame.extend(destination.ip().octets());
        frame.extend(source.port().to_be_bytes());
        frame.extend(destination.port().to_be_bytes());
        frame.extend(self.seq.to_be_bytes());
        frame.extend(self.ack.to_be_bytes());
        frame.extend([(header as u8 / 4) << 4, flags, 1, 0, 0, 0, 0, 0]);
        frame.extend(options);
        frame.resize(frame.len() + self.payload.min(1500) as usize, 0);
        (frame, 14 + total)
    }
}

fn verdict(programs: &[(&str, i32, &[&str])]) -> Verdict {
    let state = |exit: i32, errors: &[&str]| {
        let mut state = ProgramState {
            exit: Some(exit),
            ended: Some(11.1),
            ..ProgramState::default()
        };
        state.report.errors = errors.iter().map(|error| ((*error).to_owned(), 1)).collect();
        state
    };
    Verdict {
        scenario: "small.scn".to_owned(),
        title: Some("a small story".to_owned()),
        passed: true,
        reason: None,
        line: None,
        step: None,
        seed: 1,
        duration: 14.0,
        began: BEGAN,
        run: "lab-000000".to_owned(),
        again: String::new(),
        artifacts: None,
        leaks: 0,
        invalid: [("napt1".to_owned(), 0), ("napt2".to_owned(), 0)].into(),
        programs: programs
            .iter()
            .map(|(name, exit, errors)| ((*name).to_owned(), state(*exit, errors)))
            .collect(),
        timeline: vec![
            Entry {
                time: 4.0,
                subject: "home".to_owned(),
                event: "down".to_owned(),
            },
            Entry {
                time: 8.0,
                subject: "web".to_owned(),
                event: "errors: {\"TIMEDOUT\": 1}".to_owned(),
            },
        ],
    }
}
