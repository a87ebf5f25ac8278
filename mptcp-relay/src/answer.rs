//! What an operator asks the relay, and what it answers.

use std::net::IpAddr;
use std::time::Instant;

use mptcp_pm::Token;
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
            Request::Balance { on } => {
                if self.balancer.is_empty() {
                    return Answer::Refused(
                        "there are no access points; name them in the configuration (`balance.points`)"
                            .into(),
                    );
                }
                if let Some(on) = on {
                    tracing::info!(on, "balancing");
                    self.balancer.switch(on);
                }
                Answer::Done(self.balancer.show())
            }
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
                self.prefer(&[token], path).await
            }
            Request::PreferProgram { pid, path } => {
                let tokens = match tokens_of(pid).await {
                    Ok(tokens) => tokens,
                    Err(no) => return Answer::Refused(no),
                };
                self.prefer(&tokens, path).await
            }
        }
    }

    /// One answer for all connections of a choice. Refused: none of them has such a path.
    async fn prefer(&mut self, tokens: &[Token], path: Option<IpAddr>) -> Answer {
        let (mut commands, mut told, mut refused) = (Vec::new(), Vec::new(), None);
        for token in tokens {
            match self.policy.prefer(*token, path) {
                Ok(more) => {
                    self.balancer.chosen(*token, path);
                    commands.extend(more);
                    told.push(token.to_string());
                }
                Err(no) => refused = Some(no.to_string()),
            }
        }
        if let (true, Some(no)) = (told.is_empty(), refused) {
            return Answer::Refused(no);
        }
        let changed = commands.len();
        let begun = Instant::now();
        self.order(commands).await;
        let took = begun.elapsed().as_secs_f64() * 1e3;
        Answer::Done(json!({ "token": told.join(" "), "changed": changed, "took_ms": took }))
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
            "deployment": self.deployment.status(),
            "kernel": metrics::kernel(),
        })
    }
}

/// The MPTCP connections of a process, by the sockets it has open.
async fn tokens_of(pid: u32) -> Result<Vec<Token>, String> {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .map_err(|error| format!("cannot look at process {pid}: {error}"))?;
    let sockets: Vec<u32> = files
        .flatten()
        .filter_map(|file| {
            let name = std::fs::read_link(file.path()).ok()?;
            name.to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')?
                .parse()
                .ok()
        })
        .collect();
    let all = mptcp_pm::connections().await.map_err(|error| error.to_string())?;
    let own = all
        .iter()
        .filter(|connection| sockets.contains(&connection.inode));
    let tokens: Vec<Token> = own.map(|connection| connection.token).collect();
    match tokens.is_empty() {
        true => Err(format!(
            "process {pid} has no MPTCP connection on this host: start it with mptcpize, and see `ss -M`"
        )),
        false => Ok(tokens),
    }
}
