//! An agent whose pair IDs happen to be those of other pairs, for stories of the laboratory: a member of the deployment
//! with a good certificate, which reports a move under the ID of a pair that is waiting, once as the peer of either end.
//!
//! `colliding_agent SERVER_CONFIG IDENTITY URL`: the server's configuration file, by which it is asked for its pairs, the
//! directory of the agent's certificate, and where the agent finds the server. Says `both wait` once it has been answered
//! like anybody whose peer has not moved, ends well when the reports of the pair are gone, and badly when it has heard
//! anything else.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use identity::{HostIdentity, towards_servers};
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Between two questions for the server's pairs.
const AGAIN: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what| arguments.next().context(what);
    let config = PathBuf::from(next("the configuration file of the server")?);
    let directory = PathBuf::from(next("the directory of the certificate")?);
    let url = next("where the server is")?;

    let identity = HostIdentity::load(&directory)?;
    let own = identity.uri().to_owned();
    let (pair, ends) = loop {
        if let Some(waiting) = waiting(&config, &own)? {
            break waiting;
        }
        tokio::time::sleep(AGAIN).await;
    };
    let tls = towards_servers(&identity, &directory.join("ca.pem"))?;
    let line = member::connect::connect(&url, None, 0, tls).await?;
    let (say, says) = mpsc::channel(16);
    let said = |body| pb::AgentMessage { body: Some(body) };
    say.send(said(Says::Hello(pb::AgentHello {
        version: 1,
        local: Some(endpoint(line.local)),
        pairs: ends.iter().map(|peer| presence(&pair, peer)).collect(),
        ..pb::AgentHello::default()
    })))
    .await?;
    let mut client = pb::agents_client::AgentsClient::new(line.channel);
    let mut hear = client.attend(ReceiverStream::new(says)).await?.into_inner();
    for peer in &ends {
        say.send(said(Says::Report(report(&pair, peer)))).await?;
    }
    let mut answers = 0;
    let mut again = tokio::time::interval(AGAIN);
    loop {
        tokio::select! {
            message = hear.message() => match message?.and_then(|message| message.body) {
                Some(Hears::Hello(_) | Hears::Ping(_)) => {}
                Some(Hears::Waiting(waiting)) => {
                    ensure!(!waiting.peer_present, "it has heard that a peer is there");
                    answers += 1;
                    if answers == ends.len() {
                        println!("both wait");
                    }
                }
                other => bail!("it has heard {other:?}"),
            },
            _ = again.tick(), if answers >= ends.len() => {
                if !waiting(&config, &own)?.is_some_and(|(other, of)| other == pair && of == ends) {
                    return Ok(());
                }
            }
        }
    }
}

/// The pair ID and the two agents of a pair of others of which a report is stored.
fn waiting(config: &Path, own: &str) -> anyhow::Result<Option<(Vec<u8>, [String; 2])>> {
    let server = std::env::current_exe()?
        .parent()
        .and_then(Path::parent)
        .context("it is beside the programs")?
        .join("mobility-server");
    let said = Command::new(server)
        .args(["pairs", "--json", "--config"])
        .arg(config)
        .output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&said.stdout)?;
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let reports = |row: &serde_json::Value| {
        ["first_state", "second_state"]
            .iter()
            .any(|key| text(row, key).starts_with("report"))
    };
    let of_own = |row: &serde_json::Value| ["first", "second"].iter().any(|key| text(row, key) == own);
    let rows = rows.as_array().or_else(|| rows["pairs"].as_array());
    let Some(row) = rows
        .into_iter()
        .flatten()
        .find(|row| reports(row) && !of_own(row))
    else {
        return Ok(None);
    };
    let ends = ["first", "second"].map(|key| text(row, key));
    Ok(Some((hex::decode(text(row, "pair_id"))?, ends)))
}

fn presence(pair: &[u8], peer: &str) -> pb::PairPresence {
    pb::PairPresence {
        pair_id: pair.to_vec(),
        peer: peer.to_owned(),
    }
}

fn endpoint(at: wire::Endpoint) -> pb::Endpoint {
    let address = match at.address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    pb::Endpoint {
        address,
        port: at.port.into(),
    }
}

/// A move that both ends of the pair could have made.
fn report(pair: &[u8], peer: &str) -> pb::MobilityReport {
    pb::MobilityReport {
        pair_id: pair.to_vec(),
        peer: peer.to_owned(),
        move_counter: 1,
        source_before: vec![198, 51, 100, 2],
        destination_before: vec![203, 0, 113, 2],
        source_after: vec![192, 0, 2, 77],
        connections: vec![pb::ConnectionPorts {
            source_port_before: 31_000,
            destination_port_before: 7000,
            label: 7,
            ..pb::ConnectionPorts::default()
        }],
        ..pb::MobilityReport::default()
    }
}
