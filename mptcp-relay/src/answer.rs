//! What an operator asks the relay, and what it answers.

use std::time::Instant;

use serde_json::{Value, json};

use crate::control::{Answer, Request};
use crate::relay::Relay;
use crate::{metrics, status};

impl Relay {
    pub(crate) async fn answer(&mut self, request: Request) -> Answer {
        let subflows = match request {
            Request::Sessions | Request::Subflows => mptcp_pm::subflows().await.unwrap_or_default(),
            _ => Vec::new(),
        };
        match request {
            Request::Status => Answer::Done(self.status()),
            Request::Sessions => Answer::Done(
                self.sessions
                    .iter()
                    .map(|session| status::session(session, &self.policy, &subflows))
                    .collect(),
            ),
            Request::Subflows => Answer::Done(
                subflows
                    .iter()
                    .filter_map(|flow| status::subflow(flow, &self.sessions))
                    .collect(),
            ),
            Request::Prefer { connection, path } => {
                let token = self.sessions.find(&connection).map(|session| session.token);
                let token = match token {
                    Some(Some(token)) => token,
                    Some(None) => {
                        return Answer::Refused(format!(
                            "{connection} has fallen back to plain TCP: it has one path"
                        ));
                    }
                    None => match u32::from_str_radix(&connection, 16) {
                        Ok(token) => mptcp_pm::Token(token),
                        Err(_) => {
                            return Answer::Refused(format!(
                                "there is no connection {connection}; see `mptcp-relay sessions`"
                            ));
                        }
                    },
                };
                match self.policy.prefer(token, path) {
                    Ok(commands) => {
                        let changed = commands.len();
                        let begun = Instant::now();
                        self.order(commands).await;
                        let took = begun.elapsed().as_secs_f64() * 1e3;
                        Answer::Done(
                            json!({ "token": token.to_string(), "changed": changed, "took_ms": took }),
                        )
                    }
                    Err(no) => Answer::Refused(no.to_string()),
                }
            }
        }
    }

    fn status(&self) -> Value {
        let (up, down) = self.sessions.carried();
        let own: Vec<u16> = self
            .ports
            .iter()
            .filter(|(_, listens)| **listens)
            .map(|((_, port), _)| *port)
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime": self.began.elapsed().as_secs(),
            "sessions": self.sessions.len(),
            "half_open": self.admission.half_open(),
            "up": up,
            "down": down,
            "ports": own,
            "counters": self.counters.all(),
            "kernel": metrics::kernel(),
        })
    }
}
