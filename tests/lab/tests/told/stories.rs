//! Stories without agents: what hosts, links, NAPTs and programs do, and what is concluded from it.
use crate::support::Story;

/// Figure 22 of the 2002 paper: A moves from behind one NAPT to behind another, B stays.
const FIGURE_22: &str = "
host   A B
napt   napt1  masquerade
napt   napt2  masquerade
router core
link   home   A=192.168.1.2/24,fd01::2/64  napt1=192.168.1.1/24,fd01::1/64  rate=200mbit
link   cafe   A=192.168.2.2/24,fd02::2/64  napt2=192.168.2.1/24,fd02::1/64  down
link   up1    napt1=10.0.1.1/24,fd11::1/64 core=10.0.1.254/24,fd11::fe/64
link   up2    napt2=10.0.2.1/24,fd12::1/64 core=10.0.2.254/24,fd12::fe/64
link   lan    B=10.0.3.2/24,fd13::2/64     core=10.0.3.1/24,fd13::1/64
";

/// Two hosts and a link that the emulator carries.
const PAIR: &str = "
host   a b
link   wire   a=10.9.0.1/24,fd09::1/64  b=10.9.0.2/24,fd09::2/64  delay=1ms
";

#[test]
fn transfers_end_well_through_a_napt_on_both_families() {
    let story = format!(
        "{FIGURE_22}
+0         A      fetch B 5MiB as=dl
+0         A      push B 5MiB as=ul
+0         A      exchange B 5MiB as=both
+0         A      fetch B 2MiB as=dl6 family=6
+0         A      fetch B 256KiB as=many connections=20
+0         A      echo B as=rr every=5ms count=20
within 20  dl     done sha256=same
within 20  ul     done sha256=same
within 20  both   done sha256=same
within 20  dl6    done sha256=same
within 20  many   done sha256=same bytes=5MiB reconnects=0
within 20  rr     done answers=20
expect     resets=0 errors=0 leaks=0 invalid(napt1)=0 rst(A)=0
"
    );
    Story::new(&story).run().passes();
}

#[test]
fn a_napt_hides_its_inside_and_may_choose_the_port() {
    for (rule, same_port) in [("", true), ("fully-random", false)] {
        let story = format!(
            "
host   A B
napt   n masquerade {rule}
core
link   home   A=192.168.1.2/24  n=192.168.1.1/24
link   up     n=10.0.1.1/24     core=10.0.1.254/24
link   lan    B=10.0.3.2/24     core=10.0.3.1/24
+0         A     idle B as=quiet connections=30
within 5   quiet connected
           A     exec as=inside ss -tnH -> exit=0
           B     exec as=outside ss -tnH -> exit=0
"
        );
        let story = Story::new(&story);
        story
            .run_with(&["--artifacts", &story.artifacts().display().to_string()])
            .passes();
        let read =
            |name: &str| std::fs::read_to_string(story.artifacts().join("programs").join(name)).unwrap();
        let column = |text: &str, index: usize| -> Vec<String> {
            let rows = text.lines().filter(|line| line.contains("ESTAB"));
            rows.map(|line| line.split_whitespace().nth(index).unwrap().to_owned())
                .collect()
        };
        let inside = column(&read("inside.out"), 3);
        let outside = column(&read("outside.out"), 4);
        let outside: Vec<String> = outside
            .iter()
            .map(|peer| peer.replace("::ffff:", "").replace(['[', ']'], ""))
            .collect();
        assert_eq!((inside.len(), outside.len()), (30, 30));
        assert!(
            outside.iter().all(|peer| peer.starts_with("10.0.1.1:")),
            "{outside:?}"
        );
        let port = |text: &str| text.rsplit(':').next().unwrap().to_owned();
        let kept = inside
            .iter()
            .filter(|own| outside.iter().any(|peer| port(peer) == port(own)))
            .count();
        assert_eq!(kept == 30, same_port, "{rule}: {kept} of 30 ports kept");
    }
}

#[test]
fn a_connection_dies_when_its_host_moves_and_a_new_one_works() {
    let story = format!(
        "{FIGURE_22}
B                  serve user_timeout=2s as=files
+0                 A      fetch B 500MiB as=dl keepalive=1s/1s/2
+0                 A      fetch B 500MiB as=dl6 family=6 keepalive=1s/1s/2
after dl >= 1MiB   A      move home -> cafe gap=.2
                   A      echo B count=3 as=again -> exit=0 within=5
                   A      echo B count=3 family=6 as=again6 -> exit=0 within=5
within 10          dl     error=TIMEDOUT|RESET|HOSTUNREACH|NETUNREACH
within 10          dl6    error=TIMEDOUT|RESET|HOSTUNREACH|NETUNREACH
"
    );
    let outcome = Story::new(&story).run();
    outcome.passes();
    let (left, joined) = (
        outcome.happened("A", "leaves home"),
        outcome.happened("A", "joins cafe"),
    );
    let gap = joined.expect("a join") - left.expect("a departure");
    assert!((0.2..1.0).contains(&gap), "the gap is {gap} s");
}

#[test]
fn a_pulled_cable_takes_carrier_address_and_route_and_brings_them_back() {
    let show =
        "A exec as={} sh -c 'cat /sys/class/net/home/carrier; ip addr show dev home; ip route' -> exit=0";
    let show = |name: &str| {
        show.replace("{}", name)
            .replace("cat /sys/class/net/home/carrier", "ip link show dev home")
    };
    let story = format!(
        "{FIGURE_22}
+0   A echo B every=10ms as=rr
     {}
after rr answers>=5   home down
     {}
+.5  home up
     {}
+.7  home down keep
     {}
+1   home up
after rr answers>=1 rr kill
",
        show("before"),
        show("pulled"),
        show("back"),
        show("kept"),
    );
    let story = Story::new(&story);
    story
        .run_with(&["--artifacts", &story.artifacts().display().to_string()])
        .passes();
    let read = |name: &str| {
        std::fs::read_to_string(story.artifacts().join("programs").join(format!("{name}.out"))).unwrap()
    };
    for (name, carrier, address) in [
        ("before", true, true),
        ("pulled", false, false),
        ("back", true, true),
        ("kept", false, true),
    ] {
        let text = read(name);
        assert_eq!(!text.contains("NO-CARRIER"), carrier, "{name}: {text}");
        assert_eq!(text.contains("inet 192.168.1.2/24"), address, "{name}: {text}");
        assert_eq!(
            text.contains("default via 192.168.1.1"),
            address,
            "{name}: {text}"
        );
        assert_eq!(text.contains("inet6 fd01::2/64"), address, "{name}: {text}");
        assert!(!text.contains("tentative"), "{name}: {text}");
    }
}

#[test]
fn a_blackhole_is_silent_and_heals() {
    let story = format!(
        "{PAIR}
+0                    a     echo b every=10ms as=rr
after rr answers>=10  wire  blackhole from=b
                      a     exec as=link ip link show dev wire -> exit=0 output~\"LOWER_UP\"
+.6                   wire  heal
after rr answers>=20  rr    kill
expect                rr gap>=200ms
expect                errors=0
"
    );
    Story::new(&story).run().passes();
}

#[test]
fn chosen_segments_are_dropped_delayed_duplicated_and_replayed() {
    let story = format!(
        "{PAIR}
b serve
+0   wire  drop syn 1
+0   a     echo b count=1 as=second -> exit=0 within=5
     wire  delay syn 1 by=300ms
     a     echo b count=1 as=late -> exit=0 within=5
     wire  duplicate data all from=a
     a     push b 100KiB as=twice -> exit=0 within=5
+0   a     echo b every=100ms as=meanwhile
within 5 meanwhile answers>=1
     wire  record syn 1 as=s1
     a     echo b count=1 as=heard -> exit=0 within=5
     wire  drop rst all
     wire  replay s1 bit=40
     wire  drop syn 2..3
     a     echo b count=1 as=other -> exit=0 within=5
after meanwhile answers>=40  meanwhile kill
"
    );
    let outcome = Story::new(&story).run();
    let verdict = outcome.passes();
    let took = |name: &str| {
        let program = &verdict["programs"][name];
        program["ended"].as_f64().unwrap() - program["started"].as_f64().unwrap()
    };
    // The first retransmission of a SYN comes after one second.
    assert!((1.0..2.0).contains(&took("second")), "{}", took("second"));
    assert!((0.3..0.9).contains(&took("late")), "{}", took("late"));
    assert!(took("other") < 0.9, "{}", took("other"));
    assert!(outcome.happened("wire", "dropped syn 1").is_some());
    assert!(outcome.happened("wire", "duplicated data 1").is_some());
    // The server takes the replayed SYN for a connection: its answer meets nobody.
    // A kernel that has answered another stray just before lets the first one pass: it comes again after a second.
    assert!(
        outcome.happened("wire", "dropped rst 1").is_some(),
        "{:#}",
        verdict["timeline"]
    );
}

#[test]
fn a_flipped_bit_is_found_by_the_checksum_only_when_that_is_left_stale() {
    // Bit 111 of the TCP header is the URG.. FIN byte's PSH neighbour; bit 36 belongs to the sequence number.
    let story = |options: &str| {
        format!(
            "{PAIR}
sysctl all net.ipv4.tcp_syn_retries=2
+0   wire  flip syn 1 bit=63 {options}
     a     echo b count=1 as=try -> exit=0 within=5
"
        )
    };
    // With a stale checksum the SYN is dropped and sent again a second later.
    let stale = Story::new(&story("checksum=stale")).run();
    let ended = stale.passes()["programs"]["try"]["ended"].as_f64().unwrap();
    assert!(ended > 1.0, "ended after {ended} s");
    // With a repaired one it is answered, with a wrong number: the client refuses it and tries again.
    let outcome = Story::new(&story("checksum=good")).run();
    outcome.passes();
    assert!(outcome.happened("wire", "flipped a bit of syn 1").is_some());
}

#[test]
fn loss_is_the_same_for_the_same_seed() {
    let story = Story::new(&format!(
        "{PAIR}
b serve
sysctl all net.ipv4.tcp_retries2=15
+0   wire  loss=20%
     a     echo b count=30 every=1ms as=rr -> exit=0 within=60
"
    ));
    let lost = |seed: &str| {
        let directory = story.directory.path().join(seed);
        story
            .run_with(&["--seed", seed, "--artifacts", &directory.display().to_string()])
            .passes();
        packets(&directory.join("links/wire.pcapng")).len()
    };
    assert!(lost("7") > 120, "retransmissions show in the capture");
}

#[test]
fn a_packet_with_a_foreign_source_is_a_leak() {
    let story = format!(
        "{FIGURE_22}
+0   A exec ip addr add 172.16.9.9/32 dev lo
     A exec as=try curl -s --max-time 1 --interface 172.16.9.9 http://{{B}}:8080/ -> within=5
expect leaks=0
"
    );
    Story::new(&story).run().fails("172.16.9.9");
}

#[test]
fn a_napt_that_forgets_drops_or_resets_what_comes_from_outside() {
    let story = |napt: &str, event: &str| {
        format!(
            "
host   A B
napt   n masquerade {napt}
core
link   home   A=192.168.1.2/24  n=192.168.1.1/24 rate=100mbit
link   up     n=10.0.1.1/24     core=10.0.1.254/24
link   lan    B=10.0.3.2/24     core=10.0.3.1/24
+0                   A  fetch B 100MiB as=dl
after dl >= 1MiB     {event}
"
        )
    };
    // Segments from outside meet a NAPT that no longer knows them: its kernel answers for a stranger.
    let events = "home blackhole from=A\nn flush\nwithin 10 files error=RESET\nexpect resets=1";
    Story::new(&format!("{}\n", story("", events)).replace("+0 ", "B serve as=files\n+0 "))
        .run()
        .passes();
    // A reboot leaves a gap of its length in a silent NAPT, and the inside repairs the mapping.
    let text = story("silent", "n reboot for=.5").replace("fetch", "push");
    let text = text
        .replace("dl >= 1MiB", "files >= 1MiB")
        .replace("+0 ", "B serve as=files\n+0 ")
        + "within 30 dl done sha256=same\nexpect files gap>=500ms\n";
    let outcome = Story::new(&text).run();
    outcome.passes();
    let outage = outcome.happened("n", "is back").unwrap() - outcome.happened("n", "reboot").unwrap();
    assert!((0.5..1.5).contains(&outage), "{outage}");
}

#[test]
fn idle_connections_speak_when_told_and_not_before() {
    let story = format!(
        "{PAIR}
+0          a     idle b as=quiet connections=2000
within 20   quiet connected
+5          expect quiet running answers=0 connections=2000
            quiet speak
within 20   quiet answers=2000
            quiet speak
within 20   quiet answers=4000
expect      errors=0
"
    );
    Story::new(&story).run().passes();
}

#[test]
fn what_does_not_come_true_fails_with_the_line_and_what_is_the_case() {
    let story = Story::new(&format!(
        "{PAIR}+0 a echo b every=10ms as=rr\nwithin .3 rr answers>=100000\n"
    ));
    let outcome = story.run();
    let verdict = outcome.fails("has not come true within 300ms: rr is running");
    assert_eq!(verdict["line"], 5);
    assert!(verdict["again"].as_str().unwrap().contains("--seed 1"));
    let kept = std::path::PathBuf::from(verdict["artifacts"].as_str().unwrap());
    for file in [
        "timeline.txt",
        "timeline.json",
        "again.txt",
        "scenario.scn",
        "links/wire.pcapng",
        "hosts/a.txt",
    ] {
        assert!(kept.join(file).is_file(), "{file} is missing");
    }
    // A program that has ended cannot come true any more: nobody waits for it.
    let outcome = Story::new(&format!("{PAIR}+0 a exec as=no false\nwithin 60 no done\n")).run();
    let verdict = outcome.fails("cannot come true");
    assert!(verdict["duration"].as_f64().unwrap() < 10.0);
    Story::new(&format!(
        "{PAIR}+0 a exec as=no false\nafter no exit=1 wire up\nexpect errors=0\n"
    ))
    .run()
    .fails("no: 1");
    Story::new(&format!("{PAIR}+0 a exec no-such-program\n"))
        .run()
        .fails("not installed");
    Story::new(&format!("{PAIR}+0 a exec sleep 5 -> within=.1\n"))
        .run()
        .fails("has not ended within 100ms");
    Story::new(&format!("{PAIR}+0 a exec echo one -> output~two\n"))
        .run()
        .fails("no match");
    Story::new(&format!("limit .2\n{PAIR}+5 wire down\n"))
        .run()
        .fails("longer than its limit");
}

#[test]
fn an_unreadable_scenario_is_not_run() {
    let outcome = Story::new("host a\nbogus\n").run();
    assert_eq!(outcome.code, Some(2));
    assert!(outcome.said.contains("story.scn:2:"), "{}", outcome.said);
}

/// Length of every packet in a capture, by device.
fn packets(path: &std::path::Path) -> Vec<(u32, u32)> {
    use pcap_file::pcapng::{Block, PcapNgReader};
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut reader = PcapNgReader::new(file).expect("a capture");
    let mut found = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.expect("a block") {
            found.push((packet.interface_id, packet.original_len));
        }
    }
    found
}
