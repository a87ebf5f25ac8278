//! The command line.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Keeps the TCP connections of unmodified programs alive while this host changes addresses, networks and NAPTs.
///
/// Both hosts of a connection need an agent. It offers migration on new connections, agrees keys with the
/// peer's agent, and when this host's address changes it resumes every connection from the new one. Programs,
/// kernels and NAPTs stay as they are; hosts without an agent see plain TCP.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the running agent, if it is not the one of the configuration.
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
    /// Run the agent in the foreground (as systemd does).
    ///
    /// Stopping it, even by SIGKILL, disturbs no connection: what it set up stays in the kernel, and the next
    /// agent adopts it.
    Run,
    /// Make this host's certificate, and a private CA if there is none.
    Init {
        /// Directory of the CA; keep it on one machine.
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// Directory for this host's certificate and key [default: as configured].
        #[arg(long, value_name = "DIR")]
        identity: Option<PathBuf>,
        /// What the certificate calls this host [default: the host name].
        #[arg(long)]
        name: Option<String>,
    },
    /// Join a deployment: get this host's certificate from its mobility server.
    ///
    /// The key is made here and never leaves this host. The token, which the server's operator gives out
    /// (mobility-server enroll-token), also says who the server must be.
    Enroll {
        /// The server, as https://HOST:PORT.
        #[arg(long, value_name = "URL")]
        server: String,
        /// The enrolment token.
        #[arg(long)]
        token: String,
        /// Directory for this host's certificate and key [default: as configured].
        #[arg(long, value_name = "DIR")]
        identity: Option<PathBuf>,
        /// What the certificate calls this host, unless the token says it [default: the host name].
        #[arg(long)]
        name: Option<String>,
        /// Give up the identity that is there.
        #[arg(long)]
        replace: bool,
    },
    /// Show how the agent is.
    Status,
    /// List the connections that can migrate.
    Connections,
    /// List the agents that keys were agreed with.
    Pairs,
    /// Agree keys with a host's agent now, not at the first connection.
    Pair {
        /// Its address.
        host: IpAddr,
        /// Its agent port [default: as ours].
        #[arg(long)]
        port: Option<u16>,
    },
    /// Show what happened.
    Events {
        /// Go on showing what happens.
        #[arg(long)]
        follow: bool,
    },
    /// Resume connections now: from another address, or towards another peer endpoint.
    Migrate {
        /// The connection, or one of its endpoints, as `connections` shows it.
        #[arg(required_unless_present = "all")]
        connection: Option<String>,
        /// Every connection that can migrate.
        #[arg(long, conflicts_with = "connection")]
        all: bool,
        /// Our address to use [default: as the routing table says].
        #[arg(long, value_name = "ADDRESS")]
        from: Option<IpAddr>,
        /// The peer's endpoint [default: where it was last].
        #[arg(long, value_name = "ADDRESS:PORT")]
        to: Option<SocketAddr>,
    },
    /// Tell the mobility servers once more which connections wait, and where this host is.
    Report,
    /// Tell the peers' agents that this host goes to sleep: connections wait for it for hours, not for minutes.
    ///
    /// systemd calls this before the host is suspended (packaging/host-agent-sleep.service). Nothing has to be said
    /// when it wakes.
    Sleep {
        /// Ask them to wait for so many seconds at most [default: as long as they may, a day].
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Check that the agent can run here; change nothing.
    Doctor,
    /// Remove everything an agent set up on this host. Moved connections end.
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

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read it, say what is wrong with it, or what is in force.
    Check,
}
