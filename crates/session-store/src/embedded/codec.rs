//! Records and their names as sled holds them.
//!
//! A name: the table's number, then the name. A record, numbers big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 0 | version, 1 |
//! | 1–4 | CRC-32 over the name and what follows |
//! | 5–12 | revision |
//! | | value: 0, or 1, end of the lease (8), length (4), bytes |
//! | | number of reports (1), each: agent's length (2), agent, counter (8), order (8), end of the lease (8), body as the value's |
use bytes::{Buf, BufMut, Bytes};

use crate::entry::{Entry, Filed, Millis, Value};
use crate::{Key, Table};

const VERSION: u8 = 1;
/// Version and CRC.
const HEAD: usize = 5;

/// Why a record is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("its checksum is {found:08x}, that of what it holds {computed:08x}")]
    Checksum { found: u32, computed: u32 },
    #[error("it has version {0}, which this program does not know")]
    Version(u8),
    #[error("it ends too early")]
    Short,
    #[error("it does not end where it should")]
    Long,
    #[error("its name belongs to no table")]
    Name,
}

/// The table's number in names; never changed.
fn number(table: Table) -> u8 {
    match table {
        Table::Pairs => 1,
        Table::Sessions => 2,
        Table::Agents => 3,
        Table::Tokens => 4,
        Table::Revocations => 5,
        Table::Relays => 6,
    }
}

pub(crate) fn encode_key(key: &Key) -> Vec<u8> {
    name_in(key.table(), key.name())
}

/// Where a name is, or would be; the empty one is before all others of the table.
pub(crate) fn name_in(table: Table, name: &[u8]) -> Vec<u8> {
    [&[number(table)], name].concat()
}

pub(crate) fn decode_key(bytes: &[u8]) -> Result<Key, Damage> {
    let (first, name) = bytes.split_first().ok_or(Damage::Name)?;
    let table = Table::ALL
        .into_iter()
        .find(|table| number(*table) == *first)
        .ok_or(Damage::Name)?;
    Key::new(table, Bytes::copy_from_slice(name)).map_err(|_| Damage::Name)
}

pub(crate) fn encode(name: &[u8], entry: &Entry) -> Vec<u8> {
    let mut bytes = vec![VERSION, 0, 0, 0, 0];
    bytes.put_u64(entry.revision);
    let value = entry.value.as_ref();
    bytes.put_u64(value.map_or(0, |value| value.until));
    put_optional(&mut bytes, value.map(|value| &value.bytes));
    // At most MAX_REPORTERS.
    bytes.put_u8(entry.filed.len() as u8);
    for filed in &entry.filed {
        // At most MAX_KEY.
        bytes.put_u16(filed.agent.len() as u16);
        bytes.put_slice(&filed.agent);
        bytes.put_u64(filed.counter);
        bytes.put_u64(filed.order);
        bytes.put_u64(filed.until);
        put_optional(&mut bytes, filed.body.as_ref());
    }
    let checksum = checksum(name, &bytes[HEAD..]);
    bytes[1..HEAD].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

pub(crate) fn decode(name: &[u8], bytes: &[u8]) -> Result<Entry, Damage> {
    let mut rest = bytes;
    let version = rest.try_get_u8().map_err(|_| Damage::Short)?;
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let found = rest.try_get_u32().map_err(|_| Damage::Short)?;
    let computed = checksum(name, rest);
    if found != computed {
        return Err(Damage::Checksum { found, computed });
    }
    let revision = number_of(&mut rest)?;
    let until = number_of(&mut rest)?;
    let value = optional(&mut rest)?.map(|bytes| Value { bytes, until });
    let reports = rest.try_get_u8().map_err(|_| Damage::Short)?;
    let filed = (0..reports).map(|_| filed(&mut rest)).collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        return Err(Damage::Long);
    }
    Ok(Entry {
        revision,
        value,
        filed,
    })
}

fn filed(rest: &mut &[u8]) -> Result<Filed, Damage> {
    let length = rest.try_get_u16().map_err(|_| Damage::Short)?;
    Ok(Filed {
        agent: take(rest, length.into())?,
        counter: number_of(rest)?,
        order: number_of(rest)?,
        until: number_of(rest)?,
        body: optional(rest)?,
    })
}

fn number_of(rest: &mut &[u8]) -> Result<Millis, Damage> {
    rest.try_get_u64().map_err(|_| Damage::Short)
}

fn put_optional(bytes: &mut Vec<u8>, body: Option<&Bytes>) {
    bytes.put_u8(body.is_some().into());
    if let Some(body) = body {
        // At most MAX_VALUE.
        bytes.put_u32(body.len() as u32);
        bytes.put_slice(body);
    }
}

fn optional(rest: &mut &[u8]) -> Result<Option<Bytes>, Damage> {
    if rest.try_get_u8().map_err(|_| Damage::Short)? == 0 {
        return Ok(None);
    }
    let length = rest.try_get_u32().map_err(|_| Damage::Short)?;
    take(rest, length as usize).map(Some)
}

fn take(rest: &mut &[u8], length: usize) -> Result<Bytes, Damage> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Damage::Short)?;
    *rest = left;
    Ok(Bytes::copy_from_slice(taken))
}

fn checksum(name: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(name);
    hasher.update(body);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Entry {
        let filed = |agent: &'static str, body: Option<&'static str>| Filed {
            agent: Bytes::from_static(agent.as_bytes()),
            counter: u64::MAX,
            order: 17,
            until: 99,
            body: body.map(|body| Bytes::from_static(body.as_bytes())),
        };
        Entry {
            revision: 3,
            value: Some(Value {
                bytes: Bytes::from_static(b"decision"),
                until: u64::MAX,
            }),
            filed: vec![filed("a", Some("report")), filed("b", None)],
        }
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for entry in [example(), Entry::default()] {
            assert_eq!(decode(b"name", &encode(b"name", &entry)), Ok(entry));
        }
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_seen() {
        let whole = encode(b"name", &example());
        for at in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            assert!(decode(b"name", &bytes).is_err(), "bit {at}");
        }
        for length in 0..whole.len() {
            assert!(decode(b"name", &whole[..length]).is_err(), "cut at {length}");
        }
        assert!(decode(b"another name", &whole).is_err());
    }
}
