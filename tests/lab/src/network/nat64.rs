//! A NAT64 beside a NAPT: who has nothing but IPv6 inside reaches IPv4 through it.
//!
//! `tayga` translates between the families, one IPv4 address for each host inside, which the NAPT masquerades like
//! the others. A resolver of the lab's own answers the one question by which hosts find the prefix (RFC 7050).
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::language::units::Prefix;
use crate::machine::{MachineError, Station, command, netns, spawn};

const DEVICE: &str = "nat64";
/// What tayga hands out to hosts inside; its own address is the first.
const POOL: &str = "192.168.255.0/24";
const OWN: &str = "192.168.255.1";
const NAME: &[u8] = b"\x08ipv4only\x04arpa\x00";
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
const DNS_HEADER: usize = 12;

/// A NAT64 while it runs.
pub struct Nat64 {
    translator: Child,
    over: Arc<AtomicBool>,
    resolver: Option<JoinHandle<()>>,
}

impl Nat64 {
    /// Starts both on a NAPT that stands already.
    ///
    /// # Errors
    /// `tayga` is missing, or the kernel has no TUN devices.
    pub fn start(station: &Station, prefix: Prefix) -> Result<Nat64, MachineError> {
        let file = station.directory.join("tayga.conf");
        let text = format!(
            "tun-device {DEVICE}\nipv4-addr {OWN}\nprefix {prefix}\ndynamic-pool {POOL}\ndata-dir {}\n",
            station.directory.display()
        );
        std::fs::write(&file, text).map_err(MachineError::io("write tayga's configuration"))?;
        let tayga = || {
            let mut tayga = Command::new("tayga");
            tayga.arg("--config").arg(&file);
            tayga
        };
        netns::inside(&station.netns, || command::run(tayga().arg("--mktun"), ""))?;
        netns::ip(
            &station.netns,
            &format!(
                "link set dev {DEVICE} up\nroute add {POOL} dev {DEVICE}\nroute add {prefix} dev {DEVICE}\n"
            ),
        )?;
        let said = std::fs::File::create(station.directory.join("tayga.err"))
            .map_err(MachineError::io("keep what tayga says"))?;
        let translator = spawn::spawn(
            station,
            tayga()
                .arg("--nodetach")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(said),
        )?;
        let socket = netns::inside(&station.netns, || {
            UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)).map_err(MachineError::io("answer DNS questions"))
        })?;
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let resolver = std::thread::spawn(move || resolve(&socket, prefix, &stop));
        Ok(Nat64 {
            translator,
            over,
            resolver: Some(resolver),
        })
    }
}

impl Drop for Nat64 {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.translator.kill();
        let _ = self.translator.wait();
        if let Some(resolver) = self.resolver.take() {
            let _ = resolver.join();
        }
    }
}

fn resolve(socket: &UdpSocket, prefix: Prefix, over: &AtomicBool) {
    let mut buffer = [0; 512];
    // Wakes now and then to see whether the run is over.
    let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer)
            && let Some(answer) = answer(&buffer[..length], prefix)
        {
            let _ = socket.send_to(&answer, from);
        }
    }
}

/// The answer of a DNS64 that knows one name.
fn answer(question: &[u8], prefix: Prefix) -> Option<Vec<u8>> {
    const AAAA: [u8; 4] = [0, 28, 0, 1];
    let asked = question.get(DNS_HEADER..DNS_HEADER + NAME.len() + 4)?;
    let known = asked[..NAME.len()].eq_ignore_ascii_case(NAME) && asked[NAME.len()..] == AAAA;
    let addresses = if known { &WELL_KNOWN[..] } else { &[] };
    let std::net::IpAddr::V6(prefix) = prefix.address else {
        return None;
    };
    let mut answer = question[..2].to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0]);
    answer.extend(asked);
    for v4 in addresses {
        let mut whole = prefix.octets();
        whole[12..].copy_from_slice(&v4.octets());
        // The name of the question; an hour; sixteen bytes.
        answer.extend([0xc0, DNS_HEADER as u8, 0, 28, 0, 1, 0, 0, 14, 16, 0, 16]);
        answer.extend(whole);
    }
    Some(answer)
}
