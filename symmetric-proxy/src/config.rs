//! The configuration file: TOML, every key optional, unknown keys refused.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use operator::log::LogFormat;
use operator::prefix::Prefix;
use serde::{Deserialize, Serialize};

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mobility/symmetric-proxy.toml";

/// Everything that can be set. `packaging/symmetric-proxy.toml` explains each key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// This host's addresses at which it relays; none: all that are not in `refuse`.
    pub addresses: Vec<IpAddr>,
    /// The ports that are the proxy's whole, first and last.
    pub ports: (u16, u16),
    /// Devices over which agents come; none: all but loopback.
    pub interfaces: Vec<String>,
    /// Where nobody who is relayed may be.
    pub refuse: Vec<Prefix>,
    /// URLs of the deployment's servers; none: those that the enrolment has named.
    pub servers: Vec<String>,
    /// Directory with the proxy's certificate and key.
    pub identity: PathBuf,
    /// Directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// Unix socket of the command line tools.
    pub control_socket: PathBuf,
    /// Mark of what the daemon itself sends; 0: none.
    pub mark: u32,
    /// Least level that is logged: error, warn, info, debug or trace; or a filter per module.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where Prometheus finds the metrics; empty: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How much anybody may ask.
    pub limits: Limits,
    /// How patient the proxy is.
    pub timeouts: Timeouts,
}

/// How much anybody may ask.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one agent.
    pub connections_of_agent: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 500_000,
            connections_of_agent: 4096,
        }
    }
}

/// Durations, all in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A connection of which nothing was heard for so long is forgotten.
    pub idle: f64,
    /// After the end of a connection, how long late segments are still passed.
    pub linger: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            idle: 7440.0,
            linger: 60.0,
        }
    }
}

/// Where nobody can be whom a public proxy relays for: private, loopback, link-local, multicast and the like.
const NOWHERE: [&str; 26] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
    "::/127",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
    "::ffff:0.0.0.0/96",
];

impl Default for Config {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            ports: (20_000, 29_999),
            interfaces: Vec::new(),
            refuse: NOWHERE.iter().filter_map(|text| text.parse().ok()).collect(),
            servers: Vec::new(),
            identity: "/etc/mobility/proxy".into(),
            pin_dir: "/sys/fs/bpf/symmetric-proxy".into(),
            control_socket: "/run/symmetric-proxy/control.sock".into(),
            mark: 0,
            log: "info".into(),
            log_format: LogFormat::Text,
            metrics: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is missing though it was named.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: std::io::Error,
    },
    /// The file does not say what it should.
    #[error("{path}: {error}; see packaging/symmetric-proxy.toml for every key")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        error: Box<figment::Error>,
    },
    /// A value that cannot be.
    #[error("`{key}`: {error}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, and what to do.
        error: String,
    },
}

impl Config {
    /// Reads a file; without one, the default place if there is something, else the defaults.
    ///
    /// # Errors
    /// [`ConfigError`], with the key.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        let path = path.or_else(|| default.exists().then_some(default));
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
        let (first, last) = self.ports;
        if first < 1024 || last < first {
            return value(
                "ports",
                format!("[{first}, {last}] is no range of ports from 1024 on"),
            );
        }
        if self.addresses.len() > 64 {
            return value("addresses", "64 at most".into());
        }
        if let Some(address) = self.addresses.iter().find(|address| address.is_unspecified()) {
            return value(
                "addresses",
                format!("{address} is none at which agents can reach this host"),
            );
        }
        for (key, seconds, least) in [
            ("timeouts.idle", self.timeouts.idle, 1.0),
            ("timeouts.linger", self.timeouts.linger, 0.0),
        ] {
            if !(least..=30.0 * 86_400.0).contains(&seconds) {
                return value(
                    key,
                    format!("{seconds} is no number of seconds between {least} and 30 days"),
                );
            }
        }
        Ok(())
    }

    /// The keys that differ in `other` and are looked at only at the start.
    pub fn needs_restart(&self, other: &Config) -> Vec<&'static str> {
        let differences = [
            ("addresses", self.addresses != other.addresses),
            ("ports", self.ports != other.ports),
            ("interfaces", self.interfaces != other.interfaces),
            ("servers", self.servers != other.servers),
            ("identity", self.identity != other.identity),
            ("pin_dir", self.pin_dir != other.pin_dir),
            ("control_socket", self.control_socket != other.control_socket),
            ("mark", self.mark != other.mark),
            ("log_format", self.log_format != other.log_format),
            ("metrics", self.metrics != other.metrics),
        ];
        let changed = differences.into_iter().filter(|(_, differs)| *differs);
        changed.map(|(key, _)| key).collect()
    }

    /// Whether nobody at this address is relayed for.
    pub fn refuses(&self, address: IpAddr) -> bool {
        self.refuse.iter().any(|range| range.contains(address))
    }

    /// Seconds of the file as a duration.
    pub fn seconds(seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packaged_file_says_what_is_in_force_without_it() {
        let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/symmetric-proxy.toml");
        let shown = |config: &Config| toml::to_string(config).unwrap();
        let packaged = Config::load(Some(&packaged)).unwrap();
        assert_eq!(shown(&packaged), shown(&Config::default()));
        assert_eq!(packaged.refuse.len(), NOWHERE.len());
    }

    #[test]
    fn nobody_is_relayed_for_where_nobody_public_can_be() {
        let config = Config::default();
        for address in [
            "10.1.2.3",
            "127.0.0.1",
            "169.254.1.1",
            "172.31.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(config.refuses(address.parse().unwrap()), "{address}");
        }
        for address in ["9.9.9.9", "172.32.0.1", "2606:4700::1"] {
            assert!(!config.refuses(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn an_idle_connection_is_kept_for_as_long_as_rfc_5382_asks() {
        let asked = 2.0 * 3600.0 + 4.0 * 60.0;
        assert!(Config::default().timeouts.idle >= asked);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_key() {
        for (text, key) in [
            ("ports = [80, 90]", "`ports`"),
            ("ports = [30000, 20000]", "`ports`"),
            ("addresses = [\"0.0.0.0\"]", "`addresses`"),
            ("[timeouts]\nidle = 0.0", "`timeouts.idle`"),
            ("prots = [1, 2]", "prots"),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            let error = Config::load(Some(file.path())).unwrap_err().to_string();
            assert!(error.contains(key), "{text}: {error}");
        }
    }
}
