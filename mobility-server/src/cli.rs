//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Brings the two ends of a connection together after both have moved.
///
/// Agents report here after a move; the server matches the reports of a pair, finds out who is behind a NAPT, and
/// tells who sends to whom. It also signs the certificates of the deployment's hosts, and passes the first exchange
/// of two agents on when neither can reach the other. No application data comes here, and no key with which a
/// connection could be moved.
///
/// A deployment begins with `mobility-server init --name ADDRESS`, which prints the next steps.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file (TOML) [default: /etc/mobility/mobility-server.toml].
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Socket of the running server, if it is not the one of the configuration.
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
    /// Run the server in the foreground (as systemd does).
    ///
    /// SIGTERM lets open calls end and tells agents to connect again; SIGHUP reads certificates, limits and log
    /// settings anew. Waiting reports survive a restart in the store.
    Run,
    /// Make a deployment: its authority, this server's certificate, a first enrolment token, a configuration file.
    ///
    /// Refuses to overwrite anything.
    Init {
        /// DNS name or address under which agents reach this server; may be repeated.
        #[arg(long = "name", required = true, value_name = "NAME|ADDRESS")]
        names: Vec<String>,
        /// Join the deployment of an authority that is there already (copied here from the first server).
        #[arg(long)]
        join: bool,
        /// How often the first enrolment token may be used.
        #[arg(long, default_value_t = 10)]
        uses: u32,
    },
    /// Make an enrolment token at the running server; a host joins with it: host-agent enroll.
    EnrollToken {
        /// The only name that it may enrol [default: any].
        #[arg(long, default_value = "")]
        name: String,
        /// How often it may be used.
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// How long it is valid, in seconds.
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        lifetime: u64,
        /// `agent`, `proxy` or `relay`.
        #[arg(long, default_value = "agent")]
        role: identity::MemberRole,
    },
    /// List the members: who attends now, and who has enrolled.
    Agents(Listing),
    /// List the pairs of which something is stored.
    Pairs(Listing),
    /// List the sessions that proxies and relays keep.
    Sessions(Listing),
    /// List the proxies and relays that serve.
    Relays(Listing),
    /// Show how the server is.
    Status,
    /// Let a member in no more, and end what it has open.
    Revoke {
        /// URI of its certificate, or its name.
        member: String,
    },
    /// Check that the server can run here, or how it runs; change nothing.
    Doctor,
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

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Listing {
    /// Show at most so many; 0: all.
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    pub limit: u32,
}

/// What can be done with the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read it, say what is wrong with it, or what is in force.
    Check,
}
