//! Ways out that still work, and whether connections should leave them: when the default route comes to lead
//! elsewhere, and when a way degrades.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use datapath::Datapath;
use migration::Timestamp;
use wire::tuple::Tuple;

use super::*;
use crate::quality::Second;

/// How often ways are judged.
const SECOND: Duration = Duration::from_secs(1);
/// Sockets that are read in a second at most; with more connections each has its turn.
const MOST_SAMPLES: usize = 256;
/// How long routes must have been quiet before connections follow them.
const QUIET: Duration = Duration::from_millis(300);

/// What connections do when the default route leads elsewhere and their own way still works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Prefer {
    /// They stay on their own way until it breaks.
    #[default]
    Own,
    /// They move to the way that new connections take.
    DefaultRoute,
}

/// What a socket had sent when it was read last.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Segments with data, those sent again among them.
    pub segments: u32,
    /// Segments sent again.
    pub again: u32,
}

impl<D: Datapath> Agent<D> {
    /// The connections with a way of their own, by local address and peer.
    pub fn flows(&self) -> HashMap<(IpAddr, IpAddr), Vec<Tuple>> {
        let mut flows: HashMap<_, Vec<Tuple>> = HashMap::new();
        for managed in self.sessions.values().filter(|managed| managed.is_live()) {
            let wire = managed.machine.wire();
            if !managed.machine.is_parked() && managed.machine.attempts().is_empty() {
                let ends = (wire.local.address, wire.remote.address);
                flows.entry(ends).or_default().push(managed.identity);
            }
        }
        flows
    }

    /// Keeps a connection that has never moved on the device of its address, whatever the routing table says; one
    /// that has moved stays there anyway.
    pub fn pin(&mut self, identity: Tuple, pinned: bool) {
        let Some(managed) = self.sessions.get_mut(&identity) else {
            return;
        };
        if std::mem::replace(&mut managed.pinned, pinned) != pinned {
            self.settle(identity);
        }
    }

    /// Routes have changed; connections that prefer the default route follow it when it is quiet.
    pub(super) fn routes_changed(&mut self, now: Timestamp) {
        self.effects.push(Effect::ReviewRoutes { follow: false });
        if self.prefer == Prefer::DefaultRoute {
            self.follow_at = Some(now + QUIET);
        }
    }

    /// What is due of all this.
    pub(super) fn look_at_paths(&mut self, now: Timestamp) {
        if self.follow_at.take_if(|at| *at <= now).is_some() {
            self.effects.push(Effect::ReviewRoutes { follow: true });
        }
        if self.limits.any() && self.judged_at.is_none_or(|at| now.since(at) >= SECOND) {
            self.judged_at = Some(now);
            self.judge_paths(now);
        }
    }

    fn judge_paths(&mut self, now: Timestamp) {
        let mut live: Vec<Tuple> = self
            .sessions
            .values()
            .filter(|managed| managed.is_live() && !managed.machine.is_parked())
            .map(|managed| managed.identity)
            .collect();
        live.sort_by_key(|identity| self.sessions[identity].sampled_at);
        let mut seconds: HashMap<IpAddr, Second> = HashMap::new();
        for identity in live.into_iter().take(MOST_SAMPLES) {
            let Ok(Some(tcp)) = self.datapath.read_tcp(&identity) else {
                continue;
            };
            let Some(managed) = self.sessions.get_mut(&identity) else {
                continue;
            };
            managed.sampled_at = Some(now);
            let local = managed.machine.wire().local.address;
            let sent = Sent {
                segments: tcp.data_segments_out,
                again: tcp.retransmitted,
            };
            // What it did on another way is not this one's.
            let before = managed.sent.replace((local, sent));
            let Some((_, before)) = before.filter(|(address, _)| *address == local) else {
                continue;
            };
            let second = seconds.entry(local).or_default();
            let segments = sent.segments.wrapping_sub(before.segments);
            second.sent += segments;
            second.again += sent.again.wrapping_sub(before.again);
            if segments > 0 && !tcp.rtt.is_zero() {
                second.rtts.push(tcp.rtt);
            }
        }
        for (address, second) in seconds {
            let (sent, again) = (second.sent, second.again);
            if self.quality.second(address, second, &self.limits, now) {
                tracing::info!(%address, sent, again, "the path is worse than it may be");
                let said =
                    format!("{address}: {again} of {sent} segments in the last second were repetitions");
                self.timeline.note("", "path_degraded", said);
                self.effects.push(Effect::LeavePath(address));
            }
        }
    }
}
