//! The report of the demonstration, made from a small story whose every number is known. Needs no privileges.

use crate::small_story::{BEGAN, Kind, Packet, Small, address};
use lab::report::act::Act;
use lab::report::claims::{self, Claim};
use lab::report::figure::{Frame, figure};
use lab::report::handshake::Purpose;
use lab::report::kernel;
use lab::report::page::page;
use lab::report::segments::{Request, at_device};
use lab::report::trace::Trace;

fn near(measured: Option<f64>, wanted: f64) {
    let measured = measured.expect("measured");
    assert!((measured - wanted).abs() < 1e-4, "{measured} is not {wanted}");
}

fn download(act: &Act) -> &Trace {
    act.download.as_ref().expect("the download is in the captures")
}

#[track_caller]
fn claim<'a>(claims: &'a [Claim], says: &str) -> &'a Claim {
    let found = claims.iter().find(|claim| claim.says == says);
    found.unwrap_or_else(|| panic!("nothing claims that {says}: {claims:#?}"))
}

#[test]
fn the_trace_has_the_times_bytes_and_places_of_the_story() {
    let story = Small::moved();
    let act = story.act();
    let trace = download(&act);
    assert_eq!(act.problems, Vec::<String>::new());
    near(trace.moments.opened, 1.001);
    near(trace.moments.lost, 4.0);
    near(trace.moments.usable, 12.0);
    near(trace.moments.msyn, 12.001);
    near(trace.moments.first_byte, 12.006);
    near(trace.moments.resumption_ms(), 6.0);
    near(trace.moments.absence(), 8.0);
    // The last data reached A at 3.9 s.
    near(trace.moments.outage(), 12.006 - 3.9);
    assert_eq!(trace.before.direct, address("192.168.1.2:40000"));
    assert_eq!(trace.before.observed, address("10.0.1.1:41000"));
    let after = trace.after.expect("A was seen at a second place");
    assert_eq!(after.direct, address("192.168.2.2:50000"));
    assert_eq!(after.observed, address("10.0.2.1:51000"));
    assert_eq!((trace.opened, trace.resets), (1, 0));
    assert_eq!(
        trace.acknowledged.last().map(|(_, bytes)| *bytes),
        Some(3_000_000)
    );
    assert_eq!(trace.bytes(), 6_000_000);
    let again: Vec<f64> = trace
        .in_vain
        .iter()
        .filter(|vain| vain.again)
        .map(|vain| (vain.time * 10.0).round() / 10.0)
        .collect();
    assert_eq!(again, [4.2, 4.6, 5.4]);
    assert_eq!(trace.in_vain.len(), 4, "and one segment of new data");
}

#[test]
fn the_last_segment_sent_again_is_a_repetition() {
    let mut story = Small::moved();
    let last = story.packets.iter().find(|packet| packet.time > 4.0).cloned();
    let last = last.expect("B sends something when A is gone");
    story
        .packets
        .retain(|packet| packet.time < 4.0 || packet.time > 12.0);
    for time in [4.1, 4.3] {
        story.packets.push(Packet { time, ..last.clone() });
    }
    let again: Vec<bool> = download(&story.act())
        .in_vain
        .iter()
        .map(|vain| vain.again)
        .collect();
    assert_eq!(again, [false, true]);
}

#[test]
fn the_handshake_is_told_segment_by_segment_at_both_ends() {
    let act = Small::moved().act();
    let steps = &download(&act).handshake;
    let purposes: Vec<(Purpose, bool)> = steps.iter().map(|step| (step.purpose, step.from_mover)).collect();
    assert_eq!(
        purposes,
        [
            (Purpose::Msyn, true),
            (Purpose::MsynAck, false),
            (Purpose::MigrateAck, true),
            (Purpose::PureAck, true),
            (Purpose::Probe, true),
            (Purpose::PureAck, false),
            (Purpose::HeadOfLine, false),
            (Purpose::Progress, true),
        ]
    );
    let head = &steps[6];
    near(head.sent(), 12.005);
    near(head.arrived(), 12.006);
    assert_eq!(
        (head.seq, head.payload),
        (3_000_001, 1448),
        "relative to B's ISN, and longer than the capture keeps"
    );
    let msyn = &steps[0];
    assert_eq!(msyn.ack, None);
    assert_eq!(steps[1].ack, Some(101));
    near(msyn.arrived(), 12.0015);
}

#[test]
fn a_segment_that_never_arrives_is_a_step_without_arrival() {
    let mut story = Small::moved();
    story
        .packets
        .retain(|packet| !(packet.device == "B:lan" && packet.kind == Kind::MigrateAck));
    let act = story.act();
    let steps = &download(&act).handshake;
    assert_eq!(steps[2].purpose, Purpose::MigrateAck);
    assert_eq!(steps[2].arrived(), None);
    let html = page(&act, &Small::alone().act(), None, None, None).expect("a page");
    assert!(html.contains("<td class=\"number\">lost</td>"));
}

#[test]
fn every_claim_of_the_small_story_holds() {
    let moved = claims::moved(&Small::moved().act());
    assert!(moved.iter().all(|claim| claim.holds), "{moved:#?}");
    assert!(claim(&moved, "data flows at once").facts.contains("6.0 ms"));
    let alone = claims::alone(&Small::alone().act());
    assert!(alone.iter().all(|claim| claim.holds), "{alone:#?}");
}

#[test]
fn what_goes_wrong_breaks_the_claim_that_it_concerns() {
    let broken = |says: &str, change: &dyn Fn(&mut Small)| {
        let mut story = Small::moved();
        change(&mut story);
        let claims = claims::moved(&story.act());
        assert!(
            !claim(&claims, says).holds,
            "{says} holds nevertheless: {claims:#?}"
        );
    };
    broken("A has the file as it is at B", &|story| {
        story
            .outputs
            .insert("sum.out", format!("{}  large.bin\n", "b".repeat(64)));
    });
    broken("A has the file as it is at B", &|story| {
        story.outputs.remove("sum.out");
        story.outputs.remove("make.out");
    });
    broken("the download is one TCP connection", &|story| {
        let mut second = story.packets[1].clone();
        assert_eq!((second.kind, second.device), (Kind::Syn, "B:lan"));
        second.source = address("10.0.2.1:41001");
        story.packets.push(second);
    });
    broken("the ssh session is the same shell", &|story| {
        story
            .outputs
            .insert("shell.out", "before-42 7\naway-43 7\nafter-44 8\n".into());
    });
    broken("data flows at once", &|story| {
        story.packets.retain(|packet| packet.time < 12.0035);
    });
    broken("another address, another NAPT", &|story| {
        story.packets.retain(|packet| packet.time < 12.0);
    });
    broken("another address, another NAPT", &|story| {
        story
            .outputs
            .insert("curl.out", "1 192.168.2.2:50000 10.0.3.2:80 6000000\n".into());
    });
    broken("A was away", &|story| {
        story.outputs.remove("kernel.out");
    });
    broken("no reset reaches A or B", &|story| {
        let mut reset = story.packets[0].clone();
        (reset.kind, reset.device, reset.out) = (Kind::Rst, "A:home", false);
        story.packets.push(reset);
    });
    broken("no NAPT drops a segment as INVALID", &|story| {
        story.verdict.invalid.insert("napt2".to_owned(), 1);
    });
    broken("the story ends well", &|story| story.verdict.passed = false);
}

#[test]
fn a_repeated_syn_is_no_second_connection() {
    let mut story = Small::moved();
    let again = story.packets[1].clone();
    assert_eq!((again.kind, again.device), (Kind::Syn, "B:lan"));
    story.packets.push(again);
    assert_eq!(download(&story.act()).opened, 1);
}

#[test]
fn a_connection_that_survives_without_agents_breaks_the_second_act() {
    let mut story = Small::alone();
    for program in story.verdict.programs.values_mut() {
        program.exit = Some(0);
        program.report.errors.clear();
    }
    let claims = claims::alone(&story.act());
    assert!(claims.iter().all(|claim| !claim.holds), "{claims:#?}");
}

/// The points of all polylines of one colour and width.
fn polylines(svg: &str, stroke: &str) -> Vec<Vec<(i32, i32)>> {
    let all = svg.split("<polyline ").skip(1);
    let ours = all.filter(|element| element.contains(stroke));
    ours.map(|element| {
        let points = element.split("points=\"").nth(1).unwrap_or_default();
        let points = points.split('"').next().unwrap_or_default();
        let pairs = points.split_whitespace().filter_map(|pair| pair.split_once(','));
        pairs
            .map(|(x, y)| (x.parse().expect("a number"), y.parse().expect("a number")))
            .collect()
    })
    .collect()
}

#[test]
fn the_figure_has_both_series_the_lost_segments_and_the_moments() {
    let act = Small::moved().act();
    let trace = download(&act);
    let frame = Frame::around([trace]);
    let svg = figure(trace, frame, ["NAPT 1 (10.0.1.1)", "NAPT 2 (10.0.2.1)"], &[]).expect("a figure");
    let series = |variable: &str| {
        let stroke = format!("stroke=\"var({variable})\" stroke-width=\"2\"");
        let longest = polylines(&svg, &stroke).into_iter().max_by_key(Vec::len);
        longest.unwrap_or_default()
    };
    let (first, second) = (series("--first"), series("--second"));
    assert!(
        first.len() > 10 && second.len() > 10,
        "{} {}",
        first.len(),
        second.len()
    );
    // Time goes to the right, acknowledged bytes go up, and the second series goes on where the first ends.
    for points in [&first, &second] {
        assert!(
            points
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 >= pair[1].1)
        );
    }
    let (end, begin) = (first[first.len() - 1], second[0]);
    assert!(
        begin.0 - end.0 > 300,
        "eight of fourteen seconds lie between them: {end:?} {begin:?}"
    );
    assert!((begin.1 - end.1).abs() <= 3, "{end:?} {begin:?}");
    // A cross is two lines.
    let crosses = svg.matches("stroke=\"var(--lost)\" stroke-width=\"3\"").count();
    assert_eq!(crosses, 2 * (3 + 1), "three repetitions and one in the legend");
    for label in [
        "address lost, 4.00 s",
        "8.0 s without a network",
        "address usable, 12.00 s",
        "+1.0 ms  MSYN",
        "+6.0 ms  first new byte",
        "B repeats the same segment 3 times",
        "in seconds",
        "in MB",
    ] {
        assert!(svg.contains(label), "{label} is missing");
    }
}

#[test]
fn the_page_needs_nothing_from_outside_and_is_the_same_every_time() {
    let (moved, alone) = (Small::moved().act(), Small::alone().act());
    let html = page(&moved, &alone, None, None, None).expect("a page");
    assert_eq!(html, page(&moved, &alone, None, None, None).expect("a page"));
    let without_names = html.replace("http://www.w3.org/2000/svg", "");
    for forbidden in [
        "http://", "https://", "<script", "<link", "<img", "@import", "url(",
    ] {
        assert!(!without_names.contains(forbidden), "{forbidden}");
    }
    assert_eq!(
        html.matches("<svg ").count(),
        4,
        "network, figure, ladder, second act"
    );
    assert!(html.contains("prefers-color-scheme: dark"));
    for fact in [
        "6.0 ms",
        "192.168.2.2:50000",
        "10.0.2.1:51000",
        "Migrate-Ack",
        "curl: (56) gone",
    ] {
        assert!(html.contains(fact), "{fact} is missing");
    }
    // No colour is left that the style sheet does not decide about.
    let fixed = html.split("fill=\"#").count() + html.split("stroke=\"#").count();
    assert_eq!(fixed, 2, "every fill and stroke is a variable");
}

#[test]
fn what_programs_say_is_text_on_the_page() {
    let mut story = Small::moved();
    story.verdict.timeline[0].event = "<b>\"bold\" & \x1b[1m'all'</b>".to_owned();
    let html = page(&story.act(), &Small::alone().act(), None, None, None).expect("a page");
    assert!(html.contains("&lt;b&gt;&quot;bold&quot; &amp; [1m&#39;all&#39;&lt;/b&gt;"));
    assert!(!html.contains("<b>\"bold"));
}

#[test]
fn a_run_of_which_nothing_is_left_still_gets_a_page_that_says_so() {
    let empty = tempfile::tempdir().expect("a directory");
    let story = Small::moved();
    let act = Act::gather(&story.verdict, empty.path());
    assert!(act.problems[0].contains("cannot read"), "{:?}", act.problems);
    let html = page(&act, &act, None, None, None).expect("a page");
    assert!(html.contains("never") && html.contains("class=\"problem\""));
    let claims = claims::moved(&act);
    assert!(!claim(&claims, "data flows at once").holds);
}

#[test]
fn captures_are_read_however_much_of_a_frame_they_keep() {
    let story = Small::moved();
    let directory = tempfile::tempdir().expect("a directory");
    story.write(directory.path());
    let links = directory.path().join("links");
    let at_server = at_device(&links, "lan", "B", BEGAN).expect("the capture");
    let data: Vec<u32> = at_server
        .iter()
        .map(|seen| seen.payload)
        .filter(|payload| *payload > 1)
        .collect();
    assert!(data.contains(&1448), "more than is kept");
    assert!(data.contains(&100_000), "more than the header can say");
    let msyn = at_server
        .iter()
        .find(|seen| seen.request == Some(Request::Msyn))
        .expect("an MSYN");
    assert_eq!(
        msyn.rcv_nxt,
        Some(crate::small_story::ISN_B.wrapping_add(3_000_001))
    );
    // Nobody else's device, no other link.
    let nobody = at_device(&links, "lan", "core", BEGAN).expect("the capture");
    assert_eq!(nobody, []);
    at_device(&links, "nowhere", "B", BEGAN).expect_err("there is no such link");

    // Every frame cut everywhere: no segment or one that is right, and no panic.
    let packets: Vec<Packet> = story.packets.iter().take(40).cloned().collect();
    for keep in 0..=128 {
        let cut = Small {
            packets: packets.clone(),
            keep,
            ..Small::moved()
        };
        let directory = tempfile::tempdir().expect("a directory");
        cut.write(directory.path());
        let seen = at_device(&directory.path().join("links"), "lan", "B", BEGAN).expect("the capture");
        assert!(seen.iter().all(|seen| at_server.contains(seen)), "{keep}");
    }
    // A capture cut off in the middle is damaged, not dangerous.
    let file = links.join("lan.pcapng");
    let whole = std::fs::read(&file).expect("the capture");
    for length in (0..whole.len()).step_by(61) {
        std::fs::write(&file, &whole[..length]).expect("written");
        let _ = at_device(&links, "lan", "B", BEGAN);
    }
}

#[test]
fn a_long_capture_is_read_in_the_order_of_its_files() {
    let story = Small::moved();
    let directory = tempfile::tempdir().expect("a directory");
    story.write(directory.path());
    let links = directory.path().join("links");
    let whole = at_device(&links, "lan", "B", BEGAN).expect("the capture");
    // The second and the tenth continuation: numbers, not words, are in order.
    for number in [10, 2] {
        std::fs::copy(
            links.join("lan.pcapng"),
            links.join(format!("lan.{number}.pcapng")),
        )
        .expect("copied");
    }
    std::fs::copy(links.join("home.pcapng"), links.join("lander.1.pcapng")).expect("copied");
    let thrice = at_device(&links, "lan", "B", BEGAN).expect("the captures");
    assert_eq!(thrice.len(), 3 * whole.len());
}

#[test]
fn the_kernels_log_tells_when_an_address_went_and_came() {
    let log = "\
[2028-02-29T23:59:58.000000] 2: home    inet 192.168.1.2/24 scope global home\\       valid_lft forever
[2028-02-29T23:59:59.500000] Deleted 2: home    inet6 fe80::1/64 scope link
[2028-02-29T23:59:59.750000] Deleted 2: home    inet 192.168.1.2/24 scope global home
[2028-02-29T23:59:59.800000] 4: mob0    inet 192.168.1.2/32 scope global mob0
noise
[yesterday] 3: cafe    inet 192.168.9.9/24 scope global cafe
[2028-03-01T00:00:07.250000] 3: cafe    inet 192.168.2.2/24 scope global cafe
[2028-03-01T00:00:07.260000] default dev mob0 table 7801 proto static
[2028-03-01T00:00:07.300000] default via 192.168.2.1 dev cafe metric 110
[2028-03-01T00:00:20.000000] Deleted 2: home    inet 192.168.1.2/24 scope global home
[2028-03-01T00:00:21.000000] default via 192.168.2.1 dev cafe metric 110
";
    // 2028-02-29T23:59:59.
    let moved = kernel::a_move(log, "home", "cafe", 1_835_481_599.0);
    near(moved.lost, 0.75);
    near(moved.usable, 8.3);
    assert_eq!(kernel::a_move("", "home", "cafe", 0.0), kernel::Move::default());
    // An address without a route is not usable.
    let without: String = log
        .lines()
        .filter(|line| !line.contains("via"))
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(kernel::a_move(&without, "home", "cafe", 0.0).usable, None);
}
