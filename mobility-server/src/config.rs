//! The configuration file: TOML, every key optional, unknown keys refused.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mobility/mobility-server.toml";

/// Everything that can be set. `packaging/mobility-server.toml` explains each key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where it listens. Every port answers Observe; agents compare what their NAPT makes of two.
    pub listen: Vec<SocketAddr>,
    /// URLs of the deployment's servers, told to hosts that enrol.
    pub servers: Vec<String>,
    /// Directory with the server's certificate and key.
    pub identity: PathBuf,
    /// Directory of the deployment's authority, which signs members' certificates.
    pub authority: PathBuf,
    /// What must outlive a restart.
    pub state_dir: PathBuf,
    /// Unix socket of the command line tools.
    pub control_socket: PathBuf,
    /// Load balancers in front: prefixes from which PROXY protocol v2 is expected.
    pub fronts: Vec<String>,
    /// Least level that is logged: error, warn, info, debug or trace; or a filter per module.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where Prometheus finds the metrics; empty: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Where reports and sessions are kept.
    pub store: StoreSetting,
    /// How much anybody may ask.
    pub limits: Limits,
    /// How patient the server is.
    pub timeouts: Timeouts,
}

/// Where reports and sessions are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSetting {
    /// `memory`, `sled` or `redis`.
    pub backend: Backend,
    /// For `redis`: URLs of some nodes of the cluster.
    pub redis: Vec<String>,
}

/// Kinds of store.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// Gone with the process.
    Memory,
    /// In `state_dir`.
    Sled,
    /// A Redis or Valkey cluster, which several servers may share.
    Redis,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much anybody may ask. Rates are a minute; a quarter of them may come at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Reports of one agent.
    pub reports: u32,
    /// Reports from one prefix (/24 of IPv4, /48 of IPv6).
    pub reports_from_prefix: u32,
    /// Everything else that one member asks.
    pub requests: u32,
    /// TLS handshakes from one prefix.
    pub handshakes_from_prefix: u32,
    /// Enrolments from one prefix.
    pub enrolments_from_prefix: u32,
    /// Inbound probes towards one address.
    pub probes: u32,
    /// Pairs of which one agent has reports in the store.
    pub pairs: usize,
    /// Attend streams of one agent; one more ends the oldest.
    pub streams: usize,
    /// Tunnels of one agent.
    pub tunnels: usize,
    /// Bytes through one tunnel, each way.
    pub tunnel_bytes: u64,
    /// Open connections in all.
    pub connections: usize,
    /// Open connections from one address.
    pub connections_from_address: usize,
    /// Bytes of one message.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            reports: 1200,
            reports_from_prefix: 12_000,
            requests: 2400,
            handshakes_from_prefix: 6000,
            enrolments_from_prefix: 240,
            probes: 120,
            pairs: 1024,
            streams: 8,
            tunnels: 16,
            tunnel_bytes: 1_048_576,
            connections: 20_000,
            connections_from_address: 2048,
            message_bytes: 1_048_576,
        }
    }
}

/// Durations, all in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// How long a report is kept when its agent does not say.
    pub report: f64,
    /// How long it is kept at most.
    pub report_max: f64,
    /// A decision of which nobody says whether it worked counts as failed after this.
    pub decision: f64,
    /// When no try is left, the first one is made again after this.
    pub rest: f64,
    /// How long a TLS handshake or a first message may take.
    pub handshake: f64,
    /// How often an agent is asked whether it is still there.
    pub ping: f64,
    /// How long a tunnel may live.
    pub tunnel: f64,
    /// How long a member's certificate is valid.
    pub certificate: f64,
    /// How long open calls are waited for at the end.
    pub drain: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            report: 900.0,
            report_max: 86_400.0,
            decision: 15.0,
            rest: 60.0,
            handshake: 5.0,
            ping: 20.0,
            tunnel: 60.0,
            certificate: 604_800.0,
            drain: 5.0,
        }
    }
}

impl Default for StoreSetting {
    fn default() -> Self {
        Self {
            backend: Backend::Sled,
            redis: Vec::new(),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        let any = |port| SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port);
        Self {
            listen: vec![any(7800), any(7802)],
            servers: Vec::new(),
            identity: "/etc/mobility/server".into(),
            authority: "/etc/mobility/ca".into(),
            state_dir: "/var/lib/mobility-server".into(),
            control_socket: "/run/mobility-server/control.sock".into(),
            fronts: Vec::new(),
            log: "info".into(),
            log_format: LogFormat::Text,
            metrics: None,
            store: StoreSetting::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("cannot read {path}: {error}")]
    Read { path: PathBuf, error: std::io::Error },
    #[error("{path}: {error}; see packaging/mobility-server.toml for every key")]
    Content {
        path: PathBuf,
        error: Box<figment::Error>,
    },
    #[error("`{key}`: {error}")]
    Value { key: &'static str, error: String },
}

/// A load balancer's address and the length of its prefix.
pub type Front = (IpAddr, u8);

impl Config {
    /// Reads a file; without one, the default place if there is something, else the defaults.
    ///
    /// # Errors
    /// The file cannot be read, has an unknown key, or a value that cannot be.
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
            figment = figment.merge(Toml::string(&text));
        }
        let config: Self = figment.extract().map_err(|error| ConfigError::Content {
            path: path.unwrap_or(default).to_owned(),
            error: Box::new(error),
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |key, error: String| Err(ConfigError::Value { key, error });
        if self.listen.is_empty() {
            return value("listen", "it names no address; agents could not connect".into());
        }
        if self.store.backend == Backend::Redis && self.store.redis.is_empty() {
            return value(
                "store.redis",
                "it names no node; give the URL of at least one".into(),
            );
        }
        for (key, seconds) in [
            ("timeouts.report", self.timeouts.report),
            ("timeouts.report_max", self.timeouts.report_max),
            ("timeouts.decision", self.timeouts.decision),
            ("timeouts.rest", self.timeouts.rest),
            ("timeouts.handshake", self.timeouts.handshake),
            ("timeouts.ping", self.timeouts.ping),
            ("timeouts.tunnel", self.timeouts.tunnel),
            ("timeouts.certificate", self.timeouts.certificate),
            ("timeouts.drain", self.timeouts.drain),
        ] {
            if !(0.1..=315_360_000.0).contains(&seconds) {
                return value(
                    key,
                    format!("{seconds} is no number of seconds between 0.1 and ten years"),
                );
            }
        }
        let positive = [
            ("limits.pairs", self.limits.pairs),
            ("limits.streams", self.limits.streams),
            ("limits.connections", self.limits.connections),
            (
                "limits.connections_from_address",
                self.limits.connections_from_address,
            ),
        ];
        for (key, number) in positive {
            if number == 0 {
                return value(key, "with 0 nobody could use the server".into());
            }
        }
        if self.limits.message_bytes < 4096 {
            return value("limits.message_bytes", "less than 4096 holds no report".into());
        }
        self.front_prefixes()?;
        Ok(())
    }

    /// From where PROXY protocol v2 is expected.
    ///
    /// # Errors
    /// A text that is no prefix.
    pub fn front_prefixes(&self) -> Result<Vec<Front>, ConfigError> {
        let parse = |text: &String| {
            let (address, length) = text
                .split_once('/')
                .map_or((text.as_str(), None), |(a, l)| (a, Some(l)));
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let length = length.map_or(Some(most), |length| length.parse().ok())?;
            (length <= most).then_some((address, length))
        };
        self.fronts
            .iter()
            .map(|text| {
                parse(text).ok_or_else(|| ConfigError::Value {
                    key: "fronts",
                    error: format!("`{text}` is no prefix such as 192.0.2.0/24"),
                })
            })
            .collect()
    }

    /// Seconds as a duration.
    pub fn seconds(seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }

    /// What the rules are told of all this.
    pub fn rules(&self) -> migration::server::Rules {
        migration::server::Rules {
            keep: Self::seconds(self.timeouts.report),
            keep_max: Self::seconds(self.timeouts.report_max),
            try_patience: Self::seconds(self.timeouts.decision),
            rest: Self::seconds(self.timeouts.rest),
            ..migration::server::Rules::default()
        }
    }
}
