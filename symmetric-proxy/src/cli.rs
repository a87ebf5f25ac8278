//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Relays connections whose two ends cannot reach each other.
///
/// Both ends were moved behind NAPTs and are told by their mobility server to send here. The kernel relays their
/// segments; this program decides for whom.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML) [default: /etc/mobility/symmetric-proxy.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the running proxy, if it is not the one of the configuration.
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
    /// Join a deployment: a key is made here, the server certifies it.
    Enroll {
        /// URL of a mobility server: https://HOST:PORT.
        #[arg(long)]
        server: String,
        /// What `mobility-server enroll-token --role proxy` has printed.
        #[arg(long)]
        token: String,
        /// The proxy's name, for people.
        #[arg(long)]
        name: String,
        /// Replace an identity that is there.
        #[arg(long)]
        replace: bool,
    },
    /// Run the proxy in the foreground (as systemd does).
    ///
    /// SIGTERM ends the program only: what it relays goes on in the kernel, and the next start finds it. SIGHUP reads
    /// `refuse`, `limits`, `timeouts`, `log` and the certificate again; everything else needs a restart, which disturbs no
    /// connection.
    Run,
    /// List the connections that are relayed, and those whose ends are waited for.
    ///
    /// `idle_seconds`: since a segment passed. `ending`: the FINs have passed both ways, a reset has, or the server has
    /// moved the connection elsewhere; the port is free soon.
    Relays {
        /// Show so many at most.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show how the proxy is: who attends it, how full it is, what has happened, what was refused and dropped, and why.
    Status,
    /// Take no new connections, and have those that are relayed moved to other proxies.
    ///
    /// The servers are told, and move each connection while it goes on; where there is no other proxy it stays. This lasts
    /// until `drain --end`, over restarts of the daemon too.
    Drain {
        /// Take new ones again.
        #[arg(long, conflicts_with = "wait")]
        end: bool,
        /// Return only when nothing is relayed any more; then the host can be taken down.
        #[arg(long)]
        wait: bool,
    },
    /// Check that the proxy can run here, or how it runs; change nothing.
    Doctor,
    /// Take everything down that a proxy has set up; what it relays ends.
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
