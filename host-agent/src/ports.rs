//! The wire ports: a range that the kernel leaves alone, from which moved connections take their source ports.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use wire::Endpoint;

/// Where the kernel is told which ports it must not choose by itself.
pub const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// Hands out wire ports; one is free again when it is given back.
#[derive(Debug)]
pub struct WirePorts {
    first: u16,
    last: u16,
    taken: HashSet<(IpAddr, u16)>,
}

impl WirePorts {
    /// Ports `first` to `last`, both included.
    pub fn new((first, last): (u16, u16)) -> Self {
        Self {
            first,
            last,
            taken: HashSet::new(),
        }
    }

    /// A free endpoint on that address; `None` when the range is used up.
    pub fn take(&mut self, address: IpAddr) -> Option<Endpoint> {
        let mut rng = rand::rng();
        // Most of the range is free nearly always: a few random looks, then all of it in order.
        let random = (0..16).map(|_| rand::Rng::random_range(&mut rng, self.first..=self.last));
        let free = random
            .chain(self.first..=self.last)
            .find(|port| !self.taken.contains(&(address, *port)))?;
        self.taken.insert((address, free));
        Some(Endpoint::new(address, free))
    }

    /// Notes that an endpoint is in use, as found after a restart.
    pub fn note(&mut self, endpoint: Endpoint) {
        if (self.first..=self.last).contains(&endpoint.port) {
            self.taken.insert((endpoint.address, endpoint.port));
        }
    }

    /// The endpoint is free again.
    pub fn give_back(&mut self, endpoint: Endpoint) {
        self.taken.remove(&(endpoint.address, endpoint.port));
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        self.taken.len()
    }
}

/// Adds a range to the kernel's reserved ports. Returns what stood there before if it had to be changed.
pub fn reserve(path: &Path, (first, last): (u16, u16)) -> io::Result<Option<String>> {
    let before = fs::read_to_string(path)?.trim().to_string();
    let range = format!("{first}-{last}");
    if before.split(',').any(|part| part == range) {
        return Ok(None);
    }
    let joined = if before.is_empty() {
        range
    } else {
        format!("{before},{range}")
    };
    fs::write(path, joined)?;
    Ok(Some(before))
}

/// Takes the range out again and leaves what others reserved.
pub fn unreserve(path: &Path, (first, last): (u16, u16)) -> io::Result<bool> {
    let before = fs::read_to_string(path)?.trim().to_string();
    let range = format!("{first}-{last}");
    let kept: Vec<&str> = before
        .split(',')
        .filter(|part| !part.is_empty() && *part != range)
        .collect();
    if kept.join(",") == before {
        return Ok(false);
    }
    // An empty write changes nothing; a lone newline clears the list.
    fs::write(
        path,
        if kept.is_empty() {
            "\n".to_string()
        } else {
            kept.join(",")
        },
    )?;
    Ok(true)
}
