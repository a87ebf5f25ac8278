//! Wiring only: the command line to the function that does it.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use host_agent::cli::{Cli, Command, ConfigCommand};
use host_agent::config::{Config, LogFormat};
use host_agent::control::{self, Request};
use host_agent::{cleanup, doctor, drive, multipath, status};
use serde::de::DeserializeOwned;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("host-agent: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(dispatch(cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("host-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "host-agent", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    if let Some(socket) = cli.control_socket {
        config.control_socket = socket;
    }
    let socket = config.control_socket.clone();
    match cli.command {
        Command::Run => {
            start_log(&config)?;
            let _chosen = multipath::chosen(&config);
            drive::run(config).await?;
        }
        Command::Init { ca, identity, name } => {
            let identity = identity.unwrap_or(config.identity);
            let name = name.map_or_else(host_name, Ok)?;
            let report = identity::init_host(&ca, &identity, &name)?;
            println!("agent        {}", report.agent);
            println!(
                "fingerprint  {}   (for `trust.pinned` of peers)",
                report.fingerprint
            );
            println!(
                "certificate  {} ({:?})",
                report.certificate.display(),
                report.host
            );
            println!("key          {}", report.key.display());
            println!(
                "CA           {} ({:?})   (for `trust.ca`)",
                report.ca.display(),
                report.authority
            );
        }
        Command::Enroll {
            server,
            token,
            identity,
            name,
            replace,
        } => {
            let identity = identity.unwrap_or(config.identity);
            let name = name.map_or_else(host_name, Ok)?;
            let done =
                host_agent::server::enrolment::enrol(&server, &token, &name, &identity, replace).await?;
            println!("agent        {}", done.identity.agent_id());
            println!("name         {}", done.identity.name());
            println!("identity     {}", identity.display());
            println!("servers      {}", done.servers.join(" "));
        }
        Command::Status => show(&socket, &Request::Status, cli.json, status::print_status).await?,
        Command::Connections => {
            show(&socket, &Request::Connections, cli.json, |rows: &Vec<_>| {
                status::print_connections(rows)
            })
            .await?;
        }
        Command::Pairs => {
            show(&socket, &Request::Pairs, cli.json, |rows: &Vec<_>| {
                status::print_pairs(rows)
            })
            .await?
        }
        Command::Pair { host, port } => plain(&socket, &Request::Pair { host, port }).await?,
        Command::Sleep { seconds } => plain(&socket, &Request::Sleep { seconds }).await?,
        Command::Report => plain(&socket, &Request::Report).await?,
        Command::Migrate {
            connection,
            all: _,
            from,
            to,
        } => {
            plain(&socket, &Request::Migrate { connection, from, to }).await?;
        }
        Command::Events { follow } => {
            let mut out = std::io::stdout();
            control::follow(&socket, follow, |entry| match cli.json {
                true => writeln!(out, "{}", serde_json::to_string(&entry)?),
                false => writeln!(out, "{}", status::print_entry(&entry)),
            })
            .await
            .map_err(anyhow::Error::msg)?;
        }
        Command::Doctor => {
            let findings = doctor::examine(&config).await;
            println!("{}", doctor::print(&findings));
            let bad = findings
                .iter()
                .any(|finding| finding.verdict == datapath::requirements::Verdict::Bad);
            return Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        Command::Cleanup => {
            let removed = cleanup::run(&config).await?;
            for what in &removed {
                println!("removed {what}");
            }
            if removed.is_empty() {
                println!("nothing of an agent was left here");
            }
        }
        Command::Config {
            command: ConfigCommand::Check,
        } => {
            println!(
                "{}",
                toml::to_string_pretty(&config).context("cannot show the configuration")?
            );
        }
        Command::Completions { .. } => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn show<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    json: bool,
    print: impl Fn(&T) -> String,
) -> anyhow::Result<()> {
    let value = control::ask(socket, request).await.map_err(anyhow::Error::msg)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&value)?);
    } else {
        println!(
            "{}",
            print(&serde_json::from_value(value).context("the agent is of another version")?)
        );
    }
    Ok(())
}

async fn plain(socket: &Path, request: &Request) -> anyhow::Result<()> {
    let value = control::ask(socket, request).await.map_err(anyhow::Error::msg)?;
    println!("{value}");
    Ok(())
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host name; give --name")?;
    Ok(name.trim().to_string())
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .with_context(|| format!("`log`: `{}` is no level or filter", config.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().init(),
    }
    Ok(())
}
