//! The configuration file: every mistake is refused with the name of the key, and nothing is half read.

use std::path::Path;

use host_agent::config::{Config, TrustSetting};

/// Reads a file with this content; the error as a person sees it.
fn load(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("host-agent.toml");
    std::fs::write(&path, text).expect("a file");
    Config::load(Some(&path)).map_err(|error| error.to_string())
}

fn refused(text: &str, key: &str) {
    match load(text) {
        Ok(_) => panic!("{text:?} was accepted"),
        Err(error) => assert!(
            error.contains(key),
            "{text:?}: the error does not name `{key}`: {error}"
        ),
    }
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = load("").unwrap();
    assert_eq!(config.agent_port, Config::default().agent_port);
    assert!(matches!(config.trust, TrustSetting::Ca(_)));
}

#[test]
fn a_file_that_was_named_must_exist() {
    let error = Config::load(Some(Path::new("/nonexistent/agent.toml")))
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nonexistent/agent.toml"), "{error}");
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    refused("agent_prot = 7801", "agent_prot");
    refused("[timeouts]\nmig_wiat = 3", "mig_wiat");
    refused("[trust]\nca_file = \"/x\"", "trust");
}

#[test]
fn a_value_of_the_wrong_type_is_refused_by_key() {
    for (text, key) in [
        ("agent_port = \"https\"", "agent_port"),
        ("agent_port = 70000", "agent_port"),
        ("agent_port = -1", "agent_port"),
        ("wire_ports = 61000", "wire_ports"),
        ("wire_ports = [61000]", "wire_ports"),
        ("wire_ports = [61000, 62000, 63000]", "wire_ports"),
        ("mark = \"0x400000\"", "mark"),
        ("table = -3", "table"),
        ("device = 5", "device"),
        ("servers = \"https://one\"", "servers"),
        ("nat64_prefixes = [\"64:ff9b::/95\"]", "nat64_prefixes"),
        ("log_format = \"xml\"", "log_format"),
        ("metrics = \"9100\"", "metrics"),
        ("timeouts = 5", "timeouts"),
        ("[timeouts]\nlinger = \"long\"", "linger"),
        ("pin_dir = [1]", "pin_dir"),
    ] {
        refused(text, key);
    }
}

#[test]
fn what_is_no_toml_is_refused_with_its_place() {
    let error = load("agent_port = 7801\nwire_ports = [61000,").unwrap_err();
    assert!(
        error.contains("host-agent.toml") && error.contains("line 2"),
        "{error}"
    );
}

#[test]
fn ports_must_be_usable() {
    for (text, key) in [
        ("agent_port = 0", "agent_port"),
        ("agent_port = 21500", "agent_port"),
        ("wire_ports = [62000, 61000]", "wire_ports"),
        ("wire_ports = [61000, 61010]", "wire_ports"),
        ("wire_ports = [80, 2000]", "wire_ports"),
        ("max_connections = 3", "max_connections"),
    ] {
        refused(text, key);
    }
    assert_eq!(
        load("wire_ports = [61000, 61063]").unwrap().wire_ports,
        (61000, 61063)
    );
}

#[test]
fn marks_must_be_two_single_bits_that_nobody_else_uses() {
    for text in [
        "mark = 0",
        "mark = 3",
        "agent_mark = 0",
        "agent_mark = 6",
        "mark = 0x01000000",
        "mark = 8\nagent_mark = 8",
        // The bit that the data path puts on what is translated already.
        "mark = 0x00800000",
        "agent_mark = 0x00800000",
    ] {
        refused(text, "mark");
    }
    assert_eq!(load("mark = 8\nagent_mark = 16").unwrap().mark, 8);
}

#[test]
fn the_table_must_not_be_one_of_the_systems() {
    for table in [0, 253, 254, 255] {
        refused(&format!("table = {table}"), "table");
    }
}

#[test]
fn the_rules_must_come_between_those_of_the_system() {
    for priority in ["0", "32763", "32766", "4294967295"] {
        refused(&format!("rule_priority = {priority}"), "rule_priority");
    }
    assert_eq!(load("rule_priority = 32762").unwrap().rule_priority, 32762);
}

#[test]
fn the_device_must_have_a_name_that_the_kernel_takes() {
    for name in [
        "",
        "mob/0",
        "mob 0",
        "mob:0",
        "mob0mob0mob0mob0",
        ".",
        "..",
        "lo",
        "all",
        "default",
    ] {
        refused(&format!("device = \"{name}\""), "device");
    }
    refused("device = \"mob\\t0\"", "device");
}

#[test]
fn offers_are_words_or_prefixes() {
    for text in [
        "offer = \"some\"",
        "offer = 5",
        "offer = [\"192.0.2.0/33\"]",
        "offer = [\"192.0.2.0/-1\"]",
        "offer = [\"192.0.2.0/\"]",
        "offer = [\"192.0.2\"]",
        "offer = [\"example.org\"]",
        "offer = [\"2001:db8::/129\"]",
        "offer = [\"!!192.0.2.0/24\"]",
        "offer = [\"192.0.2.0/24\", \"\"]",
    ] {
        refused(text, "offer");
    }
    assert!(load("offer = \"any\"").unwrap().offers().unwrap().0);
    assert!(!load("offer = \"none\"").unwrap().offers().unwrap().0);
    let (all, prefixes) = load("offer = [\"192.0.2.0/24\", \"!192.0.2.7\"]")
        .unwrap()
        .offers()
        .unwrap();
    assert!(!all, "others are not offered to");
    assert_eq!(
        prefixes,
        [
            ("192.0.2.0".parse().unwrap(), 24, true),
            ("192.0.2.7".parse().unwrap(), 32, false)
        ]
    );
    assert!(
        load("offer = [\"!10.0.0.0/8\"]").unwrap().offers().unwrap().0,
        "only exceptions: all others are meant"
    );
}

#[test]
fn trust_is_a_ca_or_pinned_keys_and_not_both() {
    for text in [
        "trust = \"ca\"",
        "trust = 5",
        "trust = {}",
        "[trust]",
        "trust = { ca = \"/ca.pem\", pinned = [] }",
        "[trust]\nca = \"/ca.pem\"\npinned = [\"00\"]",
        "trust = { pinned = \"00\" }",
        "trust = { anybody = true }",
    ] {
        refused(text, "trust");
    }
}

#[test]
fn trust_may_be_written_in_every_way_that_toml_has() {
    for text in [
        "trust = { ca = \"/there/ca.pem\" }",
        "trust.ca = \"/there/ca.pem\"",
        "[trust]\nca = \"/there/ca.pem\"",
        "  [ trust ]\nca = \"/there/ca.pem\"",
        "\"trust\" = { ca = \"/there/ca.pem\" }",
    ] {
        match load(text).map(|config| config.trust) {
            Ok(TrustSetting::Ca(path)) => assert_eq!(path, Path::new("/there/ca.pem"), "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in [
        "trust = { pinned = [\"00\"] }",
        "[trust]\npinned = [\"00\"]",
        "trust.pinned = [\"00\"]",
    ] {
        match load(text).map(|config| config.trust) {
            Ok(TrustSetting::Pinned(pins)) => assert_eq!(pins, ["00"], "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_pinned_key_that_is_none_is_refused() {
    let config = load("[trust]\npinned = [\"not a fingerprint\"]").unwrap();
    let error = host_agent::drive::trust(&config).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("trust.pinned"), "{error:#}");
}

#[test]
fn a_comment_about_trust_changes_nothing() {
    let config = load("# trust = nobody\nlog = \"info\"\n").unwrap();
    assert!(matches!(config.trust, TrustSetting::Ca(_)));
}

#[test]
fn durations_are_seconds_between_nothing_and_a_year() {
    for key in ["mig_wait", "linger", "reset", "heartbeat"] {
        for value in ["-1", "-0.5", "nan", "inf", "31536001", "1e300"] {
            refused(&format!("[timeouts]\n{key} = {value}"), key);
        }
    }
    let config = load("[timeouts]\nmig_wait = 1.5\nlinger = 2").unwrap();
    assert_eq!(config.policy().mig_wait, std::time::Duration::from_millis(1500));
    assert_eq!(config.policy().linger, std::time::Duration::from_secs(2));
}

#[test]
fn the_example_that_is_shipped_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/host-agent.toml");
    if !path.exists() {
        return;
    }
    let config = Config::load(Some(&path)).unwrap();
    assert_eq!(config.agent_port, Config::default().agent_port);
}
