//! What a kernel or host lacks: `doctor` names it, with what it costs; and what no kernel at hand does for MPTCP sockets.
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use serde_json::Value;

use crate::downlink::listen;
use crate::place::{Place, TERMINAL};

/// Verdict and detail of one finding.
fn about(findings: &Value, subject: &str) -> (String, String) {
    let found = findings.as_array().into_iter().flatten();
    let mut found = found.filter(|finding| finding["subject"] == subject);
    let finding = found
        .next()
        .unwrap_or_else(|| panic!("nothing about {subject}: {findings}"));
    let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    (word("verdict"), word("detail"))
}

/// What `doctor` finds once this line of shell was run. Mounts are seen by nobody else.
fn examined(place: &Place, line: &str) -> Value {
    let relay = place.command(&["doctor", "--json"]);
    let words = relay.get_args().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = words.collect();
    let (host, program) = words.split_at(3);
    let output = std::process::Command::new("ip")
        .args(host)
        .args(["sh", "-c", &format!("{line}; exec {}", program.join(" "))])
        .output()
        .expect("ip");
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{line}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn doctor_says_what_each_missing_feature_costs() {
    let place = Place::new();
    drop(place.relay(""));
    let is = |findings: &Value, subject: &str, verdict: &str, costs: &str| {
        let (word, detail) = about(findings, subject);
        assert_eq!(word, verdict, "{subject}: {detail}");
        assert!(detail.contains(costs), "{subject}: {detail}");
    };
    let hide = "mount -t tmpfs none /proc/sys/net/mptcp";
    let without = examined(&place, hide);
    is(&without, "mptcp", "bad", "nothing can be relayed");
    is(&without, "path manager", "bad", "no path can be preferred");
    is(&without, "scheduler", "less", "the default serves");
    let one = format!(
        "{hide}; cd /proc/sys/net/mptcp; echo 1 > enabled; echo kernel > path_manager; cp path_manager available_path_managers"
    );
    let one = examined(&place, &one);
    is(&one, "mptcp", "good", "enabled");
    is(&one, "path manager", "bad", "no path can be preferred");
    // What there is, is said as well.
    let all = examined(&place, "true");
    is(&all, "scheduler", "good", "there are: default");
    is(&all, "relay", "less", "not running");
    // nft alone; a kernel whose nft has a queue needs no more.
    let alone = "mount -t tmpfs none /mnt; ln -s $(command -v nft) /mnt/nft; PATH=/mnt";
    let (verdict, detail) = about(&examined(&place, alone), "queue");
    let told = detail.contains("no relay starts here") && detail.contains("(iptables)");
    assert!(
        verdict == "good" || (verdict == "bad" && told),
        "{verdict}: {detail}"
    );
    let taken = place.inside("r", || {
        std::net::TcpListener::bind("127.77.0.1:7820").expect("a free port")
    });
    is(
        &place.ask(&["doctor"]).expect("findings"),
        "listener",
        "bad",
        "`listen_port`",
    );
    drop(taken);
}

/// One call of bpf(2): its command, and the words of its parameters.
fn bpf(command: libc::c_long, words: &[u64]) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads as many bytes as it is told, and they outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_ptr(), size_of_val(words)) };
    match result {
        0.. => Ok(result),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Puts a socket into a sockmap of its own.
fn into_sockmap(socket: &TcpStream) -> io::Result<()> {
    const CREATE: libc::c_long = 0;
    const UPDATE: libc::c_long = 2;
    const SOCKMAP: u64 = 15;
    // Two numbers of 32 bits a word: kind and size of keys, size of values and number of entries.
    let map = bpf(CREATE, &[SOCKMAP | 4 << 32, 4 | 1 << 32])?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let map = unsafe { OwnedFd::from_raw_fd(map as i32) };
    let (key, value) = (0_u32, socket.as_raw_fd());
    let pointers = [(&raw const key) as u64, (&raw const value) as u64];
    bpf(UPDATE, &[map.as_raw_fd() as u64, pointers[0], pointers[1], 0]).map(|_| ())
}

fn without_copies(socket: &TcpStream) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the pointer is to an int that lives longer than the call, and its size is given.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Decision 64 rests on it. A kernel that takes them makes this test fail: then there is a quicker way.
#[test]
fn the_kernel_takes_no_mptcp_socket_into_a_sockmap_and_sends_none_without_a_copy() {
    let place = Place::new();
    place.inside("t", || {
        for mptcp in [false, true] {
            let (port, protocol) = if mptcp {
                (7001, libc::IPPROTO_MPTCP)
            } else {
                (7000, libc::IPPROTO_TCP)
            };
            let listener = listen(&place, port, mptcp);
            let socket = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::STREAM,
                Some(socket2::Protocol::from(protocol)),
            )
            .expect("a socket");
            socket
                .connect(&SocketAddr::from((TERMINAL, port)).into())
                .expect("connected");
            let (_peer, _) = listener.accept().expect("accepted");
            let stream = TcpStream::from(socket);
            for (what, outcome) in [
                ("sockmap", into_sockmap(&stream)),
                ("zerocopy", without_copies(&stream)),
            ] {
                match (mptcp, outcome) {
                    (false, outcome) => {
                        outcome.unwrap_or_else(|error| panic!("{what} of plain TCP: {error}"))
                    }
                    (true, outcome) => {
                        let error = outcome.expect_err(what);
                        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP), "{what}: {error}");
                    }
                }
            }
        }
    });
}
