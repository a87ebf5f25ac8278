//! Certificates are short-lived: this one is renewed for the same key when a third of its life is left.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use identity::{Application, Credentials};
use proto::mobility::v1 as said;
use said::agents_client::AgentsClient;
use tokio::sync::{mpsc, watch};

use crate::connect::connect;

/// After a failure, and at the least between two looks at the clock.
const SOON: Duration = Duration::from_secs(60);
/// At the most between two looks at the clock: hosts sleep.
const LATER: Duration = Duration::from_secs(3600);

/// How to renew.
pub struct Renewal {
    /// The deployment's servers; the first that answers is good.
    pub servers: Vec<String>,
    /// Who we are.
    pub credentials: watch::Receiver<Credentials>,
    /// Where the certificate is.
    pub identity: PathBuf,
    /// Whom servers must be vouched for by (PEM).
    pub authorities: PathBuf,
    /// Mark of the agent's own segments.
    pub mark: u32,
    /// Told when there is a new certificate on disk.
    pub renewed: mpsc::Sender<()>,
}

impl Renewal {
    /// Renews for ever.
    pub async fn run(self) {
        loop {
            let due = self.due_in();
            if !due.is_zero() {
                tokio::time::sleep(due.clamp(Duration::from_millis(100), LATER)).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => {
                    if self.renewed.send(()).await.is_err() {
                        return;
                    }
                    // The loop that takes it up needs a moment; a second renewal would do no harm.
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(why) => {
                    tracing::warn!("the certificate is not renewed: {why}");
                    tokio::time::sleep(self.patience()).await;
                }
            }
        }
    }

    fn due_in(&self) -> Duration {
        let credentials = self.credentials.borrow();
        let (from, to) = (
            credentials.identity().not_before(),
            credentials.identity().not_after(),
        );
        let life = to.duration_since(from).unwrap_or_default();
        (from + life * 2 / 3)
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }

    /// A certificate that lives for minutes is not left alone for one.
    fn patience(&self) -> Duration {
        let left = self
            .credentials
            .borrow()
            .identity()
            .not_after()
            .duration_since(SystemTime::now());
        (left.unwrap_or(SOON) / 10).clamp(Duration::from_secs(1), SOON)
    }

    async fn renew(&self) -> Result<(), String> {
        let application = Application::again(&self.identity).map_err(|error| error.to_string())?;
        let mut last = "no mobility server is configured".to_owned();
        for server in &self.servers {
            match self.ask(server, &application).await {
                Ok(certificate) => {
                    let renewed = identity::renewed(&self.identity, &certificate);
                    return renewed.map(|_| ()).map_err(|error| error.to_string());
                }
                Err(why) => last = format!("{server}: {why}"),
            }
        }
        Err(last)
    }

    async fn ask(&self, server: &str, application: &Application) -> Result<String, String> {
        let tls = {
            let credentials = self.credentials.borrow();
            identity::towards_servers(credentials.identity(), &self.authorities)
        };
        let tls = tls.map_err(|error| error.to_string())?;
        let connected = connect(server, None, self.mark, tls)
            .await
            .map_err(|error| error.to_string())?;
        let answer = AgentsClient::new(connected.channel)
            .renew(said::RenewRequest {
                certificate_request: application.request.clone(),
            })
            .await
            .map_err(|status| status.message().to_owned())?
            .into_inner();
        application
            .check(&answer.certificate, &answer.authority, None)
            .map_err(|error| error.to_string())?;
        Ok(answer.certificate)
    }
}
