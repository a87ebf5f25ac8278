//! Paths of live connections: what the kernel's path manager tells, and what it is told.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mptcp_pm::{Endpoint, EndpointFlags, Event, Token};
use tokio::sync::mpsc;

use crate::act::canonical;
use crate::config::Balance;
use crate::neighbours;
use crate::paths::Command;
use crate::points::{Carried, Others, Who};
use crate::queue::Queue;
use crate::relay::{Happening, Relay};

impl Relay {
    /// The path manager tells something.
    pub(crate) async fn hear(&mut self, event: Event, queue: &Queue) {
        tracing::trace!(?event, "path manager");
        let mut commands = Vec::new();
        match &event {
            Event::SubflowEstablished(_) => self.counters.count("subflows_joined"),
            Event::SubflowClosed(_) => self.counters.count("subflows_closed"),
            Event::Missed => {
                self.counters.count("path_events_missed");
                if let (Ok(all), Ok(flows)) = (mptcp_pm::connections().await, mptcp_pm::subflows().await) {
                    let all: HashSet<Token> = all.iter().map(|connection| connection.token).collect();
                    let flows = flows.iter().map(|flow| (flow.token, (flow.local, flow.remote)));
                    let flows: Vec<_> = flows.collect();
                    commands = self.policy.take_stock(|token| all.contains(&token), &flows);
                }
            }
            _ => {}
        }
        commands.extend(self.policy.hear(&event));
        self.join_waiting(&event, queue);
        self.order(commands).await;
        self.joined_or_left(&event).await;
    }

    pub(crate) async fn order(&mut self, commands: Vec<Command>) {
        for command in commands {
            let done = match command {
                Command::SetBackup {
                    token,
                    local,
                    remote,
                    backup,
                } => self.client.set_backup(token, local, remote, backup).await,
                Command::End { token, local, remote } => {
                    self.counters.count("subflows_too_many");
                    self.client.destroy_subflow(token, local, remote).await
                }
                Command::Open { token, local, to } => {
                    self.counters.count("subflows_opened");
                    let local = Endpoint::new(local, EndpointFlags::SUBFLOW);
                    self.client.create_subflow(token, &local, to).await
                }
                Command::Announce { token, id, address } => {
                    let endpoint = Endpoint {
                        id,
                        port: Some(address.port()),
                        ..Endpoint::new(address.ip(), EndpointFlags::SIGNAL)
                    };
                    self.client.announce(token, &endpoint).await
                }
            };
            match done {
                Ok(()) => self.counters.count("path_commands"),
                Err(error) if error.is_gone() => {}
                Err(error) => {
                    self.counters.count("path_commands_refused");
                    tracing::warn!(%error, "the kernel refuses");
                }
            }
        }
    }

    /// Tells a terminal how far it has been heard. Its subflow stays what it is: saying so once more is a segment, which carries
    /// the connection's acknowledgement.
    pub(crate) async fn acknowledge(&mut self, token: Token) {
        let subflows = self.policy.subflows(token);
        let Some((local, remote, subflow)) = subflows.min_by_key(|(_, _, subflow)| subflow.backup) else {
            return;
        };
        self.counters.count("acknowledged");
        if let Err(error) = self.client.set_backup(token, local, remote, subflow.backup).await {
            tracing::debug!(%token, %error, "no acknowledgement");
        }
    }

    /// Loads of access points are measured once more, and what follows is done.
    pub(crate) async fn balance(&mut self) {
        let Ok(subflows) = mptcp_pm::subflows().await else {
            return;
        };
        let mut carried: Vec<Carried> = subflows
            .iter()
            .map(|flow| Carried {
                who: Who::Multipath(flow.token),
                terminal: canonical(flow.remote).ip(),
                bytes: flow.bytes_acknowledged + flow.bytes_received,
            })
            .collect();
        let plain = self.sessions.iter().filter(|session| session.token.is_none());
        carried.extend(plain.map(|session| Carried {
            who: Who::Plain(session.ends),
            terminal: session.ends.terminal.ip(),
            bytes: session.carried.up.load(Ordering::Relaxed) + session.carried.down.load(Ordering::Relaxed),
        }));
        let policy = &self.policy;
        let choices = self
            .balancer
            .round(&carried, |token| policy.primary(token), self.began.elapsed());
        for choice in choices {
            if choice.moved {
                self.counters.count("balanced");
                tracing::info!(token = %choice.token, path = %choice.path, "to another access point");
            }
            if let Ok(commands) = self.policy.prefer(choice.token, Some(choice.path)) {
                self.order(commands).await;
            }
        }
        for (point, own) in self.balancer.own() {
            metrics::gauge!(neighbours::BULK, "point" => point.to_owned()).set(own.bulk);
            metrics::gauge!(neighbours::STEADY, "point" => point.to_owned()).set(own.steady);
        }
    }
}

/// Asks the other relays for what they have on the access points, for ever.
pub(crate) async fn look_around(config: Balance, interval: Duration, happening: mpsc::Sender<Happening>) {
    let mut tick = tokio::time::interval(interval);
    loop {
        tick.tick().await;
        let mut others = vec![Others::default(); config.points.len()];
        let asked = config
            .relays
            .iter()
            .map(|relay| neighbours::ask(*relay, interval));
        for said in futures_util::future::join_all(asked).await.into_iter().flatten() {
            for (point, others) in config.points.iter().zip(&mut others) {
                let said = said.get(&point.name).copied().unwrap_or_default();
                others.bulk += said.bulk;
                others.steady += said.steady;
            }
        }
        if happening.send(Happening::Others(others)).await.is_err() {
            return;
        }
    }
}
