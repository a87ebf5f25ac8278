//! The real daemon: from an MSYN to its answer, in silence and while others flood its ports.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use wire::Flags;
use wire::keys::MacKey;
use wire::segment::Segment;
use wire::tuple::{Endpoint, Tuple};

use crate::desk::Desk;
use crate::place::until;
use crate::world::{World, msyn};

/// Microseconds.
pub struct Times {
    /// From the second end's MSYN to both MSYN-ACKs.
    pub answered: Vec<f64>,
    /// From the second end's MSYN to the first byte that was passed on.
    pub relayed: Vec<f64>,
    /// Packets a second that were dropped meanwhile.
    pub dropped: f64,
    /// Of the handshakes, those that had to be repeated.
    pub repeated: usize,
}

/// What comes beside the handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    Nothing,
    /// Plain SYNs to all ports from everywhere.
    Syns,
    /// MSYNs with wrong MACs to a port that is somebody's.
    Msyns,
}

/// So many handshakes, one after the other.
pub fn measure(handshakes: usize, flood: Flood) -> Times {
    let mut world = World::plug("near", &["198.51.100.1/24"], &["default"]);
    let mut desk = Desk::open("log = \"error\"\n[limits]\nconnections_of_agent = 100000\n");
    let agent = |number: usize, leg: usize| {
        let at = 0xc633_6500u32 + (number as u32 % 200) * 256 + 1 + leg as u32;
        Endpoint::new(IpAddr::from(at.to_be_bytes()), 2000 + (number / 200) as u16)
    };
    let victim = desk.ticket(255);
    let victim = desk.lease(255, &victim)[0];
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let flooding = (flood != Flood::Nothing).then(|| {
        let frames: Vec<Vec<u8>> = (0..1024u32)
            .map(|number| {
                let from = Endpoint::new(
                    IpAddr::from((0x0909_0000 + number).to_be_bytes()),
                    1024 + number as u16,
                );
                let to = Endpoint::new(victim.address, 20_000 + (number % 10_000) as u16);
                let segment = match flood {
                    Flood::Msyns => msyn(from, victim, number + 2, &MacKey::new([3; 16])),
                    _ => Segment::bare(Tuple::new(from, to), Flags::SYN, number, 0, 1000),
                };
                World::frame(&segment.emit().expect("a packet"))
            })
            .collect();
        let (socket, stop, sent) = (world.another_sender(), Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for frame in &frames {
                    if socket.send(frame).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        })
    });
    let began = Instant::now();
    let mut times = Times {
        answered: Vec::new(),
        relayed: Vec::new(),
        dropped: 0.0,
        repeated: 0,
    };
    for number in 0..handshakes {
        let (at, keys) = desk.lease_number(number as u32);
        let from = [agent(number, 0), agent(number, 1)];
        world.send(&msyn(from[0], at[0], 2, &keys[0].to_proxy()));
        let second = msyn(from[1], at[1], 3, &keys[1].to_proxy());
        let asked = Instant::now();
        let mut again = asked;
        world.send(&second);
        let mut heard = [false; 2];
        until("both answers", || {
            while heard != [true; 2] {
                match world.next() {
                    Some(segment) => {
                        for leg in 0..2 {
                            heard[leg] |= segment.tuple().remote == from[leg];
                        }
                    }
                    None => {
                        if again.elapsed() > Duration::from_millis(200) {
                            again = Instant::now();
                            times.repeated += 1;
                            world.send(&msyn(from[0], at[0], 2, &keys[0].to_proxy()));
                            world.send(&second);
                        }
                        return None;
                    }
                }
            }
            Some(())
        });
        times.answered.push(asked.elapsed().as_secs_f64() * 1e6);
        let mut first = Segment::bare(Tuple::new(from[0], at[0]), Flags::ACK, 1, 1, 1);
        first.payload = vec![1];
        world.send(&first);
        until("the first byte", || {
            let segment = world.next()?;
            (segment.payload.len() == 1 && segment.tuple().remote == from[1]).then_some(())
        });
        times.relayed.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    stop.store(true, Ordering::Relaxed);
    let elapsed = began.elapsed().as_secs_f64();
    if let Some(flooding) = flooding {
        flooding.join().expect("it floods");
    }
    times.dropped = sent.load(Ordering::Relaxed) as f64 / elapsed;
    times
}
