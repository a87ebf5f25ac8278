//! How well the emulator imitates a cable. Limits are generous: the machine may be busy with other tests.
mod support;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use support::Story;

struct Seen {
    device: u32,
    sent: bool,
    time: Duration,
    data: Vec<u8>,
}

fn capture(story: &Story, link: &str) -> Vec<Seen> {
    let path = story.artifacts().join("links").join(format!("{link}.pcapng"));
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapNgReader::new(file).expect("a capture");
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a block") {
            let sent = packet.options.contains(&EnhancedPacketOption::Flags(2));
            found.push(Seen {
                device: packet.interface_id,
                sent,
                time: packet.timestamp,
                data: packet.data.to_vec(),
            });
        }
    }
    found
}

/// Time on the link of every frame that device 0 sent and device 1 received, in milliseconds, sorted.
fn flights(story: &Story, link: &str) -> Vec<f64> {
    // Equal frames (two pure acknowledgements in one millisecond) arrive in the order they were sent.
    let mut under_way: HashMap<Vec<u8>, VecDeque<Duration>> = HashMap::new();
    let mut flights = Vec::new();
    for seen in capture(story, link) {
        match (seen.device, seen.sent) {
            (0, true) => under_way.entry(seen.data).or_default().push_back(seen.time),
            (1, false) => {
                if let Some(left) = under_way.get_mut(&seen.data).and_then(VecDeque::pop_front) {
                    flights.push((seen.time - left).as_secs_f64() * 1e3);
                }
            }
            _ => {}
        }
    }
    flights.sort_by(f64::total_cmp);
    flights
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// One at a time: a measurement beside another measures that other one.
static QUIET: Mutex<()> = Mutex::new(());

fn run(story: &Story) -> support::Outcome {
    let _quiet = QUIET.lock().unwrap_or_else(|held| held.into_inner());
    story.run_with(&["--artifacts", Path::new(&story.artifacts()).to_str().unwrap()])
}

#[test]
fn a_delay_is_kept_to_within_a_millisecond() {
    let story = Story::new(
        "
host a b
link wire a=10.9.0.1/24 b=10.9.0.2/24 delay=10ms
+0         a  echo b every=3ms count=300 as=rr nodelay
within 60  rr done
expect     rr rtt>=20ms
",
    );
    run(&story).passes();
    let flights = flights(&story, "wire");
    assert!(flights.len() >= 300, "{} frames seen", flights.len());
    let (first, median, most) = (flights[0], quantile(&flights, 0.5), quantile(&flights, 0.9));
    println!("time on a link of 10 ms: min {first:.3} median {median:.3} p90 {most:.3} ms");
    assert!(first >= 10.0, "a frame arrived after {first} ms");
    assert!(median < 11.0, "the median is {median} ms");
    assert!(most < 15.0, "one in ten takes more than {most} ms");
}

#[test]
fn an_unshaped_link_carries_a_gigabit() {
    let story = Story::new(
        "
host a b
link wire a=10.9.0.1/24 b=10.9.0.2/24 delay=0ms
+0         wire  heal
           a     exchange b 1MiB as=warm -> exit=0
           b     iperf3d
           a     exec as=up iperf3 -J -t 2 -c {b} -> exit=0 within=20
           a     exec as=down iperf3 -J -R -t 2 -c {b} -> exit=0 within=20
",
    );
    run(&story).passes();
    for way in ["up", "down"] {
        let rate = iperf_rate(&story, way);
        println!("unshaped, {way}: {:.2} Gbit/s", rate / 1e9);
        assert!(rate > 1e9, "{way}: {rate} bit/s");
    }
}

#[test]
fn a_rate_is_reached_and_not_exceeded() {
    let story = Story::new(
        "
host a b
link wire a=10.9.0.1/24 b=10.9.0.2/24 rate=50mbit delay=5ms
b     iperf3d
+0    a  exec as=up iperf3 -J -t 3 -c {b} -> exit=0 within=20
",
    );
    run(&story).passes();
    let rate = iperf_rate(&story, "up");
    println!("50 Mbit/s link: {:.1} Mbit/s", rate / 1e6);
    assert!((35e6..51e6).contains(&rate), "{rate} bit/s");
}

#[test]
fn a_smaller_mtu_is_found_by_the_path() {
    let story = Story::new(
        "
host a b
core
link wire a=10.9.0.1/24 core=10.9.0.254/24
link thin core=10.9.1.254/24 b=10.9.1.1/24 mtu=1300 delay=1ms
+0         a  push b 3MiB as=ul
within 20  ul done sha256=same
+0         thin mtu=1200
           a  push b 3MiB as=again -> exit=0
",
    );
    run(&story).passes();
}

/// Bits per second that the receiver of an iperf3 run saw.
fn iperf_rate(story: &Story, program: &str) -> f64 {
    let path = story.artifacts().join("programs").join(format!("{program}.out"));
    let text = std::fs::read_to_string(path).unwrap();
    let report: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap()
}
