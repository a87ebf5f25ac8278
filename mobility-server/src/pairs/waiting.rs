//! How many reports are stored, without looking all pairs through.

use std::sync::atomic::{AtomicI64, Ordering};

use migration::server::PairRecord;
use session_store::StoreError;

use super::Pairs;

/// Reports in the store, as far as this instance has found or changed them: all, when it is the only one.
#[derive(Default)]
pub(super) struct Waiting(AtomicI64);

impl Waiting {
    /// A record was found, changed or removed.
    pub(super) fn count(&self, before: Option<&PairRecord>, after: Option<&PairRecord>) {
        let [before, after] = [before, after].map(|record| record.map_or(0, reports_in));
        self.0.fetch_add(after - before, Ordering::Relaxed);
    }
}

fn reports_in(record: &PairRecord) -> i64 {
    record.ends.iter().map(|end| i64::from(end.held.is_some())).sum()
}

impl Pairs {
    /// How many reports are stored. Of several instances on one store each looks all pairs through.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn waiting_reports(&self) -> Result<u64, StoreError> {
        if !self.is_shared() {
            let counted = self.waiting.0.load(Ordering::Relaxed);
            return Ok(u64::try_from(counted).unwrap_or_default());
        }
        let (mut count, mut after) = (0, None);
        loop {
            let (listed, next) = self.page(after).await?;
            count += listed.iter().map(|pair| reports_in(&pair.record)).sum::<i64>();
            match next {
                Some(next) => after = Some(next),
                None => return Ok(u64::try_from(count).unwrap_or_default()),
            }
        }
    }
}
