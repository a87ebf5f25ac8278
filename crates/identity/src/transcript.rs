//! What both ends of an exchange compute from all that was said in it.

use std::net::IpAddr;

use hkdf::hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use uuid::{Builder, Uuid};
use wire::keys::PairKey;

use crate::agent_id::{AgentId, Fingerprint};
use crate::pair::Role;

/// The digest of an exchange: who spoke, with which keys, and every byte of Hello and Welcome.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transcript([u8; 32]);

/// One end of the exchange as its certificate shows it.
pub(crate) struct Party<'a> {
    pub agent: &'a AgentId,
    pub key: &'a Fingerprint,
}

impl Transcript {
    pub fn new(dialer: &Party<'_>, acceptor: &Party<'_>, hello: &[u8], welcome: &[u8]) -> Self {
        let parts: [&[u8]; 6] = [
            dialer.agent.as_str().as_bytes(),
            &dialer.key.0,
            acceptor.agent.as_str().as_bytes(),
            &acceptor.key.0,
            hello,
            welcome,
        ];
        let mut digest = Sha256::new().chain_update(b"mobility pair exchange v1");
        for part in parts {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// Names the exchange; not secret.
    pub fn exchange_id(&self) -> Uuid {
        uuid_of(
            Sha256::new()
                .chain_update(b"mobility exchange v1")
                .chain_update(self.0),
        )
    }

    /// What the end in `role` sends to confirm: it holds the key and heard the same.
    pub fn confirmation(&self, key: &PairKey, role: Role) -> [u8; 32] {
        self.mac(key, role).finalize().into_bytes().into()
    }

    /// Whether `mac` is the confirmation of the end in `role`; in constant time.
    pub fn is_confirmed_by(&self, key: &PairKey, role: Role, mac: &[u8; 32]) -> bool {
        self.mac(key, role).verify_slice(mac).is_ok()
    }

    fn mac(&self, key: &PairKey, role: Role) -> Hmac<Sha256> {
        let role: &[u8] = match role {
            Role::Dialer => b"dialer",
            Role::Acceptor => b"acceptor",
        };
        Hmac::<Sha256>::new_from_slice(key.as_bytes())
            .expect("HMAC takes keys of any length")
            .chain_update(b"mobility pair confirm v1")
            .chain_update(self.0)
            .chain_update(role)
    }
}

/// The pair ID: a UUID from both agents' direct addresses and random bytes.
pub(crate) fn new_pair_id(dialer: (&[IpAddr], &[u8; 16]), acceptor: (&[IpAddr], &[u8; 16])) -> Uuid {
    let mut digest = Sha256::new().chain_update(b"mobility pair id v1");
    for (addresses, random) in [dialer, acceptor] {
        digest.update((addresses.len() as u64).to_be_bytes());
        for address in addresses {
            digest.update(wire::tuple::address_bytes(*address));
        }
        digest.update(random);
    }
    uuid_of(digest)
}

fn uuid_of(digest: Sha256) -> Uuid {
    let digest = digest.finalize();
    Builder::from_custom_bytes(std::array::from_fn(|i| digest[i])).into_uuid()
}
