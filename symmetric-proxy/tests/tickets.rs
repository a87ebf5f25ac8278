//! What a ticket is worth at the proxy: a port once, for those it names, and nothing otherwise.

use std::time::{Duration, SystemTime};

use identity::ticket::{SignedTicket, Ticket, TicketLeg, TicketRefusal, TicketVerifier};
use identity::{Authority, Validity};
use symmetric_proxy::config::{Config, Limits};
use symmetric_proxy::leases::{LeaseRefusal, Leases, Presented};
use symmetric_proxy::ports::Ports;

const ME: &str = "spiffe://example/proxy/p1";

struct Desk {
    authority: Authority,
    verifier: TicketVerifier,
    leases: Leases,
    config: Config,
    now: SystemTime,
    _directory: tempfile::TempDir,
}

fn desk(ports: (u16, u16), limits: Limits) -> Desk {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::create(directory.path(), Validity::of_authority()).unwrap();
    Desk {
        verifier: TicketVerifier::from_pem(authority.certificate_pem().as_bytes()).unwrap(),
        authority,
        leases: Leases::new(Ports::new(vec!["9.9.9.9".parse().unwrap()], ports), limits),
        config: Config::default(),
        now: SystemTime::now(),
        _directory: directory,
    }
}

impl Desk {
    fn ticket(&self, lease: u8, agents: [&str; 2]) -> Ticket {
        let lease = [lease; 16];
        let leg = |agent: &str| TicketLeg {
            agent: agent.to_owned(),
            expected: Some("8.8.8.8".parse().unwrap()),
            key: self.authority.leg_key(&lease, agent),
        };
        Ticket {
            lease,
            pair: [1; 16],
            label: 7,
            not_before: self.now - Duration::from_secs(5),
            expires: self.now + Duration::from_secs(60),
            legs: agents.map(leg),
            proxy: ME.to_owned(),
        }
    }

    fn sign(&self, ticket: &Ticket) -> SignedTicket {
        self.authority.sign_ticket(ticket).unwrap()
    }

    fn present(&mut self, lease: u8, signed: &SignedTicket) -> Result<bool, LeaseRefusal> {
        let shown = Presented {
            lease: &[lease; 16],
            ticket: &signed.ticket,
            signature: &signed.signature,
        };
        let (verifier, config) = (&self.verifier, &self.config);
        let admitted = self.leases.admit(shown, verifier, ME, config, self.now, 1);
        admitted.map(|(new, _)| new)
    }
}

#[test]
fn a_ticket_gives_a_port_once() {
    let mut desk = desk((20000, 20009), Limits::default());
    let signed = desk.sign(&desk.ticket(1, ["a", "b"]));
    assert_eq!(desk.present(1, &signed), Ok(true));
    assert_eq!(
        desk.present(1, &signed),
        Ok(false),
        "the server has not heard the answer"
    );
    assert_eq!(desk.leases.len(), 1);
    let other = desk.sign(&desk.ticket(1, ["a", "c"]));
    assert_eq!(desk.present(1, &other), Err(LeaseRefusal::Replayed));
    desk.leases.end(&[1; 16]).unwrap();
    assert_eq!(
        desk.present(1, &signed),
        Err(LeaseRefusal::Replayed),
        "it was used"
    );
    assert!(desk.leases.is_empty());
}

#[test]
fn what_is_not_signed_for_this_proxy_now_takes_no_state() {
    let mut desk = desk((20000, 20009), Limits::default());
    let good = desk.ticket(1, ["a", "b"]);
    let mut forged = desk.sign(&good);
    forged.ticket[3] ^= 1;
    assert_eq!(desk.present(1, &forged), Err(TicketRefusal::Forged.into()));
    let foreign = desk.sign(&Ticket {
        proxy: "spiffe://example/proxy/p2".into(),
        ..good.clone()
    });
    assert_eq!(desk.present(1, &foreign), Err(TicketRefusal::Foreign.into()));
    let signed = desk.sign(&good);
    assert_eq!(
        desk.present(2, &signed),
        Err(TicketRefusal::Malformed.into()),
        "another's name"
    );
    // The proxy's clock is wrong by an hour.
    let now = desk.now;
    for (clock, refusal) in [
        (now + Duration::from_secs(3600), TicketRefusal::Expired),
        (now - Duration::from_secs(3600), TicketRefusal::NotYet),
    ] {
        desk.now = clock;
        assert_eq!(desk.present(1, &signed), Err(refusal.into()));
    }
    assert!(desk.leases.is_empty());
}

#[test]
fn refused_addresses_quotas_full_ports_and_draining_are_told_apart() {
    let limits = Limits {
        connections: 100,
        connections_of_agent: 2,
    };
    let mut desk = desk((20000, 20002), limits);
    let mut private = desk.ticket(9, ["a", "b"]);
    private.legs[1].expected = Some("192.168.1.1".parse().unwrap());
    let private = desk.sign(&private);
    assert_eq!(desk.present(9, &private), Err(LeaseRefusal::Target));
    let mut own = desk.ticket(9, ["a", "b"]);
    own.legs[0].expected = Some("9.9.9.9".parse().unwrap());
    let own = desk.sign(&own);
    assert_eq!(
        desk.present(9, &own),
        Err(LeaseRefusal::Target),
        "the proxy itself"
    );
    for lease in [1, 2] {
        let signed = desk.sign(&desk.ticket(lease, ["a", "b"]));
        assert_eq!(desk.present(lease, &signed), Ok(true));
    }
    let third = desk.sign(&desk.ticket(3, ["c", "a"]));
    assert_eq!(desk.present(3, &third), Err(LeaseRefusal::Quota));
    let signed = desk.sign(&desk.ticket(4, ["c", "d"]));
    assert_eq!(desk.present(4, &signed), Ok(true));
    let fourth = desk.sign(&desk.ticket(5, ["e", "f"]));
    assert_eq!(desk.present(5, &fourth), Err(LeaseRefusal::Exhausted));
    // A port that is free again is given again.
    desk.leases.end(&[4; 16]).unwrap();
    desk.leases.draining = true;
    assert_eq!(desk.present(5, &fourth), Err(LeaseRefusal::Draining));
    desk.leases.draining = false;
    assert_eq!(desk.present(5, &fourth), Ok(true));
}

#[test]
fn what_an_earlier_run_has_left_is_the_same_lease_and_its_ticket_counts_no_second_time() {
    let mut before = desk((20000, 20002), Limits::default());
    let signed = before.sign(&before.ticket(1, ["a", "b"]));
    before.present(1, &signed).unwrap();
    let lease = before.leases.get(&[1; 16]).unwrap().clone();
    let ended = before.sign(&before.ticket(2, ["a", "b"]));
    before.present(2, &ended).unwrap();
    let over = before.leases.end(&[2; 16]).unwrap();
    let mut after = Leases::new(
        Ports::new(vec!["9.9.9.9".parse().unwrap()], (20000, 20000 + 2)),
        Limits::default(),
    );
    after.adopt([1; 16], &lease.note(false));
    after.adopt([2; 16], &over.note(true));
    before.leases = after;
    assert_eq!(before.leases.get(&[1; 16]).unwrap().ends, lease.ends);
    assert_eq!(before.present(1, &signed), Ok(false));
    assert_eq!(before.present(2, &ended), Err(LeaseRefusal::Replayed));
    let later = before.now + Duration::from_secs(600);
    assert_eq!(before.leases.forget_expired(later), [[2; 16]]);
}
