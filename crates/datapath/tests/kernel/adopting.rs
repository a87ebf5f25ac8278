//! What an agent leaves behind, and what the next one finds.

use std::collections::BTreeMap;

use datapath::{Arrival, ArrivalState, Datapath, KernelDatapath, Path, SessionFlags, Source};
use libbpf_rs::{MapHandle, MapType};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::Tuple;

use crate::offering::{connect, listen, tuple_of};
use crate::place::{Host, isolated, until};
use crate::sockets::session;

const AT: &str = "10.77.0.2:4430";

#[test]
fn everything_in_the_maps_is_found_by_the_next_agent() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let _b = host_b.open();
        let listener = listen(&host_b, AT);
        let mut first = host_a.open();
        assert!(!first.adopted());
        let client = connect(&host_a, AT);
        let identity = tuple_of(&client);
        let flags = SessionFlags {
            mark: true,
            raise: false,
            hold_reset: true,
            watch: true,
            enrolled: true,
            relayed: true,
        };
        let wire = Tuple::new(
            wire::Endpoint::new([10, 77, 0, 8].into(), 61_000),
            identity.remote,
        );
        let path = Path {
            ifindex: 2,
            next_hop: Some([10, 77, 0, 2].into()),
        };
        let arrival = Arrival {
            identity,
            path,
            req_no: ReqNo(2),
            state: ArrivalState::Committed,
            expect_seq: 3,
            expect_ack: 4,
            confirm: true,
        };
        first.put_session(&identity, &session(flags)).unwrap();
        first
            .put_token(Token(77), &identity, &MacKey::new([2; 16]), 0)
            .unwrap();
        first.put_arrival(&wire, &arrival).unwrap();
        first.commit(&identity, &wire, &path, ReqNo(2)).unwrap();
        first
            .put_source(
                identity.local.address,
                Source {
                    ifindex: 2,
                    usable: true,
                },
            )
            .unwrap();
        first.set_load(1, 1).unwrap();
        let counters: BTreeMap<_, _> = first.counters().into_iter().collect();
        drop(first);

        // Nobody is there, and a connection comes up all the same.
        let meanwhile = tuple_of(&connect_and_keep(&host_a));
        let second = host_a.open();
        assert!(second.adopted());
        let [(found, ref kept)] = second.sessions()[..] else {
            panic!("{:?}", second.sessions())
        };
        let put = session(flags);
        assert_eq!(found, identity);
        assert_eq!(
            (&kept.key_out, &kept.key_in, &kept.key_token),
            (&put.key_out, &put.key_in, &put.key_token)
        );
        assert_eq!(
            (kept.pair_id, kept.epoch, kept.role),
            (put.pair_id, put.epoch, put.role)
        );
        assert_eq!(
            (kept.isn_initiator, kept.isn_acceptor),
            (put.isn_initiator, put.isn_acceptor)
        );
        assert_eq!(
            (kept.req_committed, kept.req_stored, kept.flags),
            (put.req_committed, put.req_stored, flags)
        );
        assert!(second.knows_token(Token(77), &identity));
        assert_eq!(second.arrivals(), [(wire, arrival)]);
        let state = second.wire(&identity).unwrap();
        assert_eq!((state.req_no, state.wire, state.path), (ReqNo(2), wire, path));
        assert!(second.connection(&identity).is_some());
        assert!(
            second.connection(&meanwhile).is_some(),
            "offers go on without an agent"
        );
        let after: BTreeMap<_, _> = second.counters().into_iter().collect();
        assert!(after["permitted"] > counters["permitted"], "counters go on");
        drop((client, listener));
    });
}

/// A connection that stays open until the test's process ends.
fn connect_and_keep(host: &Host) -> std::net::TcpStream {
    let client = connect(host, AT);
    std::mem::forget(client.try_clone().unwrap());
    client
}

#[test]
fn the_next_agent_hears_what_was_told_to_nobody() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let _b = host_b.open();
        let _listener = listen(&host_b, AT);
        drop(host_a.open());
        let tuple = tuple_of(&connect_and_keep(&host_a));
        let mut next = host_a.open();
        assert_eq!(next.opened(), [tuple]);
        assert_eq!(next.events().len(), 1, "the peer is new");
    });
}

#[test]
fn an_agent_on_another_cgroup_attaches_there_when_the_old_one_is_gone() {
    isolated(|| {
        let (host_a, host_b) = (Host::first(), Host::second());
        let b = host_b.open();
        let _listener = listen(&host_b, AT);
        let gone = host_a.cgroup.with_file_name("gone");
        std::fs::create_dir(&gone).unwrap();
        host_a.enter();
        let options = datapath::Options {
            cgroup: gone.clone(),
            ..host_a.options()
        };
        drop(KernelDatapath::open(&options).unwrap());
        std::fs::remove_dir(&gone).unwrap();
        // The kernel takes the program off a cgroup some time after it was removed.
        until("the offer is made again", || {
            let a = host_a.open();
            let client = connect(&host_a, AT);
            a.connection(&tuple_of(&client)).is_some()
        });
        drop(b);
    });
}

#[test]
fn maps_of_another_layout_are_refused_with_advice() {
    isolated(|| {
        let host = Host::first();
        std::fs::create_dir_all(&host.pin_dir).unwrap();
        let mut opts = libbpf_rs::libbpf_sys::bpf_map_create_opts::default();
        opts.sz = size_of_val(&opts) as _;
        let mut strange = MapHandle::create(MapType::Hash, Some("sessions"), 4, 4, 8, &opts).unwrap();
        strange.pin(host.pin_dir.join("sessions")).unwrap();
        let error = KernelDatapath::open(&host.options()).err().unwrap().to_string();
        assert!(error.contains("cleanup"), "{error}");
    });
}
