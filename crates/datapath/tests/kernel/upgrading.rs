//! An agent whose maps have another layout takes the place of one whose connections carry traffic.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use datapath::attach::Link;
use datapath::kernel::layout::{LAYOUT, OLDEST_LAYOUT, pinned_layout};
use datapath::parking::{Parking, ParkingOptions};
use datapath::requirements::{Verdict, pinned_maps};
use datapath::{Arrival, ArrivalState, Datapath, KernelDatapath, Options, Path, SessionFlags, Source};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use wire::Endpoint;
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::Tuple;

use crate::offering::{connect, listen, tuple_of};
use crate::place::{AGENT_MARK, Host, MARK, isolated, said, until_within};
use crate::sockets::session;

const AT: &str = "10.77.0.2:4430";
/// Wire ports of moved connections.
const FIRST_PORT: u16 = 61_000;
const FLAGS: SessionFlags = SessionFlags {
    mark: false,
    raise: false,
    hold_reset: false,
    watch: false,
    enrolled: false,
    relayed: false,
};

fn device(host: &Host, name: &str) -> u32 {
    host.enter();
    let line = said(&format!("ip -o link show {name}"));
    line.split(':').next().unwrap().parse().unwrap()
}

/// A parking device, and settings for it.
fn parking(host: &Host) -> Options {
    host.enter();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let parking = runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let options = ParkingOptions {
            device: "mob0".into(),
            table: 7801,
            rule_priority: 78,
            mark: MARK,
            agent_mark: AGENT_MARK,
        };
        Parking::set_up(handle, options).await.unwrap()
    });
    Options {
        parking_ifindex: parking.ifindex,
        parking_mac: parking.mac,
        ..host.options()
    }
}

/// Loads the programs and puts them on every device of the host.
fn open(host: &Host, options: &Options) -> KernelDatapath {
    host.enter();
    let datapath = KernelDatapath::open(options).expect("the data path loads");
    attach(host, options, &datapath);
    datapath
}

fn attach(host: &Host, options: &Options, datapath: &KernelDatapath) {
    host.enter();
    datapath.attach_parking(options.parking_ifindex).unwrap();
    datapath
        .attach_device(device(host, "cable"), Link::Ethernet)
        .unwrap();
}

/// A layout that no map of connections shares with the first one.
fn another(options: &Options) -> Options {
    Options {
        max_connections: 20_000,
        padding: 24,
        ..options.clone()
    }
}

/// The tuple is one of the connection's from now on.
fn hear_on(datapath: &mut KernelDatapath, identity: Tuple, wire: Tuple, ifindex: u32, req_no: u32) {
    let arrival = Arrival {
        identity,
        path: way(ifindex),
        req_no: ReqNo(req_no),
        state: ArrivalState::Committed,
        expect_seq: 0,
        expect_ack: 0,
        confirm: false,
    };
    datapath.put_arrival(&wire, &arrival).unwrap();
}

/// From now on the connection is on another tuple on the wire.
fn move_to(datapath: &mut KernelDatapath, identity: Tuple, wire: Tuple, ifindex: u32, req_no: u32) {
    datapath.put_session(&identity, &session(FLAGS)).unwrap();
    hear_on(datapath, identity, wire, ifindex, req_no);
    datapath
        .commit(&identity, &wire, &way(ifindex), ReqNo(req_no))
        .unwrap();
}

fn way(ifindex: u32) -> Path {
    Path {
        ifindex,
        next_hop: None,
    }
}

fn wire_of(identity: Tuple, number: usize) -> Tuple {
    let port = FIRST_PORT + u16::try_from(number).unwrap();
    Tuple::new(Endpoint::new(identity.local.address, port), identity.remote)
}

fn usable(datapath: &mut KernelDatapath, host: &Host, address: &str) {
    let source = Source {
        ifindex: device(host, "cable"),
        usable: true,
    };
    datapath.put_source(address.parse().unwrap(), source).unwrap();
}

/// One byte there and one back on every connection, again and again.
fn talk(
    connections: Vec<(TcpStream, TcpStream)>,
    rounds: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let pass = |mut from: &TcpStream, mut to: &TcpStream, byte: u8| {
            let mut got = [0];
            from.write_all(&[byte]).expect("the connection lives");
            to.read_exact(&mut got).expect("the connection lives");
            assert_eq!(got, [byte]);
        };
        while !enough.load(Ordering::Relaxed) {
            let round = rounds.load(Ordering::Relaxed) as u8;
            for (client, server) in &connections {
                pass(client, server, round);
                pass(server, client, !round);
            }
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    })
}

#[test]
fn a_thousand_moved_connections_talk_on_while_maps_of_another_layout_take_over() {
    const COUNT: usize = 1000;
    isolated(|| {
        let files = nix::sys::resource::Resource::RLIMIT_NOFILE;
        nix::sys::resource::setrlimit(files, 8192, 8192).unwrap();
        let (host_a, host_b) = (Host::first(), Host::second());
        let (options_a, options_b) = (parking(&host_a), parking(&host_b));
        let mut b = open(&host_b, &options_b);
        let mut first = open(&host_a, &options_a);
        let listener: TcpListener = listen(&host_b, AT);
        let cable = device(&host_a, "cable");
        usable(&mut first, &host_a, "10.77.0.1");
        usable(&mut b, &host_b, "10.77.0.2");
        let connections: Vec<_> = (0..COUNT)
            .map(|_| (connect(&host_a, AT), listener.accept().expect("accepted").0))
            .collect();
        let identities: Vec<Tuple> = connections.iter().map(|(client, _)| tuple_of(client)).collect();
        first.set_load(COUNT as u32, COUNT as u32).unwrap();
        b.set_load(COUNT as u32, COUNT as u32).unwrap();
        let cable_b = device(&host_b, "cable");
        for (number, &identity) in identities.iter().enumerate() {
            let wire = wire_of(identity, number);
            host_b.enter();
            move_to(&mut b, identity.reversed(), wire.reversed(), cable_b, 2);
            host_a.enter();
            move_to(&mut first, identity, wire, cable, 2);
        }
        // One of them is about to move again: its handshake is at the point where only BPF has a say.
        let late = identities[7];
        let elsewhere = wire_of(late, COUNT + 7);
        hear_on(&mut first, late, elsewhere, cable, 4);
        hear_on(&mut b, late.reversed(), elsewhere.reversed(), cable_b, 4);
        let (rounds, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let talking = talk(connections, Arc::clone(&rounds), Arc::clone(&enough));
        let more = |count| {
            let goal = rounds.load(Ordering::Relaxed) + count;
            until_within(Duration::from_secs(120), "everybody talks on", || {
                assert!(!talking.is_finished(), "a connection broke");
                rounds.load(Ordering::Relaxed) >= goal
            });
        };
        more(2);
        let told = |datapath: &KernelDatapath, what| {
            let counters = datapath.counters();
            counters.iter().find(|(name, _)| *name == what).unwrap().1
        };
        assert!(
            told(&first, "translated_out") >= 2 * COUNT as u64,
            "they are translated"
        );

        host_a.enter();
        let options = another(&options_a);
        let mut second = KernelDatapath::open(&options).expect("the next agent takes over");
        // The old programs on the devices still write to the old maps.
        host_b.enter();
        let back = elsewhere.reversed();
        b.commit(&late.reversed(), &back, &way(cable_b), ReqNo(4))
            .unwrap();
        host_a.enter();
        first.commit(&late, &elsewhere, &way(cable), ReqNo(4)).unwrap();
        attach(&host_a, &options, &second);
        let carried = second.settle();
        drop(first);
        for name in [
            "sessions",
            "wires",
            "tokens",
            "arrivals",
            "connections",
            "sources",
        ] {
            assert!(carried.iter().any(|one| one == name), "{name}: {carried:?}");
        }
        let (before, after) = (told(&second, "translated_out"), told(&second, "stranger_dropped"));
        more(3);
        assert!(told(&second, "translated_out") >= before + 2 * COUNT as u64);
        assert_eq!(told(&second, "stranger_dropped"), after);
        enough.store(true, Ordering::Relaxed);
        talking.join().expect("every byte was right");

        assert_eq!(second.sessions().len(), COUNT);
        for (number, identity) in identities.iter().enumerate() {
            let wire = if *identity == late {
                elsewhere
            } else {
                wire_of(*identity, number)
            };
            let state = second.wire(identity).expect("a moved connection");
            assert_eq!(state.wire, wire, "{identity}");
            assert!(second.arrival(&wire).is_some());
        }
        let left: Vec<_> = std::fs::read_dir(&options.pin_dir)
            .unwrap()
            .flatten()
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name.contains('-'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

/// Entries of each kind, as an agent makes them.
fn fill(datapath: &mut KernelDatapath, identity: Tuple) {
    move_to(datapath, identity, wire_of(identity, 0), 2, 2);
    datapath
        .put_token(Token(77), &identity, &MacKey::new([2; 16]), 0)
        .unwrap();
    let source = Source {
        ifindex: 2,
        usable: true,
    };
    datapath.put_source(identity.local.address, source).unwrap();
}

fn assert_filled(datapath: &KernelDatapath, identity: Tuple) {
    let [(found, ref kept)] = datapath.sessions()[..] else {
        panic!("{:?}", datapath.sessions())
    };
    assert_eq!((found, kept.key_out.as_bytes()), (identity, &[1; 16]));
    assert!(datapath.knows_token(Token(77), &identity));
    let state = datapath.wire(&identity).expect("a moved connection");
    assert_eq!((state.req_no, state.wire), (ReqNo(2), wire_of(identity, 0)));
    let arrival = datapath.arrival(&wire_of(identity, 0)).expect("an arrival");
    assert_eq!(arrival.state, ArrivalState::Committed);
}

fn some_connection() -> Tuple {
    Tuple::new(
        Endpoint::new([10, 77, 0, 1].into(), 4000),
        Endpoint::new([10, 77, 0, 2].into(), 4430),
    )
}

#[test]
fn a_later_layout_is_read_by_an_earlier_agent_and_the_other_way_round() {
    isolated(|| {
        let host = Host::first();
        host.enter();
        let identity = some_connection();
        fill(&mut host.open(), identity);
        for options in [another(&host.options()), host.options(), another(&host.options())] {
            let mut next = KernelDatapath::open(&options).unwrap();
            next.settle();
            assert_filled(&next, identity);
            assert!(!next.counters().is_empty());
        }
        assert_eq!(pinned_layout(&host.pin_dir), Some((LAYOUT, OLDEST_LAYOUT)));
        assert_eq!(pinned_maps(&host.pin_dir).verdict, Verdict::Good);
    });
}

#[test]
fn what_an_agent_that_died_in_the_middle_had_not_copied_is_found() {
    isolated(|| {
        let host = Host::first();
        host.enter();
        let (identity, later) = (some_connection(), some_connection().reversed());
        let mut first = host.open();
        fill(&mut first, identity);
        let options = another(&host.options());
        // It dies before its programs are on the devices ...
        drop(KernelDatapath::open(&options).unwrap());
        // ... and the old ones go on.
        move_to(&mut first, later, wire_of(later, 1), 2, 2);
        let mut third = KernelDatapath::open(&options).unwrap();
        assert!(third.wire(&later).is_none());
        assert!(!third.settle().is_empty());
        assert!(third.wire(&later).is_some() && third.wire(&identity).is_some());
        assert!(third.settle().is_empty());
        drop(third);
        assert!(KernelDatapath::open(&options).unwrap().settle().is_empty());
    });
}

#[test]
fn connections_that_would_not_fit_keep_their_maps() {
    isolated(|| {
        let host = Host::first();
        host.enter();
        let mut first = host.open();
        for port in 1..=40 {
            let local = Endpoint::new([10, 77, 0, 1].into(), port);
            let identity = Tuple::new(local, some_connection().remote);
            first.put_session(&identity, &session(FLAGS)).unwrap();
        }
        let small = Options {
            max_connections: 16,
            ..host.options()
        };
        let error = KernelDatapath::open(&small).err().unwrap().to_string();
        assert!(error.contains("max_connections"), "{error}");
        let mut again = host.open();
        assert!(again.settle().is_empty(), "nothing was touched");
        assert_eq!(again.sessions().len(), 40);
    });
}

#[test]
fn maps_that_nobody_here_can_read_are_refused_with_advice() {
    isolated(|| {
        let host = Host::first();
        drop(host.open());
        let config = MapHandle::from_pinned_path(host.pin_dir.join("agent_config")).unwrap();
        let key = 0u32.to_ne_bytes();
        let mut value = config.lookup(&key, MapFlags::ANY).unwrap().unwrap();
        // Where every layout has them.
        value[56..60].copy_from_slice(&(LAYOUT + 5).to_ne_bytes());
        value[60..64].copy_from_slice(&(LAYOUT + 1).to_ne_bytes());
        config.update(&key, &value, MapFlags::ANY).unwrap();
        let error = KernelDatapath::open(&host.options()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("layout {}", LAYOUT + 5)) && error.contains("cleanup"),
            "{error}"
        );
        assert_eq!(pinned_maps(&host.pin_dir).verdict, Verdict::Bad);
    });
}

#[test]
fn a_change_of_a_map_has_a_number() {
    isolated(|| {
        let host = Host::first();
        drop(host.open());
        let mut sizes: Vec<(String, u32, u32)> = std::fs::read_dir(&host.pin_dir)
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let map = (name != "offer_link").then(|| MapHandle::from_pinned_path(entry.path()))?;
                let map = map.expect("everything else is a map");
                Some((name, map.key_size(), map.value_size()))
            })
            .collect();
        sizes.sort();
        let sizes: Vec<String> = sizes
            .iter()
            .map(|(name, key, value)| format!("{name} {key} {value}"))
            .collect();
        // Values may grow at their end, with another number in layout.rs; keys and what stands before the end may not
        // change without a number below which entries are refused.
        let expected = "agent_config 4 72, arrivals 36 80, connections 36 24, counters 4 8, events 0 0, heads 36 3016, \
                        legs 36 56, offer_to 20 4, opened 0 0, peers 20 8, saved 4 24, sessions 36 92, shadowing 4 4, \
                        shadows_in 36 36, shadows_out 36 36, sources 16 8, tokens 4 228, wires 36 72";
        assert_eq!((LAYOUT, sizes.join(", ").as_str()), (4, expected));
    });
}
