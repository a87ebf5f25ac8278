//! Finds the prefix of a network's NAT64 by asking for a name that has nothing but IPv4 addresses (RFC 7050).
//!
//! Wherever a NAT64 is, the resolvers of the network make IPv6 addresses of IPv4 ones (DNS64). Asked for the IPv6
//! addresses of `ipv4only.arpa`, whose IPv4 addresses everybody knows, they show their prefix; other resolvers say that
//! there are none. The answer is believed as far as it can do no harm: whoever is found under a prefix proves by its
//! MAC that it is the peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;
use std::time::Duration;

use super::{LENGTHS, Nat64Prefix, UNUSED};

/// The IPv4 addresses of the name.
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// The name as in a DNS message.
const NAME: &[u8] = b"\x08ipv4only\x04arpa\x00";
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;
const PORT: u16 = 53;
const HEADER: usize = 12;
/// Before each round: a network manager writes the new resolvers some time after the address is there.
const PAUSES: [Duration; 7] = [
    Duration::ZERO,
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
];
/// How long a resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many as the C library asks.
const MOST_SERVERS: usize = 3;
const MOST_PREFIXES: usize = 4;

/// Asks the resolvers of the file until one answers; the prefixes found, likeliest first. Without any answer: none.
pub async fn search(resolv_conf: &Path) -> Vec<Nat64Prefix> {
    for pause in PAUSES {
        tokio::time::sleep(pause).await;
        // Read anew each time: it changes with the network.
        let text = tokio::fs::read_to_string(resolv_conf).await.unwrap_or_default();
        for server in name_servers(&text) {
            if let Some(addresses) = ask(server).await {
                return prefixes_in(&addresses);
            }
        }
    }
    Vec::new()
}

async fn ask(server: SocketAddr) -> Option<Vec<Ipv6Addr>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = tokio::net::UdpSocket::bind(any).await.ok()?;
    // Nobody else's answers are heard then.
    socket.connect(server).await.ok()?;
    let id = rand::random();
    socket.send(&question(id)).await.ok()?;
    let mut buffer = [0; 1500];
    let heard = async {
        loop {
            let length = socket.recv(&mut buffer).await.ok()?;
            if let Some(addresses) = answer(&buffer[..length], id) {
                return addresses;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.ok()?
}

/// The resolvers that a `resolv.conf` names.
pub fn name_servers(text: &str) -> Vec<SocketAddr> {
    let named = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    named.filter_map(socket_address).take(MOST_SERVERS).collect()
}

fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, device) = text.split_once('%').unwrap_or((text, ""));
    Some(match address.parse().ok()? {
        IpAddr::V4(v4) => (v4, PORT).into(),
        IpAddr::V6(v6) => {
            let scope = match device {
                "" => 0,
                device => nix::net::if_::if_nametoindex(device).ok()?,
            };
            SocketAddrV6::new(v6, PORT, 0, scope).into()
        }
    })
}

/// The question as a DNS message.
pub fn question(id: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + NAME.len() + 4);
    message.extend(id.to_be_bytes());
    // Recursion is wanted; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(NAME);
    message.extend(TYPE_AAAA.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// What a message says to the question: `None`, it is no answer to it; `Some(None)`, the resolver failed; else the
/// addresses, of which there may be none.
pub fn answer(message: &[u8], id: u16) -> Option<Option<Vec<Ipv6Addr>>> {
    let number = |at: usize| {
        let bytes = message.get(at..at + 2)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let flags = number(2)?;
    if number(0)? != id || flags & 0x8000 == 0 || number(4)? != 1 {
        return None;
    }
    let asked = message.get(HEADER..HEADER + NAME.len())?;
    if !asked.eq_ignore_ascii_case(NAME) || number(HEADER + NAME.len())? != TYPE_AAAA {
        return None;
    }
    match flags & 15 {
        0 => {}
        // There is no such name: no DNS64 either.
        3 => return Some(Some(Vec::new())),
        _ => return Some(None),
    }
    let mut addresses = Vec::new();
    let mut at = HEADER + NAME.len() + 4;
    for _ in 0..number(6)? {
        at = behind_name(message, at)?;
        let (kind, length) = (number(at)?, usize::from(number(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?;
        if kind == TYPE_AAAA {
            let bytes: [u8; 16] = data.try_into().ok()?;
            addresses.push(bytes.into());
        }
        at += 10 + length;
    }
    Some(Some(addresses))
}

fn behind_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

/// The prefixes under which the name's IPv4 addresses stand in these addresses.
pub fn prefixes_in(addresses: &[Ipv6Addr]) -> Vec<Nat64Prefix> {
    let mut found = Vec::new();
    for address in addresses {
        let bytes = address.octets();
        // What stands behind the IPv4 address is zero: it fits one length only.
        let fitting = LENGTHS.into_iter().find_map(|length| {
            let kept = usize::from(length / 8);
            let mut prefix = [0; 16];
            prefix[..kept].copy_from_slice(&bytes[..kept]);
            let candidate = Nat64Prefix {
                prefix: prefix.into(),
                length,
            };
            let v4 = candidate.extract(IpAddr::V6(*address))?;
            let whole = candidate.embed(v4) == IpAddr::V6(*address);
            let unused = kept > UNUSED || bytes[UNUSED] == 0;
            (whole && unused && WELL_KNOWN.contains(&v4)).then_some(candidate)
        });
        if let Some(prefix) = fitting
            && !found.contains(&prefix)
            && found.len() < MOST_PREFIXES
        {
            found.push(prefix);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(records: &[(u16, &[u8])], code: u8) -> Vec<u8> {
        let mut message = question(7);
        message[2] = 0x81;
        message[3] = 0x80 | code;
        message[7] = records.len() as u8;
        for (kind, data) in records {
            message.extend([0xc0, HEADER as u8]);
            message.extend(kind.to_be_bytes());
            message.extend(CLASS_IN.to_be_bytes());
            message.extend([0, 0, 0, 60]);
            message.extend((data.len() as u16).to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn an_answer_shows_the_prefix_of_every_length() {
        for text in [
            "2001:db8::/32",
            "2001:db8:100::/40",
            "2001:db8:122::/48",
            "2001:db8:122:300::/56",
            "2001:db8:122:344::/64",
            "64:ff9b::/96",
        ] {
            let prefix: Nat64Prefix = text.parse().unwrap();
            let IpAddr::V6(address) = prefix.embed(WELL_KNOWN[0]) else {
                unreachable!()
            };
            let message = told(&[(5, b"\x00"), (TYPE_AAAA, &address.octets())], 0);
            let addresses = answer(&message, 7).unwrap().unwrap();
            assert_eq!(prefixes_in(&addresses), [prefix], "{text}");
        }
    }

    #[test]
    fn both_addresses_show_one_prefix_and_other_addresses_none() {
        let prefix: Nat64Prefix = "2001:db8:64::/96".parse().unwrap();
        let of = |v4| match prefix.embed(v4) {
            IpAddr::V6(v6) => v6,
            IpAddr::V4(_) => unreachable!(),
        };
        let other = of(Ipv4Addr::new(192, 0, 2, 1));
        let both = [of(WELL_KNOWN[1]), other, of(WELL_KNOWN[0])];
        assert_eq!(prefixes_in(&both), [prefix]);
        // The last place counts, whatever the prefix looks like.
        let alike = "2001:db8:c000:aa:0:aa:c000:aa".parse().unwrap();
        assert_eq!(prefixes_in(&[alike])[0].to_string(), "2001:db8:c000:aa:0:aa::/96");
    }

    #[test]
    fn what_is_no_answer_is_not_taken_for_one() {
        let good = told(&[(TYPE_AAAA, &[0; 16])], 0);
        assert!(answer(&good, 8).is_none(), "to another question");
        assert!(answer(&question(7), 7).is_none(), "a question");
        for length in 0..good.len() {
            let cut = answer(&good[..length], 7);
            assert!(cut.is_none(), "cut after {length}");
        }
        assert_eq!(answer(&told(&[], 0), 7), Some(Some(Vec::new())), "no addresses");
        assert_eq!(answer(&told(&[], 3), 7), Some(Some(Vec::new())), "no such name");
        assert_eq!(answer(&told(&[], 2), 7), Some(None), "the resolver failed");
        // A name that never ends.
        let mut endless = told(&[], 0);
        endless[7] = 1;
        endless.extend([63; 20]);
        assert!(answer(&endless, 7).is_none());
    }

    #[test]
    fn resolvers_are_read_from_the_file() {
        let text = "# by hand\nsearch x\nnameserver 192.0.2.53\n nameserver  2001:db8::53 \nnameserver nonsense\n\
                    nameserver fe80::1%no-such-device\noptions rotate\n";
        let expected: Vec<SocketAddr> = ["192.0.2.53:53", "[2001:db8::53]:53"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(name_servers(text), expected);
    }
}
