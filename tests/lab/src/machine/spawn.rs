//! Programs inside a station: its network, its cgroup, and an end when the runner ends.
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::{MachineError, Station, command, netns};

/// Starts `command` inside the station.
///
/// The kernel kills the program when the *thread* that called this ends: call it from one that lives as long as
/// the run.
///
/// # Errors
/// The program is missing, or namespace or cgroup cannot be entered.
pub fn spawn(station: &Station, command: &mut Command) -> Result<Child, MachineError> {
    let namespace = netns::open(&station.netns)?;
    let members = station.cgroup.join("cgroup.procs");
    let group = OpenOptions::new()
        .write(true)
        .open(&members)
        .map_err(MachineError::io(format!("open {}", members.display())))?;
    let runner = nix::unistd::getpid();
    command.env("LAB_HOST", &station.name);
    // SAFETY: between fork and exec only system calls are made, on descriptors opened before.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            if nix::unistd::getppid() != runner {
                return Err(nix::errno::Errno::ESRCH.into());
            }
            if libc::write(group.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                return Err(std::io::Error::last_os_error());
            }
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            // The runner waits for its signals in one thread and blocks them everywhere; programs do not.
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
            Ok(())
        });
    }
    command
        .spawn()
        .map_err(|source| command::missing(command, source))
}

/// Runs a command inside the station to its end, and returns what it printed.
///
/// # Errors
/// As [`spawn`], or its exit code is not 0.
pub fn run(station: &Station, command: &mut Command) -> Result<String, MachineError> {
    let line = command::show(command);
    let child = spawn(station, command::piped(command))?;
    command::finish(child, line, "")
}
