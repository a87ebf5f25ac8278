//! The configuration file: TOML, every key optional, unknown keys refused.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use figment::Figment;
use figment::providers::{Format, Serialized, Toml};
use serde::{Deserialize, Serialize};

use crate::paths::Mode;

pub use crate::balancing::{AccessPoint, Balance, Mobility, TerminalPolicy};
use operator::log::LogFormat;
use operator::prefix::Prefix;

/// Where the file is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/mobility/mptcp-relay.toml";

/// Everything that can be set. `packaging/mptcp-relay.toml` explains each key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Devices from which terminals come; none: all.
    pub interfaces: Vec<String>,
    /// Addresses of terminals; none: all that come from `interfaces`.
    pub terminals: Vec<Prefix>,
    /// Whether connections that servers open to terminals are relayed. It takes `interfaces` or `terminals` to know them.
    pub downlink: bool,
    /// Servers towards which, and from which, nothing is relayed.
    pub refuse: Vec<Prefix>,
    /// Servers without an agent to which terminals with one keep their connections over moves, though they have no MPTCP: the
    /// relay ends these connections here, and a host agent on this host does what a server's would.
    pub anchor: Vec<Prefix>,
    /// TCP port of that agent.
    pub anchor_port: u16,
    /// Whether a SYN must come from where its source is reached.
    pub reverse_path: bool,
    /// Addresses and ports of this host that terminals are told for their other subflows.
    pub announce: Vec<SocketAddr>,
    /// Port of the listener for services whose own port is taken on this host; the next one is for servers that connect to
    /// terminals, the one after that for `anchor`.
    pub listen_port: u16,
    /// Bytes that a socket may have received before they are passed on; 0: as many as the kernel thinks fit.
    pub receive_buffer: u32,
    /// Name of the nft table.
    pub nft_table: String,
    /// Number of the packet queue.
    pub queue: u16,
    /// Lowest of four adjacent bits of packets' marks.
    pub mark: u32,
    /// Routing table.
    pub table: u32,
    /// Priority of its rule.
    pub rule_priority: u32,
    /// URLs of the deployment's mobility servers; none: those that the enrolment has named, or no deployment.
    pub servers: Vec<String>,
    /// Directory with the relay's certificate and key.
    pub identity: PathBuf,
    /// Addresses of this host at which other relays of the deployment reach it; none: those it has when it starts.
    pub addresses: Vec<IpAddr>,
    /// What must outlive a crash.
    pub state_dir: PathBuf,
    /// Unix socket of the command line tools.
    pub control_socket: PathBuf,
    /// Least level that is logged: error, warn, info, debug or trace; or a filter per module.
    pub log: String,
    /// `text` or `json`.
    pub log_format: LogFormat,
    /// Where Prometheus finds the metrics; empty: nowhere.
    pub metrics: Option<SocketAddr>,
    /// How much anybody may ask.
    pub limits: Limits,
    /// How patient the relay is.
    pub timeouts: Timeouts,
    /// How subflows come to be.
    pub path_manager: PathManager,
    /// Access points, and how connections are spread over them.
    pub balance: Balance,
}

/// How much anybody may ask. A connection beyond is not refused, but goes directly; a subflow beyond is ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections of one terminal that are not established yet.
    pub half_open: usize,
    /// Connections in all.
    pub sessions: usize,
    /// Subflows of one connection.
    pub subflows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            half_open: 64,
            sessions: 20_000,
            subflows: 32,
        }
    }
}

/// How subflows come to be.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PathManager {
    /// By which rule.
    pub mode: PathMode,
    /// Subflows between the same two addresses, by the rule `ports`.
    pub ports: u8,
}

impl Default for PathManager {
    fn default() -> Self {
        Self {
            mode: PathMode::Fullmesh,
            ports: 2,
        }
    }
}

/// The path managers of MPTCP before it was part of Linux, by their rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMode {
    /// A connection has its first subflow.
    None,
    /// Whatever joins, and one to every address that a peer announces.
    Fullmesh,
    /// Several between the same two addresses (`ndiffports`).
    Ports,
    /// By source routes: refused.
    Binder,
}

/// Durations, all in seconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A server that has not answered by then is left to the terminal's own SYN.
    pub server: f64,
    /// A terminal that has not completed its handshake by then is given up.
    pub terminal: f64,
    /// A terminal that is asked whether it speaks MPTCP and has not answered by then is left to the server's own SYN.
    pub probe: f64,
    /// How long a terminal's answer to that is remembered.
    pub known: f64,
    /// How long a connection between the same ends goes directly after that.
    pub direct: f64,
    /// How long a connection without any subflow is kept (net.mptcp.close_timeout).
    pub no_path: f64,
    /// An end that has said nothing for so long is asked whether it is there, and four times more in as long again; 0: never.
    pub keepalive: f64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            server: 5.0,
            terminal: 10.0,
            probe: 0.8,
            known: 600.0,
            direct: 60.0,
            no_path: 600.0,
            keepalive: 60.0,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            terminals: Vec::new(),
            downlink: true,
            refuse: Vec::new(),
            anchor: Vec::new(),
            anchor_port: 7801,
            reverse_path: true,
            announce: Vec::new(),
            listen_port: 7820,
            receive_buffer: 4 << 20,
            nft_table: "mptcp_relay".into(),
            queue: 7820,
            mark: 0x0200_0000,
            table: 7820,
            rule_priority: 70,
            servers: Vec::new(),
            identity: "/etc/mobility/relay".into(),
            addresses: Vec::new(),
            state_dir: "/var/lib/mptcp-relay".into(),
            control_socket: "/run/mptcp-relay/control.sock".into(),
            log: "info".into(),
            log_format: LogFormat::Text,
            metrics: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            path_manager: PathManager::default(),
            balance: Balance::default(),
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
    #[error("{path}: {error}; see packaging/mptcp-relay.toml for every key")]
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
        if self.mark.count_ones() != 1 || self.mark > 1 << 28 {
            return value(
                "mark",
                format!("{:#x} is no single bit with three more above it", self.mark),
            );
        }
        let word = |text: &str, more: &str, longest| {
            let good = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            !text.is_empty() && text.len() <= longest && text.chars().all(good)
        };
        if !word(&self.nft_table, "_", 60) || self.nft_table.starts_with(|c: char| c.is_ascii_digit()) {
            return value("nft_table", format!("`{}` is no name of a table", self.nft_table));
        }
        if let Some(device) = self.interfaces.iter().find(|device| !word(device, "_-.@", 15)) {
            return value("interfaces", format!("`{device}` is no name of a network device"));
        }
        if self.listen_port == 0 || self.listen_port > u16::MAX - 2 {
            return value(
                "listen_port",
                format!(
                    "{} and the next two are not all ports; choose one that is free, like the two after it",
                    self.listen_port
                ),
            );
        }
        if let Some(address) = self
            .announce
            .iter()
            .find(|address| address.port() == 0 || address.ip().is_unspecified())
        {
            return value(
                "announce",
                format!("{address} is no address and port that terminals can reach"),
            );
        }
        if self.announce.len() > 8 {
            return value("announce", "a connection has room for 8 at most".into());
        }
        if self.table == 0 || (253..=255).contains(&self.table) {
            return value(
                "table",
                format!("{} is a table of the system; choose another", self.table),
            );
        }
        if !(1..=32_765).contains(&self.rule_priority) {
            return value(
                "rule_priority",
                format!(
                    "{} is not before the main table's rule (32766)",
                    self.rule_priority
                ),
            );
        }
        if self.path_manager.mode == PathMode::Binder {
            return value(
                "path_manager.mode",
                "`binder` sends by loose source routes, which no current kernel does for MPTCP and most routers drop \
                 (RFC 7126); take \"none\", \"fullmesh\" or \"ports\""
                    .into(),
            );
        }
        if !(1..=8).contains(&self.path_manager.ports) {
            return value(
                "path_manager.ports",
                format!("{} is not between 1 and 8", self.path_manager.ports),
            );
        }
        if let Err((key, error)) = self.balance.check() {
            return value(key, error);
        }
        if !(0.01..=1.0).contains(&self.timeouts.probe) {
            return value(
                "timeouts.probe",
                format!(
                    "{} is no number of seconds between 0.01 and 1: no server waits longer for a probe",
                    self.timeouts.probe
                ),
            );
        }
        for (key, seconds, least) in [
            ("timeouts.server", self.timeouts.server, 0.1),
            ("timeouts.terminal", self.timeouts.terminal, 0.1),
            ("timeouts.known", self.timeouts.known, 0.0),
            ("timeouts.direct", self.timeouts.direct, 0.0),
            ("timeouts.no_path", self.timeouts.no_path, 1.0),
            ("timeouts.keepalive", self.timeouts.keepalive, 0.0),
        ] {
            if !(least..=86_400.0).contains(&seconds) {
                return value(
                    key,
                    format!("{seconds} is no number of seconds between {least} and a day"),
                );
            }
        }
        Ok(())
    }

    /// The rule by which subflows come to be.
    pub fn mode(&self) -> Mode {
        match self.path_manager.mode {
            PathMode::None | PathMode::Binder => Mode::None,
            PathMode::Fullmesh => Mode::Fullmesh,
            PathMode::Ports => Mode::Ports(self.path_manager.ports),
        }
    }

    /// Whether servers' SYNs are looked at: it is wanted, and known who the terminals are.
    pub fn has_downlink(&self) -> bool {
        self.downlink && !(self.interfaces.is_empty() && self.terminals.is_empty())
    }

    /// Seconds of the file as a duration.
    pub fn seconds(seconds: f64) -> Duration {
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }
}
