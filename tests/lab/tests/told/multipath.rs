//! What the captures say of connections through a relay. Needs `mptcp-relay` beside `lab` (`make test` builds both).
use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::support::Story;
use lab::emulator::capture::Way;
use lab::report::multipath;
use lab::report::segments::{self, ACK, SYN, Seen};

const NETWORK: &str = "
host      A B
multipath A
relay     R  interfaces='[\"wifi\",\"lte\"]'
link   wifi   A=10.1.0.2/24,2001:db8:1::2/64   R=10.1.0.1/24,2001:db8:1::1/64   rate=60mbit delay=3ms
link   lte    A=10.2.0.2/24,2001:db8:2::2/64   R=10.2.0.1/24,2001:db8:2::1/64   rate=40mbit delay=8ms
link   lan    B=192.0.2.2/24,2001:db8:9::2/64  R=192.0.2.1/24,2001:db8:9::1/64
sysctl B net.mptcp.enabled=0
";

/// Tells a story in this network, and returns it with the beginning of its clock.
fn tell(story: &str) -> (Story, f64) {
    tell_whole(&format!("{NETWORK}{story}"))
}

fn tell_whole(story: &str) -> (Story, f64) {
    let story = Story::new(story);
    let outcome = story.run_with(&["--artifacts", &story.artifacts().display().to_string()]);
    outcome.passes();
    let began = outcome.verdict["began"].as_f64().expect("the story began");
    (story, began)
}

#[test]
fn data_sequence_numbers_tile_the_stream_in_both_directions() {
    let (story, began) = tell(
        "
+0         A      exchange B 6MiB mptcp as=both
within 60  both   done sha256=same
",
    );
    let links = story.artifacts().join("links");
    let found = multipath::at_host(&links, "A", &["wifi", "lte"], began).expect("captures");
    let [connection] = &found[..] else {
        panic!("one connection, not {found:#?}");
    };
    let half = multipath::at_host(&links, "A", &["wifi"], began).expect("captures");
    assert!(
        half[0].received.holes > 0,
        "one path alone has not carried everything"
    );
    // The question and the server's word about what it has received are a line each.
    for (stream, most) in [(&connection.received, 200), (&connection.sent, 200)] {
        assert_eq!(stream.subflows.len(), 2, "{:?}", stream.subflows);
        for part in &stream.subflows {
            assert!(part.is_whole(), "{}: {} gaps", part.link, part.gaps);
            assert!(part.bytes > 500_000, "{} carries {} bytes", part.link, part.bytes);
        }
        assert_eq!(stream.holes, 0);
        let more = stream.bytes.checked_sub(6 << 20).expect("all of the stream");
        assert!(more < most, "{more} bytes more than were sent");
        // What one path was too slow for may be sent on the other again; it is no part of the stream.
        let carried: u64 = stream.subflows.iter().map(|part| part.bytes).sum();
        assert_eq!(carried, stream.bytes + stream.twice);
    }
}

#[test]
fn a_terminal_without_mptcp_passes_the_relay_unchanged() {
    let (story, began) = tell(
        "
+0         A      exchange B 2MiB as=both
within 60  both   done sha256=same
expect     R relay status sessions=0
",
    );
    let links = story.artifacts().join("links");
    let at = |link: &str| segments::at_device(&links, link, "R", began).expect("a capture");
    let (near, far) = (at("wifi"), at("lan"));
    for (port, enters, leaves) in [(7000, &near, &far), (0, &far, &near)] {
        let one_way = |seen: &[Seen], way: Way| -> Vec<Seen> {
            let ours = |segment: &&Seen| {
                segment.way == way
                    && (port == segment.destination.port() || (port == 0 && segment.source.port() == 7000))
            };
            seen.iter().filter(ours).cloned().collect()
        };
        let (entered, left) = (one_way(enters, Way::In), one_way(leaves, Way::Out));
        assert!(entered.len() > 20, "{} segments", entered.len());
        // Segments may be joined on their way, and cut again: what they say may not change.
        assert_eq!(ends(&entered), ends(&left));
        assert_eq!(handshake(&entered), handshake(&left));
        assert_eq!(last(&entered), last(&left));
    }
}

#[test]
fn a_server_sees_the_terminals_own_address_and_port_and_nothing_of_mptcp() {
    let (story, began) = tell(
        "
+0         A      fetch B 1MiB mptcp as=four
+0         A      fetch B 1MiB mptcp family=6 as=six
within 60  four   done sha256=same
within 60  six    done sha256=same
expect     R relay status counters.multipath=2
",
    );
    let links = story.artifacts().join("links");
    let at = |link: &str| segments::at_device(&links, link, "R", began).expect("a capture");
    let (near, far) = (at("wifi"), at("lan"));
    let syns = |seen: &[Seen], way: Way| -> Vec<Seen> {
        let opens = |segment: &&Seen| segment.way == way && segment.flags & (SYN | ACK) == SYN;
        seen.iter().filter(opens).cloned().collect()
    };
    let (entered, left) = (syns(&near, Way::In), syns(&far, Way::Out));
    assert_eq!(ends(&entered).len(), 2, "one in each family: {entered:?}");
    assert_eq!(ends(&entered), ends(&left));
    assert!(entered.iter().all(|syn| multipath::is_multipath(&syn.options)));
    assert!(
        far.iter()
            .all(|segment| !multipath::is_multipath(&segment.options))
    );
}

#[test]
fn a_server_reaches_a_terminal_without_mptcp_by_the_very_connection_that_it_has_opened() {
    let (story, began) = tell(
        "
A          serve as=own port=7100
+0         B      exchange A 2MiB port=7100 as=both
within 60  both   done sha256=same
expect     R relay status counters.probed_plain=1
",
    );
    let links = story.artifacts().join("links");
    let at = |link: &str| segments::at_device(&links, link, "R", began).expect("a capture");
    let (near, far) = (at("wifi"), at("lan"));
    let one_way = |seen: &[Seen], way: Way| -> Vec<Seen> {
        let ours = |segment: &&Seen| {
            segment.way == way && (segment.source.port() == 7100 || segment.destination.port() == 7100)
        };
        seen.iter().filter(ours).cloned().collect()
    };
    // The terminal was asked in the server's name, and told to forget it.
    let told = one_way(&near, Way::Out);
    assert!(multipath::is_multipath(&told[0].options), "{:?}", told[0]);
    assert_eq!(told.iter().filter(|segment| segment.is_rst()).count(), 1);
    // Behind that, all that either end has said came to the other as it was.
    for (enters, leaves) in [
        (one_way(&far, Way::In), told),
        (one_way(&near, Way::In), one_way(&far, Way::Out)),
    ] {
        let first = |seen: &[Seen]| seen.first().map(|segment| (segment.seq, segment.ack));
        let own = [first(&enters), first(&leaves)];
        let begin = |seen: Vec<Seen>, with: Option<(u32, u32)>| -> Vec<Seen> {
            let before = |segment: &Seen| Some((segment.seq, segment.ack)) != with;
            seen.into_iter().skip_while(before).collect()
        };
        // What is first on the server's side is of its own connection.
        let server = usize::from(enters[0].source.port() == 7100);
        let (entered, left) = (begin(enters, own[server]), begin(leaves, own[server]));
        assert!(entered.len() > 20 && left.len() > 20);
        assert_eq!(ends(&entered), ends(&left));
        assert_eq!(handshake(&entered), handshake(&left));
        assert_eq!(last(&entered), last(&left));
        assert!(left.iter().all(|segment| !segment.is_rst()));
    }
}

/// Figure 6 of Horigome et al.: half of 20 MB comes to one address of OpenVPN's client, the other half to the other.
#[test]
fn openvpn_changes_its_clients_network_in_the_middle_of_a_download() {
    const HALF: u64 = 10 << 20;
    let (story, began) = tell_whole(include_str!("../../../scenarios/relay_openvpn.scn"));
    let links = story.artifacts().join("links");
    let found = multipath::at_host(&links, "A", &["sub1", "sub2"], began).expect("captures");
    let [tunnel] = &found[..] else {
        panic!("one connection, not {found:#?}");
    };
    let stream = &tunnel.received;
    assert_eq!(stream.holes, 0);
    let part = |link: &str| {
        let part = stream.subflows.iter().find(|part| part.link == link);
        part.unwrap_or_else(|| panic!("nothing came by {link}"))
    };
    let (first, second) = (part("sub1"), part("sub2"));
    for (part, client) in [(first, "192.168.100.2"), (second, "192.168.200.2")] {
        assert_eq!(part.source.to_string(), "192.168.110.2:1194");
        assert_eq!(part.destination.ip().to_string(), client);
        assert!(
            part.is_whole(),
            "{client}: {} gaps, {} bytes unmapped",
            part.gaps,
            part.unmapped
        );
        // Headers of the tunnel are a few bytes in a hundred, and a switch takes some.
        assert!(
            (HALF..HALF + HALF / 4).contains(&part.bytes),
            "{client}: {} bytes",
            part.bytes
        );
    }
    let when = |progress: &[(f64, u64)], bytes: u64| {
        let there = progress.iter().find(|(_, carried)| *carried >= bytes);
        there.map(|(time, _)| *time).expect("so much came")
    };
    assert!(when(&first.progress, HALF) < when(&second.progress, HALF / 10));
}

fn ends(seen: &[Seen]) -> BTreeSet<(SocketAddr, SocketAddr)> {
    seen.iter()
        .map(|segment| (segment.source, segment.destination))
        .collect()
}

/// Number, acknowledgement and all options of the SYN or its answer.
fn handshake(seen: &[Seen]) -> Vec<(u32, u32, u8, Vec<u8>)> {
    seen.iter()
        .filter(|segment| segment.flags & SYN != 0)
        .map(|segment| (segment.seq, segment.ack, segment.flags, segment.options.clone()))
        .collect()
}

/// The highest end of data and the highest acknowledgement, counted from the first.
fn last(seen: &[Seen]) -> (Option<u32>, Option<u32>) {
    let first = seen.first().map_or(0, |segment| segment.seq);
    let ack = seen
        .iter()
        .find(|segment| segment.flags & ACK != 0)
        .map_or(0, |segment| segment.ack);
    let ends = seen
        .iter()
        .map(|segment| segment.seq.wrapping_add(segment.payload).wrapping_sub(first));
    let acks = seen
        .iter()
        .filter(|segment| segment.flags & ACK != 0)
        .map(|segment| segment.ack.wrapping_sub(ack));
    (ends.max(), acks.max())
}
