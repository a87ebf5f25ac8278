//! `mptcp-relay cleanup`: takes away everything a relay has set up and could not take away itself.

use anyhow::bail;

use crate::config::Config;
use crate::control::{self, Request};
use crate::rules::{Holder, Rules};
use crate::sysctl::Settings;

/// Removes what is there; says what it was.
///
/// # Errors
/// A relay is running.
pub async fn run(config: &Config) -> anyhow::Result<Vec<String>> {
    if control::ask(&config.control_socket, &Request::Status)
        .await
        .is_ok()
    {
        bail!(
            "a relay is running at {}; stop it first",
            config.control_socket.display()
        );
    }
    let mut removed = Rules::new(config, Holder::Xtables).remove();
    for name in Settings::open(&config.state_dir).restore() {
        removed.push(format!("setting of {name}"));
    }
    if config.control_socket.exists() && std::fs::remove_file(&config.control_socket).is_ok() {
        removed.push(format!("control socket {}", config.control_socket.display()));
    }
    Ok(removed)
}
