//! What an agent composes echoes no timestamp; the data path fills in what leaves the round-trip time as it was.

use datapath::{Arrival, ArrivalState, Datapath, KernelDatapath, Path};
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::offering::{connect, listen, tuple_of};
use crate::place::{Host, isolated};

const REDIRECTED: u32 = 7;
const TSVAL: u32 = 4242;

/// What the stack is given of a pure ACK of the peer, as the echo that it came with is `echo`.
fn echo_after(datapath: &KernelDatapath, wire: Tuple, echo: u32) -> u32 {
    let packet = Segment::pure_ack(wire.reversed(), 1, 2, 512, Some((TSVAL, echo)))
        .emit()
        .unwrap();
    let ethertype: [u8; 2] = if wire.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype, &packet].concat();
    let (verdict, frame) = datapath.through_ingress(&frame).unwrap();
    assert_eq!(verdict, REDIRECTED);
    // Checksums are verified.
    let (value, echo) = Segment::parse(&frame[14..]).unwrap().timestamps.unwrap();
    assert_eq!(value, TSVAL, "what the peer says of itself stays");
    echo
}

fn committed(datapath: &mut KernelDatapath, identity: Tuple) -> Tuple {
    let elsewhere = Endpoint::new(identity.remote.address, identity.remote.port + 1);
    let wire = Tuple::new(identity.local, elsewhere);
    let arrival = Arrival {
        identity,
        path: Path::default(),
        req_no: ReqNo(1),
        state: ArrivalState::Committed,
        expect_seq: 0,
        expect_ack: 0,
        confirm: true,
    };
    datapath.put_arrival(&wire, &arrival).unwrap();
    datapath.set_load(1, 1).unwrap();
    wire
}

#[test]
fn an_empty_echo_on_a_new_tuple_is_filled_in_until_the_peers_kernel_speaks() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let mut datapath = host_a.open();
        for at in ["10.77.0.2:4430", "[fd77::2]:4430"] {
            let listener = listen(&host_b, at);
            let client = connect(&host_a, at);
            let (_server, _) = listener.accept().unwrap();
            let identity = tuple_of(&client);
            let wire = committed(&mut datapath, identity);
            let clock = |datapath: &mut KernelDatapath| {
                let tcp = datapath.read_tcp(&identity).unwrap().unwrap();
                tcp.timestamps.unwrap().0
            };
            for _ in 0..2 {
                let before = clock(&mut datapath);
                let echo = echo_after(&datapath, wire, 0);
                // Never ahead of the socket's own clock, and not older than a round trip on one machine.
                let age = clock(&mut datapath).wrapping_add(1).wrapping_sub(echo);
                let limit = clock(&mut datapath).wrapping_sub(before) + 5000;
                assert!(age < limit, "{echo} is {age} ticks old");
            }
            assert_eq!(echo_after(&datapath, wire, 77), 77, "a kernel's own echo stays");
            assert_eq!(
                echo_after(&datapath, wire, 0),
                0,
                "from then on it is the peer's affair"
            );
        }
    });
}
