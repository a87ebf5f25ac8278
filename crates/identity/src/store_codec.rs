//! The file of pairs: bytes to pairs and back.
//!
//! `MOBPAIRS`, version (32 bits, big-endian), length of the body (64 bits, big-endian), the first 8 bytes of the
//! body's SHA-256, body (protobuf, `pair/v1/state.proto`). The digest finds damage, not forgery: who can write the
//! file owns the agent anyway.

use std::time::{Duration, UNIX_EPOCH};

use prost::Message;
use proto::pair::v1 as pb;
use sha2::{Digest, Sha256};
use thiserror::Error;
use wire::keys::PairKey;
use zeroize::{Zeroize, Zeroizing};

use crate::agent_id::Fingerprint;
use crate::message::MessageError;
use crate::message::convert::{
    address_out, array, endpoint, endpoint_out, host_address, port, sleep, sleep_out, uuid,
};
use crate::pair::{Abilities, Pair, Role};

const MAGIC: &[u8; 8] = b"MOBPAIRS";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 + 8 + 8;

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum DamageError {
    #[error("it is no file of pairs")]
    Foreign,
    #[error("it has format {0}, of another release; this one reads {VERSION}")]
    Version(u32),
    #[error("it is {got} bytes long instead of {expected}")]
    Length { got: u64, expected: u64 },
    #[error("its checksum does not fit")]
    Checksum,
    #[error("its content cannot be read: {0}")]
    Content(String),
}

impl From<MessageError> for DamageError {
    fn from(error: MessageError) -> Self {
        Self::Content(error.to_string())
    }
}

pub(crate) fn encode<'a>(pairs: impl Iterator<Item = &'a Pair>) -> Zeroizing<Vec<u8>> {
    let mut stored = pb::StoredPairs {
        pairs: pairs.map(store).collect(),
    };
    let length = stored.encoded_len();
    // Reserved once, so that growing leaves no copies of keys behind.
    let mut file = Zeroizing::new(Vec::with_capacity(HEADER + length));
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&VERSION.to_be_bytes());
    file.extend_from_slice(&(length as u64).to_be_bytes());
    file.extend_from_slice(&[0; 8]);
    stored.encode_raw(&mut *file);
    let checksum = checksum(&file[HEADER..]);
    file[HEADER - 8..HEADER].copy_from_slice(&checksum);
    wipe(&mut stored);
    file
}

pub(crate) fn decode(file: &[u8]) -> Result<Vec<Pair>, DamageError> {
    let (magic, rest) = file.split_first_chunk::<8>().ok_or(DamageError::Foreign)?;
    if magic != MAGIC {
        return Err(DamageError::Foreign);
    }
    let too_short = DamageError::Length {
        got: file.len() as u64,
        expected: HEADER as u64,
    };
    let (version, rest) = rest.split_first_chunk::<4>().ok_or_else(|| too_short.clone())?;
    match u32::from_be_bytes(*version) {
        VERSION => {}
        other => return Err(DamageError::Version(other)),
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or_else(|| too_short.clone())?;
    let (sum, body) = rest.split_first_chunk::<8>().ok_or(too_short)?;
    let expected = u64::from_be_bytes(*length);
    if expected != body.len() as u64 {
        return Err(DamageError::Length {
            got: body.len() as u64,
            expected,
        });
    }
    if checksum(body) != *sum {
        return Err(DamageError::Checksum);
    }
    let mut stored =
        pb::StoredPairs::decode(body).map_err(|error| DamageError::Content(error.to_string()))?;
    let pairs = stored.pairs.iter().map(restore).collect();
    wipe(&mut stored);
    pairs
}

fn checksum(body: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(body);
    std::array::from_fn(|i| digest[i])
}

fn wipe(stored: &mut pb::StoredPairs) {
    stored.pairs.iter_mut().for_each(|pair| pair.key.zeroize());
}

fn store(pair: &Pair) -> pb::StoredPair {
    let since = pair.established_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    pb::StoredPair {
        peer: pair.peer.to_string(),
        peer_name: pair.peer_name.clone(),
        peer_fingerprint: pair.peer_fingerprint.0.to_vec(),
        pair_id: pair.pair_id.as_bytes().to_vec(),
        exchange_id: pair.exchange_id.as_bytes().to_vec(),
        epoch: pair.epoch,
        key: pair.key.as_bytes().to_vec(),
        dialled_by_me: pair.established_by == Role::Dialer,
        dialled_by_smaller: pair.dialled_by_smaller,
        peer_agent_port: pair.peer_agent_port.into(),
        peer_direct_addresses: pair
            .peer_direct_addresses
            .iter()
            .copied()
            .map(address_out)
            .collect(),
        peer_observed: Some(endpoint_out(pair.peer_observed)),
        self_observed: Some(endpoint_out(pair.self_observed)),
        peer_behind_napt: pair.peer_behind_napt,
        self_behind_napt: pair.self_behind_napt,
        common_servers: pair.common_servers.clone(),
        abilities: pair.abilities.0,
        peer_sleep: Some(sleep_out(pair.peer_sleep)),
        established_at: since.as_secs(),
    }
}

fn restore(stored: &pb::StoredPair) -> Result<Pair, DamageError> {
    let seen = |end: &Option<pb::Endpoint>, field| match end {
        Some(end) => endpoint(end.clone(), field),
        None => Err(MessageError::Field(field)),
    };
    let established_at = UNIX_EPOCH
        .checked_add(Duration::from_secs(stored.established_at))
        .ok_or(MessageError::Field("established_at"))?;
    let key = Zeroizing::new(array::<32>(&stored.key, "key")?);
    Ok(Pair {
        pair_id: uuid(&stored.pair_id, "pair_id")?,
        exchange_id: uuid(&stored.exchange_id, "exchange_id")?,
        peer: stored.peer.parse().map_err(|_| MessageError::Field("peer"))?,
        peer_name: stored.peer_name.clone(),
        peer_fingerprint: Fingerprint(array(&stored.peer_fingerprint, "peer_fingerprint")?),
        key: PairKey::new(*key),
        epoch: stored.epoch,
        peer_agent_port: port(stored.peer_agent_port, "peer_agent_port")?,
        peer_direct_addresses: stored
            .peer_direct_addresses
            .iter()
            .map(|bytes| host_address(bytes))
            .collect::<Result<_, _>>()?,
        peer_observed: seen(&stored.peer_observed, "peer_observed")?,
        self_observed: seen(&stored.self_observed, "self_observed")?,
        peer_behind_napt: stored.peer_behind_napt,
        self_behind_napt: stored.self_behind_napt,
        common_servers: stored.common_servers.clone(),
        no_common_server: stored.common_servers.is_empty(),
        abilities: Abilities(stored.abilities),
        peer_sleep: sleep(stored.peer_sleep),
        established_by: if stored.dialled_by_me {
            Role::Dialer
        } else {
            Role::Acceptor
        },
        dialled_by_smaller: stored.dialled_by_smaller,
        established_at,
    })
}
