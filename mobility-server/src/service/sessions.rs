//! The session store, for proxies and relays.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use identity::MemberRole;
use prost::Message;
use proto::mobility::v1 as pb;
use session_store::{Expected, Key, Lease, Record, Revision, Swap, Table};
use tonic::{Request, Response, Status};

use super::Shared;
use super::listing::{PAGE, Rows, pages};

const RELAYS: [MemberRole; 2] = [MemberRole::Proxy, MemberRole::Relay];
/// What a lease is without a wish, and at most.
const LEASE: u32 = 300;
const LONGEST_LEASE: u32 = 86_400;

pub(super) struct SessionsService(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl pb::sessions_server::Sessions for SessionsService {
    type ListStream = Rows<pb::Session>;

    async fn put(
        &self,
        request: Request<pb::PutSessionRequest>,
    ) -> Result<Response<pb::PutSessionResponse>, Status> {
        let (_, member) = self.0.member(&request, &RELAYS)?;
        let request = request.into_inner();
        let mut session = request
            .session
            .ok_or_else(|| Status::invalid_argument("no session"))?;
        let key = key(&session.session_id)?;
        let expected = match request.expected_revision {
            0 => Expected::Absent,
            revision => Expected::At(Revision(revision)),
        };
        if expected != Expected::Absent {
            let known = self
                .0
                .store
                .get(&key)
                .await
                .map_err(|error| self.0.store_failed(&error))?;
            self.owned(known.as_ref(), &member.uri)?;
        }
        // Who puts it, owns it; a field could say anybody.
        session.owner = member.uri.clone();
        session.revision = 0;
        session.updated_unix_milliseconds = u64::try_from(
            SystemTime::now()
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default()
                .as_millis(),
        )
        .unwrap_or_default();
        let lease = match session.lease_seconds {
            0 => LEASE,
            seconds => seconds.min(LONGEST_LEASE),
        };
        let lease = Lease::For(Duration::from_secs(lease.into()));
        let swap = self
            .0
            .store
            .swap(&key, expected, session.encode_to_vec().into(), lease)
            .await;
        match swap.map_err(|error| self.0.store_failed(&error))? {
            Swap::Done(revision) => Ok(Response::new(pb::PutSessionResponse { revision: revision.0 })),
            Swap::Lost(_) => Err(Status::aborted(
                "another revision is stored; read it and try again",
            )),
        }
    }

    async fn get(&self, request: Request<pb::GetSessionRequest>) -> Result<Response<pb::Session>, Status> {
        self.0.member(&request, &RELAYS)?;
        let key = key(&request.get_ref().session_id)?;
        let record = self
            .0
            .store
            .get(&key)
            .await
            .map_err(|error| self.0.store_failed(&error))?;
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
        let key = key(&request.get_ref().session_id)?;
        let known = self
            .0
            .store
            .get(&key)
            .await
            .map_err(|error| self.0.store_failed(&error))?;
        if let Some(record) = known {
            self.owned(Some(&record), &member.uri)?;
            let removed = self.0.store.remove(&key, Some(record.revision)).await;
            removed.map_err(|error| self.0.store_failed(&error))?;
        }
        Ok(Response::new(pb::RemoveSessionResponse {}))
    }

    async fn list(
        &self,
        request: Request<pb::ListSessionsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.0.member(&request, &RELAYS)?;
        Ok(Response::new(list(&self.0, request.get_ref())))
    }
}

impl SessionsService {
    fn owned(&self, record: Option<&Record>, uri: &str) -> Result<(), Status> {
        match record.and_then(read) {
            Some(session) if session.owner != uri => {
                self.0.counters.refuse("not_the_owner");
                Err(Status::permission_denied("the session is another's"))
            }
            _ => Ok(()),
        }
    }
}

fn key(id: &[u8]) -> Result<Key, Status> {
    match id.len() {
        16 => Key::new(Table::Sessions, id.to_vec())
            .map_err(|error| Status::invalid_argument(error.to_string())),
        _ => Err(Status::invalid_argument("a session ID has 16 bytes")),
    }
}

fn read(record: &Record) -> Option<pb::Session> {
    let mut session = pb::Session::decode(record.value.clone()?).ok()?;
    session.revision = record.revision.0;
    Some(session)
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
