//! The deployment's members: who enrolled, who is no longer welcome.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use identity::{EnrolmentToken, Fingerprint, Member, MemberRole};
use prost::Message;
use proto::stored::v1 as stored;
use session_store::tokens::{self, Spent};
use session_store::{Cursor, Expected, Key, Lease, SharedStore, StoreError, Swap, Table};
use sha2::{Digest, Sha256};

/// Under what a token is stored: who reads the store cannot enrol with it.
fn token_name(token: &EnrolmentToken) -> Vec<u8> {
    Sha256::digest(token.secret()).to_vec()
}

/// Makes a token and stores what it allows.
///
/// # Errors
/// Those of the store.
pub async fn create_token(
    store: &SharedStore,
    authority: Fingerprint,
    allowed: &stored::Token,
    uses: u32,
    lifetime: Duration,
) -> Result<EnrolmentToken, StoreError> {
    let token = EnrolmentToken::new(authority, rand::random());
    let note = allowed.encode_to_vec();
    tokens::create(
        store.as_ref(),
        token_name(&token),
        uses,
        &note,
        Lease::For(lifetime),
    )
    .await?;
    Ok(token)
}

/// Takes one use of a token. None: whatever is wrong with it.
///
/// # Errors
/// Those of the store.
pub async fn spend_token(
    store: &SharedStore,
    token: &EnrolmentToken,
) -> Result<Option<stored::Token>, StoreError> {
    match tokens::spend(store.as_ref(), token_name(token)).await? {
        Spent::Granted { note, .. } => Ok(stored::Token::decode(note).ok()),
        Spent::Refused => Ok(None),
    }
}

/// Who may come in.
pub struct Members {
    store: SharedStore,
    revoked: Mutex<HashSet<String>>,
}

impl Members {
    /// With nobody revoked until [`Members::refresh`] has looked.
    pub fn new(store: SharedStore) -> Self {
        Self {
            store,
            revoked: Mutex::default(),
        }
    }

    /// Whether the member of this URI is no longer welcome.
    pub fn is_revoked(&self, uri: &str) -> bool {
        self.revoked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(uri)
    }

    /// Reads the revocations of all instances. Returns those that were not known.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn refresh(&self) -> Result<Vec<String>, StoreError> {
        let mut all = HashSet::new();
        let mut after = None;
        loop {
            let page = self.store.list(Table::Revocations, after, 512).await?;
            for record in page.records {
                all.insert(String::from_utf8_lossy(record.key.name()).into_owned());
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let new = all.difference(&revoked).cloned().collect();
        *revoked = all;
        Ok(new)
    }

    /// Revokes everyone with this URI or name. Returns their URIs.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn revoke(&self, uri_or_name: &str) -> Result<Vec<String>, StoreError> {
        let mut uris: Vec<String> = match uri_or_name.starts_with("spiffe://") {
            true => vec![uri_or_name.to_owned()],
            false => Vec::new(),
        };
        let mut after = None;
        loop {
            let (members, next) = self.page(after, 512).await?;
            let named = members.into_iter().filter(|member| member.name == uri_or_name);
            uris.extend(named.map(|member| member.uri));
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        for uri in &uris {
            let key = Key::new(Table::Revocations, uri.clone().into_bytes())?;
            let stamp = unix_seconds(SystemTime::now()).to_be_bytes().to_vec();
            self.store
                .swap(&key, Expected::Absent, stamp.into(), Lease::Forever)
                .await?;
            self.revoked
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(uri.clone());
        }
        Ok(uris)
    }

    /// Notes who has got a certificate.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn note(&self, member: &Member) -> Result<(), StoreError> {
        let key = Key::new(Table::Agents, member.uri.clone().into_bytes())?;
        let value = stored::Member {
            uri: member.uri.clone(),
            name: member.name.clone(),
            role: member.role.to_string(),
            expires_unix_seconds: unix_seconds(member.not_after),
            revoked: false,
        };
        // Who comes no more is forgotten some time after its certificate.
        let left = member
            .not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let lease = Lease::For(left + Duration::from_secs(30 * 86_400));
        let mut expected = Expected::Absent;
        loop {
            let value = value.encode_to_vec().into();
            match self.store.swap(&key, expected, value, lease).await? {
                Swap::Done(_) => return Ok(()),
                Swap::Lost(Some(record)) => expected = Expected::At(record.revision),
                Swap::Lost(None) => expected = Expected::Absent,
            }
        }
    }

    /// Some of those who have got a certificate, about `limit`, and where the next ones begin.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn page(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<(Vec<stored::Member>, Option<Cursor>), StoreError> {
        let page = self.store.list(Table::Agents, after, limit).await?;
        let read = page
            .records
            .iter()
            .filter_map(|record| stored::Member::decode(record.value.clone()?).ok());
        let members = read.map(|member| stored::Member {
            revoked: self.is_revoked(&member.uri),
            ..member
        });
        Ok((members.collect(), page.next))
    }
}

/// Whether a token of this role gives that role; tokens without one are agents'.
pub fn role_of(token: &stored::Token) -> MemberRole {
    token.role.parse().unwrap_or(MemberRole::Agent)
}

/// Seconds since 1970.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
