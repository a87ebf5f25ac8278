//! The control socket: one JSON request a line, one JSON answer a line.

use std::path::Path;

use operator::control::Daemon;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use operator::control::{Answer, serve};

/// This program.
pub const PROXY: Daemon = Daemon {
    name: "symmetric-proxy",
    own: "`control_socket`, `pin_dir`, `addresses` or `ports`",
};

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the proxy is.
    Status,
    /// The connections that are relayed.
    Relays {
        /// So many at most; none: all of them.
        #[serde(default)]
        limit: Option<usize>,
    },
    /// Take nothing new, or take new ones again.
    Drain {
        /// Whether it is drained.
        on: bool,
    },
}

/// One request on its way to the driver.
pub type Call = operator::control::Call<Request>;

/// Asks a running proxy.
///
/// # Errors
/// None answers, or what it refuses; in words.
pub async fn ask(path: &Path, request: &Request) -> Result<Value, String> {
    operator::control::ask(path, PROXY, request).await
}
