//! SIGHUP: what can change while the daemon runs.

use std::path::PathBuf;

use identity::Credentials;
use identity::ticket::TicketVerifier;
use operator::log::LogHandle;

use super::Proxy;
use crate::config::Config;

/// What is read again, and where from.
pub struct Reloading {
    /// The configuration file, if one was named.
    pub path: Option<PathBuf>,
    /// The log's filter.
    pub log: LogHandle,
}

impl Proxy {
    /// Reads configuration, certificate and authorities again; all of it or nothing. Gives the certificate.
    pub(super) fn reload(&mut self, from: &Reloading) -> Option<Credentials> {
        let outcome = (|| -> anyhow::Result<_> {
            let config = Config::load(from.path.as_deref())?;
            let credentials = super::credentials(&self.config)?;
            let verifier = TicketVerifier::load(&self.config.identity.join("ca.pem"))?;
            from.log.set(&config.log)?;
            Ok((config, credentials, verifier))
        })();
        match outcome {
            Ok((config, credentials, verifier)) => {
                let kept = self.config.clone();
                for key in kept.needs_restart(&config) {
                    tracing::warn!(
                        key,
                        "has changed: restart the proxy, which disturbs no connection"
                    );
                }
                self.config.refuse = config.refuse;
                self.config.limits = config.limits;
                self.config.timeouts = config.timeouts;
                self.config.log = config.log;
                self.leases.limits = config.limits;
                self.verifier = verifier.into();
                self.counters.count("reloaded");
                tracing::info!("refused ranges, limits, timeouts, log and certificate were read again");
                Some(credentials)
            }
            Err(error) => {
                tracing::error!("nothing was reloaded: {error:#}");
                None
            }
        }
    }
}
