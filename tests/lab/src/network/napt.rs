//! NAPTs: a masquerading kernel with connection tracking that drops what it calls invalid.
use std::process::Command;

use crate::language::ast::{NaptRule, Ports};
use crate::machine::{MachineError, Station, command, netns};

const TABLE: &str = "lab";

/// Loads the rules of a NAPT whose outside device is `outside`, in place of others it may have: at no moment it is without
/// any, and what it has mapped stays as it is.
pub fn install(station: &Station, rule: &NaptRule, outside: &str) -> Result<(), MachineError> {
    let ports = match rule.ports {
        Ports::Kept | Ports::EndpointIndependent => "",
        Ports::Random => " random",
        Ports::FullyRandom => " fully-random",
    };
    let strangers = if rule.silent {
        format!("iifname \"{outside}\" ct state new counter name refused drop")
    } else {
        String::new()
    };
    let (open_in, open_out, forwarded) = match rule.ports {
        Ports::EndpointIndependent => open(outside),
        Ports::Kept | Ports::Random | Ports::FullyRandom => Default::default(),
    };
    let rules = format!(
        "table inet {TABLE}
        delete table inet {TABLE}
        table inet {TABLE} {{
            counter invalid {{ }}
            counter refused {{ }}
            {open_in}
            chain input {{
                type filter hook input priority filter; policy accept;
                ct state invalid counter name invalid drop
                meta l4proto ipv6-icmp accept
                {strangers}
            }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state invalid counter name invalid drop
                ct state established,related accept
                iifname != \"{outside}\" accept
                {forwarded}
                counter name refused
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                {open_out}
                oifname \"{outside}\" masquerade{ports}
            }}
        }}"
    );
    nft(station, &["-f", "-"], &rules).map(drop)
}

/// Who has sent from a port gets what comes to it from anywhere: the maps and the chain before routing, what fills the
/// maps, and what lets it pass.
fn open(outside: &str) -> (String, String, String) {
    let map = |name: &str, address: &str| {
        format!(
            "map {name} {{ type inet_service : {address}; flags dynamic,timeout; timeout 2m; size 65535; }}"
        )
    };
    let before = format!(
        "{}
            {}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                iifname \"{outside}\" meta nfproto ipv4 dnat ip to tcp dport map @senders
                iifname \"{outside}\" meta nfproto ipv6 dnat ip6 to tcp dport map @senders6
            }}",
        map("senders", "ipv4_addr"),
        map("senders6", "ipv6_addr")
    );
    let fill = format!(
        "oifname \"{outside}\" meta nfproto ipv4 meta l4proto tcp update @senders {{ tcp sport : ip saddr }}
                oifname \"{outside}\" meta nfproto ipv6 meta l4proto tcp update @senders6 {{ tcp sport : ip6 saddr }}"
    );
    (before, fill, "ct status dnat accept".to_owned())
}

/// Packets dropped as invalid so far.
pub fn invalid(station: &Station) -> Result<u64, MachineError> {
    let text = nft(station, &["-j", "list", "counter", "inet", TABLE, "invalid"], "")?;
    let parsed: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let objects = parsed["nftables"].as_array().cloned().unwrap_or_default();
    Ok(objects
        .iter()
        .find_map(|object| object["counter"]["packets"].as_u64())
        .unwrap_or_default())
}

/// Rules and counters, for a person.
pub fn describe(station: &Station) -> Result<String, MachineError> {
    nft(station, &["list", "ruleset"], "")
}

fn nft(station: &Station, arguments: &[&str], input: &str) -> Result<String, MachineError> {
    netns::inside(&station.netns, || {
        command::run(Command::new("nft").args(arguments), input)
    })
}

/// Makes connection tracking forget everything, of both families.
pub fn flush(station: &Station) -> Result<(), MachineError> {
    netns::inside(&station.netns, || {
        ask_to_flush().map_err(MachineError::io("flush connection tracking"))
    })
}

/// One netlink message: delete, without naming a connection, means all of them.
fn ask_to_flush() -> std::io::Result<()> {
    use std::io::Error;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    const CT_DELETE: u16 = (1 << 8) | 2;
    const REQUEST_ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = Vec::with_capacity(20);
    message.extend(20_u32.to_ne_bytes());
    message.extend(CT_DELETE.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend([0; 12]);
    // SAFETY: plain numbers and buffers that outlive the calls; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            libc::NETLINK_NETFILTER,
        );
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let mut answer = [0_u8; 64];
    // SAFETY: as above.
    let length = unsafe {
        if libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) < 0 {
            return Err(Error::last_os_error());
        }
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    if length < 20 {
        return Err(Error::last_os_error());
    }
    match i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]) {
        0 => Ok(()),
        error => Err(Error::from_raw_os_error(-error)),
    }
}
