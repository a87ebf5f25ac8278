//! `mobility-server init`: a deployment from nothing.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use identity::{Authority, MemberRole, SERVER_CERTIFICATE, Validity};
use proto::stored::v1 as stored;

use crate::config::{Backend, Config, DEFAULT_PATH};
use crate::{drive, members};

/// The packaged configuration, with a comment for every key.
const PACKAGED: &str = include_str!("../../packaging/mobility-server.toml");
/// How long the first enrolment token may be used.
const FIRST_TOKEN: Duration = Duration::from_secs(7 * 86_400);

/// What was made.
#[derive(Debug, serde::Serialize)]
pub struct Made {
    /// Fingerprint of the authority.
    pub authority: String,
    /// The server's certificate.
    pub certificate: String,
    /// The configuration file.
    pub config: String,
    /// The first enrolment token; none for one who joins, or with a store that only the running server can write.
    pub token: Option<String>,
    /// URLs told to members.
    pub servers: Vec<String>,
}

/// Makes authority (unless `join`), certificate, configuration and first token. Overwrites nothing.
///
/// # Errors
/// Something is there already, or cannot be written.
pub async fn run(
    config: &Config,
    path: Option<&Path>,
    names: &[String],
    join: bool,
    uses: u32,
) -> anyhow::Result<Made> {
    let certificate = config.identity.join(SERVER_CERTIFICATE);
    if std::fs::symlink_metadata(&certificate).is_ok() {
        anyhow::bail!(
            "{} is there already: this server belongs to a deployment",
            certificate.display()
        );
    }
    let authority = match join {
        true => Authority::load(&config.authority)
            .context("with --join the authority's directory has to be here")?,
        false => Authority::create(&config.authority, Validity::of_authority())?,
    };
    authority
        .issue_server(names, Validity::of_host())?
        .write(&config.identity, false)?;
    let port = config.listen.first().map_or(7800, std::net::SocketAddr::port);
    let servers: Vec<String> = match config.servers.is_empty() {
        true => names.iter().map(|name| url(name, port)).collect(),
        false => config.servers.clone(),
    };
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    if std::fs::symlink_metadata(file).is_err() {
        let list: Vec<String> = servers.iter().map(|server| format!("{server:?}")).collect();
        let text = PACKAGED.replace(
            "\nservers = []\n",
            &format!("\nservers = [{}]\n", list.join(", ")),
        );
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot make {}", directory.display()))?;
        }
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let token = match config.store.backend {
        // Gone before the server starts.
        Backend::Memory => None,
        // A deployment that is there gives tokens itself; its running server has the store for itself.
        _ if join => None,
        Backend::Sled | Backend::Redis => {
            let store = drive::open_store(config).await?;
            let allowed = stored::Token {
                name: String::new(),
                role: MemberRole::Agent.to_string(),
            };
            let token =
                members::create_token(&store, authority.fingerprint(), &allowed, uses, FIRST_TOKEN).await?;
            Some(token.reveal())
        }
    };
    Ok(Made {
        authority: authority.fingerprint().to_string(),
        certificate: certificate.display().to_string(),
        config: file.display().to_string(),
        token,
        servers,
    })
}

fn url(name: &str, port: u16) -> String {
    match name.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("https://[{address}]:{port}"),
        Err(_) => format!("https://{name}:{port}"),
    }
}

/// The same for people, with what to do next.
pub fn print(made: &Made) -> String {
    let mut text = format!(
        "authority    {}\ncertificate  {}\nconfig       {}\n",
        made.authority, made.certificate, made.config
    );
    let server = made.servers.first().map_or("https://SERVER:7800", String::as_str);
    match &made.token {
        Some(token) => text.push_str(&format!(
            "token        {token}\n\nnow:         mobility-server run\non each host: host-agent enroll --server {server} --token {token}\n"
        )),
        None => text.push_str(
            "\nnow:         mobility-server run\nthen:        mobility-server enroll-token --uses 10\n",
        ),
    }
    text
}
