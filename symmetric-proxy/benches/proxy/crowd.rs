//! So many connections at once at the real daemon: every one with its ticket, its port and two MSYNs.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use wire::Flags;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::desk::Desk;
use crate::place::until;
use crate::world::{World, msyn};

/// Leases that are asked for, and connections that knock, without waiting for the first answer.
const AT_ONCE: usize = 256;
/// Of the proxy; half a million connections have room there.
const ADDRESSES: u8 = 10;
const PORTS: (u16, u16) = (9000, 63_999);
/// An answer that has not come by then is asked for again.
const REPEAT: Duration = Duration::from_millis(500);

/// What it took.
pub struct Crowd {
    /// Seconds until all had a port, and from then on until all were relayed; batch by batch.
    pub leased: f64,
    pub relayed: f64,
    /// MSYNs that were sent again.
    pub repeated: usize,
    /// Bytes of the daemon with all of them, and without any; and of its maps.
    pub daemon: [u64; 2],
    pub maps: [u64; 2],
    /// Seconds from the start of the next daemon, after a SIGKILL, until it knew all of them.
    pub adopted: f64,
}

/// One connection: where its ends are, and where they knock.
struct Relayed {
    from: [Endpoint; 2],
    at: [Endpoint; 2],
}

/// So many connections, relayed at once. The bytes of a few of them pass at the end.
///
/// # Panics
/// One of them is refused, lost or forgotten.
pub fn measure(connections: usize) -> Crowd {
    let addresses: Vec<String> = (1..=ADDRESSES)
        .map(|last| format!("198.51.100.{last}/24"))
        .collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = World::plug("near", &addresses, &["default"]);
    let mut desk = Desk::open(&format!(
        "log = \"error\"\nports = [{}, {}]\n[limits]\nconnections_of_agent = 1000000\n",
        PORTS.0, PORTS.1
    ));
    let empty = (desk.resident(), desk.maps());
    let agent = |number: usize, leg: usize| {
        let at = 0x0900_0000u32 + (number as u32) * 2 + leg as u32;
        Endpoint::new(IpAddr::from(at.to_be_bytes()), 4000)
    };
    let mut all: Vec<Relayed> = Vec::with_capacity(connections);
    let (mut leased, mut relayed, mut repeated) = (Duration::ZERO, Duration::ZERO, 0);
    for first in (0..connections).step_by(AT_ONCE) {
        let which = first..(first + AT_ONCE).min(connections);
        let began = Instant::now();
        let ends = desk.lease_many(which.start as u32..which.end as u32);
        leased += began.elapsed();
        for (number, at) in which.clone().zip(ends) {
            let from = [0, 1].map(|leg| agent(number, leg));
            all.push(Relayed { from, at });
        }
        // A ticket is worth nothing after two minutes: nobody waits until all have one.
        let began = Instant::now();
        repeated += knock(&mut world, &desk, &all, which);
        relayed += began.elapsed();
    }
    let whole = |desk: &Desk| {
        desk.status("all are relayed", |status| status["relayed"] == connections);
    };
    whole(&desk);
    let full = (desk.resident(), desk.maps());
    desk.end(Signal::SIGKILL);
    let began = Instant::now();
    desk.start();
    whole(&desk);
    let adopted = began.elapsed().as_secs_f64();
    for one in all.iter().step_by((connections / 100).max(1)) {
        let mut segment = Segment::bare(Tuple::new(one.from[0], one.at[0]), Flags::ACK, 1, 1, 1);
        segment.payload = vec![1; 77];
        world.send(&segment);
        until("a segment on one of them", || {
            let heard = world.next()?;
            (heard.payload.len() == 77 && heard.tuple().remote == one.from[1]).then_some(())
        });
    }
    Crowd {
        leased: leased.as_secs_f64(),
        relayed: relayed.as_secs_f64(),
        repeated,
        daemon: [empty.0, full.0],
        maps: [empty.1, full.1],
        adopted,
    }
}

/// Both ends of each of these send their MSYN, until all are answered; how many had to be repeated.
fn knock(world: &mut World, desk: &Desk, all: &[Relayed], which: std::ops::Range<usize>) -> usize {
    let mut waiting = std::collections::HashMap::new();
    let what = format!("answers to {which:?}");
    for number in which {
        let keys = desk.keys_of_number(number as u32);
        for (leg, keys) in keys.iter().enumerate() {
            let (from, at) = (all[number].from[leg], all[number].at[leg]);
            let segment = msyn(from, at, 2 + leg as u32, &keys.to_proxy());
            world.send(&segment);
            waiting.insert(from, segment);
        }
    }
    let (mut repeated, mut since) = (0, Instant::now());
    until(&what, || {
        while let Some(heard) = world.next() {
            waiting.remove(&heard.tuple().remote);
            if waiting.is_empty() {
                return Some(());
            }
        }
        if since.elapsed() > REPEAT {
            since = Instant::now();
            repeated += waiting.len();
            waiting.values().for_each(|segment| world.send(segment));
        }
        None
    });
    repeated
}
