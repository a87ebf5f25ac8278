//! Subflows of which a terminal's agent says that they lead nowhere. No IO, no clock.
//!
//! An agent is believed of its own host alone: the connection must have another subflow from the very address at which the
//! mobility server sees that agent. Where the agent speaks from a network that the connection has yet to join from, the word
//! waits for that. It is about the subflows that there were when it came, never about one that joins later.

use std::net::IpAddr;
use std::time::Duration;

use mptcp_pm::Token;

use crate::paths::Ends;

/// How long a word waits for a subflow that proves it.
const WAITS: Duration = Duration::from_secs(30);
/// Words that wait, at most; the oldest gives way.
const MOST: usize = 4096;

#[derive(Clone, Debug)]
struct Loss {
    token: Token,
    observed: IpAddr,
    doomed: Vec<Ends>,
    until: Duration,
}

/// Words that are not proven yet.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    waiting: Vec<Loss>,
}

impl Losses {
    /// An agent that is seen at `observed` says that these subflows are lost. `now` is monotonic time.
    pub fn heard(&mut self, token: Token, observed: IpAddr, doomed: Vec<Ends>, now: Duration) {
        let doomed: Vec<Ends> = doomed
            .into_iter()
            .filter(|(_, remote)| remote.ip().to_canonical() != observed)
            .collect();
        if doomed.is_empty() {
            return;
        }
        self.waiting.retain(|loss| loss.until > now);
        if self.waiting.len() >= MOST {
            self.waiting.remove(0);
        }
        self.waiting.push(Loss {
            token,
            observed,
            doomed,
            until: now + WAITS,
        });
    }

    /// The subflows of a connection that are to be ended, now that it stands on these.
    pub fn proven(&mut self, token: Token, stands: &[Ends], now: Duration) -> Vec<Ends> {
        let mut over = Vec::new();
        self.waiting.retain(|loss| {
            if loss.until <= now {
                return false;
            }
            // What is doomed is from elsewhere (see `heard`), and proves nothing.
            let from_there = |(_, remote): &Ends| remote.ip().to_canonical() == loss.observed;
            let proven = loss.token == token && stands.iter().any(from_there);
            if proven {
                over.extend(loss.doomed.iter().filter(|ends| stands.contains(ends)));
            }
            !proven
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(terminal: &str) -> Ends {
        ("192.0.2.1:80".parse().unwrap(), terminal.parse().unwrap())
    }

    #[test]
    fn an_agent_is_believed_once_the_connection_has_a_subflow_from_where_it_is_seen() {
        let mut losses = Losses::default();
        let (token, now) = (Token(7), Duration::from_secs(1));
        let (wifi, lte) = (ends("10.1.0.2:40000"), ends("10.2.0.2:40001"));
        let lte_address = lte.1.ip();
        losses.heard(token, lte_address, vec![wifi], now);
        assert!(losses.proven(token, &[wifi], now).is_empty());
        assert!(losses.proven(Token(8), &[wifi, lte], now).is_empty());
        assert_eq!(losses.proven(token, &[wifi, lte], now), [wifi]);
        // It was a word about what there was then.
        assert!(losses.proven(token, &[wifi, lte], now).is_empty());
    }

    #[test]
    fn nobody_ends_the_subflow_that_he_speaks_from_nor_one_that_joins_later() {
        let mut losses = Losses::default();
        let (token, now) = (Token(7), Duration::from_secs(1));
        let (wifi, lte, new) = (ends("10.1.0.2:1"), ends("10.2.0.2:1"), ends("10.1.0.2:2"));
        losses.heard(token, lte.1.ip(), vec![lte], now);
        assert!(losses.proven(token, &[wifi, lte], now).is_empty());
        losses.heard(token, lte.1.ip(), vec![wifi], now);
        assert!(losses.proven(token, &[new, lte], now).is_empty());
        losses.heard(token, lte.1.ip(), vec![wifi], now);
        assert!(losses.proven(token, &[wifi, lte], now + WAITS).is_empty());
    }
}
