//! What operators ask, on the control socket.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use identity::MemberRole;
use migration::server::{End, Finding};
use proto::mobility::v1 as pb;
use proto::stored::v1::{self as stored, note};
use session_store::Table;
use tonic::{Request, Response, Status};

use super::Shared;
use super::listing::{PAGE, Rows, pages, rows};
use super::sessions;
use crate::pairs::Listed;
use crate::registry::Stream;
use crate::{convert, members};

pub(super) struct OperatorsService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::operators_server::Operators for OperatorsService {
    type ListAgentsStream = Rows<pb::AgentRow>;
    type ListPairsStream = Rows<pb::PairRow>;
    type ListSessionsStream = Rows<pb::Session>;
    type ListRelaysStream = Rows<pb::RelayRow>;

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let shared = &self.0;
        let refusals = shared.counters.refusals();
        Ok(Response::new(pb::StatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            uptime_seconds: shared.started.elapsed().as_secs(),
            backend: shared.store.backend().into(),
            epoch: shared.epoch.to_vec(),
            agents: shared.registry.agents() as u64,
            waiting_reports: self.waiting_reports().await?,
            matches: shared.counters.of("matches"),
            destinations: shared.counters.of("destinations"),
            sessions: self.sessions().await?,
            relays: shared.relays.all().len() as u64,
            refusals: refusals
                .into_iter()
                .map(|(why, count)| (why.to_owned(), count))
                .collect(),
            listening: shared.listening.clone(),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<Self::ListAgentsStream>, Status> {
        let shared = &self.0;
        let attending: Vec<_> = shared
            .registry
            .all()
            .iter()
            .map(|stream| attends(stream))
            .collect();
        let shown: HashSet<String> = attending.iter().map(|row| row.agent.clone()).collect();
        let (shared, shown) = (shared.clone(), Arc::new(shown));
        let rows = pages(request.get_ref().limit, attending, move |after| {
            let (shared, shown) = (shared.clone(), shown.clone());
            async move {
                let page = shared.members.page(after, PAGE).await;
                let (members, next) = page.map_err(|error| shared.store_failed(&error))?;
                let others = members.into_iter().filter(|member| !shown.contains(&member.uri));
                Ok((others.map(enrolled).collect(), next))
            }
        });
        Ok(Response::new(rows))
    }

    async fn list_pairs(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<Self::ListPairsStream>, Status> {
        let shared = self.0.clone();
        let rows = pages(request.get_ref().limit, Vec::new(), move |after| {
            let shared = shared.clone();
            async move {
                let page = shared.pairs.page(after).await;
                let (listed, next) = page.map_err(|error| shared.store_failed(&error))?;
                Ok((listed.iter().map(pair_row).collect(), next))
            }
        });
        Ok(Response::new(rows))
    }

    async fn list_sessions(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<Self::ListSessionsStream>, Status> {
        Ok(Response::new(sessions::list(&self.0, request.get_ref())))
    }

    async fn list_relays(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<Self::ListRelaysStream>, Status> {
        Ok(Response::new(rows(self.0.relays.all(), request.get_ref().limit)))
    }

    async fn create_token(
        &self,
        request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenResponse>, Status> {
        let shared = &self.0;
        let request = request.into_inner();
        let role: MemberRole = match request.role.as_str() {
            "" => MemberRole::Agent,
            role => role
                .parse()
                .map_err(|error| Status::invalid_argument(format!("{error}")))?,
        };
        let allowed = stored::Token {
            name: request.name,
            role: role.to_string(),
        };
        let lifetime = match request.lifetime_seconds {
            0 => 86_400,
            seconds => seconds,
        };
        let authority = shared.authority.fingerprint();
        let lifetime = Duration::from_secs(lifetime);
        let token =
            members::create_token(&shared.store, authority, &allowed, request.uses.max(1), lifetime).await;
        let token = token.map_err(|error| shared.store_failed(&error))?;
        Ok(Response::new(pb::CreateTokenResponse {
            token: token.reveal(),
        }))
    }

    async fn revoke(
        &self,
        request: Request<pb::RevokeRequest>,
    ) -> Result<Response<pb::RevokeResponse>, Status> {
        let shared = &self.0;
        let who = &request.get_ref().agent;
        let uris = shared
            .members
            .revoke(who)
            .await
            .map_err(|error| shared.store_failed(&error))?;
        if uris.is_empty() {
            return Err(Status::not_found(format!(
                "nobody called {who:?} has enrolled; see mobility-server agents"
            )));
        }
        let mut closed = 0;
        for uri in uris {
            tracing::info!(member = %uri, "revoked");
            closed += shared.put_out(&uri);
            if shared.pairs.is_shared() {
                let told = shared
                    .pairs
                    .note(
                        &migration::server::AgentName(uri.clone()),
                        note::Body::Revoked(uri),
                    )
                    .await;
                told.map_err(|error| shared.store_failed(&error))?;
            }
        }
        Ok(Response::new(pb::RevokeResponse {
            streams_closed: u32::try_from(closed).unwrap_or(u32::MAX),
        }))
    }

    async fn reload(&self, _: Request<pb::ReloadRequest>) -> Result<Response<pb::ReloadResponse>, Status> {
        self.0.reload.notify_one();
        Ok(Response::new(pb::ReloadResponse {}))
    }
}

impl OperatorsService {
    async fn waiting_reports(&self) -> Result<u64, Status> {
        let waiting = self.0.pairs.waiting_reports().await;
        waiting.map_err(|error| self.0.store_failed(&error))
    }

    async fn sessions(&self) -> Result<u64, Status> {
        let count = self.0.store.count(Table::Sessions).await;
        count.map_err(|error| self.0.store_failed(&error))
    }
}

fn attends(stream: &Stream) -> pb::AgentRow {
    let said = stream.said();
    let finding = match said.local.address == stream.observed.address {
        true => Finding::Outside,
        false => Finding::BehindNapt,
    };
    pb::AgentRow {
        agent: stream.agent.0.clone(),
        observed: Some(convert::endpoint_message(stream.observed)),
        local: Some(convert::endpoint_message(said.local)),
        finding: convert::finding(finding).into(),
        attached_seconds: stream.since.elapsed().as_secs(),
        pairs: u32::try_from(said.pairs.len()).unwrap_or(u32::MAX),
        certificate_expires_unix_seconds: members::unix_seconds(stream.member.not_after),
        name: stream.member.name.clone(),
        state: "attends".into(),
    }
}

fn enrolled(member: stored::Member) -> pb::AgentRow {
    pb::AgentRow {
        agent: member.uri,
        certificate_expires_unix_seconds: member.expires_unix_seconds,
        name: member.name,
        state: if member.revoked { "revoked" } else { "enrolled" }.into(),
        ..pb::AgentRow::default()
    }
}

fn pair_row(pair: &Listed) -> pb::PairRow {
    let record = &pair.record;
    let [first, second] = &record.key.names;
    let [first_state, second_state] = [&record.ends[0], &record.ends[1]].map(end_state);
    let held = record.ends.iter().filter_map(|end| end.held.as_ref());
    let connections = held
        .map(|held| held.report.connections.len())
        .max()
        .unwrap_or_default();
    pb::PairRow {
        pair_id: record.key.pair.0.to_vec(),
        first: first.0.clone(),
        second: second.0.clone(),
        first_state,
        second_state,
        last_decision: record
            .decision
            .as_ref()
            .map(|decision| format!("{} {:?}", decision.number, decision.what))
            .unwrap_or_default(),
        updated_unix_milliseconds: u64::try_from(pair.updated.0.as_millis()).unwrap_or(u64::MAX),
        connections: u32::try_from(connections).unwrap_or(u32::MAX),
    }
}

fn end_state(end: &End) -> String {
    match (&end.held, &end.present) {
        (Some(held), _) => format!(
            "report {} from {} seen as {}",
            held.report.move_counter, held.report.source_after, held.observed
        ),
        (None, Some(present)) => format!("present at {}", present.observed),
        (None, None) => String::new(),
    }
}
