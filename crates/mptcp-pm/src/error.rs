//! What can go wrong between this program and the kernel.

use std::io;

/// Why a request has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such generic netlink family.
    #[error(
        "this kernel has no MPTCP path manager (CONFIG_MPTCP is off, or net.mptcp.enabled does not exist); use a kernel with MPTCP"
    )]
    NoFamily,
    /// The family lacks the group of events: older than Linux 5.11.
    #[error("this kernel tells no MPTCP events (it has no `mptcp_pm_events` group); use Linux 5.19 or later")]
    NoEvents,
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(io::Error),
    /// The kernel refuses.
    #[error("{doing}: {error}{}", .said.as_ref().map(|said| format!(" ({said})")).unwrap_or_default())]
    Refused {
        /// What was asked for, with its parameters.
        doing: String,
        /// Its answer.
        error: io::Error,
        /// What it says about it, if anything.
        said: Option<String>,
    },
    /// The connection to the kernel is closed.
    #[error("the netlink connection is closed; its task has ended, connect again")]
    Closed,
    /// An answer that cannot be read.
    #[error("{doing}: the kernel's answer makes no sense: {what}")]
    Answer {
        /// What was asked for.
        doing: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Parameters that no kernel takes.
    #[error("{0}")]
    Parameter(String),
}

impl Error {
    /// Whether the kernel says that what was named does not exist: a connection that has ended, a subflow that is gone.
    pub fn is_gone(&self) -> bool {
        let gone = [libc::ENOENT, libc::ESRCH, libc::ENOTCONN];
        matches!(self, Self::Refused { error, .. } if error.raw_os_error().is_some_and(|code| gone.contains(&code)))
    }

    /// Whether privileges are missing (`CAP_NET_ADMIN`).
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Refused { error, .. } if error.kind() == io::ErrorKind::PermissionDenied)
    }
}
