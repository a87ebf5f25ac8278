//! What servers hand over: a ticket that is none takes no state, is refused with a reason, and counted.

use std::time::Duration;

use identity::ticket::Ticket;
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;

use crate::desk::Desk;
use crate::place::isolated;
use crate::world::World;

const HOUR: Duration = Duration::from_secs(3600);

fn plug() -> World {
    World::plug("near", &["198.51.100.1/24", "2001:db8:100::1/64"], &["default"])
}

#[test]
fn what_is_no_ticket_for_this_proxy_now_is_refused_and_counted() {
    isolated(|| {
        let _world = plug();
        let mut desk = Desk::open("");
        let good = desk.ticket(1);
        let mut forged = desk.sign(&good);
        forged.ticket[5] ^= 1;
        let foreign = desk.sign(&Ticket {
            proxy: "spiffe://mobility/proxy/another".into(),
            ..good.clone()
        });
        // The proxy's clock is an hour behind, or ahead.
        let later = desk.sign(&Ticket {
            not_before: good.not_before + HOUR,
            expires: good.expires + HOUR,
            ..good.clone()
        });
        let earlier = desk.sign(&Ticket {
            not_before: good.not_before - HOUR,
            expires: good.expires - HOUR,
            ..good.clone()
        });
        for (signed, why, text) in [
            (&forged, "ticket_forged", "forged"),
            (&foreign, "ticket_foreign", "another proxy"),
            (&later, "ticket_not_yet", "clocks"),
            (&earlier, "ticket_expired", "clocks"),
        ] {
            let answer = desk.present(1, signed);
            assert!(answer.refusal.contains(text), "{why}: {answer:?}");
            assert!(answer.first.is_none() && answer.second.is_none());
            desk.counted("refusals", why, 1);
        }
        // Under another lease's name.
        let signed = desk.sign(&good);
        assert!(desk.present(2, &signed).refusal.contains("cannot be read"));
        desk.status("no state", |status| {
            status["leases"] == 0 && status["ports_taken"] == 0
        });
        // The true one is not spoilt by all that.
        desk.lease(1, &good);
    });
}

#[test]
fn a_ticket_counts_once_also_after_its_lease_and_after_the_daemon() {
    isolated(|| {
        let _world = plug();
        let mut desk = Desk::open("");
        let signed = desk.sign(&desk.ticket(1));
        let first = desk.present(1, &signed);
        // The server has not heard the answer and asks again.
        assert_eq!(desk.present(1, &signed), first);
        desk.order(Hears::Release(said::LeaseRelease {
            lease_id: vec![1; 16],
        }));
        let ended = desk.word("the end", |word| match word {
            Says::Ended(ended) => Some(ended.reason),
            _ => None,
        });
        assert_eq!(ended, "released");
        assert!(desk.present(1, &signed).refusal.contains("used before"));
        desk.end(nix::sys::signal::Signal::SIGKILL);
        desk.start();
        assert!(desk.present(1, &signed).refusal.contains("used before"));
        desk.counted("refusals", "ticket_replayed", 1);
    });
}

#[test]
fn quotas_full_ports_refused_ranges_and_draining_are_told_apart_and_counted() {
    isolated(|| {
        let _world = plug();
        let mut desk = Desk::open("ports = [20000, 20002]\n[limits]\nconnections_of_agent = 3\n");
        let mut target = desk.ticket(9);
        target.legs[0].expected = Some("203.0.113.9".parse().unwrap());
        let answer = desk.present(9, &desk.sign(&target));
        assert!(answer.refusal.contains("`refuse`"), "{answer:?}");
        desk.counted("refusals", "target_refused", 1);
        for lease in 1..=3 {
            let ticket = desk.ticket(lease);
            desk.lease(lease, &ticket);
        }
        let answer = desk.present(4, &desk.sign(&desk.ticket(4)));
        assert!(
            answer.refusal.contains("limits.connections_of_agent"),
            "{answer:?}"
        );
        desk.counted("refusals", "quota", 1);
        let mut others = desk.ticket(5);
        others.legs[0].agent = "spiffe://mobility/agent/c".into();
        others.legs[1].agent = "spiffe://mobility/agent/d".into();
        let answer = desk.present(5, &desk.sign(&others));
        assert!(answer.refusal.contains("no port is free"), "{answer:?}");
        desk.counted("refusals", "ports_exhausted", 1);
        assert_eq!(desk.ask(&["drain"]).unwrap()["relays"], 3);
        let answer = desk.present(6, &desk.sign(&others));
        assert!(!answer.refusal.is_empty());
    });
}

#[test]
fn orders_without_sense_are_refused_and_disturb_nothing() {
    isolated(|| {
        let _world = plug();
        let mut desk = Desk::open("");
        for (lease, ticket, signature) in [
            (vec![], vec![], vec![]),
            (vec![1; 15], vec![0xff; 4096], vec![0; 64]),
            (vec![1; 17], vec![0; 300_000], vec![1; 300_000]),
        ] {
            desk.order(Hears::Lease(said::LeaseRequest {
                lease_id: lease,
                ticket,
                signature,
            }));
            let answer = desk.word("a refusal", |word| match word {
                Says::Answer(answer) => Some(answer),
                _ => None,
            });
            assert!(answer.refusal.contains("forged"), "{answer:?}");
        }
        for id in [vec![], vec![7; 16], vec![9; 1000]] {
            desk.order(Hears::Release(said::LeaseRelease { lease_id: id.clone() }));
            desk.order(Hears::Renewal(said::LeaseRenewal {
                lease_id: id,
                expires_unix_seconds: u64::MAX,
            }));
        }
        desk.order(Hears::Ping(said::Ping { number: 77 }));
        let pong = desk.word("a pong", |word| match word {
            Says::Pong(pong) => Some(pong.number),
            _ => None,
        });
        assert_eq!(pong, 77);
        // An end of time that does not fit into a clock.
        let ticket = desk.ticket(1);
        desk.lease(1, &ticket);
        desk.order(Hears::Renewal(said::LeaseRenewal {
            lease_id: vec![1; 16],
            expires_unix_seconds: u64::MAX,
        }));
        desk.status("it lives", |status| status["leases"] == 1);
    });
}
