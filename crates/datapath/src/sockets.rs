//! Whether this kernel lets a BPF program make MPTCP sockets of those that programs ask for as TCP (`update_socket_protocol`).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libbpf_rs::libbpf_sys as sys;

use crate::requirements::{Finding, Verdict};

/// What a kernel without such programs has instead.
const WAY_OUT: &str = "start programs with `mptcpize run` for MPTCP";

/// Asks the kernel to take a program that changes nothing, and gives it back unused.
pub fn examine() -> Finding {
    let (verdict, detail) = match load() {
        Ok(_program) => (
            Verdict::Good,
            format!(
                "the kernel takes BPF programs that change sockets' protocol; nothing here uses it yet: {WAY_OUT}"
            ),
        ),
        Err(error) => (
            Verdict::Less,
            format!("the kernel takes no BPF program that changes sockets' protocol ({error}): {WAY_OUT}"),
        ),
    };
    Finding {
        subject: "MPTCP sockets",
        verdict,
        detail,
    }
}

fn load() -> io::Result<OwnedFd> {
    // r0 = 0; exit
    let instructions = [
        sys::bpf_insn {
            code: 0xb7,
            ..Default::default()
        },
        sys::bpf_insn {
            code: 0x95,
            ..Default::default()
        },
    ];
    // SAFETY: the name is a C string; nothing else is passed.
    let function = unsafe {
        sys::libbpf_find_vmlinux_btf_id(c"update_socket_protocol".as_ptr(), sys::BPF_MODIFY_RETURN)
    };
    let Ok(function) = u32::try_from(function) else {
        return Err(io::Error::from_raw_os_error(-function));
    };
    // SAFETY: all fields are numbers and pointers, for which zero means "not given".
    let mut options: sys::bpf_prog_load_opts = unsafe { std::mem::zeroed() };
    options.sz = size_of::<sys::bpf_prog_load_opts>() as _;
    options.expected_attach_type = sys::BPF_MODIFY_RETURN;
    options.attach_btf_id = function;
    // SAFETY: strings, instructions and options outlive the call, and the number of instructions is theirs.
    let program = unsafe {
        sys::bpf_prog_load(
            sys::BPF_PROG_TYPE_TRACING,
            c"asks".as_ptr(),
            c"GPL".as_ptr(),
            instructions.as_ptr(),
            instructions.len() as _,
            &raw mut options,
        )
    };
    match program {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(program) }),
        refused => Err(io::Error::from_raw_os_error(-refused)),
    }
}
