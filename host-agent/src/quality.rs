//! How good the ways out are, judged by the sockets that use them.
//!
//! Pure: once a second come the sums of what the connections on one local address have sent, sent again and measured;
//! out comes whether that address should be left. It takes several bad seconds in a row to condemn a way, and one that
//! was condemned is not chosen again for a while, however good the others look: connections must not swing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use migration::Timestamp;

/// Bad seconds in a row that condemn a way.
const BAD_SECONDS: u32 = 3;
/// Segments in a second below which their loss says nothing.
const FEWEST_SEGMENTS: u32 = 10;

/// From where on a way is bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Part of the segments that had to be sent again, 0 to 1; 0: any loss is borne.
    pub loss: f64,
    /// Smoothed round-trip time; zero: any is borne.
    pub rtt: Duration,
    /// How long a way that was condemned is not chosen again.
    pub hold: Duration,
}

impl Limits {
    /// Whether anything is to be measured.
    pub fn any(&self) -> bool {
        self.loss > 0.0 || !self.rtt.is_zero()
    }
}

/// What the connections on one local address did in a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Segments with data that left, those sent again among them.
    pub sent: u32,
    /// Segments sent again.
    pub again: u32,
    /// Smoothed round-trip times of those that sent anything.
    pub rtts: Vec<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Way {
    bad: u32,
    condemned: Option<Timestamp>,
}

/// The verdicts.
#[derive(Debug, Default)]
pub struct Quality {
    ways: HashMap<IpAddr, Way>,
}

impl Quality {
    /// Takes one second of one local address; true: it should be left now.
    pub fn second(&mut self, address: IpAddr, mut second: Second, limits: &Limits, now: Timestamp) -> bool {
        let way = self.ways.entry(address).or_default();
        second.rtts.sort();
        let median = second.rtts.get(second.rtts.len() / 2);
        let measured = second.sent >= FEWEST_SEGMENTS;
        let lossy =
            limits.loss > 0.0 && measured && f64::from(second.again) > limits.loss * f64::from(second.sent);
        let slow = !limits.rtt.is_zero() && median.is_some_and(|rtt| *rtt > limits.rtt);
        // A second in which nothing was sent says nothing.
        if lossy || slow {
            way.bad += 1;
        } else if second.sent > 0 {
            way.bad = 0;
        }
        if way.bad < BAD_SECONDS {
            return false;
        }
        way.bad = 0;
        way.condemned = Some(now);
        true
    }

    /// Whether connections may be moved to this address.
    pub fn may_choose(&self, address: IpAddr, limits: &Limits, now: Timestamp) -> bool {
        let condemned = self.ways.get(&address).and_then(|way| way.condemned);
        condemned.is_none_or(|at| now.since(at) >= limits.hold)
    }

    /// The address is another network's now, or gone.
    pub fn forget(&mut self, address: IpAddr) {
        self.ways.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        loss: 0.1,
        rtt: Duration::from_millis(300),
        hold: Duration::from_secs(60),
    };
    const WIFI: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn second(sent: u32, again: u32, rtt: u64) -> Second {
        Second {
            sent,
            again,
            rtts: vec![Duration::from_millis(rtt)],
        }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn three_lossy_seconds_in_a_row_condemn_a_way_and_a_good_one_between_saves_it() {
        let mut quality = Quality::default();
        let lossy = || second(100, 20, 10);
        for (number, (what, left)) in [
            (lossy(), false),
            (lossy(), false),
            (second(100, 1, 10), false),
            (lossy(), false),
            (Second::default(), false),
            (lossy(), false),
            (lossy(), true),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(
                quality.second(WIFI, what, &LIMITS, at(number as u64)),
                left,
                "{number}"
            );
        }
    }

    #[test]
    fn a_long_round_trip_condemns_and_few_segments_say_nothing_of_loss() {
        let mut quality = Quality::default();
        for number in 0..10 {
            assert!(!quality.second(WIFI, second(9, 8, 10), &LIMITS, at(number)));
        }
        let verdicts = [10, 11, 12].map(|time| quality.second(WIFI, second(1, 0, 400), &LIMITS, at(time)));
        assert_eq!(verdicts, [false, false, true]);
    }

    #[test]
    fn a_condemned_way_is_not_chosen_again_for_a_while() {
        let mut quality = Quality::default();
        for time in 0..3 {
            quality.second(WIFI, second(100, 50, 10), &LIMITS, at(time));
        }
        assert!(!quality.may_choose(WIFI, &LIMITS, at(3)));
        assert!(!quality.may_choose(WIFI, &LIMITS, at(61)));
        assert!(quality.may_choose(WIFI, &LIMITS, at(62)));
    }

    #[test]
    fn limits_of_zero_measure_nothing() {
        let none = Limits {
            loss: 0.0,
            rtt: Duration::ZERO,
            ..LIMITS
        };
        assert!(!none.any());
        let mut quality = Quality::default();
        assert!((0..9).all(|time| !quality.second(WIFI, second(100, 100, 9000), &none, at(time))));
    }
}
