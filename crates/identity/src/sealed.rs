//! What one end of a pair tells the other through a server that must not read or change it.
//!
//! AES-256-GCM under a key that follows from the pair key of one epoch; the epoch and a random nonce stand in front.
//! Who sends and the pair are authenticated with it, so that a server cannot turn a text back on its sender; a text
//! that must not serve twice says itself which move it belongs to.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hkdf::Hkdf;
use rand::Rng;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::agent_id::AgentId;
use crate::pair::Pair;

const SALT: &[u8] = b"mobility sealed candidates v1";
const EPOCH: usize = 4;

/// Why a sealed text cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum SealError {
    #[error("a sealed text of {got} bytes is too short")]
    Short { got: usize },
    #[error("sealed under epoch {sealed}, not {ours}")]
    Epoch { sealed: u32, ours: u32 },
    #[error("the seal is broken")]
    Broken,
}

fn key(pair: &Pair) -> Result<LessSafeKey, SealError> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(SALT), pair.key.as_bytes())
        .expand(&pair.epoch.to_be_bytes(), key.as_mut_slice())
        .map_err(|_| SealError::Broken)?;
    let key = UnboundKey::new(&AES_256_GCM, key.as_slice()).map_err(|_| SealError::Broken)?;
    Ok(LessSafeKey::new(key))
}

fn bound(pair: &Pair, sender: &AgentId) -> Vec<u8> {
    let mut bound = pair.pair_id.as_bytes().to_vec();
    bound.extend(sender.as_str().as_bytes());
    bound
}

/// Seals `text` for the peer. `sender` is this agent.
///
/// # Errors
/// None that a caller can cause.
pub fn seal(pair: &Pair, sender: &AgentId, text: &[u8]) -> Result<Vec<u8>, SealError> {
    let nonce: [u8; NONCE_LEN] = rand::rng().random();
    let mut sealed = text.to_vec();
    key(pair)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(bound(pair, sender)),
            &mut sealed,
        )
        .map_err(|_| SealError::Broken)?;
    let mut whole = pair.epoch.to_be_bytes().to_vec();
    whole.extend(nonce);
    whole.append(&mut sealed);
    Ok(whole)
}

/// Under which epoch a text was sealed.
pub fn epoch_of(sealed: &[u8]) -> Option<u32> {
    sealed
        .first_chunk::<EPOCH>()
        .map(|epoch| u32::from_be_bytes(*epoch))
}

/// Opens what the peer has sealed.
///
/// # Errors
/// It is not from the peer, changed, or of another epoch.
pub fn open(pair: &Pair, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let short = SealError::Short { got: sealed.len() };
    let (epoch, rest) = sealed.split_first_chunk::<EPOCH>().ok_or(short)?;
    let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(short)?;
    let epoch = u32::from_be_bytes(*epoch);
    if epoch != pair.epoch {
        let ours = pair.epoch;
        return Err(SealError::Epoch { sealed: epoch, ours });
    }
    let mut text = Zeroizing::new(text.to_vec());
    let aad = Aad::from(bound(pair, &pair.peer));
    let length = key(pair)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text)
        .map_err(|_| SealError::Broken)?
        .len();
    text.truncate(length);
    Ok(text)
}
