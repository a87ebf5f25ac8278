//! Sessions in the store: who may write which, and how they are found.
//!
//! Proxies and relays own the sessions that they put, and nobody else changes those. What two agents say of a connection
//! between them is one session, that either of them writes: its name follows from the pair, both agents' names and
//! the connection's label, so that a stranger to the pair cannot hit it.
//!
//! A session with an MPTCP token has a second record that leads from the token to the session, with the same lease.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use identity::Member;
use migration::server::{AgentName, PairKey};
use prost::Message;
use proto::mobility::v1 as pb;
use session_store::{Expected, Key, Lease, Record, Revision, SharedStore, StoreError, Swap, Table};
use sha2::{Digest, Sha256};

use crate::convert;

/// What a lease is without a wish, and at most.
const LEASE: u32 = 300;
const LONGEST_LEASE: u32 = 86_400;
/// How long an agent's session outlives the last word about it: three times as long as it takes to be said anew.
const HELD_LEASE: u32 = 180;
/// Two writers of one session that get in each other's way try so often.
const TRIES: usize = 4;

/// Why a session is not written.
#[derive(Debug)]
pub(super) enum NotPut {
    /// The caller's mistake.
    Malformed(&'static str),
    /// It is another's.
    Foreign,
    /// Another revision is stored, or none.
    Lost(Option<Revision>),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for NotPut {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The sessions of a store.
pub(super) struct Ledger<'a>(pub(super) &'a SharedStore);

impl Ledger<'_> {
    /// Writes a session of a proxy or relay.
    pub(super) async fn put(
        &self,
        member: &Member,
        request: pb::PutSessionRequest,
    ) -> Result<Revision, NotPut> {
        let mut session = request.session.ok_or(NotPut::Malformed("no session"))?;
        let key = key(&session.session_id)?;
        let expected = match request.expected_revision {
            0 => Expected::Absent,
            revision => Expected::At(Revision(revision)),
        };
        if expected != Expected::Absent {
            self.owned(self.0.get(&key).await?.as_ref(), &member.uri)?;
        }
        // Who puts it, owns it; a field could say anybody.
        session.owner = member.uri.clone();
        let token = session.mptcp_token;
        let (value, lease) = written(session, LEASE);
        match self.0.swap(&key, expected, value, lease).await? {
            Swap::Done(revision) => {
                if token != 0 {
                    self.point(token, &key, lease).await?;
                }
                Ok(revision)
            }
            Swap::Lost(other) => {
                self.owned(other.as_ref(), &member.uri)?;
                Err(NotPut::Lost(other.map(|record| record.revision)))
            }
        }
    }

    /// Removes a session of a proxy or relay; one that is not there is gone already.
    pub(super) async fn remove(&self, member: &Member, id: &[u8]) -> Result<(), NotPut> {
        let key = key(id)?;
        if let Some(record) = self.0.get(&key).await? {
            self.owned(Some(&record), &member.uri)?;
            let token = read(&record).map_or(0, |session| session.mptcp_token);
            self.0.remove(&key, Some(record.revision)).await?;
            if token != 0 {
                self.unpoint(token, id).await?;
            }
        }
        Ok(())
    }

    /// The session to which joins with this token belong.
    pub(super) async fn find(&self, token: u32) -> Result<Option<pb::Session>, NotPut> {
        let Some(pointer) = self.0.get(&token_key(token)?).await? else {
            return Ok(None);
        };
        let Some(id) = pointer.value else { return Ok(None) };
        let record = self.0.get(&key(&id)?).await?;
        let session = record.as_ref().and_then(read);
        Ok(session.filter(|session| session.mptcp_token == token))
    }

    async fn point(&self, token: u32, session: &Key, lease: Lease) -> Result<(), StoreError> {
        let key = token_key(token)?;
        let value = Bytes::copy_from_slice(session.name());
        let mut expected = Expected::Absent;
        for _ in 0..TRIES {
            match self.0.swap(&key, expected, value.clone(), lease).await? {
                Swap::Done(_) => break,
                Swap::Lost(other) => {
                    expected = other.map_or(Expected::Absent, |record| Expected::At(record.revision));
                }
            }
        }
        Ok(())
    }

    async fn unpoint(&self, token: u32, id: &[u8]) -> Result<(), StoreError> {
        let key = token_key(token)?;
        // The token may name another session by now.
        if let Some(pointer) = self.0.get(&key).await?
            && pointer.value.as_deref() == Some(id)
        {
            self.0.remove(&key, Some(pointer.revision)).await?;
        }
        Ok(())
    }

    fn owned(&self, record: Option<&Record>, uri: &str) -> Result<(), NotPut> {
        match record.and_then(read) {
            Some(session) if session.owner != uri => Err(NotPut::Foreign),
            _ => Ok(()),
        }
    }

    /// What an agent says of a connection.
    pub(super) async fn held(&self, agent: &AgentName, held: pb::HeldSession) -> Result<(), NotPut> {
        let pair = convert::pair_id(&held.pair_id).map_err(|error| NotPut::Malformed(error.0))?;
        let peer = AgentName(held.peer.clone());
        let pair_key =
            PairKey::new(pair, agent, &peer).ok_or(NotPut::Malformed("a pair with oneself or nobody"))?;
        let id = held_id(&pair_key, held.label);
        let key = key(&id)?;
        let session = session(agent, &pair_key, &id, &held)?;
        for _ in 0..TRIES {
            let known = self.0.get(&key).await?;
            let Some(session) = &session else {
                if let Some(record) = known {
                    self.0.remove(&key, Some(record.revision)).await?;
                }
                return Ok(());
            };
            let expected = known.map_or(Expected::Absent, |record| Expected::At(record.revision));
            let (value, lease) = written(session.clone(), HELD_LEASE);
            if let Swap::Done(_) = self.0.swap(&key, expected, value, lease).await? {
                return Ok(());
            }
        }
        Err(NotPut::Lost(None))
    }
}

/// The record that an agent's words make; none: the connection has ended.
fn session(
    agent: &AgentName,
    pair: &PairKey,
    id: &[u8],
    held: &pb::HeldSession,
) -> Result<Option<pb::Session>, NotPut> {
    use pb::session::Kind;
    let kind = held.kind();
    if kind == Kind::Unspecified {
        return Ok(None);
    }
    if !matches!(
        kind,
        Kind::Direct | Kind::Migrated | Kind::Relayed | Kind::Anchored
    ) {
        return Err(NotPut::Malformed(
            "an agent's sessions are direct, migrated, relayed or anchored",
        ));
    }
    let ends = [&held.local, &held.remote, &held.wire_local, &held.wire_remote];
    for end in ends {
        convert::endpoint(end.as_ref()).map_err(|error| NotPut::Malformed(error.0))?;
    }
    let (client, server) = match held.initiator {
        true => (held.local.clone(), held.remote.clone()),
        false => (held.remote.clone(), held.local.clone()),
    };
    Ok(Some(pb::Session {
        session_id: id.to_vec(),
        kind: kind.into(),
        owner: agent.0.clone(),
        ends: pair.names.iter().map(|name| name.0.clone()).collect(),
        pair_id: held.pair_id.clone(),
        client,
        server,
        paths: vec![pb::Path {
            local: held.wire_local.clone(),
            remote: held.wire_remote.clone(),
            role: "primary".into(),
            ..pb::Path::default()
        }],
        ..pb::Session::default()
    }))
}

fn held_id(pair: &PairKey, label: u64) -> [u8; 16] {
    let mut digest = Sha256::new()
        .chain_update(b"mobility session v1")
        .chain_update(pair.pair.0);
    for name in &pair.names {
        digest.update((name.0.len() as u64).to_be_bytes());
        digest.update(&name.0);
    }
    let digest = digest.chain_update(label.to_be_bytes()).finalize();
    std::array::from_fn(|at| digest[at])
}

fn written(mut session: pb::Session, lease: u32) -> (Bytes, Lease) {
    session.revision = 0;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    session.updated_unix_milliseconds =
        u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or_default();
    let lease = match session.lease_seconds {
        0 => lease,
        seconds => seconds.min(LONGEST_LEASE),
    };
    session.lease_seconds = lease;
    let lease = Lease::For(Duration::from_secs(lease.into()));
    (session.encode_to_vec().into(), lease)
}

/// The name of a session's record.
pub(super) fn key(id: &[u8]) -> Result<Key, NotPut> {
    match id.len() {
        16 => Ok(Key::new(Table::Sessions, id.to_vec())?),
        _ => Err(NotPut::Malformed("a session ID has 16 bytes")),
    }
}

fn token_key(token: u32) -> Result<Key, StoreError> {
    Key::new(Table::Relays, format!("mptcp-token {token:08x}"))
}

/// What a record says.
pub(super) fn read(record: &Record) -> Option<pb::Session> {
    let mut session = pb::Session::decode(record.value.clone()?).ok()?;
    session.revision = record.revision.0;
    Some(session)
}
