//! Wiring only: the command line to the function that does it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use mptcp_relay::cli::{Cli, Command, ConfigCommand};
use mptcp_relay::config::Config;
use mptcp_relay::control::{self, Request};
use mptcp_relay::{cleanup, doctor, drive};
use operator::{finding, table};
use serde_json::Value;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start")
        .and_then(|runtime| runtime.block_on(dispatch(cli)));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mptcp-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "mptcp-relay", &mut std::io::stdout());
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    if let Some(socket) = cli.control_socket {
        config.control_socket = socket;
    }
    let socket = config.control_socket.clone();
    match cli.command {
        Command::Run => {
            let _log = operator::log::start(&config.log, config.log_format)?;
            drive::run(config).await?;
        }
        Command::Sessions => show(&socket, Request::Sessions, cli.json, "nothing is relayed").await?,
        Command::Subflows => show(&socket, Request::Subflows, cli.json, "there are no subflows").await?,
        Command::Status => show(&socket, Request::Status, cli.json, "").await?,
        Command::Prefer { connection, path } => {
            let request = Request::Prefer {
                connection,
                path: path.0,
            };
            show(&socket, request, cli.json, "").await?;
        }
        Command::Doctor => {
            let findings = doctor::examine(&config).await;
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&findings)?),
                false => println!("{}", finding::print(&findings, "the relay")),
            }
            if finding::is_bad(&findings) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Cleanup => {
            let removed = cleanup::run(&config).await?;
            match cli.json {
                true => println!("{}", serde_json::json!({ "removed": removed })),
                false if removed.is_empty() => println!("nothing was left"),
                false => removed.iter().for_each(|what| println!("removed: {what}")),
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

async fn show(socket: &Path, request: Request, json: bool, none: &str) -> anyhow::Result<()> {
    let value = control::ask(socket, &request).await.map_err(anyhow::Error::msg)?;
    match (&value, json) {
        (_, true) => println!("{}", serde_json::to_string_pretty(&value)?),
        (Value::Array(rows), false) => println!("{}", table::table(rows, none)),
        (_, false) => println!("{}", table::list(&value)),
    }
    Ok(())
}
