//! Programs on devices. They stay when the agent goes, and are replaced in one step when it comes back.

use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};

use crate::interface::DatapathError;
use crate::kernel::KernelDatapath;

/// Our filters' priority and handle; what others attach stays beside them.
const HANDLE: u32 = 1;
/// The agent's priority ...
const AGENT: u32 = 0x4d49;
/// ... and that of the relay, which comes first: what goes to one of its ports is not for this host.
pub(crate) const RELAY: u32 = 0x4d48;

/// What kind of header stands before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// 14 bytes of Ethernet.
    Ethernet,
    /// None: tunnels, point-to-point devices.
    Raw,
}

impl KernelDatapath {
    /// Attaches to a device over which peers are reached, or puts this agent's programs in the place of an
    /// earlier one's.
    pub fn attach_device(&self, ifindex: u32, link: Link) -> Result<(), DatapathError> {
        self.devices.borrow_mut().insert(ifindex);
        let programs = self.program_fds();
        let (ingress, egress) = match link {
            Link::Ethernet => (programs.ingress_ethernet, programs.egress_ethernet),
            Link::Raw => (programs.ingress_raw, programs.egress_raw),
        };
        attach(ingress, ifindex, TC_INGRESS, AGENT)?;
        attach(egress, ifindex, TC_EGRESS, AGENT)
    }

    /// Attaches to the parking device.
    pub fn attach_parking(&self, ifindex: u32) -> Result<(), DatapathError> {
        attach(self.program_fds().parking_egress, ifindex, TC_EGRESS, AGENT)
    }
}

/// Takes our programs off a device, whoever attached them; says whether there were any. What others attached
/// stays.
pub fn detach(ifindex: u32) -> bool {
    let nobody = std::io::stdin();
    let mut found = false;
    for point in [TC_INGRESS, TC_EGRESS] {
        // Detaching goes by priority and handle; the descriptor is not looked at.
        found |= hook(nobody.as_fd(), ifindex, point, AGENT).detach().is_ok();
    }
    found
}

fn hook(program: BorrowedFd<'_>, ifindex: u32, point: TcAttachPoint, priority: u32) -> TcHook {
    TcHookBuilder::new(program)
        .ifindex(ifindex as i32)
        .replace(true)
        .handle(HANDLE)
        .priority(priority)
        .hook(point)
}

/// Puts a program on what arrives at a device.
pub(crate) fn attach_ingress(
    program: BorrowedFd<'_>,
    ifindex: u32,
    priority: u32,
) -> Result<(), DatapathError> {
    attach(program, ifindex, TC_INGRESS, priority)
}

/// Takes the relay's program off a device, whoever attached it; says whether there was one.
pub fn detach_relay(ifindex: u32) -> bool {
    let nobody = std::io::stdin();
    hook(nobody.as_fd(), ifindex, TC_INGRESS, RELAY).detach().is_ok()
}

fn attach(
    program: BorrowedFd<'_>,
    ifindex: u32,
    point: TcAttachPoint,
    priority: u32,
) -> Result<(), DatapathError> {
    let mut hook = hook(program, ifindex, point, priority);
    let refused = |error: libbpf_rs::Error| DatapathError::Kernel {
        what: format!("cannot attach to device {ifindex}"),
        error: format!("{error:#}"),
    };
    hook.create().map_err(refused)?;
    hook.attach().map_err(refused)?;
    Ok(())
}

/// Removes the qdisc that carries filters, once no filter is left on it.
pub fn remove_qdisc(ifindex: u32) {
    let nobody = std::io::stdin();
    let _ = hook(nobody.as_fd(), ifindex, TC_INGRESS | TC_EGRESS, AGENT).destroy();
}
