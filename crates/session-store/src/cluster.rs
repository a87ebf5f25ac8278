//! The store of several server instances, in a Redis or Valkey cluster.
//!
//! Every record is one key, `mobility:TABLE:{NAME}`, so each call is one script at one master, and atomic there
//! (`record.lua`). Leases are the master's expiry times. A call that fails is repeated until the deadline ([`RedisSettings::patience`]), because
//! a cluster that has lost a master answers again once a replica has taken over.
//!
//! Replication is asynchronous: what a master acknowledged in its last moments may be missing at the replica that takes
//! over. That costs a retry, as for every lost record. Wake-ups are sharded channels; a subscriber whose connection was
//! lost is subscribed again and gets [`Note::Gap`].

mod answer;
mod listing;
mod wakeups;

use std::future::Future;
use std::time::{Duration, Instant};

use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Cmd, ErrorKind, FromRedisValue, ProtocolVersion, RedisError, Script, ServerErrorKind, Value};
use async_trait::async_trait;
use bytes::Bytes;

use self::answer::Answer;
use self::wakeups::Wakeups;
use crate::entry::millis;
use crate::error::{check_note, check_value};
use crate::key::check_name;
use crate::{
    Cursor, Epoch, Expected, Key, Lease, Notes, Page, Record, Reported, Revision, Store, StoreError, Swap,
    Table,
};

const BACKEND: &str = "redis";
/// One attempt to connect, and one to get an answer.
const ATTEMPT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The longest lease that the script's numbers can hold, in milliseconds: 31,000 years.
const LONGEST_LEASE: u64 = 1_000_000_000_000_000;

/// Where the cluster is.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// URLs of some of its nodes, `redis://[:PASSWORD@]HOST[:PORT]`; the others are learnt from them.
    pub nodes: Vec<String>,
    /// How long a call is repeated before it fails.
    pub patience: Duration,
}

impl Default for RedisSettings {
    fn default() -> Self {
        RedisSettings {
            nodes: Vec::new(),
            patience: Duration::from_secs(15),
        }
    }
}

/// Records in a Redis or Valkey cluster.
pub struct Redis {
    link: Link,
    script: Script,
    wakeups: Wakeups,
}

/// A connection to the cluster, and how long to try.
#[derive(Clone)]
pub(crate) struct Link {
    connection: ClusterConnection,
    patience: Duration,
}

impl Redis {
    /// Connects to a cluster. Belongs to the runtime on which it was called.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] for URLs that are none, [`StoreError::Unavailable`] when no node answers in time.
    pub async fn open(settings: RedisSettings) -> Result<Self, StoreError> {
        let (pushed, pushes) = tokio::sync::mpsc::unbounded_channel();
        let client = ClusterClient::builder(settings.nodes)
            .use_protocol(ProtocolVersion::RESP3)
            .push_sender(pushed)
            .connection_timeout(ATTEMPT)
            .response_timeout(ATTEMPT)
            .overall_response_timeout(Some(ATTEMPT * 2))
            .retries(3)
            .build()
            .map_err(|error| StoreError::Configuration {
                reason: error.to_string(),
            })?;
        let connection = patiently(settings.patience, || client.get_async_connection()).await?;
        let link = Link {
            connection,
            patience: settings.patience,
        };
        let mut command = ::redis::cmd("COMMAND");
        command.arg("INFO").arg("SPUBLISH");
        let known: Value = link.ask(&command).await?;
        let sharded = matches!(&known, Value::Array(items) if items.iter().any(|item| *item != Value::Nil));
        Ok(Redis {
            wakeups: Wakeups::start(link.clone(), sharded, pushes),
            link,
            script: Script::new(include_str!("cluster/record.lua")),
        })
    }

    /// One call of the script. A node that does not know the script is sent all of it.
    async fn call(&self, key: &Key, arguments: &[&[u8]]) -> Result<Answer, StoreError> {
        let name = name_of(key);
        let value: Value = patiently(self.link.patience, || async {
            let mut connection = self.link.connection.clone();
            let mut known = ::redis::cmd("EVALSHA");
            known.arg(self.script.get_hash()).arg(1).arg(&name).arg(arguments);
            match known.query_async(&mut connection).await {
                Err(error) if is_unknown_script(&error) => {
                    let mut whole = ::redis::cmd("EVAL");
                    whole
                        .arg(include_str!("cluster/record.lua"))
                        .arg(1)
                        .arg(&name)
                        .arg(arguments);
                    whole.query_async(&mut connection).await
                }
                other => other,
            }
        })
        .await?;
        Answer::read(value)
    }
}

impl Link {
    /// A command, repeated until it succeeds or patience is at an end.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        patiently(self.patience, || async {
            command.query_async(&mut self.connection.clone()).await
        })
        .await
    }
}

/// Repeats what fails for reasons that pass.
async fn patiently<T, F>(patience: Duration, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, RedisError>>,
{
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if is_final(&error) {
            return Err(StoreError::Failed {
                reason: error.to_string(),
            });
        }
        if started.elapsed() + pause > patience {
            return Err(StoreError::Unavailable {
                backend: BACKEND,
                waited: started.elapsed(),
                reason: error.to_string(),
            });
        }
        tracing::debug!(%error, "the cluster does not answer; again in {pause:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// No repetition helps.
fn is_final(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::AuthenticationFailed
            | ErrorKind::InvalidClientConfig
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::RESP3NotSupported
            | ErrorKind::Server(ServerErrorKind::ResponseError)
    )
}

/// A record's key in the cluster. What is in braces decides on the master.
fn name_of(key: &Key) -> Vec<u8> {
    [prefix_of(key.table()).as_bytes(), key.name(), b"}"].concat()
}

fn prefix_of(table: Table) -> String {
    format!("mobility:{}:{{", table.name())
}

fn lease_word(lease: Lease) -> String {
    match lease {
        Lease::For(duration) => millis(duration).min(LONGEST_LEASE).to_string(),
        Lease::Forever => "forever".into(),
        Lease::Keep => "keep".into(),
    }
}

/// 20 digits: the script compares counters as strings.
fn counter_word(counter: u64) -> String {
    format!("{counter:020}")
}

#[async_trait]
impl Store for Redis {
    fn backend(&self) -> &'static str {
        BACKEND
    }

    async fn epoch(&self) -> Result<Epoch, StoreError> {
        let mut command = ::redis::cmd("SET");
        command
            .arg("mobility:epoch")
            .arg(&Epoch::fresh().0[..])
            .arg("NX")
            .arg("GET");
        // The old value; nothing when ours is the first.
        let stored: Option<Vec<u8>> = self.link.ask(&command).await?;
        let stored = match stored {
            Some(stored) => stored,
            None => self.link.ask(::redis::cmd("GET").arg("mobility:epoch")).await?,
        };
        match <[u8; 16]>::try_from(stored) {
            Ok(epoch) => Ok(Epoch(epoch)),
            Err(_) => Err(answer::misread("the epoch does not have 16 bytes")),
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.call(key, &[b"get"]).await?.record(key)
    }

    async fn swap(
        &self,
        key: &Key,
        expected: Expected,
        value: Bytes,
        lease: Lease,
    ) -> Result<Swap, StoreError> {
        check_value(&value)?;
        let expected = match expected {
            Expected::Absent => String::new(),
            Expected::At(Revision(revision)) => revision.to_string(),
        };
        let lease = lease_word(lease);
        let answer = self
            .call(key, &[b"swap", expected.as_bytes(), &value, lease.as_bytes()])
            .await?;
        match answer.outcome() {
            b"done" => answer.revision().map(Swap::Done),
            _ => answer.record(key).map(Swap::Lost),
        }
    }

    async fn renew(&self, key: &Key, revision: Revision, lease: Lease) -> Result<bool, StoreError> {
        let (revision, lease) = (revision.0.to_string(), lease_word(lease));
        let answer = self
            .call(key, &[b"renew", revision.as_bytes(), lease.as_bytes()])
            .await?;
        Ok(answer.outcome() == b"yes")
    }

    async fn remove(&self, key: &Key, revision: Option<Revision>) -> Result<bool, StoreError> {
        let revision = revision.map_or_else(String::new, |revision| revision.0.to_string());
        let answer = self.call(key, &[b"remove", revision.as_bytes()]).await?;
        Ok(answer.outcome() == b"yes")
    }

    async fn report(
        &self,
        key: &Key,
        agent: &[u8],
        counter: u64,
        body: Bytes,
        lease: Lease,
    ) -> Result<Reported, StoreError> {
        check_name(agent)?;
        check_value(&body)?;
        let (counter, lease) = (counter_word(counter), lease_word(lease));
        let arguments: [&[u8]; 5] = [b"report", agent, counter.as_bytes(), &body, lease.as_bytes()];
        let answer = self.call(key, &arguments).await?;
        match answer.outcome() {
            b"stale" => Ok(Reported::Stale {
                stored: answer.revision()?.0,
            }),
            b"crowded" => Ok(Reported::Crowded),
            _ => match answer.record(key)? {
                Some(record) => Ok(Reported::Filed(record)),
                None => Err(answer::misread("a filed report is not in its record")),
            },
        }
    }

    async fn withdraw(&self, key: &Key, agent: &[u8], counter: u64) -> Result<Option<Record>, StoreError> {
        let counter = counter_word(counter);
        self.call(key, &[b"withdraw", agent, counter.as_bytes()])
            .await?
            .record(key)
    }

    async fn list(&self, table: Table, after: Option<Cursor>, limit: usize) -> Result<Page, StoreError> {
        listing::page(self, table, after, limit.max(1)).await
    }

    async fn count(&self, table: Table) -> Result<u64, StoreError> {
        listing::count(self, table).await
    }

    async fn subscribe(&self, topic: &[u8]) -> Result<Notes, StoreError> {
        check_name(topic)?;
        self.wakeups.subscribe(topic).await
    }

    async fn notify(&self, topic: &[u8], note: Bytes) -> Result<(), StoreError> {
        check_name(topic)?;
        check_note(&note)?;
        self.wakeups.notify(topic, &note).await
    }
}
