//! The session store, for proxies and relays.

use std::sync::Arc;

use identity::MemberRole;
use proto::mobility::v1 as pb;
use session_store::Table;
use tonic::{Request, Response, Status};

use super::Shared;
use super::ledger::{Ledger, NotPut, key, read};
use super::listing::{PAGE, Rows, pages};

const RELAYS: [MemberRole; 2] = [MemberRole::Proxy, MemberRole::Relay];
/// Puts and removals in one request, at most.
const MOST_CHANGES: usize = 256;
/// What a result says of a session that has another revision.
const ANOTHER_REVISION: &str = "another revision";

pub(super) struct SessionsService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::sessions_server::Sessions for SessionsService {
    type ListStream = Rows<pb::Session>;

    async fn put(
        &self,
        request: Request<pb::PutSessionRequest>,
    ) -> Result<Response<pb::PutSessionResponse>, Status> {
        let (_, member) = self.0.member(&request, &RELAYS)?;
        let put = Ledger(&self.0.store).put(&member, request.into_inner()).await;
        let revision = put.map_err(|error| self.refused(error))?.0;
        Ok(Response::new(pb::PutSessionResponse { revision }))
    }

    async fn get(&self, request: Request<pb::GetSessionRequest>) -> Result<Response<pb::Session>, Status> {
        self.0.member(&request, &RELAYS)?;
        let key = key(&request.get_ref().session_id).map_err(|error| self.refused(error))?;
        let record = self.0.store.get(&key).await;
        let record = record.map_err(|error| self.0.store_failed(&error))?;
        let session = record.and_then(|record| read(&record));
        session
            .map(Response::new)
            .ok_or_else(|| Status::not_found("no such session"))
    }

    async fn remove(
        &self,
        request: Request<pb::RemoveSessionRequest>,
    ) -> Result<Response<pb::RemoveSessionResponse>, Status> {
        let (_, member) = self.0.member(&request, &RELAYS)?;
        let ledger = Ledger(&self.0.store);
        let removed = ledger.remove(&member, &request.get_ref().session_id);
        removed.await.map_err(|error| self.refused(error))?;
        Ok(Response::new(pb::RemoveSessionResponse {}))
    }

    async fn list(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.0.member(&request, &RELAYS)?;
        Ok(Response::new(list(&self.0, request.get_ref())))
    }

    async fn change(
        &self,
        request: Request<pb::ChangeSessionsRequest>,
    ) -> Result<Response<pb::ChangeSessionsResponse>, Status> {
        let (_, member) = self.0.member(&request, &RELAYS)?;
        let request = request.into_inner();
        if request.put.len() + request.remove.len() > MOST_CHANGES {
            return Err(Status::invalid_argument("more than 256 changes in one request"));
        }
        let ledger = Ledger(&self.0.store);
        // At once: a store that writes to disk does so once for all that are under way.
        let put = futures_util::future::join_all(request.put.into_iter().map(|put| ledger.put(&member, put)));
        let mut results = Vec::new();
        for put in put.await {
            let result = |revision, refusal: &str| pb::PutSessionResult {
                revision,
                refusal: refusal.to_owned(),
            };
            results.push(match put {
                Ok(revision) => result(revision.0, ""),
                Err(NotPut::Lost(other)) => result(other.map_or(0, |other| other.0), ANOTHER_REVISION),
                Err(error @ NotPut::Store(_)) => return Err(self.refused(error)),
                Err(error) => result(0, self.refused(error).message()),
            });
        }
        let removed = request.remove.iter().map(|id| ledger.remove(&member, id));
        for removed in futures_util::future::join_all(removed).await {
            // What is not the caller's is left alone.
            if let Err(error @ NotPut::Store(_)) = removed {
                return Err(self.refused(error));
            }
        }
        Ok(Response::new(pb::ChangeSessionsResponse { results }))
    }

    async fn find(
        &self,
        request: Request<pb::FindSessionRequest>,
    ) -> Result<Response<pb::FindSessionResponse>, Status> {
        self.0.member(&request, &RELAYS)?;
        let session = Ledger(&self.0.store).find(request.get_ref().mptcp_token).await;
        let session = session.map_err(|error| self.refused(error))?;
        let relay_addresses = session
            .as_ref()
            .map(|session| self.0.relays.addresses_of(&session.owner))
            .unwrap_or_default();
        Ok(Response::new(pb::FindSessionResponse {
            session,
            relay_addresses,
        }))
    }
}

impl SessionsService {
    fn refused(&self, error: NotPut) -> Status {
        match error {
            NotPut::Malformed(what) => Status::invalid_argument(what),
            NotPut::Foreign => {
                self.0.counters.refuse("not_the_owner");
                Status::permission_denied("the session is another's")
            }
            NotPut::Lost(_) => Status::aborted("another revision is stored; read it and try again"),
            NotPut::Store(error) => self.0.store_failed(&error),
        }
    }
}

/// Those of one kind, or all.
pub(super) fn list(shared: &Arc<Shared>, request: &pb::ListSessionsRequest) -> Rows<pb::Session> {
    let (shared, kind) = (shared.clone(), request.kind);
    pages(request.limit, Vec::new(), move |after| {
        let shared = shared.clone();
        async move {
            let page = shared.store.list(Table::Sessions, after, PAGE).await;
            let page = page.map_err(|error| shared.store_failed(&error))?;
            let sessions = page.records.iter().filter_map(read);
            let wanted = sessions.filter(|session| kind == 0 || session.kind == kind);
            Ok((wanted.collect(), page.next))
        }
    })
}
