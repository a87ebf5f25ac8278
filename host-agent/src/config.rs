//! The configuration file: TOML, every key optional, unknown keys refused.

mod check;
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

pub use self::check::ConfigError;
pub use self::tables::{Heartbeat, Mptcp, Paths, Timeouts};
use crate::nat64::{Nat64Prefix, NotNat64};

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mobility/host-agent.toml";

/// Everything that can be set. `packaging/host-agent.toml` explains each key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Directory of the cgroup (version 2) whose processes take part; empty: the root of the hierarchy.
    pub cgroup: Option<PathBuf>,
    /// What must outlive a restart.
    pub state_dir: PathBuf,
    /// Directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// How many connections that can migrate there may be at a time.
    pub max_connections: u32,
    /// Unix socket of the command line tools.
    pub control_socket: PathBuf,
    /// TCP port on which other agents find this one.
    pub agent_port: u16,
    /// Directory with this host's certificate and key.
    pub identity: PathBuf,
    /// Whose certificates are accepted.
    pub trust: TrustSetting,
    /// To whom migration is offered.
    pub offer: Offer,
    /// Servers whose connections end here, under their addresses, at a relay on this host: prefixes.
    pub anchor: Vec<String>,
    /// Which connections that offered nothing are taken up all the same.
    pub enrol: EnrolWord,
    /// First and last port of the range for moved connections.
    #[serde(deserialize_with = "first_and_last")]
    pub wire_ports: (u16, u16),
    /// Name of the parking device.
    pub device: String,
    /// Number of the routing table of the parking device.
    pub table: u32,
    /// Priority of the first of three routing rules.
    pub rule_priority: u32,
    /// Mark bit of sockets whose segments pass the parking device.
    pub mark: u32,
    /// Mark bit of the agent's own segments.
    pub agent_mark: u32,
    /// Mobility servers this agent may use, as URLs.
    pub servers: Vec<String>,
    /// Whether they are told of every connection with another agent that has lived for a second or two, so that their
    /// operators see it.
    pub list_sessions: bool,
    /// Under which IPv6 prefixes a NAT64 may make IPv4 reachable.
    pub nat64_prefixes: Vec<String>,
    /// Where the network's resolvers stand, which know the prefix of its NAT64. Empty: they are not asked.
    pub resolv_conf: PathBuf,
    /// Least level that is logged: error, warn, info, debug or trace; or a filter per module.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where Prometheus finds the metrics; empty: nowhere.
    pub metrics: Option<SocketAddr>,
    /// When connections leave a way that still works.
    pub paths: Paths,
    /// This host's own Multipath TCP connections.
    pub mptcp: Mptcp,
    /// How patient the agent is.
    pub timeouts: Timeouts,
    /// How it finds out that a path has died without a word.
    pub heartbeat: Heartbeat,
}

/// Whose certificates are accepted.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrustSetting {
    /// Those of an authority: path of its certificate.
    Ca(PathBuf),
    /// Those of these keys: SHA-256 fingerprints as `host-agent init` prints them.
    Pinned(Vec<String>),
}

/// To whom migration is offered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Offer {
    /// `"any"` or `"none"`.
    Word(OfferWord),
    /// Prefixes; one with `!` in front is left out. The longest match counts.
    Prefixes(Vec<String>),
}

/// The two words.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OfferWord {
    /// To every destination.
    Any,
    /// To none; the agent still answers offers.
    None,
}

/// Which older connections are taken up.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum EnrolWord {
    /// None.
    None,
    /// Those with hosts whose agent is known.
    Pairs,
    /// These, and agents are looked for at the prefixes that `offer` names.
    #[default]
    Offered,
}

/// A prefix, and whether migration is offered to it.
pub type OfferedPrefix = (IpAddr, u8, bool);

/// How log lines look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What connections do when the default route leads elsewhere and their own way still works.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PreferSetting {
    /// They stay until it breaks.
    Own,
    /// They follow.
    DefaultRoute,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup: None,
            state_dir: "/var/lib/host-agent".into(),
            pin_dir: "/sys/fs/bpf/host-agent".into(),
            max_connections: 131_072,
            control_socket: "/run/host-agent/control.sock".into(),
            agent_port: 7801,
            identity: "/etc/mobility/identity".into(),
            trust: TrustSetting::Ca("/etc/mobility/identity/ca.pem".into()),
            offer: Offer::Word(OfferWord::Any),
            anchor: Vec::new(),
            enrol: EnrolWord::default(),
            wire_ports: (20000, 32767),
            device: "mob0".into(),
            table: 7801,
            rule_priority: 78,
            mark: 0x0040_0000,
            agent_mark: 0x0100_0000,
            servers: Vec::new(),
            list_sessions: true,
            nat64_prefixes: vec!["64:ff9b::/96".into()],
            resolv_conf: "/etc/resolv.conf".into(),
            log: "info".into(),
            log_format: LogFormat::Text,
            metrics: None,
            paths: Paths::default(),
            mptcp: Mptcp::default(),
            timeouts: Timeouts::default(),
            heartbeat: Heartbeat::default(),
        }
    }
}

impl Config {
    /// Reads a file; without one, the default place if there is something, else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let path = match path {
            Some(path) => Some(path),
            None => default.exists().then_some(default),
        };
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        if let Some(path) = path {
            let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read {
                path: path.to_owned(),
                error,
            })?;
            // `trust` is one of two: what the file says replaces the default, it does not join it.
            let table = text.parse::<toml::Table>().unwrap_or_default();
            if let Some(trust) = table.get("trust") {
                if trust.as_table().is_none_or(|choice| choice.len() != 1) {
                    let error = "it takes either `ca = \"FILE\"` or `pinned = [\"FINGERPRINT\", ...]`".into();
                    return Err(ConfigError::Value { key: "trust", error });
                }
                let mut bare = serde_json::to_value(Config::default()).unwrap_or_default();
                if let Some(map) = bare.as_object_mut() {
                    map.remove("trust");
                }
                figment = Figment::from(Serialized::defaults(bare));
            }
            figment = figment.merge(Toml::string(&text));
        }
        let shown = path.unwrap_or(default).to_owned();
        let config: Self = figment.extract().map_err(|error| ConfigError::Content {
            path: shown,
            error: Box::new(error),
        })?;
        config.check()?;
        Ok(config)
    }

    /// Whether destinations that no prefix names are offered migration, and the prefixes.
    pub fn offers(&self) -> Result<(bool, Vec<OfferedPrefix>), ConfigError> {
        match &self.offer {
            Offer::Word(word) => Ok((*word == OfferWord::Any, Vec::new())),
            Offer::Prefixes(prefixes) => {
                let parsed: Result<Vec<_>, _> = prefixes.iter().map(|prefix| parse_prefix(prefix)).collect();
                let parsed = parsed.map_err(|error| ConfigError::Value { key: "offer", error })?;
                // Only exceptions: everything else is meant.
                let all = parsed.iter().all(|(_, _, offer)| !offer);
                Ok((all, parsed))
            }
        }
    }

    /// Whose connections end here, though their addresses are none of this host's.
    pub fn anchors(&self) -> Result<Vec<(IpAddr, u8)>, ConfigError> {
        let parsed = self.anchor.iter().map(|prefix| match parse_prefix(prefix)? {
            (address, length, true) => Ok((address, length)),
            _ => Err(format!("`{prefix}` is left out by leaving it out")),
        });
        parsed
            .collect::<Result<_, String>>()
            .map_err(|error| ConfigError::Value { key: "anchor", error })
    }

    /// The prefixes under which IPv4 is reached over IPv6.
    pub fn nat64(&self) -> Result<Vec<Nat64Prefix>, ConfigError> {
        let prefixes = self.nat64_prefixes.iter().map(|text| text.parse());
        prefixes
            .collect::<Result<_, _>>()
            .map_err(|error: NotNat64| ConfigError::Value {
                key: "nat64_prefixes",
                error: error.to_string(),
            })
    }

    /// How bad a way may be.
    pub fn limits(&self) -> crate::quality::Limits {
        crate::quality::Limits {
            loss: self.paths.loss,
            rtt: Duration::from_secs_f64(self.paths.rtt),
            hold: Duration::from_secs_f64(self.paths.hold),
        }
    }

    /// What connections do when the default route leads elsewhere.
    pub fn prefer(&self) -> crate::agent::Prefer {
        match self.paths.prefer {
            PreferSetting::Own => crate::agent::Prefer::Own,
            PreferSetting::DefaultRoute => crate::agent::Prefer::DefaultRoute,
        }
    }

    /// What the state machine is told of all this.
    pub fn policy(&self) -> migration::Policy {
        migration::Policy {
            mig_wait: Duration::from_secs_f64(self.timeouts.mig_wait),
            linger: Duration::from_secs_f64(self.timeouts.linger),
            reset_deadline: Duration::from_secs_f64(self.timeouts.reset),
            ..migration::Policy::default()
        }
    }

    /// The cgroup to attach to.
    pub fn cgroup_path(&self) -> PathBuf {
        self.cgroup.clone().unwrap_or_else(|| {
            let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
            datapath::requirements::cgroup2_mount(&mounts).unwrap_or_else(|| "/sys/fs/cgroup".into())
        })
    }
}

fn first_and_last<'de, D: serde::Deserializer<'de>>(value: D) -> Result<(u16, u16), D::Error> {
    let ports = Vec::<u16>::deserialize(value)?;
    match ports[..] {
        [first, last] => Ok((first, last)),
        _ => Err(serde::de::Error::invalid_length(
            ports.len(),
            &"the first and the last port of a range",
        )),
    }
}

fn parse_prefix(text: &str) -> Result<OfferedPrefix, String> {
    let (offer, rest) = match text.strip_prefix('!') {
        Some(rest) => (false, rest),
        None => (true, text),
    };
    let (address, length) = match rest.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (rest, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("`{text}` is no prefix such as 192.0.2.0/24"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => longest,
        Some(digits) => digits
            .parse()
            .ok()
            .filter(|length| *length <= longest)
            .ok_or_else(|| format!("`{text}`: the prefix length must be a number up to {longest}"))?,
    };
    Ok((address, length, offer))
}
