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
    /// SIGTERM ends the program only: what it relays goes on in the kernel, and the next start finds it.
    Run,
    /// List the connections that are relayed, and those whose ends are waited for.
    Relays,
    /// Show how the proxy is.
    Status,
    /// Take no new connections; those that are relayed go on. A restart ends it.
    Drain {
        /// Take new ones again.
        #[arg(long)]
        end: bool,
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
