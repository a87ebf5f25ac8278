//! Subflows that join too early.
//!
//! A connection that the relay has opened, for a server, takes subflows only once the terminal has acknowledged something
//! in MPTCP's own terms: until then it might not have heard the relay's key, and the kernel resets what joins. But a
//! terminal joins as soon as its own side stands, and never again. So such a SYN is held, and the terminal asked how far
//! it has heard; its answer makes the connection ready, and the SYN goes on.

use std::collections::HashMap;
use std::time::Duration;

use mptcp_pm::{Event, Token};

use crate::queue::{Held, Queue, Verdict};
use crate::relay::{Happening, Relay};
use crate::reset::{self, Purpose};
use crate::syn::{Asks, Ends, Syn, SynAck};

/// Joins that are held at once, at most; one more is dropped, and repeated by its terminal.
const MOST: usize = 1024;
/// How long one may be held. Its terminal takes the time for that of a round trip.
const LONGEST: Duration = Duration::from_secs(1);

/// What waits for a connection that is not ready.
#[derive(Default)]
pub(crate) struct Early {
    held: HashMap<Ends, Waiting>,
    /// How to ask the terminals of connections that are not ready.
    questions: HashMap<Token, (Ends, Purpose)>,
}

struct Waiting {
    syn: Held,
    token: Token,
    since: Duration,
}

impl Relay {
    /// The connection that a SYN joins too early.
    pub(crate) fn joins_early(&self, syn: &Syn) -> Option<Token> {
        let Asks::Join(token) = syn.asks else { return None };
        let early = match self.policy.is_ready(token) {
            Some(ready) => !ready,
            // The path manager's news of it is still to be read.
            None => {
                self.early.questions.contains_key(&token)
                    || self.probes.keys().any(|ends| ends.server == syn.ends.server)
            }
        };
        early.then_some(token)
    }

    /// Holds a join until its connection is ready.
    pub(crate) fn hold_join(&mut self, ends: Ends, syn: Held, token: Token, queue: &Queue) {
        self.counters.count("joined_early");
        if self.early.held.len() >= MOST && !self.early.held.contains_key(&ends) {
            let _ = queue.decide(syn.id, Verdict::Drop);
            return;
        }
        let since = self.began.elapsed();
        // The newer of two tells the terminal a shorter time.
        if let Some(before) = self.early.held.insert(ends, Waiting { syn, token, since }) {
            let _ = queue.decide(before.syn.id, Verdict::Drop);
        }
        self.ask_how_far(token);
        let happening = self.happening.clone();
        tokio::spawn(async move {
            tokio::time::sleep(LONGEST).await;
            let _ = happening.send(Happening::JoinLate(ends, since)).await;
        });
    }

    /// A connection that the relay has opened stands, as far as TCP is concerned.
    pub(crate) fn opened_down(&mut self, ends: Ends, token: Token, answer: &SynAck) {
        if self.policy.is_ready(token) == Some(true) {
            return;
        }
        let question = Purpose::Question {
            sequence: answer.acknowledges.wrapping_sub(1),
            acknowledges: answer.number.wrapping_add(1),
        };
        self.early.questions.insert(token, (ends, question));
        if self.early.held.values().any(|waiting| waiting.token == token) {
            self.ask_how_far(token);
        }
    }

    fn ask_how_far(&mut self, token: Token) {
        let Some((ends, question)) = self.early.questions.get(&token) else {
            return;
        };
        if let Err(error) = reset::send(ends.server, ends.terminal, *question, self.marks.own) {
            tracing::warn!(%error, "cannot ask a terminal how far it has heard");
        }
    }

    /// What has waited for a connection need not any longer.
    pub(crate) fn join_waiting(&mut self, event: &Event, queue: &Queue) {
        let token = match event {
            Event::Established(made) => Some(made.token),
            Event::Closed(token) => Some(*token),
            Event::Missed => None,
            _ => return,
        };
        let concerned = |of: Token| token.is_none_or(|token| token == of);
        self.early.questions.retain(|of, _| !concerned(*of));
        let ready = self.early.held.extract_if(|_, waiting| concerned(waiting.token));
        let ready: Vec<Held> = ready.map(|(_, waiting)| waiting.syn).collect();
        for syn in ready {
            self.let_go(&syn, self.marks.released, queue);
        }
    }

    /// A join has been held for long enough: its terminal repeats it, as long as the connection is there.
    pub(crate) fn join_late(&mut self, ends: Ends, since: Duration, queue: &Queue) {
        let Some(waiting) = self
            .early
            .held
            .get(&ends)
            .filter(|waiting| waiting.since == since)
        else {
            return;
        };
        let unready = self.policy.is_ready(waiting.token) == Some(false);
        let Some(waiting) = self.early.held.remove(&ends) else {
            return;
        };
        match unready {
            true => drop(queue.decide(waiting.syn.id, Verdict::Drop)),
            // Nobody has heard of it: the kernel answers.
            false => self.let_go(&waiting.syn, self.marks.released, queue),
        }
    }
}
