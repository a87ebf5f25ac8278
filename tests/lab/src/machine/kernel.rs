//! What this kernel was built with, as it says itself.
use std::os::fd::AsRawFd;

use crate::language::ast::Feature;

const TCP_ULP: libc::c_int = 31;

/// Whether the kernel has it; one that has and refuses for another reason has it.
pub fn has(feature: Feature) -> bool {
    let Ok(socket) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None) else {
        return false;
    };
    let (option, value, absent) = match feature {
        Feature::KernelTls => (TCP_ULP, b"tls", libc::ENOENT),
    };
    // SAFETY: the kernel reads `value.len()` bytes of a slice that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            option,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(absent)
}
