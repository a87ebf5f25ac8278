//! Loading: the verifier takes every program, every device takes them, and what is missing is said.

use datapath::attach::{self, Link};
use datapath::kernel::OpenError;
use datapath::{Datapath, DatapathError, KernelDatapath, SessionFlags, Source};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

use crate::place::{Host, isolated, run};

fn tuple(number: u32) -> Tuple {
    let [_, a, b, c] = number.to_be_bytes();
    Tuple::new(
        Endpoint::new([10, a, b, c].into(), 4000),
        Endpoint::new([192, 0, 2, 1].into(), 443),
    )
}

#[test]
fn the_verifier_takes_every_program_and_every_kind_of_device_takes_them() {
    isolated(|| {
        let host = Host::first();
        let second = Host::second();
        let datapath = host.open();
        run("ip link add park0 type ifb");
        let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
        datapath.attach_device(index("cable"), Link::Ethernet).unwrap();
        datapath.attach_device(index("lo"), Link::Raw).unwrap();
        datapath.attach_parking(index("park0")).unwrap();
        // Twice: the second takes the first one's place.
        datapath.attach_device(index("cable"), Link::Ethernet).unwrap();
        assert!(attach::detach(index("cable")));
        assert!(!attach::detach(index("cable")), "nothing is left to detach");
        drop(second);
    });
}

#[test]
fn a_pin_directory_that_is_on_no_bpf_file_system_is_refused() {
    isolated(|| {
        let host = Host::first();
        let directory = tempfile::tempdir().unwrap();
        let options = datapath::Options {
            pin_dir: directory.path().join("pins"),
            ..host.options()
        };
        let error = KernelDatapath::open(&options).err().unwrap();
        assert!(matches!(error, OpenError::PinDirectory { .. }), "{error}");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    });
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused_and_nothing_stays_attached() {
    isolated(|| {
        let host = Host::first();
        for wrong in ["/tmp", "/nonexistent"] {
            let options = datapath::Options {
                cgroup: wrong.into(),
                ..host.options()
            };
            let error = KernelDatapath::open(&options).err().unwrap();
            assert!(matches!(error, OpenError::Cgroup { .. }), "{error}");
            assert!(error.to_string().contains("version 2"), "{error}");
        }
        assert!(!host.pin_dir.join("offer_link").exists());
        host.open();
    });
}

#[test]
fn without_privileges_it_says_which_are_missing() {
    isolated(|| {
        let host = Host::first();
        std::fs::create_dir_all(&host.pin_dir).unwrap();
        nix::unistd::chown(&host.pin_dir, Some(65534.into()), Some(65534.into())).unwrap();
        nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
        let error = KernelDatapath::open(&host.options()).err().unwrap();
        assert!(matches!(error, OpenError::Load { .. }), "{error}");
        assert!(error.to_string().contains("CAP_BPF"), "{error}");
    });
}

#[test]
fn a_full_map_says_which_it_is_and_takes_entries_again() {
    isolated(|| {
        let host = Host::first();
        let mut datapath = host.open();
        let key = MacKey::new([1; 16]);
        let session = datapath::Session {
            key_out: key.clone(),
            key_in: key.clone(),
            key_token: key.clone(),
            pair_id: [0; 16],
            epoch: 1,
            isn_initiator: 1,
            isn_acceptor: 2,
            req_committed: ReqNo(0),
            req_stored: ReqNo(0),
            flags: SessionFlags::default(),
            role: wire::keys::Role::Initiator,
        };
        let full = (0..200_000)
            .find_map(|number| Some((number, datapath.put_session(&tuple(number), &session).err()?)));
        let (count, error) = full.expect("a limit");
        assert_eq!(count, 131_072);
        assert!(
            matches!(error, DatapathError::MapFull { map: "sessions" }),
            "{error}"
        );
        assert!(
            error.to_string().contains("`sessions`") && error.to_string().contains("raise"),
            "{error}"
        );
        datapath.remove_session(&tuple(7));
        datapath.put_session(&tuple(count), &session).unwrap();
        // What is there already can be changed all the same.
        datapath.put_session(&tuple(8), &session).unwrap();

        let usable = Source {
            ifindex: 1,
            usable: true,
        };
        let full =
            (0..1000).find_map(|number| datapath.put_source(tuple(number).local.address, usable).err());
        assert!(
            matches!(full, Some(DatapathError::MapFull { map: "sources" })),
            "{full:?}"
        );

        for number in 0..4 {
            datapath.put_token(Token(5), &tuple(number), &key, 0).unwrap();
        }
        let full = datapath.put_token(Token(5), &tuple(4), &key, 0);
        assert!(
            matches!(full, Err(DatapathError::MapFull { map: "tokens" })),
            "{full:?}"
        );
        // The same once more is no new entry.
        datapath.put_token(Token(5), &tuple(3), &key, 1).unwrap();
        datapath.remove_token(Token(5), &tuple(0));
        datapath.put_token(Token(5), &tuple(4), &key, 0).unwrap();
        for number in 0..5 {
            datapath.remove_token(Token(5), &tuple(number));
        }
        assert!(!datapath.knows_token(Token(5), &tuple(4)));
    });
}
