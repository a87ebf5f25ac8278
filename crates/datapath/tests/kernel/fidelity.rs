//! The fake against the programs: whatever is written and whatever arrives, both decide, count and tell the same.

use std::collections::BTreeMap;
use std::time::Duration;

use datapath::event::Heard;
use datapath::fake::{FakeDatapath, Verdict};
use datapath::{Arrival, ArrivalState, Datapath, Event, KernelDatapath, Path, SessionFlags};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{SeedableRng, random};
use wire::flags::Flags;
use wire::handshake::{Standing, SynOptions};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

use crate::place::{Host, isolated};
use crate::sockets::session;

/// Index of the loopback device, on which test frames arrive.
const IFINDEX: u32 = 1;

/// Few of everything, so that what arrives often fits what was written.
struct Chance {
    random: StdRng,
    tuples: Vec<Tuple>,
    keys: Vec<MacKey>,
}

impl Chance {
    fn new(seed: u64) -> Self {
        let v4 = |last: u8| Endpoint::new([192, 0, 2, last].into(), 1000 + u16::from(last % 2));
        let v6 = |last: u16| Endpoint::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into(), 1000);
        let mut tuples: Vec<Tuple> = (1..3).map(|last| Tuple::new(v4(last), v4(100))).collect();
        tuples.push(Tuple::new(v6(1), v6(2)));
        Self {
            random: StdRng::seed_from_u64(seed),
            tuples,
            keys: (1..3).map(|n| MacKey::new([n; 16])).collect(),
        }
    }

    fn tuple(&mut self) -> Tuple {
        *self.tuples.choose(&mut self.random).expect("tuples")
    }

    fn key(&mut self) -> MacKey {
        self.keys.choose(&mut self.random).expect("keys").clone()
    }

    fn small(&mut self) -> u32 {
        self.random.random_range(0..3)
    }

    fn arrival(&mut self) -> Arrival {
        let states = [
            ArrivalState::Attempted,
            ArrivalState::Answered,
            ArrivalState::Answered,
            ArrivalState::Committed,
            ArrivalState::Linger,
        ];
        Arrival {
            identity: self.tuple(),
            path: Path {
                ifindex: self.small(),
                next_hop: None,
            },
            req_no: ReqNo(self.small()),
            state: *states.choose(&mut self.random).expect("states"),
            expect_seq: self.small() % 2,
            expect_ack: self.small() % 2,
            confirm: self.random.random(),
        }
    }

    /// Something that arrives: a request, signed by somebody, or any other segment. `begin`: also plain SYNs, which on
    /// a tuple that a connection has left begin something that lasts.
    fn segment(&mut self, begin: bool) -> Segment {
        let tuple = self.tuple().reversed();
        let (seq, ack) = (self.small() % 2, self.small() % 2);
        if self.random.random() {
            let flags = [
                Flags::ACK,
                Flags::RST,
                Flags::SYN | Flags::ACK,
                Flags::RST | Flags::ACK,
            ];
            let flags = match self.random.random_range(0..40) {
                0 if begin => Flags::SYN,
                _ => *flags.choose(&mut self.random).expect("flags"),
            };
            let mut plain = Segment::bare(tuple, flags, seq, ack, 512);
            plain.payload = vec![7; self.small() as usize];
            return plain;
        }
        let standing = Standing {
            token: Token(self.small()),
            req_no: ReqNo(self.small()),
            seq,
            rcv_nxt: self.small(),
            window: 512,
        };
        let syn = SynOptions {
            window_scale: 7,
            mss: 1460,
        };
        let mut request = match self.random.random_range(0..8) {
            0 => Segment::msyn(tuple, standing, syn),
            1 => Segment::msyn_ack(tuple, standing, ack, syn),
            2 => Segment::migrate_reset(tuple, standing, ack),
            3 => Segment::query(tuple, standing, ack),
            _ => Segment::migrate_ack(tuple, standing, ack),
        };
        // One in six is a stranger's.
        let key = match self.random.random_range(0..6) {
            0 => MacKey::new([9; 16]),
            _ => self.key(),
        };
        request.sign(&key, ReqNo::UNMOVED).expect("it carries a request");
        request
    }

    /// One write of the agent.
    fn write(&mut self, datapath: &mut impl Datapath, what: u32) {
        let (tuple, other) = (self.tuple(), self.tuple());
        let (token, req_no) = (Token(self.small() % 2), ReqNo(self.small()));
        let path = Path {
            ifindex: self.small(),
            next_hop: None,
        };
        match what {
            0 => {
                let held = SessionFlags {
                    hold_reset: self.random.random(),
                    ..SessionFlags::default()
                };
                datapath.put_session(&tuple, &session(held)).expect("room");
            }
            1 => datapath.remove_session(&tuple),
            2 | 12..=14 => drop(datapath.put_token(token, &tuple, &self.key(), req_no.0)),
            3 => datapath.remove_token(token, &tuple),
            4..=6 | 15..=18 => datapath.put_arrival(&tuple, &self.arrival()).expect("room"),
            7 => datapath.remove_arrival(&tuple, &other),
            8 => datapath.commit(&tuple, &other, &path, req_no).expect("room"),
            9 => datapath.park(&tuple, &other, req_no).expect("room"),
            10 => datapath.remove_wire(&tuple),
            _ => datapath
                .set_load(u32::from(req_no.0 > 0), u32::from(req_no.0 > 1))
                .expect("a write"),
        }
    }
}

/// What both can know.
fn without_time(event: Event) -> Event {
    let heard = |heard: Heard| Heard { time_ns: 0, ..heard };
    match event {
        Event::Segment(kind, of) => Event::Segment(kind, heard(of)),
        Event::Committed { heard: of, again } => Event::Committed {
            heard: heard(of),
            again,
        },
        other => other,
    }
}

fn told(datapath: &mut impl Datapath) -> Vec<Event> {
    datapath.events().into_iter().map(without_time).collect()
}

fn arrives_at_kernel(datapath: &KernelDatapath, segment: &Segment) -> u32 {
    let packet = segment.emit().expect("a segment");
    let protocol: &[u8] = if segment.tuple().is_ipv4() {
        &[8, 0]
    } else {
        &[0x86, 0xdd]
    };
    let frame = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], protocol, &packet].concat();
    datapath.run_ingress(&frame).expect("a verdict")
}

/// The verdict of a tc program.
fn number(verdict: &Verdict) -> u32 {
    match verdict {
        Verdict::Passed => 0,
        Verdict::Stolen | Verdict::Held | Verdict::Dropped => 2,
        Verdict::HandedIn(_) => 7,
    }
}

#[test]
fn the_fake_decides_counts_and_tells_as_the_programs_do() {
    isolated(|| {
        let seed: u64 = std::env::var("SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(random);
        let host = Host::first();
        host.enter();
        let hour = Duration::from_secs(3600);
        let options = datapath::Options {
            heartbeat_limit: hour,
            ..host.options()
        };
        let mut kernel = KernelDatapath::open(&options).expect("the data path loads");
        let mut fake = FakeDatapath::new();
        fake.heartbeat_limit = hour;
        let mut chance = Chance::new(seed);
        for step in 0..40_000 {
            let what = format!("step {step} of SEED={seed}");
            if chance.random.random_range(0..3) == 0 {
                // Both get the same write.
                let (again, kind) = (chance.random.clone(), chance.random.random_range(0..19));
                chance.random = again.clone();
                chance.write(&mut kernel, kind);
                chance.random = again;
                chance.write(&mut fake, kind);
                chance.random.random::<u64>();
                continue;
            }
            // Strangers are dropped in the first half: once one has begun something, its tuple is its own.
            let segment = chance.segment(step > 20_000);
            let verdict = fake.arrive(&segment, IFINDEX);
            assert_eq!(
                arrives_at_kernel(&kernel, &segment),
                number(&verdict),
                "{what}: {segment} {verdict:?}"
            );
            assert_eq!(told(&mut kernel), told(&mut fake), "{what}: {segment}");
        }
        let counters = kernel.counters();
        assert_eq!(counters, fake.counters(), "SEED={seed}");
        for tuple in chance.tuples {
            assert_eq!(kernel.wire(&tuple), fake.wire(&tuple), "SEED={seed}");
            assert_eq!(kernel.arrival(&tuple), fake.arrival(&tuple), "SEED={seed}");
        }
        // Every way through was taken.
        let counters: BTreeMap<&str, u64> = counters.into_iter().collect();
        let reasons = [
            "stolen",
            "unknown_token",
            "bad_mac",
            "stale_ack",
            "committed",
            "stranger_dropped",
        ];
        for name in reasons
            .into_iter()
            .chain(["unproven_dropped", "reset_held", "translated_in"])
        {
            assert!(counters[name] > 4, "{name}: {counters:?}");
        }
        assert!(counters["stranger_shadowed"] > 0, "{counters:?}");
    });
}
