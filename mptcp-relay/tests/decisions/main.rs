//! Claims about what the relay decides, without a kernel: which SYN it takes, what its subflows are for, who moves.
use std::net::SocketAddr;

use mptcp_relay::syn::{Asks, Ends, Syn};

mod admission;
mod balancing;
mod configuration;
mod segments;
mod subflows;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

fn ends(port: u16) -> Ends {
    Ends {
        terminal: SocketAddr::new([10, 0, 0, 2].into(), port),
        server: socket("203.0.113.3:80"),
    }
}

fn capable(port: u16) -> Syn {
    Syn {
        ends: ends(port),
        asks: Asks::Capable,
    }
}
