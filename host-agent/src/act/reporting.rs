//! What happened, for people.

use super::*;

impl<D: Datapath> Agent<D> {
    pub(super) fn report(&mut self, identity: Tuple, report: Report, now: Timestamp) {
        match report {
            Report::Changed { from, to } => {
                let Some(managed) = self.sessions.get_mut(&identity) else {
                    return;
                };
                let wire = managed.machine.wire();
                let resumed = matches!(from, State::MigSent | State::SynRecv | State::MigWait(_))
                    && !matches!(
                        to,
                        State::MigSent | State::SynRecv | State::MigWait(_) | State::Closed | State::Buried
                    );
                self.timeline.note(identity, "state", format!("{from} -> {to}"));
                tracing::debug!(connection = %identity, %from, %to, "state");
                if resumed {
                    self.tell_observed(identity);
                }
                if resumed && let Some(managed) = self.sessions.get_mut(&identity) {
                    managed.moves += 1;
                    let outage = managed
                        .last_outage
                        .or(managed.detached_at.map(|at| now.since(at)));
                    let took = managed.last_resumption;
                    let detail = format!(
                        "on {wire}{}{}",
                        took.map_or(String::new(), |took| format!(
                            ", {:.1} ms after the address",
                            took.as_secs_f64() * 1e3
                        )),
                        outage.map_or(String::new(), |outage| format!(
                            ", outage {:.2} s",
                            outage.as_secs_f64()
                        )),
                    );
                    self.timeline.note(identity, "resumed", detail.clone());
                    tracing::info!(connection = %identity, "resumed {detail}");
                }
            }
            Report::Unanswered { req_no } => {
                self.timeline
                    .note(identity, "unanswered", format!("number {}", req_no.0));
            }
            Report::Withdrawn { req_no } => {
                self.timeline
                    .note(identity, "withdrawn", format!("number {}", req_no.0));
            }
            Report::ResetUndecided => {
                self.timeline
                    .note(identity, "reset_undecided", "nobody answered for it: delivered");
                tracing::warn!(connection = %identity, "a reset was delivered that nobody answered for");
            }
            Report::TimedOut { reason } => {
                self.timeline.note(identity, "timed_out", reason.to_string());
                tracing::warn!(connection = %identity, %reason, "gave up: the connection is reset");
            }
            Report::PeerReset => self
                .timeline
                .note(identity, "peer_reset", "the peer's connection is gone"),
        }
    }
}
