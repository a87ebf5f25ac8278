//! When which pair is due.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use migration::Timestamp;
use migration::server::PairKey;
use tokio::sync::Notify;

#[derive(Default)]
struct Dates {
    in_order: BTreeSet<(Timestamp, PairKey)>,
    of: HashMap<PairKey, Timestamp>,
}

/// One date for each pair, the earliest first.
#[derive(Default)]
pub struct Alarm {
    dates: Mutex<Dates>,
    changed: Notify,
}

impl Alarm {
    /// Sets a pair's date; an earlier or later one of the same pair no longer counts.
    pub fn set(&self, key: &PairKey, due: Timestamp) {
        let mut dates = self.dates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = dates.of.insert(key.clone(), due) {
            dates.in_order.remove(&(old, key.clone()));
        }
        dates.in_order.insert((due, key.clone()));
        let is_next = dates.in_order.first().is_some_and(|(_, next)| next == key);
        drop(dates);
        if is_next {
            self.changed.notify_one();
        }
    }

    /// Waits until a pair is due, and takes it out.
    pub async fn rings(&self, now: impl Fn() -> Timestamp) -> PairKey {
        loop {
            let next = {
                let mut dates = self.dates.lock().unwrap_or_else(PoisonError::into_inner);
                match dates.in_order.first() {
                    Some((due, _)) if *due <= now() => {
                        if let Some((_, key)) = dates.in_order.pop_first() {
                            dates.of.remove(&key);
                            return key;
                        }
                        None
                    }
                    first => first.map(|(due, _)| due.since(now())),
                }
            };
            match next {
                Some(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.changed.notified() => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }
}
