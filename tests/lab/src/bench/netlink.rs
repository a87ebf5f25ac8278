//! Addresses, routes and MPTCP endpoints of one namespace, changed without starting a program.
//!
//! The instant at which an address becomes usable is where every measurement begins: it has to be the kernel's
//! answer to the last request, not the end of a process some milliseconds later.
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::machine::{MachineError, netns};

const ACK: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;
const HEADER: usize = 16;

/// Numbers from linux/mptcp_pm.h.
mod mptcp {
    pub const ADD_ADDR: u8 = 1;
    pub const DEL_ADDR: u8 = 2;
    pub const ATTR_ADDR: u16 = 1;
    pub const FAMILY: u16 = 1;
    pub const ID: u16 = 2;
    pub const ADDR4: u16 = 3;
    pub const FLAGS: u16 = 6;
    pub const IF_IDX: u16 = 7;
    pub const FLAG_SUBFLOW: u32 = 1 << 1;
}

/// Requests to one namespace's kernel; each returns when the kernel has answered.
pub struct Netlink {
    route: OwnedFd,
    generic: OwnedFd,
    mptcp_family: Option<u16>,
    devices: Vec<(String, u32)>,
}

impl Netlink {
    /// # Errors
    /// The namespace does not exist or lacks one of the devices.
    pub fn open(namespace: &str, devices: &[&str]) -> Result<Netlink, MachineError> {
        netns::inside(namespace, || {
            let opened = || -> io::Result<Netlink> {
                let mut found = Vec::new();
                for device in devices {
                    found.push(((*device).to_owned(), nix::net::if_::if_nametoindex(*device)?));
                }
                let mut netlink = Netlink {
                    route: socket(libc::NETLINK_ROUTE)?,
                    generic: socket(libc::NETLINK_GENERIC)?,
                    mptcp_family: None,
                    devices: found,
                };
                netlink.mptcp_family = netlink.family("mptcp_pm").ok();
                Ok(netlink)
            };
            opened().map_err(MachineError::io(format!("open netlink in {namespace}")))
        })
    }

    fn device(&self, name: &str) -> io::Result<u32> {
        let found = self.devices.iter().find(|(known, _)| known == name);
        found
            .map(|(_, index)| *index)
            .ok_or_else(|| io::Error::other(format!("no device {name}")))
    }

    pub fn add_address(&self, device: &str, address: Ipv4Addr, length: u8) -> io::Result<()> {
        self.address(libc::RTM_NEWADDR, ACK | CREATE, device, address, length)
    }

    pub fn remove_address(&self, device: &str, address: Ipv4Addr, length: u8) -> io::Result<()> {
        self.address(libc::RTM_DELADDR, ACK, device, address, length)
    }

    fn address(&self, kind: u16, flags: u16, device: &str, address: Ipv4Addr, length: u8) -> io::Result<()> {
        let mut body = vec![libc::AF_INET as u8, length, 0, 0];
        body.extend(self.device(device)?.to_ne_bytes());
        attribute(&mut body, libc::IFA_LOCAL, &address.octets());
        attribute(&mut body, libc::IFA_ADDRESS, &address.octets());
        request(&self.route, kind, flags, &body).map(drop)
    }

    /// The default route.
    pub fn add_default_route(&self, device: &str, gateway: Ipv4Addr) -> io::Result<()> {
        let (main, by_hand, universe) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE);
        let mut body = vec![
            libc::AF_INET as u8,
            0,
            0,
            0,
            main,
            by_hand,
            universe,
            libc::RTN_UNICAST,
        ];
        body.extend([0; 4]);
        attribute(&mut body, libc::RTA_GATEWAY, &gateway.octets());
        attribute(&mut body, libc::RTA_OIF, &self.device(device)?.to_ne_bytes());
        request(&self.route, libc::RTM_NEWROUTE, ACK | CREATE, &body).map(drop)
    }

    /// The kernel's MPTCP joins live connections from this address.
    pub fn add_endpoint(&self, id: u8, device: &str, address: Ipv4Addr) -> io::Result<()> {
        let mut inner = Vec::new();
        attribute(&mut inner, mptcp::FAMILY, &(libc::AF_INET as u16).to_ne_bytes());
        attribute(&mut inner, mptcp::ID, &[id]);
        attribute(&mut inner, mptcp::ADDR4, &address.octets());
        attribute(&mut inner, mptcp::FLAGS, &mptcp::FLAG_SUBFLOW.to_ne_bytes());
        attribute(&mut inner, mptcp::IF_IDX, &self.device(device)?.to_ne_bytes());
        self.endpoint(mptcp::ADD_ADDR, &inner)
    }

    pub fn remove_endpoint(&self, id: u8, address: Ipv4Addr) -> io::Result<()> {
        let mut inner = Vec::new();
        attribute(&mut inner, mptcp::FAMILY, &(libc::AF_INET as u16).to_ne_bytes());
        attribute(&mut inner, mptcp::ID, &[id]);
        attribute(&mut inner, mptcp::ADDR4, &address.octets());
        self.endpoint(mptcp::DEL_ADDR, &inner)
    }

    fn endpoint(&self, command: u8, inner: &[u8]) -> io::Result<()> {
        let family = self
            .mptcp_family
            .ok_or_else(|| io::Error::other("this kernel has no MPTCP"))?;
        let mut body = vec![command, 1, 0, 0];
        attribute(&mut body, mptcp::ATTR_ADDR | libc::NLA_F_NESTED as u16, inner);
        request(&self.generic, family, ACK, &body).map(drop)
    }

    /// The number of a generic netlink family.
    fn family(&self, name: &str) -> io::Result<u16> {
        let mut body = vec![libc::CTRL_CMD_GETFAMILY as u8, 1, 0, 0];
        let mut named = name.as_bytes().to_vec();
        named.push(0);
        attribute(&mut body, libc::CTRL_ATTR_FAMILY_NAME as u16, &named);
        let reply = request(&self.generic, libc::GENL_ID_CTRL as u16, ACK, &body)?;
        let mut rest = reply.get(4..).unwrap_or_default();
        while rest.len() >= 4 {
            let length = usize::from(u16::from_ne_bytes([rest[0], rest[1]]));
            let kind = u16::from_ne_bytes([rest[2], rest[3]]);
            if kind == libc::CTRL_ATTR_FAMILY_ID as u16 && rest.len() >= 6 {
                return Ok(u16::from_ne_bytes([rest[4], rest[5]]));
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
        Err(io::Error::other("the kernel did not say its number"))
    }
}

fn socket(protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain numbers; the descriptor is owned at once.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Sends one request and waits for its acknowledgement; returns the body of what came before it, if anything.
fn request(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    let fd = socket.as_raw_fd();
    // SAFETY: the buffer outlives the call and its length is right.
    if unsafe { libc::send(fd, message.as_ptr().cast(), message.len(), 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut reply = Vec::new();
    let mut buffer = [0_u8; 8192];
    loop {
        // SAFETY: as above.
        let length = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut rest = &buffer[..length];
        while rest.len() >= HEADER {
            let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            let kind = u16::from_ne_bytes([rest[4], rest[5]]);
            let body = rest.get(HEADER..size).unwrap_or_default();
            if kind == libc::NLMSG_ERROR as u16 {
                let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return match code {
                    0 => Ok(reply),
                    code => Err(io::Error::from_raw_os_error(-code)),
                };
            }
            reply = body.to_vec();
            rest = rest
                .get(size.max(HEADER).next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}
