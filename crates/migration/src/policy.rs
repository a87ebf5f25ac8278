//! Policy: every number that could as well be another.

use std::time::Duration;

/// How patient and how insistent a machine is. All fields are durations unless they count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// From the first MSYN to its first repetition.
    pub msyn_rto: Duration,
    /// From the first MSYN of an attempt that crosses one of the peer's, which need not get far, to the second.
    pub crossing: Duration,
    /// Longest time between two MSYNs of an attempt while it is in MigSent.
    pub msyn_rto_max: Duration,
    /// Places of the peer that one attempt tries; the last ones are left out.
    pub max_candidates: usize,
    /// MSYNs to one candidate before the next one, when there are several.
    pub tries_per_candidate: u32,
    /// MSYNs of an attempt before the connection goes to MigWait.
    pub msyn_tries: u32,
    /// Between two MSYNs in MigWait, so that an outage at the far end heals without another event.
    pub slow_retry: Duration,
    /// MSYNs of an attempt before it is renewed because the peer has used a higher number meanwhile.
    pub overtaken_tries: u32,
    /// Further MSYNs of an attempt that nobody answers, between two times that it is renewed for that.
    pub unanswered_tries: u32,
    /// Spread of every MSYN timer, in percent of it to either side: fixed intervals livelock crossed attempts.
    pub jitter_percent: u32,
    /// Attempts of ours under way at once; the oldest gives way, but one to where the peer was last stays.
    pub max_attempts: usize,
    /// Answers to the peer's attempts kept at once; the oldest gives way.
    pub max_answered: usize,
    /// An answered attempt is forgotten after this many retransmission timeouts ...
    pub answered_rtos: u32,
    /// ... but not before this ...
    pub answered_min: Duration,
    /// ... and not after this.
    pub answered_max: Duration,
    /// From the first Migrate-Ack to its first repetition; doubles up to [`Policy::msyn_rto_max`].
    pub migrate_ack_rto: Duration,
    /// From this repetition on the MSYN is repeated too: the peer has forgotten its answer.
    pub migrate_acks_alone: u32,
    /// Migrate-Acks before the attempt is renewed under a higher number.
    pub migrate_ack_tries: u32,
    /// How long a connection waits in MigWait or Suspect before it is reset.
    pub mig_wait: Duration,
    /// Tuples that linger at once; the oldest gives way.
    pub max_lingering: usize,
    /// How long a tuple that is no longer the wire tuple is heard, and a closed connection translated.
    pub linger: Duration,
    /// When the peer's agent has not said whose RST it is, the peer itself is probed after this.
    pub reset_probe: Duration,
    /// When nobody has said whose RST it is, it is delivered after this.
    pub reset_deadline: Duration,
    /// How often a Migrate-Reset is sent.
    pub migrate_reset_tries: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            msyn_rto: Duration::from_millis(250),
            crossing: Duration::from_millis(60),
            msyn_rto_max: Duration::from_secs(3),
            max_candidates: 4,
            tries_per_candidate: 2,
            msyn_tries: 6,
            slow_retry: Duration::from_secs(5),
            overtaken_tries: 3,
            unanswered_tries: 4,
            jitter_percent: 25,
            max_attempts: 4,
            max_answered: 4,
            answered_rtos: 3,
            answered_min: Duration::from_secs(1),
            answered_max: Duration::from_secs(10),
            migrate_ack_rto: Duration::from_millis(250),
            migrate_acks_alone: 3,
            migrate_ack_tries: 6,
            mig_wait: Duration::from_secs(15 * 60),
            max_lingering: 8,
            linger: Duration::from_secs(60),
            reset_probe: Duration::from_secs(1),
            reset_deadline: Duration::from_secs(3),
            migrate_reset_tries: 3,
        }
    }
}

impl Policy {
    /// The time from try number `tries` (1 is the first) to the next: doubled each time, capped, jittered by
    /// `random`.
    pub fn msyn_backoff(&self, tries: u32, random: u64) -> Duration {
        self.jittered(doubled(self.msyn_rto, tries, self.msyn_rto_max), tries, random)
    }

    /// The time from the first MSYN of a crossing attempt to the second, jittered by `random`.
    pub fn crossing_pause(&self, random: u64) -> Duration {
        self.jittered(self.crossing, 1, random)
    }

    /// The time between two tries in MigWait, jittered by `random`.
    pub fn slow_backoff(&self, tries: u32, random: u64) -> Duration {
        self.jittered(self.slow_retry, tries, random)
    }

    /// The time from Migrate-Ack number `tries` (1 is the first) to the next.
    pub fn migrate_ack_backoff(&self, tries: u32) -> Duration {
        doubled(self.migrate_ack_rto, tries, self.msyn_rto_max)
    }

    /// How long an answer waits for its Migrate-Ack on a connection with this retransmission timeout.
    pub fn answered_lifetime(&self, rto: Duration) -> Duration {
        rto.saturating_mul(self.answered_rtos)
            .clamp(self.answered_min, self.answered_max)
    }

    /// How long the keys of a connection that ended in disorder are kept: as long as the peer may wait for it.
    pub fn tombstone(&self) -> Duration {
        self.mig_wait + self.linger
    }

    fn jittered(&self, base: Duration, tries: u32, random: u64) -> Duration {
        // One number per attempt gives every try its own bits (the finaliser of splitmix64).
        let mut bits = random ^ u64::from(tries).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let spread = base.as_millis() as u64 * u64::from(self.jitter_percent.min(100)) / 100;
        let shift = if spread == 0 { 0 } else { bits % (2 * spread + 1) };
        base.saturating_sub(Duration::from_millis(spread)) + Duration::from_millis(shift)
    }
}

fn doubled(first: Duration, tries: u32, cap: Duration) -> Duration {
    first
        .saturating_mul(1 << tries.saturating_sub(1).min(16))
        .min(cap)
}
