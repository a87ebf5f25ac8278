//! What happened, as it happens.
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Seconds since the story began; what was prepared before is negative.
    pub time: f64,
    /// A host, link, NAPT or program, or `lab`.
    pub subject: String,
    pub event: String,
}

#[derive(Clone)]
pub struct Timeline(Arc<Mutex<Inner>>);

struct Inner {
    entries: Vec<Entry>,
    /// When the story begins: unknown while it is prepared.
    beginning: Option<Instant>,
    created: Instant,
    created_wall: SystemTime,
    print: bool,
    closed: bool,
}

impl Timeline {
    pub fn new(print: bool) -> Timeline {
        Timeline(Arc::new(Mutex::new(Inner {
            entries: Vec::new(),
            beginning: None,
            created: Instant::now(),
            created_wall: SystemTime::now(),
            print,
            closed: false,
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|held| held.into_inner())
    }

    /// The story begins now.
    pub fn begin(&self) {
        let mut inner = self.inner();
        if inner.beginning.is_none() {
            let preparation = inner.created.elapsed().as_secs_f64();
            inner
                .entries
                .iter_mut()
                .for_each(|entry| entry.time -= preparation);
            inner.beginning = Some(Instant::now());
        }
    }

    pub fn has_begun(&self) -> bool {
        self.inner().beginning.is_some()
    }

    /// Time since the story began.
    pub fn now(&self) -> Duration {
        self.inner()
            .beginning
            .map_or(Duration::ZERO, |beginning| beginning.elapsed())
    }

    pub fn note(&self, subject: &str, event: impl Into<String>) {
        let mut inner = self.inner();
        if inner.closed {
            return;
        }
        let event = event.into();
        let time = inner.beginning.unwrap_or(inner.created).elapsed().as_secs_f64();
        if inner.print {
            let clock = if inner.beginning.is_some() {
                format!("{time:8.3}")
            } else {
                "       ·".to_owned()
            };
            println!("{clock}  {subject:<10} {event}");
        }
        inner.entries.push(Entry {
            time,
            subject: subject.to_owned(),
            event,
        });
    }

    /// The verdict stands: what programs do while they are swept away is no part of the story.
    pub fn close(&self) {
        self.inner().closed = true;
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.inner().entries.clone()
    }

    /// Seconds since 1970 when the story began.
    pub fn beginning_wall(&self) -> f64 {
        let inner = self.inner();
        let offset = inner
            .beginning
            .map_or(Duration::ZERO, |beginning| beginning - inner.created);
        (inner.created_wall + offset)
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64()
    }

    pub fn text(&self) -> String {
        let entries = self.entries();
        entries
            .iter()
            .map(|e| format!("{:8.3}  {:<10} {}\n", e.time, e.subject, e.event))
            .collect()
    }
}
