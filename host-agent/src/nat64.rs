//! IPv4 addresses inside IPv6 addresses, as a NAT64 reads them (RFC 6052), and how its prefix is found.

pub mod search;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Lengths that a prefix may have (RFC 6052, 2.2), in bits.
const LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];
/// Byte that is left out between the halves of the IPv4 address.
const UNUSED: usize = 8;

/// The prefix under which a NAT64 makes IPv4 reachable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nat64Prefix {
    prefix: Ipv6Addr,
    length: u8,
}

/// Why a text is no such prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no NAT64 prefix: write an IPv6 prefix of length 32, 40, 48, 56, 64 or 96, as 64:ff9b::/96")]
pub struct NotNat64(String);

impl fmt::Display for Nat64Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix, self.length)
    }
}

impl FromStr for Nat64Prefix {
    type Err = NotNat64;

    fn from_str(text: &str) -> Result<Self, NotNat64> {
        let no = || NotNat64(text.to_string());
        let (prefix, length) = text.split_once('/').ok_or_else(no)?;
        let prefix: Ipv6Addr = prefix.parse().map_err(|_| no())?;
        let length: u8 = length.parse().map_err(|_| no())?;
        let beyond = prefix.octets()[usize::from(length.min(128) / 8)..]
            .iter()
            .any(|byte| *byte != 0);
        match LENGTHS.contains(&length) && !beyond {
            true => Ok(Self { prefix, length }),
            false => Err(no()),
        }
    }
}

impl Nat64Prefix {
    /// The IPv6 address that stands for an IPv4 address.
    pub fn embed(&self, v4: Ipv4Addr) -> IpAddr {
        let mut bytes = self.prefix.octets();
        for (place, byte) in self.places().zip(v4.octets()) {
            bytes[place] = byte;
        }
        IpAddr::V6(bytes.into())
    }

    /// The IPv4 address for which an address under this prefix stands.
    pub fn extract(&self, address: IpAddr) -> Option<Ipv4Addr> {
        let IpAddr::V6(v6) = address else { return None };
        let (bytes, length) = (v6.octets(), usize::from(self.length / 8));
        if bytes[..length] != self.prefix.octets()[..length] {
            return None;
        }
        let mut v4 = [0; 4];
        for (byte, place) in v4.iter_mut().zip(self.places()) {
            *byte = bytes[place];
        }
        Some(v4.into())
    }

    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        (usize::from(self.length / 8)..16)
            .filter(|place| *place != UNUSED)
            .take(4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6052, 2.4.
    const TABLE: [(&str, &str); 6] = [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn addresses_are_embedded_as_in_the_table_of_rfc_6052() {
        let v4 = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, whole) in TABLE {
            let prefix: Nat64Prefix = prefix.parse().unwrap();
            let whole: IpAddr = whole.parse().unwrap();
            assert_eq!(prefix.embed(v4), whole);
            assert_eq!(prefix.extract(whole), Some(v4));
            assert_eq!(prefix.extract("2001:dead::1".parse().unwrap()), None);
            assert_eq!(prefix.extract(v4.into()), None);
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in [
            "64:ff9b::",
            "64:ff9b::/95",
            "64:ff9b::1/96",
            "10.0.0.0/96",
            "",
            "::/200",
        ] {
            assert!(text.parse::<Nat64Prefix>().is_err(), "{text}");
        }
    }
}
