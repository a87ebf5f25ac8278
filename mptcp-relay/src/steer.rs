//! Paths of live connections: what the kernel's path manager tells, and what it is told.

use mptcp_pm::{Endpoint, EndpointFlags, Event};

use crate::paths::Command;
use crate::relay::Relay;

impl Relay {
    /// The path manager tells something.
    pub(crate) async fn hear(&mut self, event: Event) {
        tracing::trace!(?event, "path manager");
        match &event {
            Event::SubflowEstablished(_) => self.counters.count("subflows_joined"),
            Event::SubflowClosed(_) => self.counters.count("subflows_closed"),
            Event::Missed => {
                if let Ok(all) = mptcp_pm::connections().await {
                    self.policy
                        .keep(|token| all.iter().any(|connection| connection.token == token));
                }
            }
            _ => {}
        }
        let commands = self.policy.hear(&event);
        self.order(commands).await;
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
}
