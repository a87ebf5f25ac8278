//! Wiring only: the command line to the function that does it.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use operator::{finding, table};
use serde_json::{Value, json};
use symmetric_proxy::cli::{Cli, Command, ConfigCommand};
use symmetric_proxy::config::Config;
use symmetric_proxy::control::{self, Request};
use symmetric_proxy::{cleanup, doctor, drive};

/// Between two looks at what is left of a proxy that is drained.
const DRAIN_LOOKS: Duration = Duration::from_millis(500);

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
            eprintln!("symmetric-proxy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(
            shell,
            &mut Cli::command(),
            "symmetric-proxy",
            &mut std::io::stdout(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    if let Some(socket) = cli.control_socket {
        config.control_socket = socket;
    }
    let socket = config.control_socket.clone();
    match cli.command {
        Command::Run => {
            let log = operator::log::start(&config.log, config.log_format)?;
            drive::run(config, cli.config, log).await?;
        }
        Command::Enroll {
            server,
            token,
            name,
            replace,
        } => {
            let done = member::enrolment::enrol(&server, &token, &name, &config.identity, replace).await?;
            let told = json!({
                "proxy": done.identity.uri(),
                "identity": config.identity,
                "servers": done.servers,
            });
            print(&told, cli.json, "");
            if done.identity.role() != identity::MemberRole::Proxy {
                anyhow::bail!(
                    "the token was for another role, so servers will not take this host for a proxy: make one with \
                     mobility-server enroll-token --role proxy, and enrol again with --replace"
                );
            }
        }
        Command::Relays { limit } => {
            show(&socket, Request::Relays { limit }, cli.json, "nothing is relayed").await?;
        }
        Command::Status => show(&socket, Request::Status, cli.json, "").await?,
        Command::Drain { end, wait } => {
            let said = ask(&socket, Request::Drain { on: !end }).await?;
            let last = if wait { drained(&socket).await? } else { said };
            print(&last, cli.json, "");
        }
        Command::Doctor => {
            let findings = doctor::examine(&config).await;
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&findings)?),
                false => println!("{}", finding::print(&findings, "the proxy")),
            }
            if finding::is_bad(&findings) {
                return Ok(ExitCode::FAILURE);
            }
        }
        Command::Cleanup => {
            let removed = cleanup::run(&config).await?;
            match cli.json {
                true => println!("{}", json!({ "removed": removed })),
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

async fn ask(socket: &Path, request: Request) -> anyhow::Result<Value> {
    control::ask(socket, &request).await.map_err(anyhow::Error::msg)
}

async fn show(socket: &Path, request: Request, json: bool, none: &str) -> anyhow::Result<()> {
    print(&ask(socket, request).await?, json, none);
    Ok(())
}

/// Returns when nothing is relayed any more; what is left is told on standard error whenever it has changed.
async fn drained(socket: &Path) -> anyhow::Result<Value> {
    let mut told = None;
    loop {
        let status = ask(socket, Request::Status).await?;
        let left = status["leases"].as_u64().unwrap_or_default();
        if left == 0 || status["draining"] != true {
            return Ok(json!({ "draining": status["draining"], "relays": left }));
        }
        if told.replace(left) != Some(left) {
            eprintln!("{left} connections are still relayed");
        }
        tokio::time::sleep(DRAIN_LOOKS).await;
    }
}

fn print(value: &Value, json: bool, none: &str) {
    match (value, json) {
        (_, true) => println!("{value:#}"),
        (Value::Array(rows), false) => println!("{}", table::table(rows, none)),
        (_, false) => println!("{}", table::list(value)),
    }
}
