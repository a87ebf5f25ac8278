//! The digest of an endpoint: 16 bits that show a NAPT without showing the address.
//!
//! A host puts the digest of the endpoint it *believes* to speak from into its options. Whoever receives the
//! segment computes the digest of the endpoint it *observes*. Different digests: something on the way
//! translates. The sequence number of the carrying segment salts the digest, so that it differs on every
//! connection and at every move. Sixteen bits hide the address from a glance, not from somebody who tries all
//! of them.

use std::fmt;

use siphasher::sip::SipHasher24;

use crate::tuple::Endpoint;

/// The digest of an endpoint, salted with the sequence number of the segment that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u16);

/// The digest of `endpoint` in a segment with sequence number `seq`.
///
/// The low 16 bits of SipHash-2-4 under the all-zero key over 22 bytes: the address as IPv6 or IPv4-mapped
/// IPv6, the port and `seq`, both big-endian.
pub fn digest(endpoint: Endpoint, seq: u32) -> Digest {
    let mut input = [0; 22];
    input[..16].copy_from_slice(&endpoint.address_bytes());
    input[16..18].copy_from_slice(&endpoint.port.to_be_bytes());
    input[18..].copy_from_slice(&seq.to_be_bytes());
    Digest(SipHasher24::new_with_key(&[0; 16]).hash(&input) as u16)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}
