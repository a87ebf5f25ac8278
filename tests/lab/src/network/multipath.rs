//! Hosts that use all their links at once: every address that comes is an MPTCP endpoint of its kernel, every one that
//! goes is none any more, as a connection manager would have it.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

/// What every such host allows its connections.
pub const LIMITS: &str = "mptcp limits set subflows 8 add_addr_accepted 8\n";

/// The endpoints of all hosts and their numbers in the kernel.
#[derive(Debug, Default)]
pub struct Endpoints {
    numbers: BTreeMap<(String, IpAddr), u8>,
}

impl Endpoints {
    /// The command for an address that has come.
    pub fn add(&mut self, node: &str, link: &str, address: IpAddr) -> String {
        let taken = |number: &u8| {
            let mut own = self.numbers.iter().filter(|((host, _), _)| host == node);
            own.any(|(_, taken)| taken == number)
        };
        let mut batch = String::new();
        if let Some(number) = (1..=u8::MAX).find(|number| !taken(number)) {
            self.numbers.insert((node.to_owned(), address), number);
            // Writing to a string cannot fail.
            let _ = writeln!(
                batch,
                "mptcp endpoint add {address} dev {link} id {number} subflow"
            );
        }
        batch
    }

    /// The command for an address that is gone.
    pub fn remove(&mut self, node: &str, address: IpAddr) -> String {
        match self.numbers.remove(&(node.to_owned(), address)) {
            Some(number) => format!("mptcp endpoint delete id {number}\n"),
            None => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Endpoints;

    #[test]
    fn a_number_is_free_again_when_its_address_is_gone() {
        let (first, second) = ([10, 0, 0, 1].into(), [10, 0, 1, 1].into());
        let mut endpoints = Endpoints::default();
        assert_eq!(
            endpoints.add("A", "wifi", first),
            "mptcp endpoint add 10.0.0.1 dev wifi id 1 subflow\n"
        );
        assert!(endpoints.add("A", "lte", second).contains("id 2 "));
        assert!(endpoints.add("B", "lte", second).contains("id 1 "));
        assert_eq!(endpoints.remove("A", first), "mptcp endpoint delete id 1\n");
        assert_eq!(endpoints.remove("A", first), "");
        assert!(endpoints.add("A", "eth", [10, 0, 2, 1].into()).contains("id 1 "));
    }
}
