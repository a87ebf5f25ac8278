//! `symmetric-proxy cleanup`: takes down what a proxy has set up. Relayed connections end with that.

use anyhow::{Context, bail};

use crate::config::Config;
use crate::control::{self, Request};
use crate::watch;

/// Removes what is there; says what it was.
///
/// # Errors
/// A proxy runs, or something cannot be removed.
pub async fn run(config: &Config) -> anyhow::Result<Vec<String>> {
    if control::ask(&config.control_socket, &Request::Status)
        .await
        .is_ok()
    {
        bail!(
            "a proxy is running at {}; stop it first",
            config.control_socket.display()
        );
    }
    let mut removed = Vec::new();
    datapath::kernel::quiet_libbpf();
    let handle = watch::open()?;
    for device in watch::devices(&handle).await? {
        if datapath::attach::detach_relay(device.index) {
            removed.push(format!("program on device {}", device.name));
        }
    }
    if datapath::relay::clean_up(&config.pin_dir)
        .with_context(|| format!("cannot remove {}", config.pin_dir.display()))?
    {
        removed.push(format!("maps pinned in {}", config.pin_dir.display()));
    }
    if std::fs::remove_file(&config.control_socket).is_ok() {
        removed.push(format!("control socket {}", config.control_socket.display()));
    }
    Ok(removed)
}
