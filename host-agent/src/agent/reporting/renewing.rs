//! Reports that are made anew although nothing has changed here: because a person asks for it, because a server has
//! forgotten them, or because it has heard a higher number than theirs.

use super::*;

/// While a direct path is wished for, the NAPT is looked at anew after this time, for it may behave better by now ...
const WISH_FIRST: Duration = Duration::from_secs(60);
/// ... and then after twice as long each time, up to this.
const WISH_LAST: Duration = Duration::from_secs(10 * 60);
/// What resumes by itself within this time is not reported again: a peer that withdraws its report has often
/// resumed, and its last word to us is still on its way.
const RENEW_AFTER: Duration = Duration::from_millis(500);
/// A pair is not reported again on the word of servers more often: one that refuses everything is not flooded.
const RENEW_EVERY: Duration = Duration::from_secs(2);

impl<D: Datapath> Agent<D> {
    /// `host-agent report`: every report in force is made anew, over streams that are made anew.
    pub fn report_again(&mut self, now: Timestamp) -> usize {
        let mut renewed = 0;
        self.reporting.wanted.round += 1;
        self.reporting.wished = Some((now, WISH_FIRST));
        for trouble in self.reporting.troubles.values_mut() {
            renewed += usize::from(trouble.report.take().is_some());
        }
        self.review_reports(now);
        renewed
    }

    /// A server has forgotten the report of this pair: if it still waits it is told again.
    pub(in crate::agent) fn report_forgotten(&mut self, id: Uuid, now: Timestamp) {
        if self.renew_soon(id, now) {
            self.timeline.count("report_forgotten");
        }
    }

    /// A report in force is made anew after a while. Whether there is one.
    pub(super) fn renew_soon(&mut self, id: Uuid, now: Timestamp) -> bool {
        let trouble = self.reporting.troubles.get_mut(&id);
        let Some(trouble) = trouble.filter(|trouble| trouble.report.is_some()) else {
            return false;
        };
        let last = trouble.renewed.map_or(now, |at| at + RENEW_EVERY);
        trouble.renew_at.get_or_insert(last.max(now + RENEW_AFTER));
        true
    }

    /// A server has heard a higher number in our name than that of the report of this pair: a state directory was
    /// lost while the clock was behind. The next numbers are above it, and the report is made anew.
    ///
    /// `newest`: the number it has heard, or 0 if it does not say.
    pub(in crate::agent) fn report_stale(&mut self, id: Uuid, newest: u64, now: Timestamp) {
        self.timeline.count("report_stale");
        let Some(current) = self.reporting.report_of(&id).map(|report| report.move_counter) else {
            return;
        };
        // It is about an older report that was on its way.
        if newest != 0 && newest < current {
            return;
        }
        self.reporting.counter.pass(newest);
        self.report_forgotten(id, now);
    }

    /// Wishes that have not come true are said again now and then.
    pub(super) fn wish_again(&mut self, now: Timestamp) {
        let wishes = |trouble: &Trouble| {
            let report = trouble.report.as_ref();
            report.is_some_and(|(report, ..)| report.relayed() == said::mobility_report::Relayed::Works)
        };
        if !self.reporting.troubles.values().any(wishes) {
            self.reporting.wished = None;
            return;
        }
        let (since, wait) = *self.reporting.wished.get_or_insert((now, WISH_FIRST));
        if now.since(since) < wait {
            return;
        }
        self.reporting.wished = Some((now, (wait * 2).min(WISH_LAST)));
        self.reporting.wanted.round += 1;
        let wishing = self
            .reporting
            .troubles
            .values_mut()
            .filter(|trouble| wishes(trouble));
        wishing.for_each(|trouble| trouble.report = None);
    }

    /// What was to be renewed about now counts as unreported.
    pub(super) fn renew_due(&mut self, now: Timestamp) {
        for trouble in self.reporting.troubles.values_mut() {
            if trouble.renew_at.is_some_and(|at| at <= now) {
                trouble.renew_at = None;
                trouble.renewed = Some(now);
                trouble.report = None;
            }
        }
    }
}
