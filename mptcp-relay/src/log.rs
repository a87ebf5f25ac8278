//! The log: to standard error, as text or JSON, with a filter that can change while the relay runs.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Config, LogFormat};

/// Changes the filter.
pub struct LogHandle(Handle<EnvFilter, Registry>);

impl LogHandle {
    /// From now on.
    ///
    /// # Errors
    /// It is no level or filter.
    pub fn set(&self, filter: &str) -> anyhow::Result<()> {
        self.0
            .reload(parse(filter)?)
            .context("the log filter cannot be changed")
    }
}

fn parse(filter: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(filter).with_context(|| format!("`log`: `{filter}` is no level or filter"))
}

/// Starts it.
///
/// # Errors
/// The filter is none.
pub fn start(config: &Config) -> anyhow::Result<LogHandle> {
    let (filter, handle) = reload::Layer::new(parse(&config.log)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match config.log_format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(lines).init();
    Ok(LogHandle(handle))
}
