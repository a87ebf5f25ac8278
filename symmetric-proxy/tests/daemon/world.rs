#![allow(dead_code, reason = "the tests and the benchmark use a part each")]
//! Everything beyond the proxy's cable: whoever is there, at whatever address, sends what it likes and hears everything.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use wire::handshake::{Standing, SynOptions};
use wire::keys::MacKey;
use wire::reqno::ReqNo;
use wire::segment::Segment;
use wire::token::Token;
use wire::tuple::{Endpoint, Tuple};

use crate::place::{run, until};

/// Of the far end of each cable, and of the proxy's.
const FAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// One cable of the proxy, seen from its far end.
pub struct World {
    socket: Socket,
    heard: Vec<Segment>,
}

/// An endpoint.
pub fn end(text: &str) -> Endpoint {
    text.parse::<std::net::SocketAddr>().expect("an endpoint").into()
}

impl World {
    /// A cable of this name to a place where everybody is: `addresses` are the proxy's on it, and it has the way to
    /// everywhere in `via` (default: all that is not elsewhere).
    pub fn plug(name: &str, addresses: &[&str], via: &[&str]) -> World {
        let first = File::open("/proc/thread-self/ns/net").expect("our namespace");
        unshare(CloneFlags::CLONE_NEWNET).expect("another namespace");
        let other = File::open("/proc/thread-self/ns/net").expect("the other namespace");
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.as_raw_fd());
        run(&format!(
            "ip link add {name} address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02 netns {there}"
        ));
        run(&format!("ip link set {name} up addrgenmode none"));
        for address in addresses {
            let six = if address.contains(':') { " nodad" } else { "" };
            run(&format!("ip addr add {address} dev {name}{six}"));
        }
        setns(&other, CloneFlags::CLONE_NEWNET).expect("into the other namespace");
        run("ip link set far up addrgenmode none");
        let socket = Socket::new(
            Domain::PACKET,
            Type::RAW,
            Some(Protocol::from(i32::from(0x0003u16.to_be()))),
        )
        .expect("a packet socket");
        // Without a name the only device that is up is meant, but loopback is not: bind.
        bind(&socket, "far");
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a timeout");
        setns(&first, CloneFlags::CLONE_NEWNET).expect("back");
        for (family, gateway) in [("-4", "198.51.100.254"), ("-6", "2001:db8:100::254")] {
            if !addresses
                .iter()
                .any(|address| address.contains(':') == (family == "-6"))
            {
                continue;
            }
            run(&format!(
                "ip {family} neigh add {gateway} lladdr 02:00:00:00:00:02 dev {name}"
            ));
            for to in via
                .iter()
                .filter(|to| **to == "default" || to.contains(':') == (family == "-6"))
            {
                run(&format!(
                    "ip {family} route add {to} via {gateway} dev {name} onlink"
                ));
            }
        }
        World {
            socket,
            heard: Vec::new(),
        }
    }

    /// Sends a segment as it is.
    pub fn send(&mut self, segment: &Segment) {
        self.send_packet(&segment.emit().expect("a packet"));
    }

    /// Sends an IP packet.
    pub fn send_packet(&mut self, packet: &[u8]) {
        self.socket
            .send(&World::frame(packet))
            .expect("the cable takes it");
    }

    /// Takes in what has come.
    fn listen(&mut self) {
        let mut frame = [0; 65_536];
        while let Ok(length) = (&self.socket).read(&mut frame) {
            let ours = frame[..6] == FAR;
            if let (true, Ok(segment)) = (ours, Segment::parse(&frame[14..length])) {
                self.heard.push(segment);
            }
        }
    }

    /// Awaits a segment that fits, and takes it.
    ///
    /// # Panics
    /// None comes.
    pub fn hear(&mut self, what: &str, fits: impl Fn(&Segment) -> bool) -> Segment {
        until(what, || {
            self.listen();
            let at = self.heard.iter().position(&fits)?;
            Some(self.heard.remove(at))
        })
    }

    /// The next segment that comes, if one comes soon.
    pub fn next(&mut self) -> Option<Segment> {
        let mut frame = [0; 65_536];
        let length = (&self.socket).read(&mut frame).ok()?;
        (frame[..6] == FAR).then(|| Segment::parse(&frame[14..length]).ok())?
    }

    /// The same cable for another sender.
    pub fn another_sender(&self) -> Socket {
        self.socket.try_clone().expect("a socket")
    }

    /// A packet as it is on the cable.
    pub fn frame(packet: &[u8]) -> Vec<u8> {
        let kind: [u8; 2] = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        [&NEAR[..], &FAR, &kind, packet].concat()
    }

    /// What has come so far and nobody has taken.
    pub fn rest(&mut self) -> Vec<Segment> {
        self.listen();
        std::mem::take(&mut self.heard)
    }
}

fn bind(socket: &Socket, device: &str) {
    let name = std::ffi::CString::new(device).expect("a name");
    // SAFETY: plain values and a name that ends.
    unsafe {
        let mut address: libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = 0x0003u16.to_be();
        address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
        let bound = libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as u32,
        );
        assert_eq!(bound, 0, "{}", std::io::Error::last_os_error());
    }
}

/// An MSYN from here to there with this attempt's number, signed with a leg's key.
pub fn msyn(from: Endpoint, to: Endpoint, number: u32, key: &MacKey) -> Segment {
    let standing = Standing {
        token: Token(0x1000 + number),
        req_no: ReqNo(number),
        seq: 1000 * number,
        rcv_nxt: 5000 * number,
        window: 60_000,
    };
    let syn = SynOptions {
        window_scale: 7,
        mss: 1400,
    };
    let mut segment = Segment::msyn(Tuple::new(from, to), standing, syn);
    segment.sign(key, ReqNo::UNMOVED).expect("a request");
    segment
}
