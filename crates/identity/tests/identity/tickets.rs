//! Tickets: what a proxy honours, and what it does not.

use std::time::{Duration, SystemTime};

use crate::common::Deployment;
use identity::ticket::{LegKey, Ticket, TicketLeg, TicketRefusal, TicketVerifier};
use proptest::prelude::*;

const ME: &str = "spiffe://mobility/proxy/one";
const LEASE: [u8; 16] = [7; 16];

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn verifier(deployment: &Deployment) -> TicketVerifier {
    TicketVerifier::load(&deployment.dir.path().join("ca.pem")).unwrap()
}

fn ticket(deployment: &Deployment) -> Ticket {
    let leg = |agent: &str, expected: &str| TicketLeg {
        agent: agent.into(),
        expected: Some(expected.parse().unwrap()),
        key: deployment.authority.leg_key(&LEASE, agent),
    };
    Ticket {
        lease: LEASE,
        pair: [9; 16],
        label: 42,
        not_before: now() - Duration::from_secs(60),
        expires: now() + Duration::from_secs(60),
        legs: [
            leg("spiffe://mobility/agent/a", "192.0.2.1"),
            leg("spiffe://mobility/agent/b", "2001:db8::1"),
        ],
        proxy: ME.into(),
    }
}

#[test]
fn a_ticket_of_this_deployment_is_honoured_and_says_what_it_said() {
    let deployment = Deployment::new();
    let ticket = ticket(&deployment);
    let signed = deployment.authority.sign_ticket(&ticket).unwrap();
    let read = verifier(&deployment).verify(&signed.ticket, &signed.signature, ME, now());
    assert_eq!(read, Ok(ticket));
}

#[test]
fn a_ticket_of_another_deployment_is_forged() {
    let (ours, theirs) = (Deployment::new(), Deployment::new());
    let signed = theirs.authority.sign_ticket(&ticket(&ours)).unwrap();
    let read = verifier(&ours).verify(&signed.ticket, &signed.signature, ME, now());
    assert_eq!(read, Err(TicketRefusal::Forged));
}

#[test]
fn a_ticket_for_another_proxy_is_foreign() {
    let deployment = Deployment::new();
    let signed = deployment.authority.sign_ticket(&ticket(&deployment)).unwrap();
    let other = "spiffe://mobility/proxy/two";
    let read = verifier(&deployment).verify(&signed.ticket, &signed.signature, other, now());
    assert_eq!(read, Err(TicketRefusal::Foreign));
}

#[test]
fn a_ticket_has_its_time_and_clocks_may_differ_a_little() {
    let deployment = Deployment::new();
    let ticket = ticket(&deployment);
    let signed = deployment.authority.sign_ticket(&ticket).unwrap();
    let verifier = verifier(&deployment);
    let at = |time| {
        verifier
            .verify(&signed.ticket, &signed.signature, ME, time)
            .map(|_| ())
    };
    assert_eq!(at(ticket.expires + Duration::from_secs(29)), Ok(()));
    assert_eq!(
        at(ticket.expires + Duration::from_secs(31)),
        Err(TicketRefusal::Expired)
    );
    assert_eq!(at(ticket.not_before - Duration::from_secs(29)), Ok(()));
    assert_eq!(
        at(ticket.not_before - Duration::from_secs(31)),
        Err(TicketRefusal::NotYet)
    );
    assert_eq!(at(now() + Duration::from_secs(3600)), Err(TicketRefusal::Expired));
    assert_eq!(at(now() - Duration::from_secs(3600)), Err(TicketRefusal::NotYet));
}

#[test]
fn a_ticket_that_joins_an_agent_with_itself_or_lasts_too_long_is_none() {
    let deployment = Deployment::new();
    let mut alone = ticket(&deployment);
    alone.legs[1] = alone.legs[0].clone();
    let mut endless = ticket(&deployment);
    endless.expires = now() + Duration::from_secs(86_400);
    for wrong in [alone, endless] {
        let signed = deployment.authority.sign_ticket(&wrong).unwrap();
        let read = verifier(&deployment).verify(&signed.ticket, &signed.signature, ME, now());
        assert_eq!(read, Err(TicketRefusal::Malformed));
    }
}

#[test]
fn a_leg_key_is_the_same_from_every_server_and_another_for_every_agent_lease_and_deployment() {
    let deployment = Deployment::new();
    let again = identity::Authority::load(deployment.dir.path()).unwrap();
    let key = |lease: &[u8; 16], agent: &str| deployment.authority.leg_key(lease, agent);
    assert_eq!(key(&LEASE, "a"), again.leg_key(&LEASE, "a"));
    assert_ne!(key(&LEASE, "a"), key(&LEASE, "b"));
    assert_ne!(key(&LEASE, "a"), key(&[8; 16], "a"));
    assert_ne!(key(&LEASE, "a"), Deployment::new().authority.leg_key(&LEASE, "a"));
    let leg = key(&LEASE, "a");
    assert_ne!(leg.to_proxy().as_bytes(), leg.to_agent().as_bytes());
    assert_eq!(format!("{leg:?}"), "LegKey(..)");
    assert_eq!(LegKey::from_bytes(leg.as_bytes()), Some(leg));
    assert_eq!(LegKey::from_bytes(&[0; 31]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_ticket_that_was_changed_in_any_bit_is_forged(bit in 0_usize..8 * 400) {
        let deployment = Deployment::new();
        let mut signed = deployment.authority.sign_ticket(&ticket(&deployment)).unwrap();
        let length = signed.ticket.len();
        let bytes = if bit / 8 < length { &mut signed.ticket } else { &mut signed.signature };
        let at = if bit / 8 < length { bit / 8 } else { (bit / 8 - length) % bytes.len() };
        bytes[at] ^= 1 << (bit % 8);
        let read = verifier(&deployment).verify(&signed.ticket, &signed.signature, ME, now());
        prop_assert_eq!(read, Err(TicketRefusal::Forged));
    }
}
