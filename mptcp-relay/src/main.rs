//! Wiring only: the command line to the function that does it.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use mptcp_relay::cli::{self, Cli, Command, ConfigCommand, Switch};
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
        Command::Enroll {
            server,
            token,
            name,
            replace,
        } => {
            let done = member::enrolment::enrol(&server, &token, &name, &config.identity, replace).await?;
            let told = serde_json::json!({
                "relay": done.identity.uri(),
                "identity": config.identity,
                "servers": done.servers,
            });
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&told)?),
                false => println!("{}", table::list(&told)),
            }
            if done.identity.role() != identity::MemberRole::Relay {
                anyhow::bail!(
                    "the token was for another role, so servers will not take this host for a relay: make one with \
                     mobility-server enroll-token --role relay, and enrol again with --replace"
                );
            }
        }
        Command::Sessions => show(&socket, Request::Sessions, cli.json, "nothing is relayed").await?,
        Command::Subflows => show(&socket, Request::Subflows, cli.json, "there are no subflows").await?,
        Command::Status => show(&socket, Request::Status, cli.json, "").await?,
        Command::Balance { switch } => {
            let request = Request::Balance {
                on: switch.map(|switch| switch == Switch::On),
            };
            balance(&socket, request, cli.json).await?;
        }
        Command::Prefer { words, pid } => {
            let path = |word: &str| {
                word.parse::<cli::Path>()
                    .map(|path| path.0)
                    .map_err(anyhow::Error::msg)
            };
            let request = match (pid, words.as_slice()) {
                (Some(pid), [word]) => Request::PreferProgram {
                    pid,
                    path: path(word)?,
                },
                (None, [connection, word]) => Request::Prefer {
                    connection: connection.clone(),
                    path: path(word)?,
                },
                (Some(_), _) => anyhow::bail!("with --pid the path alone: mptcp-relay prefer --pid PID PATH"),
                (None, _) => anyhow::bail!("the path is missing: mptcp-relay prefer CONNECTION PATH"),
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

/// A list of access points, and what holds for all of them.
async fn balance(socket: &Path, request: Request, json: bool) -> anyhow::Result<()> {
    let mut value = control::ask(socket, &request).await.map_err(anyhow::Error::msg)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    let points = value["points"].take();
    let points = points.as_array().map_or(&[][..], Vec::as_slice);
    println!("{}\n", table::table(points, "there are no access points"));
    if let Some(all) = value.as_object_mut() {
        all.remove("points");
    }
    println!("{}", table::list(&value));
    Ok(())
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
