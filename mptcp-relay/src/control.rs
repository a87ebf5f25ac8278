//! The control socket: one JSON request a line, one JSON answer a line.

use std::net::IpAddr;
use std::path::Path;

use operator::control::Daemon;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use operator::control::{Answer, serve};

/// This program.
pub const RELAY: Daemon = Daemon {
    name: "mptcp-relay",
    own: "`control_socket`, `nft_table`, `queue` and `mark`",
};

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the relay is.
    Status,
    /// The connections that are relayed.
    Sessions,
    /// Their subflows.
    Subflows,
    /// Access points and their loads.
    Balance {
        /// Whether connections are moved from now on; none: as it is.
        on: Option<bool>,
    },
    /// Choose the path of a connection.
    Prefer {
        /// The connection's token, or the terminal's address and port.
        connection: String,
        /// The terminal's address on that path; none: all paths.
        path: Option<IpAddr>,
    },
    /// Choose the path of every connection of a program on this host.
    PreferProgram {
        /// Its process.
        pid: u32,
        /// The peer's address on that path; none: all paths.
        path: Option<IpAddr>,
    },
}

/// One request on its way to the driver.
pub type Call = operator::control::Call<Request>;

/// Asks a running relay.
///
/// # Errors
/// None answers, or what it refuses; in words.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, String> {
    operator::control::ask(path, RELAY, request).await
}
