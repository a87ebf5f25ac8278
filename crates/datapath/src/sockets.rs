//! MPTCP sockets for programs that ask for TCP: a BPF program on `update_socket_protocol`, and whether this kernel takes one.
//!
//! Linux has the function since 6.6, and takes programs for it if it was built with function tracing (`ftrace`) that BPF may use.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libbpf_rs::skel::{OpenSkel, Skel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, libbpf_sys as sys};

use crate::kernel::quiet_libbpf;
use crate::requirements::{Finding, Verdict};
use crate::skeleton::{Plain, SocketsSkel, SocketsSkelBuilder, sockets_types};

/// What a kernel without such programs has instead.
const WAY_OUT: &str = "start programs with `mptcpize run` for MPTCP";

/// Why no program's sockets are changed.
#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    /// What was chosen is not there, or is no cgroup.
    #[error("cannot choose {path}: {error}")]
    Choice {
        /// What was chosen.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// This kernel takes no such programs.
    #[error(
        "the kernel takes no BPF program that changes sockets' protocol ({0}): it needs Linux 6.6 or later with function \
         tracing; {WAY_OUT}"
    )]
    Refused(String),
}

/// While it lives, chosen programs get MPTCP sockets when they ask for TCP ones.
pub struct Sockets {
    _skeleton: SocketsSkel<'static>,
}

impl Sockets {
    /// Begins. `cgroups`: directories of cgroup2; all programs in them and below are chosen. `executables`: the files that chosen
    /// programs run. A file that is replaced later is another one.
    ///
    /// # Errors
    /// [`SocketsError`]; nothing has changed then.
    pub fn open(cgroups: &[PathBuf], executables: &[PathBuf]) -> Result<Self, SocketsError> {
        let cgroups: Vec<u64> = cgroups
            .iter()
            .map(|path| cgroup(path))
            .collect::<Result<_, _>>()?;
        let executables: Vec<_> = executables
            .iter()
            .map(|path| executable(path))
            .collect::<Result<_, _>>()?;
        quiet_libbpf();
        let refused = |error: libbpf_rs::Error| SocketsError::Refused(format!("{error:#}"));
        // The skeleton borrows the object for as long as the process lives.
        let object = Box::leak(Box::new(MaybeUninit::uninit()));
        let open = SocketsSkelBuilder::default().open(object).map_err(refused)?;
        let mut skeleton = open.load().map_err(refused)?;
        for cgroup in cgroups {
            let chosen = &skeleton.maps.chosen_cgroups;
            chosen
                .update(&cgroup.to_ne_bytes(), &[1], MapFlags::ANY)
                .map_err(refused)?;
        }
        for executable in executables {
            let chosen = &skeleton.maps.chosen_executables;
            chosen
                .update(executable.bytes(), &[1], MapFlags::ANY)
                .map_err(refused)?;
        }
        skeleton.attach().map_err(refused)?;
        Ok(Self { _skeleton: skeleton })
    }
}

fn cgroup(path: &Path) -> Result<u64, SocketsError> {
    let choice = |error| SocketsError::Choice {
        path: path.to_owned(),
        error,
    };
    let file_system = nix::sys::statfs::statfs(path).map_err(|error| choice(error.into()))?;
    if file_system.filesystem_type() != nix::sys::statfs::CGROUP2_SUPER_MAGIC {
        return Err(choice(io::Error::other("it is no directory of cgroup2")));
    }
    Ok(fs::metadata(path).map_err(choice)?.ino())
}

fn executable(path: &Path) -> Result<sockets_types::executable, SocketsError> {
    let choice = |error| SocketsError::Choice {
        path: path.to_owned(),
        error,
    };
    let file = fs::metadata(path).map_err(choice)?;
    if !file.is_file() {
        return Err(choice(io::Error::other("it is no file")));
    }
    let device = file.dev();
    Ok(sockets_types::executable {
        inode: file.ino(),
        device: (libc::major(device) << 20) | libc::minor(device),
        zero: 0,
    })
}

/// Asks the kernel to take a program that changes nothing, and gives it back unused.
pub fn examine() -> Finding {
    let (verdict, detail) = match load() {
        Ok(_program) => (
            Verdict::Good,
            "the kernel takes BPF programs that change sockets' protocol (`mptcp.cgroups`, `mptcp.executables`)".into(),
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
