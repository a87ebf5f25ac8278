//! Netlink attributes: a kind and bytes, written and read.
//!
//! Numbers are in the byte order of this machine unless a function says network order. Reading is total: a value of
//! another length than expected is passed over as if it were not there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLA_F_NESTED, Nla, NlasIterator};

/// One attribute to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Attribute {
    kind: u16,
    value: Vec<u8>,
}

impl Attribute {
    pub(crate) fn u8(kind: u16, value: u8) -> Self {
        Self {
            kind,
            value: vec![value],
        }
    }

    pub(crate) fn u16(kind: u16, value: u16) -> Self {
        Self::bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u32(kind: u16, value: u32) -> Self {
        Self::bytes(kind, &value.to_ne_bytes())
    }

    pub(crate) fn bytes(kind: u16, value: &[u8]) -> Self {
        Self {
            kind,
            value: value.to_vec(),
        }
    }

    pub(crate) fn nested(kind: u16, inner: &[Attribute]) -> Self {
        Self {
            kind: kind | NLA_F_NESTED,
            value: write(inner),
        }
    }
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        self.value.len()
    }

    fn kind(&self) -> u16 {
        self.kind
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.value);
    }
}

/// All of them, one after the other, padded.
pub(crate) fn write(attributes: &[Attribute]) -> Vec<u8> {
    use netlink_packet_core::Emitable;
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// Kinds and values, as far as they can be told apart.
pub(crate) fn read(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes)
        .map_while(|attribute| {
            let attribute = attribute.ok()?;
            // The iterator's values borrow from itself; those of the message outlive it.
            let kind = attribute.kind();
            Some((kind, attribute.into_inner(), attribute.value_length()))
        })
        .filter_map(|(kind, whole, length)| Some((kind, whole.get(4..4 + length)?)))
}

pub(crate) fn to_u8(value: &[u8]) -> Option<u8> {
    match value {
        [byte] => Some(*byte),
        _ => None,
    }
}

pub(crate) fn to_u16(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_ne_bytes)
}

/// A port in network order.
pub(crate) fn to_port(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_be_bytes)
}

pub(crate) fn to_u32(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn to_u64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_ne_bytes)
}

pub(crate) fn to_address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(bytes) = <[u8; 4]>::try_from(value) {
        return Some(Ipv4Addr::from(bytes).into());
    }
    let bytes = <[u8; 16]>::try_from(value).ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}
