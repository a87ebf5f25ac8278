//! What people and programs ask over the control socket.

use super::*;

impl Driver {
    pub(super) async fn answer(&mut self, call: Call, agent_id: &str) {
        let done = |value| Reply::Answer(Answer::Done(value));
        let reply = match call.request {
            Request::Status => {
                let about = About {
                    agent_id: agent_id.to_string(),
                    agent_port: self.config.agent_port,
                    uptime: self.clock.now().0,
                    layout: datapath::kernel::layout::LAYOUT,
                    max_connections: self.config.max_connections,
                };
                done(serde_json::json!(self.agent.status(&about)))
            }
            Request::Connections => done(serde_json::json!(self.agent.connection_rows())),
            Request::Pairs => done(serde_json::json!(self.agent.pair_rows())),
            Request::Events { follow } => Reply::Stream(
                self.agent.timeline.recent(),
                follow.then(|| self.agent.timeline.follow()),
            ),
            Request::Pair { host, port } => {
                let peer = std::net::SocketAddr::new(host, port.unwrap_or(self.config.agent_port));
                self.dial(peer);
                done(serde_json::json!({ "dialled": peer.to_string() }))
            }
            Request::Report => {
                let now = self.clock.now();
                let count = self.agent.report_again(now);
                done(serde_json::json!({ "reported": count }))
            }
            Request::Sleep { seconds } => {
                let longest = seconds.map_or(Duration::MAX, Duration::from_secs);
                let (told, pairs) = self.agent.going_to_sleep(longest, self.clock.now());
                done(serde_json::json!({ "told": told, "pairs": pairs }))
            }
            Request::Migrate { connection, from, to } => match self.migrate(connection, from, to).await {
                Ok(count) => done(serde_json::json!({ "begun": count })),
                Err(why) => Reply::Answer(Answer::Refused(why)),
            },
        };
        let _ = call.reply.send(reply);
    }

    pub(super) async fn migrate(
        &mut self,
        connection: Option<String>,
        from: Option<IpAddr>,
        to: Option<std::net::SocketAddr>,
    ) -> Result<usize, String> {
        if let Some(from) = from
            && self.agent.network.device_of(from).is_none()
        {
            return Err(format!(
                "{from} is no usable address of this host; see \"host-agent status\""
            ));
        }
        let chosen: Vec<Tuple> = self
            .agent
            .sessions
            .values()
            .filter(|managed| managed.is_live())
            .map(|managed| managed.identity)
            .filter(|identity| {
                connection.as_ref().is_none_or(|name| {
                    *name == identity.to_string()
                        || *name == identity.local.to_string()
                        || *name == identity.remote.to_string()
                })
            })
            .collect();
        if chosen.is_empty() {
            return Err(match connection {
                Some(name) => format!("no connection `{name}`; \"host-agent connections\" lists them"),
                None => "no connection can migrate".into(),
            });
        }
        if to.is_some() && chosen.len() > 1 {
            return Err("a destination is for one connection; name it".into());
        }
        let count = chosen.len();
        match self.find_ways_out(chosen, from, to.map(Endpoint::from)).await {
            0 => Err("no route to the peer from there".into()),
            _ => Ok(count),
        }
    }
}
