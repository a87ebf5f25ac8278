//! What can go wrong with the machine, told to the person who runs the lab.
use std::io;

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("cannot {doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("`{line}` failed: {said}")]
    Command { line: String, said: String },
    #[error("cannot run `{program}`: it is not installed (on Debian: apt-get install {package})")]
    Missing { program: String, package: &'static str },
    #[error("no cgroup2 file system is mounted; mount one, or start the kernel with cgroup v2")]
    NoCgroup2,
    #[error("the lab needs network namespaces and devices of its own: run it as root")]
    NotRoot,
}

impl MachineError {
    /// Wraps an error of the operating system: `map_err(MachineError::io("open the device"))`.
    pub fn io<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> MachineError {
        let doing = doing.into();
        move |source| MachineError::Io {
            doing,
            source: source.into(),
        }
    }
}
