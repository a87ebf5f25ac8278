//! Which of the proxy's ports are taken: one for each connection, at each address of it.

use std::collections::HashSet;
use std::net::IpAddr;

use wire::tuple::Endpoint;

/// The ports of all addresses.
#[derive(Debug)]
pub struct Ports {
    addresses: Vec<IpAddr>,
    range: (u16, u16),
    taken: HashSet<Endpoint>,
}

impl Ports {
    /// All free.
    pub fn new(addresses: Vec<IpAddr>, range: (u16, u16)) -> Self {
        Self {
            addresses,
            range,
            taken: HashSet::new(),
        }
    }

    /// The proxy's addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// How many connections they have room for.
    pub fn room(&self) -> usize {
        let of = |ipv4: bool| self.addresses.iter().filter(|one| one.is_ipv4() == ipv4).count();
        of(true).max(of(false)) * (usize::from(self.range.1 - self.range.0) + 1)
    }

    /// Takes a port for two ends, each named by whether it comes over IPv4; one port of one address where it can be.
    /// `pair`: its connections share an address while that has ports, since a destination names one address for all of
    /// them; pairs are spread over the addresses. `seed`: where the search begins, so that nobody knows which port is
    /// next. None: all are taken, or there is no address of a family.
    pub fn take(&mut self, ipv4: [bool; 2], pair: &[u8; 16], seed: u64) -> Option<[Endpoint; 2]> {
        let of = |ipv4: bool| -> Vec<IpAddr> {
            let family = self.addresses.iter().filter(|one| one.is_ipv4() == ipv4);
            family.copied().collect()
        };
        let (firsts, seconds) = (of(ipv4[0]), of(ipv4[1]));
        if firsts.is_empty() || seconds.is_empty() {
            return None;
        }
        let count = u64::from(self.range.1 - self.range.0) + 1;
        // Pair IDs are random.
        let first = usize::from(u16::from_be_bytes([pair[14], pair[15]]));
        for at in 0..firsts.len() {
            let turn = first + at;
            let one = firsts[turn % firsts.len()];
            let other = match ipv4[0] == ipv4[1] {
                true => one,
                false => seconds[turn % seconds.len()],
            };
            let free = (0..count)
                .map(|step| self.range.0 + ((seed % count + step) % count) as u16)
                .map(|port| [Endpoint::new(one, port), Endpoint::new(other, port)])
                .find(|ends| ends.iter().all(|end| !self.taken.contains(end)));
            if let Some(ends) = free {
                self.taken.extend(ends);
                return Some(ends);
            }
        }
        None
    }

    /// Other addresses from now on. What was taken at one that is gone stays taken.
    pub fn move_to(&mut self, addresses: Vec<IpAddr>) {
        self.addresses = addresses;
    }

    /// How many ports are taken; a connection of two families takes two.
    pub fn taken(&self) -> usize {
        self.taken.len()
    }

    /// Whether some connection has a port outside of the range.
    pub fn has_others(&self) -> bool {
        let outside = |port: u16| port < self.range.0 || port > self.range.1;
        self.taken.iter().any(|end| outside(end.port))
    }

    /// Whether these ends, free by now, had kept something that no new connection gets.
    pub fn has_left(&self, ends: &[Endpoint; 2], range: (u16, u16)) -> bool {
        let outside = |end: &Endpoint| {
            end.port < range.0 || end.port > range.1 || !self.addresses.contains(&end.address)
        };
        ends.iter().any(outside)
    }

    /// All addresses at which a port is given or taken.
    pub fn all_addresses(&self) -> Vec<IpAddr> {
        let taken = self.taken.iter().map(|end| end.address);
        let all: HashSet<IpAddr> = self.addresses.iter().copied().chain(taken).collect();
        all.into_iter().collect()
    }

    /// Notes that an earlier run has taken these.
    pub fn keep(&mut self, ends: [Endpoint; 2]) {
        self.taken.extend(ends);
    }

    /// They are free again.
    pub fn free(&mut self, ends: [Endpoint; 2]) {
        for end in ends {
            self.taken.remove(&end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_until_it_is_free_again_and_all_of_them_are() {
        let mut ports = Ports::new(
            vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            (20000, 20002),
        );
        assert_eq!(ports.room(), 3);
        let all: Vec<_> = (0..3)
            .map(|seed| ports.take([true, true], &[0; 16], seed * 7).unwrap())
            .collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 3);
        assert!(all.iter().all(|[one, other]| one == other));
        assert_eq!(ports.take([true, true], &[0; 16], 0), None);
        // Both families: a port has to be free at both addresses.
        assert_eq!(ports.take([true, false], &[0; 16], 0), None);
        ports.free(all[1]);
        let [one, other] = ports.take([true, false], &[0; 16], 5).unwrap();
        assert_eq!((one.port, other.port), (all[1][0].port, all[1][0].port));
        assert!(one.address.is_ipv4() && other.address.is_ipv6());
        assert!(ports.take([false, false], &[0; 16], 0).is_some());
    }

    #[test]
    fn the_connections_of_a_pair_share_an_address_until_it_is_full_and_pairs_are_spread() {
        let addresses = (1..=4).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let mut ports = Ports::new(addresses, (20000, 20002));
        let mut of = |pair: u8| {
            let [end, _] = ports.take([true, true], &[pair; 16], 9).unwrap();
            end.address
        };
        let first: Vec<_> = (0..3).map(|_| of(1)).collect();
        assert!(first.iter().all(|address| *address == first[0]));
        assert_ne!(of(1), first[0], "three ports are all it has");
        let all: HashSet<_> = [2, 3].map(&mut of).into_iter().collect();
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn without_an_address_of_a_family_nothing_is_given() {
        let mut ports = Ports::new(vec!["192.0.2.1".parse().unwrap()], (20000, 20002));
        assert_eq!(ports.take([true, false], &[0; 16], 0), None);
        assert_eq!(ports.take([false, false], &[0; 16], 0), None);
    }
}
