//! Enrolment tokens: what an operator gives a host so that it may join a deployment.
//!
//! `mt1-<64 hex digits>-<secret, hex>`: the fingerprint of the authority's key, by which the host knows the server
//! before it trusts anybody, and a secret, by which the server knows the host. Whoever holds the token may enrol, so
//! it is secret as a whole, and wiped from memory when dropped.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::agent_id::Fingerprint;

const PREFIX: &str = "mt1-";
/// Bytes of the secret.
const SECRET: usize = 24;

/// What lets one host (or a few) join a deployment.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct EnrolmentToken {
    #[zeroize(skip)]
    authority: Fingerprint,
    secret: [u8; SECRET],
}

/// A text that is no enrolment token. Says nothing of the text: it may be a damaged secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "that is no enrolment token: expected mt1-, 64 hexadecimal digits, - and 48 more, as mobility-server \
     enroll-token prints them; copy it whole"
)]
pub struct ParseTokenError;

impl EnrolmentToken {
    /// A new token for the deployment of this authority. `secret`: fresh random bytes.
    pub fn new(authority: Fingerprint, secret: [u8; SECRET]) -> Self {
        Self { authority, secret }
    }

    /// The authority's key, which the server's certificate must chain to.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// What the server compares or looks up (after hashing it).
    pub fn secret(&self) -> &[u8; SECRET] {
        &self.secret
    }

    /// The text to be handed over. Secret.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}-{}", self.authority, hex::encode(self.secret))
    }
}

impl PartialEq for EnrolmentToken {
    fn eq(&self, other: &Self) -> bool {
        self.authority == other.authority && bool::from(self.secret.ct_eq(&other.secret))
    }
}

impl Eq for EnrolmentToken {}

impl FromStr for EnrolmentToken {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(ParseTokenError)?;
        let (authority, digits) = rest.split_once('-').ok_or(ParseTokenError)?;
        let mut secret = [0; SECRET];
        hex::decode_to_slice(digits, &mut secret).map_err(|_| ParseTokenError)?;
        let mut fingerprint = [0; 32];
        hex::decode_to_slice(authority, &mut fingerprint).map_err(|_| ParseTokenError)?;
        Ok(Self::new(Fingerprint(fingerprint), secret))
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}
