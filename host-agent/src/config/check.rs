//! What cannot be, said before anything starts.

use std::path::PathBuf;

use super::Config;

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
    #[error("{path}: {error}; see packaging/host-agent.toml for every key")]
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
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let value = |key, error: String| Err(ConfigError::Value { key, error });
        let (first, last) = self.wire_ports;
        if first < 1024 || last < first || last - first < 63 {
            return value(
                "wire_ports",
                format!("{first} to {last} is no range of at least 64 ports above 1023"),
            );
        }
        if (first..=last).contains(&self.agent_port) {
            return value(
                "agent_port",
                format!("{} lies within wire_ports; choose another", self.agent_port),
            );
        }
        self.anchors()?;
        if self.agent_port == 0 {
            return value("agent_port", "0 is no port; peers must find it".into());
        }
        if self.mark.count_ones() != 1 || self.agent_mark.count_ones() != 1 || self.mark == self.agent_mark {
            return value(
                "mark",
                "mark and agent_mark must be two different single bits".into(),
            );
        }
        if [self.mark, self.agent_mark].contains(&datapath::kernel::MARK_TRANSLATED) {
            let bit = datapath::kernel::MARK_TRANSLATED;
            return value(
                "mark",
                format!("{bit:#x} marks what is translated already; choose another bit"),
            );
        }
        // `all` and `default` are no devices where the kernel keeps settings by device name.
        let taken = ["lo", "all", "default", ".", ".."].contains(&self.device.as_str());
        let strange = |character: char| character.is_whitespace() || ['/', ':'].contains(&character);
        if taken || self.device.is_empty() || self.device.len() > 15 || self.device.contains(strange) {
            return value(
                "device",
                format!("`{}` is no name of a network device", self.device),
            );
        }
        if self.table == 0 || (253..=255).contains(&self.table) {
            return value(
                "table",
                format!("{} is a table of the system; choose another", self.table),
            );
        }
        // Behind the rule of the local table, before that of the main table.
        if !(1..=32_762).contains(&self.rule_priority) {
            let priority = self.rule_priority;
            return value(
                "rule_priority",
                format!("{priority} leaves no room for four rules between 1 and 32765"),
            );
        }
        for (key, seconds) in [
            ("timeouts.mig_wait", self.timeouts.mig_wait),
            ("timeouts.sleep", self.timeouts.sleep),
            ("timeouts.linger", self.timeouts.linger),
            ("timeouts.reset", self.timeouts.reset),
            ("timeouts.heartbeat", self.timeouts.heartbeat),
            ("paths.rtt", self.paths.rtt),
            ("paths.hold", self.paths.hold),
        ] {
            if !(0.0..=31_536_000.0).contains(&seconds) {
                return value(
                    key,
                    format!("{seconds} is no number of seconds between 0 and a year"),
                );
            }
        }
        for (key, seconds) in [
            ("timeouts.revocation", self.timeouts.revocation),
            ("heartbeat.interval", self.heartbeat.interval),
            ("heartbeat.timeout", self.heartbeat.timeout),
        ] {
            if !(0.1..=86_400.0).contains(&seconds) {
                return value(
                    key,
                    format!("{seconds} is no number of seconds between 0.1 and a day"),
                );
            }
        }
        if !(0.0..=1.0).contains(&self.paths.loss) {
            let loss = self.paths.loss;
            return value("paths.loss", format!("{loss} is no part between 0 and 1"));
        }
        if !(1024..=1_048_576).contains(&self.max_connections) {
            let count = self.max_connections;
            return value(
                "max_connections",
                format!("{count} is no number between 1024 and 1048576"),
            );
        }
        for (key, count) in [
            ("mptcp.subflows", self.mptcp.subflows),
            ("mptcp.accepted_addresses", self.mptcp.accepted_addresses),
        ] {
            if count > 8 {
                return value(key, format!("{count} is more than the 8 that the kernel can do"));
            }
        }
        let tables = self.mptcp.table..self.mptcp.table.saturating_add(crate::multipath::endpoints::MOST);
        if self.mptcp.table < 256 || tables.contains(&self.table) || tables.end == u32::MAX {
            let first = self.mptcp.table;
            return value(
                "mptcp.table",
                format!(
                    "16 tables from {first} on meet those of the system or `table`; choose others above 255"
                ),
            );
        }
        self.offers()?;
        self.nat64()?;
        Ok(())
    }
}
