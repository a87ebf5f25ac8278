//! Connections that come and go: connect, ask, hear the answer, close; as fast as one thread can.
use std::io::{self, BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::clock;
use crate::apps::sockets;

/// So many ports share the load: closed connections occupy their tuple for a minute.
pub const PORTS: u16 = 16;
const WORD: usize = 64;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// The first of [`PORTS`] ports, to connect to or to listen on.
    pub address: SocketAddr,
    pub serve: bool,
    /// The client asks for MPTCP.
    pub mptcp: bool,
}

/// What a client yields for every line `rate MS`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rate {
    pub connections: u64,
    pub failures: u64,
    pub nanoseconds: u64,
    /// What of it `connect` took.
    pub connecting: u64,
}

/// Runs until standard input ends. Both ends take the first processor: what a connection costs is compared, and not how
/// often the scheduler moved them apart, which alone made 0.6 to 1.2 of it.
///
/// # Errors
/// A port is in use; the processor is not to be had.
pub fn run(description: &Description) -> Result<(), String> {
    let mut first = CpuSet::new();
    first
        .set(0)
        .and_then(|()| sched_setaffinity(Pid::this(), &first))
        .map_err(|error| format!("cannot take processor 0: {error}"))?;
    let port = |number: u16| SocketAddr::new(description.address.ip(), description.address.port() + number);
    if description.serve {
        for number in 0..PORTS {
            let listener = TcpListener::bind(port(number))
                .map_err(|error| format!("cannot listen on {}: {error}", port(number)))?;
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that is gone is counted there.
                    let _ = answer(&stream);
                }
            });
        }
    }
    println!("{{\"connections\":0,\"multipath\":0}}");
    let mut next = 0;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let Some(millis) = line.strip_prefix("rate ").and_then(|text| text.parse().ok()) else {
            continue;
        };
        let begun = clock::now();
        let until = begun + Duration::from_millis(millis).as_nanos() as u64;
        let mut rate = Rate {
            connections: 0,
            failures: 0,
            nanoseconds: 0,
            connecting: 0,
        };
        while clock::now() < until {
            next = (next + 1) % PORTS;
            match ask(port(next), description.mptcp) {
                Ok(connecting) => {
                    rate.connections += 1;
                    rate.connecting += connecting;
                }
                Err(_) => rate.failures += 1,
            }
        }
        rate.nanoseconds = clock::now() - begun;
        println!("{}", serde_json::to_string(&rate).unwrap_or_default());
    }
    Ok(())
}

fn answer(mut stream: &TcpStream) -> io::Result<()> {
    let mut word = [0; WORD];
    stream.set_nodelay(true)?;
    stream.read_exact(&mut word)?;
    stream.write_all(&word)?;
    // The client closes first.
    stream.read(&mut word).map(drop)
}

/// The nanoseconds until it was connected.
fn ask(to: SocketAddr, mptcp: bool) -> io::Result<u64> {
    let begun = clock::now();
    let mut stream = sockets::connect(to, mptcp)?;
    let connecting = clock::now() - begun;
    stream.set_nodelay(true)?;
    let mut word = [0x61; WORD];
    stream.write_all(&word)?;
    stream.read_exact(&mut word)?;
    Ok(connecting)
}
