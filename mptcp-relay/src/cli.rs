//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Lets terminals that speak Multipath TCP use all their networks towards servers that do not.
///
/// It runs on a router between both. A terminal's SYN that asks for MPTCP is held until the server has answered by plain
/// TCP; then the relay answers it in the server's name. Everything else is forwarded untouched, and so is everything while
/// the relay does not run.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML) [default: /etc/mobility/mptcp-relay.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the running relay, if it is not the one of the configuration.
    #[arg(long, global = true, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the relay in the foreground (as systemd does).
    ///
    /// SIGTERM resets the connections that are relayed and takes all rules away.
    Run,
    /// Join a deployment: get a certificate from one of its mobility servers.
    ///
    /// A relay works without one. With it, its connections are among the deployment's sessions.
    Enroll {
        /// URL of a mobility server: https://HOST:PORT.
        #[arg(long)]
        server: String,
        /// What `mobility-server enroll-token --role relay` printed.
        #[arg(long)]
        token: String,
        /// What the relay is called there.
        #[arg(long, default_value = "")]
        name: String,
        /// Even if there is a certificate already.
        #[arg(long)]
        replace: bool,
    },
    /// List the connections that are relayed.
    Sessions,
    /// List their subflows.
    Subflows,
    /// Choose the path on which a connection carries data; its other subflows become backups.
    ///
    /// The connection: its token, or the terminal's ADDRESS:PORT, as `sessions` shows them. The path: the terminal's address
    /// there, as `subflows` shows it; `all`: every path again.
    #[command(
        override_usage = "mptcp-relay prefer CONNECTION PATH\n       mptcp-relay prefer --pid PID PATH"
    )]
    Prefer {
        /// The connection and the path; with `--pid` the path alone.
        #[arg(required = true, num_args = 1..=2, value_names = ["CONNECTION", "PATH"])]
        words: Vec<String>,
        /// All connections of this process on this host, instead of one that is named.
        #[arg(long, value_name = "PID")]
        pid: Option<u32>,
    },
    /// Show the access points and what is asked of them, or start or stop moving connections between them.
    ///
    /// `asked` is a part of the capacity: bulk transfers count as asking for equal shares of all there is. What `prefer`
    /// chooses is left alone, until `balance on` is said again.
    Balance {
        /// Move connections from now on, or no more.
        switch: Option<Switch>,
    },
    /// Show how the relay is.
    Status,
    /// Check that the relay can run here, or how it runs; change nothing that stays.
    Doctor,
    /// Take away what a relay that was killed has left.
    Cleanup,
    /// Work with the configuration.
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// On or off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Switch {
    /// Connections are moved.
    On,
    /// They are not.
    Off,
}

/// A path of `prefer`.
#[derive(Clone, Copy, Debug)]
pub struct Path(pub Option<IpAddr>);

impl std::str::FromStr for Path {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self(None)),
            _ => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| "it is an address, or `all`".into()),
        }
    }
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read it, say what is wrong with it, or what is in force.
    Check,
}
