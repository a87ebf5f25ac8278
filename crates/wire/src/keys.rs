//! Keys: from what a pair of agents agreed on to what one connection uses.
//!
//! The pair exchange gives two agents a [`PairKey`] per epoch. A connection takes [`ConnectionKeys`] from it by
//! HKDF-SHA256 with both initial sequence numbers, which only its two ends (and who is on the path) know. They
//! hold one MAC key for each direction, so that no segment can be reflected, and the key of the tokens.
//!
//! Key types are wiped when they are dropped, print no secret and compare in constant time.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use siphasher::sip::SipHasher24;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::reqno::ReqNo;
use crate::token::Token;

/// The salt that separates these keys from any other use of a pair key.
const SALT: &[u8] = b"mobility connection keys v1";

/// Which end of a connection: the one that called `connect` or the one that called `accept`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Sent the SYN; its request numbers are even.
    Initiator,
    /// Answered with the SYN-ACK; its request numbers are odd.
    Acceptor,
}

impl Role {
    /// The role of the other end.
    pub fn peer(self) -> Role {
        match self {
            Role::Initiator => Role::Acceptor,
            Role::Acceptor => Role::Initiator,
        }
    }

    /// Whose parity `number` has.
    pub(crate) fn of_number(number: u32) -> Role {
        match number % 2 {
            0 => Role::Initiator,
            _ => Role::Acceptor,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Initiator => "initiator",
            Role::Acceptor => "acceptor",
        })
    }
}

/// Declares a secret of a fixed length: wiped on drop, silent in logs, compared in constant time.
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Zeroize, ZeroizeOnDrop)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Takes the secret bytes; the caller wipes its own copy.
            pub fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The secret bytes, for a BPF map or a hash.
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.ct_eq(&other.0).into()
            }
        }

        impl Eq for $name {}

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

secret!(
    /// What two agents agreed on in one epoch of their pair exchange.
    PairKey,
    32
);
secret!(
    /// The MAC key of one direction of one connection.
    MacKey,
    16
);
secret!(
    /// The key from which the tokens of one connection follow.
    TokenKey,
    16
);

/// The keys of one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionKeys {
    /// Signs what the initiator sends.
    pub initiator_to_acceptor: MacKey,
    /// Signs what the acceptor sends.
    pub acceptor_to_initiator: MacKey,
    /// Gives the tokens.
    pub token_key: TokenKey,
}

impl ConnectionKeys {
    /// The keys of the connection with these initial sequence numbers, under the pair key of `epoch`.
    ///
    /// HKDF-SHA256 with salt `mobility connection keys v1`, the pair key as input key material and
    /// `epoch || isn_initiator || isn_acceptor` (big-endian) as info; 48 bytes: initiator to acceptor 16,
    /// acceptor to initiator 16, token key 16.
    pub fn derive(pair_key: &PairKey, epoch: u32, isn_initiator: u32, isn_acceptor: u32) -> Self {
        let mut info = [0; 12];
        info[..4].copy_from_slice(&epoch.to_be_bytes());
        info[4..8].copy_from_slice(&isn_initiator.to_be_bytes());
        info[8..].copy_from_slice(&isn_acceptor.to_be_bytes());
        let mut okm = Zeroizing::new([0; 48]);
        Hkdf::<Sha256>::new(Some(SALT), pair_key.as_bytes())
            .expand(&info, okm.as_mut_slice())
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        let part = |at: usize| std::array::from_fn(|i| okm[at + i]);
        Self {
            initiator_to_acceptor: MacKey::new(part(0)),
            acceptor_to_initiator: MacKey::new(part(16)),
            token_key: TokenKey::new(part(32)),
        }
    }

    /// The token under which the connection is known once `committed` is its highest committed attempt.
    ///
    /// The low 32 bits of SipHash-2-4 under the token key over `committed`, big-endian.
    pub fn token(&self, committed: ReqNo) -> Token {
        let hash = SipHasher24::new_with_key(self.token_key.as_bytes()).hash(&committed.0.to_be_bytes());
        Token(hash as u32)
    }

    /// Names the connection towards mobility servers: the same at both ends, and without meaning to anybody else.
    ///
    /// SipHash-2-4 under the token key over `mobility label v1`, never 0.
    pub fn label(&self) -> u64 {
        let hash = SipHasher24::new_with_key(self.token_key.as_bytes()).hash(b"mobility label v1");
        hash.max(1)
    }

    /// The key that signs what the end with this role sends.
    pub fn outgoing(&self, role: Role) -> &MacKey {
        match role {
            Role::Initiator => &self.initiator_to_acceptor,
            Role::Acceptor => &self.acceptor_to_initiator,
        }
    }

    /// The key that verifies what the end with this role receives.
    pub fn incoming(&self, role: Role) -> &MacKey {
        self.outgoing(role.peer())
    }
}
