//! Starting and stopping: what is missing is said in one line, and nothing half made stays.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use identity::{Authority, Validity};

use crate::home::{Home, has_device, pinned};
use crate::place::{Host, isolated, run, said};

fn ip(arguments: &str) -> String {
    said(&format!("ip {arguments}"))
}

fn network() -> Vec<String> {
    let mut all: Vec<String> = [
        "-o link",
        "-4 rule",
        "-6 rule",
        "-4 route show table all",
        "-6 route show table all",
    ]
    .map(ip)
    .into();
    all.push(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap());
    all
}

/// The lines in which the program says why it ends.
fn reason(said: &str) -> &str {
    said.lines()
        .rfind(|line| line.starts_with("host-agent: "))
        .unwrap_or_else(|| panic!("no reason: {said}"))
}

#[test]
fn an_agent_starts_stops_and_is_cleaned_up_to_the_last_rule() {
    isolated(|| {
        let host = Host::first();
        let home = Home::on(&host);
        let before = network();
        let agent = home.start();
        let status = agent.status();
        assert_eq!(
            (&status["connections"], &status["agent_port"]),
            (&0.into(), &7801.into())
        );
        let refused = home.ask(&["cleanup"]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("stop it first"),
            "{said}"
        );
        assert!(agent.stop(), "{}", home.log());

        assert!(!home.path("control.sock").exists());
        assert!(
            has_device("mob0") && pinned(&host.pin_dir) > 5,
            "connections live on"
        );
        assert!(home.ask(&["cleanup"]).status.success());
        assert!(!has_device("mob0") && !host.pin_dir.exists());
        assert_eq!(network(), before);
        let nothing = String::from_utf8(home.ask(&["cleanup"]).stdout).unwrap();
        assert!(nothing.contains("nothing"), "{nothing}");
    });
}

#[test]
fn an_agent_that_is_killed_is_followed_by_another() {
    isolated(|| {
        let home = Home::on(&Host::first());
        drop(home.start());
        assert!(home.path("control.sock").exists(), "killed, it leaves its socket");
        let agent = home.start();
        assert_eq!(agent.status()["pairs"], 0);
        assert!(agent.stop());
    });
}

#[test]
fn a_second_agent_is_refused_and_does_not_disturb_the_first() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let mut agent = home.start();
        let output = home.ask(&["run"]);
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(reason(&said).contains("another agent answers"), "{said}");
        assert!(agent.is_running());
        agent.status();
    });
}

#[test]
fn an_agent_port_in_use_is_named() {
    isolated(|| {
        let host = Host::first();
        let home = Home::on(&host);
        let before = network();
        for taken in ["[::]:7801", "0.0.0.0:7801", "127.0.0.1:7801"] {
            let _listener = std::net::TcpListener::bind(taken).unwrap();
            let said = home.fails_to_start();
            let reason = reason(&said);
            assert!(
                reason.contains("agent port 7801") && reason.contains("`agent_port`"),
                "{taken}: {reason}"
            );
            let doctor = String::from_utf8(home.ask(&["doctor"]).stdout).unwrap();
            assert!(doctor.contains("agent port"), "{taken}: {doctor}");
        }
        assert_eq!(
            (network(), pinned(&host.pin_dir)),
            (before, 0),
            "nothing was begun"
        );
    });
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_with_what_to_do() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let authority = Authority::load(&home.ca()).unwrap();
        let hour = Duration::from_secs(3600);
        let now = std::time::SystemTime::now();
        let expired = Validity {
            not_before: now - 2 * hour,
            not_after: now - hour,
        };
        let early = Validity {
            not_before: now + hour,
            not_after: now + 2 * hour,
        };
        let made = [
            (
                "expired",
                authority.issue("agent", expired).unwrap(),
                ["expired", "host-agent init"],
            ),
            (
                "early",
                authority.issue("agent", early).unwrap(),
                ["valid from", "check this host's clock"],
            ),
        ];
        for (directory, identity, expected) in made {
            identity.write(&home.path(directory)).unwrap();
            home.configure(&format!("identity = {:?}", home.path(directory)));
            let said = home.fails_to_start();
            for expected in expected {
                assert!(
                    reason(&said).contains(expected),
                    "{directory}: `{expected}` is not in {said}"
                );
            }
            let doctor = String::from_utf8(home.ask(&["doctor"]).stdout).unwrap();
            assert!(doctor.contains("BAD   certificate"), "{directory}: {doctor}");
        }
        home.configure(&format!("identity = {:?}", home.path("nowhere")));
        let said = home.fails_to_start();
        assert!(
            reason(&said).contains("nowhere") && reason(&said).contains("init"),
            "{said}"
        );
    });
}

#[test]
fn a_missing_capability_is_named() {
    isolated(|| {
        let home = Home::on(&Host::first());
        // CAP_BPF, and what implies it.
        let without = |mut command: Command| {
            // SAFETY: only system calls between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    for capability in [21, 38, 39] {
                        if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                            return Err(std::io::Error::last_os_error());
                        }
                    }
                    Ok(())
                })
            };
            command
        };
        let said = home.fails(without(home.command(&["run"])));
        assert!(
            reason(&said).contains("CAP_BPF") && reason(&said).contains("doctor"),
            "{said}"
        );
        let doctor = without(home.command(&["doctor"])).output().unwrap();
        let said = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            !doctor.status.success() && said.contains("CAP_PERFMON, CAP_BPF missing"),
            "{said}"
        );
        // Without them nobody's sockets can be changed: that is bad only where somebody's should be.
        assert!(!said.contains("BAD   MPTCP sockets"), "{said}");
        home.configure("mptcp.executables = [\"/usr/bin/env\"]");
        let doctor = without(home.command(&["doctor"])).output().unwrap();
        let said = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            said.contains("BAD   MPTCP sockets") && said.contains("mptcpize run"),
            "{said}"
        );
    });
}

#[test]
fn a_kernel_without_type_information_is_named() {
    isolated(|| {
        let home = Home::on(&Host::first());
        run("mount -t tmpfs none /sys/kernel/btf");
        let said = home.fails_to_start();
        assert!(
            reason(&said).contains("BPF") && reason(&said).contains("doctor"),
            "{said}"
        );
        let doctor = home.ask(&["doctor"]);
        let said = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            !doctor.status.success() && said.contains("CONFIG_DEBUG_INFO_BTF"),
            "{said}"
        );
    });
}

#[test]
fn a_cgroup_that_is_none_is_named() {
    isolated(|| {
        let host = Host::first();
        let home = Home::on(&host);
        home.configure("cgroup = \"/tmp\"");
        let said = home.fails_to_start();
        assert!(
            reason(&said).contains("/tmp") && reason(&said).contains("version 2"),
            "{said}"
        );
        let doctor = home.ask(&["doctor"]);
        let said = String::from_utf8(doctor.stdout).unwrap();
        assert!(
            !doctor.status.success() && said.contains("/tmp is no cgroup of version 2"),
            "{said}"
        );
    });
}

#[test]
fn a_device_that_is_somebody_elses_is_refused() {
    isolated(|| {
        let host = Host::first();
        let _second = Host::second();
        let home = Home::on(&host);
        home.configure("device = \"cable\"");
        let before = network();
        let said = home.fails_to_start();
        assert!(
            reason(&said).contains("cable") && reason(&said).contains("`device`"),
            "{said}"
        );
        assert!(home.ask(&["cleanup"]).status.success());
        assert!(has_device("cable"));
        assert_eq!(network(), before);
    });
}

#[test]
fn a_wrong_key_ends_every_command_with_its_name() {
    isolated(|| {
        let home = Home::on(&Host::first());
        assert!(home.ask(&["config", "check"]).status.success());
        home.configure("agent_prot = 1");
        for arguments in [
            &["run"][..],
            &["config", "check"],
            &["status"],
            &["cleanup"],
            &["doctor"],
        ] {
            let output = home.ask(arguments);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                !output.status.success() && said.contains("agent_prot"),
                "{arguments:?}: {said}"
            );
        }
        home.configure("log = \"a=b=c\"");
        let said = home.fails_to_start();
        assert!(reason(&said).contains("`log`"), "{said}");
    });
}

#[test]
fn metrics_that_cannot_be_served_are_named() {
    isolated(|| {
        let home = Home::on(&Host::first());
        let taken = std::net::TcpListener::bind("127.0.0.1:9100").unwrap();
        home.configure("metrics = \"127.0.0.1:9100\"");
        let said = home.fails_to_start();
        assert!(
            reason(&said).contains("metrics") && reason(&said).contains("127.0.0.1:9100"),
            "{said}"
        );
        drop(taken);
        let agent = home.start();
        agent.status();
    });
}
