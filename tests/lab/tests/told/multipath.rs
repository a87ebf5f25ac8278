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
relay     R
link   wifi   A=10.1.0.2/24   R=10.1.0.1/24   rate=60mbit delay=3ms
link   lte    A=10.2.0.2/24   R=10.2.0.1/24   rate=40mbit delay=8ms
link   lan    B=192.0.2.2/24  R=192.0.2.1/24
sysctl B net.mptcp.enabled=0
";

/// Tells a story, and returns it with the beginning of its clock.
fn tell(story: &str) -> (Story, f64) {
    let story = Story::new(&format!("{NETWORK}{story}"));
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
