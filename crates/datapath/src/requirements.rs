//! What the data path needs from the host, and what to do when it is missing.

use std::path::{Path, PathBuf};

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// Whether the agent can run with it.
    pub verdict: Verdict,
    /// What was found, and what to do.
    pub detail: String,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// The agent runs, with less.
    Less,
    /// The agent cannot run.
    Bad,
}

impl Finding {
    fn good(subject: &'static str, detail: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Good,
            detail: detail.into(),
        }
    }

    fn bad(subject: &'static str, detail: impl Into<String>) -> Self {
        Self {
            subject,
            verdict: Verdict::Bad,
            detail: detail.into(),
        }
    }
}

/// Where the kernel's type information is.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Capabilities by number, as in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Looks at everything that can be known without changing anything.
pub fn examine(cgroup: &Path, pin_dir: &Path) -> Vec<Finding> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        btf(Path::new(KERNEL_BTF)),
        capabilities(&read("/proc/self/status")),
        cgroup_directory(cgroup, &read("/proc/mounts")),
        pin_directory(pin_dir),
        pinned_maps(pin_dir),
    ]
}

/// The same for the relay of a symmetric proxy.
pub fn examine_relay(pin_dir: &Path) -> Vec<Finding> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    vec![
        kernel(&read("/proc/sys/kernel/osrelease")),
        btf(Path::new(KERNEL_BTF)),
        capabilities(&read("/proc/self/status")),
        pin_directory(pin_dir),
    ]
}

/// Whether a kernel of this release has what the programs need.
pub fn kernel(release: &str) -> Finding {
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) {
        Finding::good("kernel", release)
    } else {
        Finding::bad("kernel", format!("{release} is too old; 6.1 or later is needed"))
    }
}

/// Whether BPF programs can be fitted to this kernel.
pub fn btf(path: &Path) -> Finding {
    if path.exists() {
        Finding::good("BTF", path.display().to_string())
    } else {
        Finding::bad(
            "BTF",
            format!(
                "{} is missing; the kernel must be built with CONFIG_DEBUG_INFO_BTF",
                path.display()
            ),
        )
    }
}

/// Reads the effective capabilities out of `/proc/self/status`.
pub fn capabilities(status: &str) -> Finding {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    // CAP_SYS_ADMIN implies CAP_BPF and CAP_PERFMON.
    let has = |number: u32| effective >> number & 1 == 1 || (number >= 38 && effective >> 21 & 1 == 1);
    let missing: Vec<&str> = CAPABILITIES
        .iter()
        .filter(|(number, _)| !has(*number))
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Finding::good("capabilities", "CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF")
    } else {
        Finding::bad(
            "capabilities",
            format!(
                "{} missing; run as root or grant it in the unit file",
                missing.join(", ")
            ),
        )
    }
}

/// Where the unified hierarchy is mounted.
pub fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(target))
    })
}

/// Whether this is a directory of the unified hierarchy; `mounts` as in `/proc/mounts`, for the advice.
pub fn cgroup_directory(cgroup: &Path, mounts: &str) -> Finding {
    if cgroup.join("cgroup.procs").exists() && !cgroup.join("tasks").exists() {
        return Finding::good("cgroup", cgroup.display().to_string());
    }
    let advice = match cgroup2_mount(mounts) {
        Some(mount) => format!("set `cgroup` to a directory below {}", mount.display()),
        None => {
            "only cgroup version 1 is mounted; mount version 2 (mount -t cgroup2 none /sys/fs/cgroup/unified)"
                .into()
        }
    };
    Finding::bad(
        "cgroup",
        format!("{} is no cgroup of version 2: {advice}", cgroup.display()),
    )
}

/// Whether maps can be pinned there.
pub fn pin_directory(pin_dir: &Path) -> Finding {
    let existing = pin_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let on_bpf = nix::sys::statfs::statfs(existing)
        .is_ok_and(|fs| fs.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC);
    if on_bpf {
        Finding::good("pin directory", pin_dir.display().to_string())
    } else {
        Finding::bad(
            "pin directory",
            format!(
                "{} is not on a BPF file system; mount one (mount -t bpf bpf /sys/fs/bpf)",
                pin_dir.display()
            ),
        )
    }
}

/// Whether an earlier agent's maps can be taken over.
pub fn pinned_maps(pin_dir: &Path) -> Finding {
    use crate::kernel::layout::{LAYOUT, OLDEST_LAYOUT, pinned_layout};
    let subject = "pinned maps";
    match pinned_layout(pin_dir) {
        None => Finding::good(subject, format!("none; this program's are of layout {LAYOUT}")),
        Some((LAYOUT, _)) => Finding::good(subject, format!("layout {LAYOUT}")),
        Some((layout, oldest)) if layout >= OLDEST_LAYOUT && oldest <= LAYOUT => Finding::good(
            subject,
            format!("layout {layout}; this program carries their connections over to layout {LAYOUT}"),
        ),
        Some((layout, _)) => Finding::bad(
            subject,
            format!(
                "layout {layout} cannot be read, only {OLDEST_LAYOUT} to {LAYOUT}: go back to the version that made \
                 them until its connections have ended, or give them up by \"host-agent cleanup\""
            ),
        ),
    }
}
