//! The kernel's table that follows from the configuration, and mistakes in that.
use mptcp_relay::config::Config;
use mptcp_relay::rules::{Holder, Rules};

#[test]
fn the_table_is_replaced_in_one_transaction_and_fails_open() {
    let config = Config {
        interfaces: vec!["wifi".into()],
        refuse: vec!["192.0.2.0/24".parse().expect("a range")],
        ..Config::default()
    };
    let script = Rules::new(&config, Holder::Nft).script();
    let head = "table inet mptcp_relay\ndelete table inet mptcp_relay\ntable inet mptcp_relay {";
    assert!(script.starts_with(head), "{script}");
    assert!(!script.contains("flush ruleset"));
    assert!(script.contains("queue flags bypass to 7820"));
    assert!(script.contains("iifname { \"wifi\" } goto up"));
    assert!(script.contains("fib daddr oifname { \"wifi\" } goto down"));
    assert!(script.contains("ip daddr 192.0.2.0/24 return"));
    assert!(script.contains("ip saddr 192.0.2.0/24 return"));
    assert!(!Rules::new(&config, Holder::Xtables).script().contains("queue"));
}

#[test]
fn only_servers_that_are_named_are_anchored() {
    let script = |config: &Config| Rules::new(config, Holder::Nft).script();
    let none = script(&Config::default());
    assert!(
        !none.contains("option 253") && !none.contains("redirect"),
        "{none}"
    );
    let config = Config {
        anchor: vec!["192.0.2.0/24".parse().expect("a range")],
        ..Config::default()
    };
    let some = script(&config);
    for line in [
        "ip daddr 192.0.2.0/24 tcp option mptcp missing tcp option 253 exists",
        "ip daddr 192.0.2.0/24 tcp dport 7801 redirect to :7801",
        "tproxy ip to 127.77.0.1:7822",
    ] {
        assert!(some.contains(line), "{line}: {some}");
    }
}

#[test]
fn servers_are_listened_to_only_where_it_is_known_who_the_terminals_are() {
    let unknown = Rules::new(&Config::default(), Holder::Nft).script();
    assert!(
        unknown.contains("goto up") && !unknown.contains("down"),
        "{unknown}"
    );
    let config = Config {
        terminals: ["10.0.0.0/8", "fd00::/8"]
            .map(|range| range.parse().expect("a range"))
            .into(),
        ..Config::default()
    };
    let known = Rules::new(&config, Holder::Nft).script();
    for line in [
        "ip saddr 10.0.0.0/8 goto up",
        "ip6 saddr fd00::/8 goto up",
        "ip daddr 10.0.0.0/8 goto down",
        "ip6 daddr fd00::/8 goto down",
    ] {
        assert!(known.contains(line), "{line}: {known}");
    }
    let unwanted = Config {
        downlink: false,
        ..config
    };
    assert!(!Rules::new(&unwanted, Holder::Nft).script().contains("goto down"));
}

#[test]
fn mistakes_in_the_configuration_are_named_with_their_key() {
    let directory = tempfile::tempdir().expect("a directory for a moment");
    let file = directory.path().join("relay.toml");
    for (text, key) in [
        ("mark = 3", "mark"),
        ("mark = 0x8000_0000", "mark"),
        ("nft_table = \"a b\"", "nft_table"),
        ("interfaces = [\"a\\\" } accept\"]", "interfaces"),
        ("refuse = [\"10.0.0.0/40\"]", "refuse"),
        ("announce = [\"0.0.0.0:1\"]", "announce"),
        ("table = 254", "table"),
        ("timeouts.server = 0", "timeouts.server"),
        ("timeouts.probe = 1.5", "timeouts.probe"),
        ("listen_port = 65534", "listen_port"),
        ("anchor = [\"here\"]", "anchor"),
        ("timeouts.keepalive = -1", "timeouts.keepalive"),
        ("terminals = [\"here\"]", "terminals"),
        ("balance = { enabled = true }", "balance.enabled"),
        ("path_manager = { mode = \"binder\" }", "source routes"),
        (
            "path_manager = { mode = \"ports\", ports = 0 }",
            "path_manager.ports",
        ),
        ("balance = { interval = 0 }", "balance.interval"),
        (
            "[[balance.points]]\nname = \"a\\\"\"\naddresses = [\"10.0.0.0/8\"]\ncapacity = 1.0",
            "balance.points",
        ),
        (
            "[[balance.points]]\nname = \"a\"\naddresses = []\ncapacity = 1.0",
            "balance.points",
        ),
        ("unheard_of = 1", "unheard_of"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let error = Config::load(Some(&file)).expect_err(text).to_string();
        assert!(error.contains(key), "{text}: {error}");
    }
}

#[test]
fn the_packaged_configuration_says_what_is_in_force_without_it() {
    let packaged = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/mptcp-relay.toml");
    let read = Config::load(Some(packaged.as_ref())).expect("the packaged file is right");
    let shown = |config: &Config| toml::to_string(config).expect("it can be shown");
    assert_eq!(shown(&read), shown(&Config::default()));
}
