//! Listing a table: master after master, each scanned in steps.
//!
//! A cursor names the first slot of a master, its address and the position in its scan. Positions mean nothing at
//! another node: when the slot has another master by now, that one is scanned from its beginning.
use std::collections::{BTreeMap, HashSet};

use ::redis::Value;
use ::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use bytes::Bytes;
use futures_util::future::try_join_all;

use super::answer::misread;
use super::{Redis, patiently, prefix_of};
use crate::{Cursor, Key, Page, Store, StoreError, Table};

/// Keys that a master looks at in one step.
const STEP: usize = 256;

/// A place in the listing.
struct Place {
    slot: u16,
    node: String,
    position: u64,
}

impl Place {
    fn read(cursor: &Cursor) -> Result<Self, StoreError> {
        let read = || {
            let text = std::str::from_utf8(&cursor.0).ok()?;
            let mut words = text.splitn(3, ' ');
            Some(Place {
                slot: words.next()?.parse().ok()?,
                position: words.next()?.parse().ok()?,
                node: words.next()?.into(),
            })
        };
        read().ok_or_else(|| misread("the cursor is of another store"))
    }

    fn cursor(&self) -> Cursor {
        Cursor(Bytes::from(format!(
            "{} {} {}",
            self.slot, self.position, self.node
        )))
    }
}

/// One page.
pub(crate) async fn page(
    store: &Redis,
    table: Table,
    after: Option<Cursor>,
    limit: usize,
) -> Result<Page, StoreError> {
    let masters = masters(store).await?;
    let mut place = after.as_ref().map(Place::read).transpose()?;
    let mut keys = HashSet::new();
    let next = loop {
        let from = place.as_ref().map_or(0, |place| place.slot);
        let Some((slot, node)) = masters.range(from..).next() else {
            break None;
        };
        let position = place
            .as_ref()
            .filter(|place| place.slot == *slot && place.node == *node)
            .map_or(0, |place| place.position);
        let (position, found) = scan(store, table, node, position, limit).await?;
        keys.extend(found);
        let slot = if position == 0 { slot + 1 } else { *slot };
        let reached = Place {
            slot,
            node: node.clone(),
            position,
        };
        if keys.len() >= limit {
            // Nothing is behind the last master.
            let more = masters.range(slot..).next().is_some();
            break more.then(|| reached.cursor());
        }
        place = Some(reached);
    };
    let records = try_join_all(keys.iter().map(|key| store.get(key))).await?;
    Ok(Page {
        // What has gone meanwhile, and what shows nothing, is left out.
        records: records.into_iter().flatten().collect(),
        next,
    })
}

/// How many records there are: names alone are read, a thousand at a time.
pub(crate) async fn count(store: &Redis, table: Table) -> Result<u64, StoreError> {
    const AT_ONCE: usize = 1000;
    let mut names = HashSet::new();
    for node in masters(store).await?.values() {
        let mut position = 0;
        loop {
            let (next, found) = scan(store, table, node, position, AT_ONCE).await?;
            names.extend(found);
            match next {
                0 => break,
                next => position = next,
            }
        }
    }
    Ok(names.len() as u64)
}

/// First slot and address of every master.
async fn masters(store: &Redis) -> Result<BTreeMap<u16, String>, StoreError> {
    let mut command = ::redis::cmd("CLUSTER");
    command.arg("SLOTS");
    let ranges: Vec<Vec<Value>> = store.link.ask(&command).await?;
    let mut first: BTreeMap<String, u16> = BTreeMap::new();
    for range in ranges {
        let (Some(Value::Int(start)), Some(Value::Array(master))) = (range.first(), range.get(2)) else {
            return Err(misread("CLUSTER SLOTS"));
        };
        let (Some(Value::BulkString(host)), Some(Value::Int(port))) = (master.first(), master.get(1)) else {
            return Err(misread("CLUSTER SLOTS"));
        };
        let node = format!("{}:{port}", String::from_utf8_lossy(host));
        let start = u16::try_from(*start).map_err(|_| misread("CLUSTER SLOTS"))?;
        first
            .entry(node)
            .and_modify(|slot| *slot = start.min(*slot))
            .or_insert(start);
    }
    Ok(first.into_iter().map(|(node, slot)| (slot, node)).collect())
}

/// One step at one master: where to go on (0: it is through), and the keys found.
async fn scan(
    store: &Redis,
    table: Table,
    node: &str,
    position: u64,
    limit: usize,
) -> Result<(u64, Vec<Key>), StoreError> {
    let prefix = prefix_of(table);
    let (host, port) = node.rsplit_once(':').ok_or_else(|| misread("an address"))?;
    let port = port.parse().map_err(|_| misread("an address"))?;
    let mut command = ::redis::cmd("SCAN");
    command
        .arg(position)
        .arg("MATCH")
        .arg(format!("{prefix}*"))
        .arg("COUNT")
        .arg(limit.max(STEP));
    let value = patiently(store.link.patience, || {
        let route = RoutingInfo::SingleNode(SingleNodeRoutingInfo::ByAddress {
            host: host.to_owned(),
            port,
        });
        let (mut connection, command) = (store.link.connection.clone(), command.clone());
        async move { connection.route_command(command, route).await }
    })
    .await?;
    let (position, names): (u64, Vec<Vec<u8>>) =
        ::redis::from_redis_value(value).map_err(|_| misread("SCAN"))?;
    let keys = names.into_iter().filter_map(|name| {
        let name = name.strip_prefix(prefix.as_bytes())?.strip_suffix(b"}")?;
        Key::new(table, Bytes::copy_from_slice(name)).ok()
    });
    Ok((position, keys.collect()))
}
