//! Wiring only: the command line to the function that does it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};
use mobility_server::cli::{Cli, Command, ConfigCommand, Listing};
use mobility_server::config::Config;
use mobility_server::{control, doctor, drive, init, log, status};
use proto::mobility::v1 as pb;
use serde_json::Value;
use tonic::{Response, Status, Streaming};

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
            eprintln!("mobility-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(
            shell,
            &mut Cli::command(),
            "mobility-server",
            &mut std::io::stdout(),
        );
        return Ok(ExitCode::SUCCESS);
    }
    // The file that init is about to write need not be there.
    let absent =
        matches!(cli.command, Command::Init { .. }) && cli.config.as_ref().is_some_and(|path| !path.exists());
    let mut config = match absent {
        true => Config::default(),
        false => Config::load(cli.config.as_deref())?,
    };
    if let Some(socket) = cli.control_socket {
        config.control_socket = socket;
    }
    let socket = config.control_socket.clone();
    match cli.command {
        Command::Run => {
            let log = log::start(&config)?;
            drive::run(config, cli.config, log).await?;
        }
        Command::Init { names, join, uses } => {
            let made = init::run(&config, cli.config.as_deref(), &names, join, uses).await?;
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&made)?),
                false => print!("{}", init::print(&made)),
            }
        }
        Command::EnrollToken {
            name,
            uses,
            lifetime,
            role,
        } => {
            let request = pb::CreateTokenRequest {
                name,
                uses,
                lifetime_seconds: lifetime,
                role: role.to_string(),
            };
            let answer = control::connect(&socket)
                .await?
                .create_token(request)
                .await
                .map_err(told)?;
            let token = answer.into_inner().token;
            match cli.json {
                true => println!("{}", serde_json::json!({ "token": token })),
                false => println!("{token}"),
            }
        }
        Command::Agents(listing) => {
            let rows = control::connect(&socket).await?.list_agents(some(listing)).await;
            show(cli.json, rows, status::agent, "nobody has enrolled").await?;
        }
        Command::Pairs(listing) => {
            let rows = control::connect(&socket).await?.list_pairs(some(listing)).await;
            show(cli.json, rows, status::pair, "nothing is stored of any pair").await?;
        }
        Command::Sessions(Listing { limit }) => {
            let request = pb::ListSessionsRequest { limit, kind: 0 };
            let rows = control::connect(&socket).await?.list_sessions(request).await;
            show(cli.json, rows, status::session, "no session is kept").await?;
        }
        Command::Relays(listing) => {
            let rows = control::connect(&socket).await?.list_relays(some(listing)).await;
            show(cli.json, rows, status::relay, "no proxy or relay serves").await?;
        }
        Command::Status => {
            let answer = control::connect(&socket)
                .await?
                .status(pb::StatusRequest {})
                .await
                .map_err(told)?;
            let value = status::status(&answer.into_inner());
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&value)?),
                false => println!("{}", status::list(&value)),
            }
        }
        Command::Revoke { member } => {
            let request = pb::RevokeRequest { agent: member };
            let answer = control::connect(&socket)
                .await?
                .revoke(request)
                .await
                .map_err(told)?;
            let streams_closed = answer.into_inner().streams_closed;
            match cli.json {
                true => println!("{}", serde_json::json!({ "streams_closed": streams_closed })),
                false => println!("revoked; {streams_closed} streams closed"),
            }
        }
        Command::Doctor => {
            let findings = doctor::examine(&config).await;
            match cli.json {
                true => println!("{}", serde_json::to_string_pretty(&findings)?),
                false => println!("{}", doctor::print(&findings)),
            }
            if findings
                .iter()
                .any(|finding| finding.verdict == doctor::Verdict::Bad)
            {
                return Ok(ExitCode::FAILURE);
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

fn some(listing: Listing) -> pb::ListRequest {
    pb::ListRequest { limit: listing.limit }
}

fn told(status: Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

async fn show<T>(
    json: bool,
    rows: Result<Response<Streaming<T>>, Status>,
    value: impl Fn(&T) -> Value,
    none: &str,
) -> anyhow::Result<()> {
    let mut rows = rows.map_err(told)?.into_inner();
    if json {
        return show_json(rows, value).await;
    }
    let mut values = Vec::new();
    while let Some(row) = rows.message().await.map_err(told)? {
        values.push(value(&row));
    }
    println!("{}", status::table(&values, none));
    Ok(())
}

/// An array, each row as it comes: a million sessions need no more memory than one.
async fn show_json<T>(mut rows: Streaming<T>, value: impl Fn(&T) -> Value) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut before = "[\n";
    while let Some(row) = rows.message().await.map_err(told)? {
        write!(out, "{before}{:#}", value(&row))?;
        before = ",\n";
    }
    match before {
        "[\n" => writeln!(out, "[]")?,
        _ => writeln!(out, "\n]")?,
    }
    Ok(out.flush()?)
}
