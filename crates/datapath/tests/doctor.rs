//! What a host may lack, made up: each is found, and the finding says what to do.

use std::path::Path;

use datapath::requirements::{self, Finding, Verdict};
use datapath::sockets::Sockets;

fn is_bad(finding: &Finding, what: &[&str]) {
    assert_eq!(finding.verdict, Verdict::Bad, "{finding:?}");
    for what in what {
        assert!(finding.detail.contains(what), "`{what}` is not in {finding:?}");
    }
}

fn is_good(finding: &Finding) {
    assert_eq!(finding.verdict, Verdict::Good, "{finding:?}");
}

/// As `/proc/self/status` of a process with these capabilities.
fn status(effective: u64) -> String {
    format!(
        "Name:\tagent\nCapInh:\t0000000000000000\nCapPrm:\t{effective:016x}\nCapEff:\t{effective:016x}\nCapBnd:\t1\n"
    )
}

const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_ADMIN: u64 = 1 << 21;
const PERFMON: u64 = 1 << 38;
const BPF: u64 = 1 << 39;

#[test]
fn each_missing_capability_is_named() {
    let all = NET_ADMIN | NET_RAW | PERFMON | BPF;
    is_good(&requirements::capabilities(&status(all)));
    is_good(&requirements::capabilities(&status(u64::MAX >> 23)));
    is_good(&requirements::capabilities(&status(
        NET_ADMIN | NET_RAW | SYS_ADMIN,
    )));
    let names = [
        (NET_ADMIN, "CAP_NET_ADMIN"),
        (NET_RAW, "CAP_NET_RAW"),
        (PERFMON, "CAP_PERFMON"),
        (BPF, "CAP_BPF"),
    ];
    for (bit, name) in names {
        let finding = requirements::capabilities(&status(all & !bit));
        is_bad(&finding, &[name, "run as root", "unit file"]);
        for (_, other) in names.iter().filter(|(other, _)| *other != bit) {
            assert!(!finding.detail.contains(other), "{finding:?}");
        }
    }
    is_bad(
        &requirements::capabilities(&status(0)),
        &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_PERFMON", "CAP_BPF"],
    );
    for garbage in ["", "CapEff:", "CapEff:\tzz\n", "CapEff:\t-1\n"] {
        is_bad(&requirements::capabilities(garbage), &["CAP_BPF"]);
    }
}

#[test]
fn a_kernel_without_type_information_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vmlinux");
    is_bad(&requirements::btf(&path), &["vmlinux", "CONFIG_DEBUG_INFO_BTF"]);
    std::fs::write(&path, "").unwrap();
    is_good(&requirements::btf(&path));
}

#[test]
fn kernels_before_6_1_are_too_old() {
    for release in ["6.1", "6.1.0-13-amd64", "6.10.3", "6.18.44-custom\n", "7.0-rc1"] {
        is_good(&requirements::kernel(release));
    }
    for release in ["6.0.19", "5.15.0-91-generic", "4.19", "", "unknown"] {
        is_bad(&requirements::kernel(release), &["6.1"]);
    }
}

#[test]
fn a_host_with_cgroups_of_version_1_only_is_told_to_mount_version_2() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let v1 = "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/net_cls cgroup rw,net_cls 0 0\n";
    is_bad(
        &requirements::cgroup_directory(path, v1),
        &["version 1", "mount -t cgroup2"],
    );
    is_bad(&requirements::cgroup_directory(path, ""), &["mount -t cgroup2"]);
    // A directory of version 1 has the same file, and one more.
    std::fs::write(path.join("cgroup.procs"), "").unwrap();
    std::fs::write(path.join("tasks"), "").unwrap();
    is_bad(&requirements::cgroup_directory(path, v1), &["version 1"]);
    std::fs::remove_file(path.join("tasks")).unwrap();
    is_good(&requirements::cgroup_directory(path, v1));
}

#[test]
fn a_cgroup_that_is_none_is_told_where_they_are() {
    let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
    let finding = requirements::cgroup_directory(Path::new("/nonexistent"), hybrid);
    is_bad(&finding, &["/nonexistent", "`cgroup`", "/sys/fs/cgroup/unified"]);
    assert_eq!(
        requirements::cgroup2_mount(hybrid).as_deref(),
        Some(Path::new("/sys/fs/cgroup/unified"))
    );
    assert_eq!(requirements::cgroup2_mount("garbage\n\nshort line\n"), None);
}

#[test]
fn a_pin_directory_on_an_ordinary_file_system_is_found() {
    let directory = tempfile::tempdir().unwrap();
    for path in [
        directory.path().to_owned(),
        directory.path().join("not/yet/there"),
    ] {
        is_bad(
            &requirements::pin_directory(&path),
            &["BPF file system", "mount -t bpf"],
        );
    }
}

#[test]
fn everything_is_looked_at() {
    let directory = tempfile::tempdir().unwrap();
    let findings = requirements::examine(directory.path(), directory.path());
    let subjects: Vec<_> = findings.iter().map(|finding| finding.subject).collect();
    assert_eq!(
        subjects,
        [
            "kernel",
            "BTF",
            "capabilities",
            "cgroup",
            "pin directory",
            "pinned maps"
        ]
    );
    let bad = |subject| {
        findings
            .iter()
            .any(|f| f.subject == subject && f.verdict == Verdict::Bad)
    };
    assert!(bad("cgroup") && bad("pin directory"), "{findings:?}");
}

#[test]
fn programs_that_cannot_be_chosen_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let (missing, no_cgroup) = (directory.path().join("missing"), directory.path().to_owned());
    let no_file = no_cgroup.clone();
    for (cgroups, executables, named) in [
        (vec![missing.clone()], vec![], &missing),
        (vec![], vec![missing.clone()], &missing),
        (vec![no_cgroup.clone()], vec![], &no_cgroup),
        (vec![], vec![no_file.clone()], &no_file),
    ] {
        let said = match Sockets::open(&cgroups, &executables) {
            Ok(_) => panic!("{named:?} was chosen"),
            Err(error) => error.to_string(),
        };
        assert!(said.contains(named.to_str().expect("a name")), "{said}");
    }
}

/// Where the kernel takes the program, this test says nothing; `tests/scenarios/vm` does.
#[test]
fn a_kernel_that_changes_no_sockets_is_named_with_the_way_out() {
    let chosen = std::env::current_exe().expect("this test has a file");
    if let Err(error) = Sockets::open(&[], &[chosen]) {
        let said = error.to_string();
        assert!(
            said.contains("mptcpize run") && said.contains("Linux 6.6"),
            "{said}"
        );
    }
}
