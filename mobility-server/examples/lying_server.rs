//! A mobility server that lies, for stories of the laboratory: a member of the deployment with a good certificate, which
//! brings nobody together and sends every agent to one address and its neighbours, over and over, with new decisions
//! and for pairs that nobody has reported.
//!
//! `lying_server CONFIG VICTIM`: the configuration file of a mobility server, and the address.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::Stream;
use identity::towards_members;
use mobility_server::config::Config;
use mobility_server::counters::Counters;
use mobility_server::limits::Limiter;
use mobility_server::watch::{Caller, Door};
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::agents_server::{Agents, AgentsServer};
use proto::mobility::v1::destination::Action;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// Between two lies to one agent.
const AGAIN: Duration = Duration::from_millis(200);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().context("the configuration file")?;
    let victim: IpAddr = arguments.next().context("the address")?.parse()?;
    let config = Config::load(Some(std::path::Path::new(&config)))?;
    let tls = towards_members(&config.identity, &config.authority.join("ca.pem"))?;
    let counters = Arc::new(Counters::default());
    let limiter = Arc::new(Limiter::new(&config.limits));
    let door = Arc::new(Door::new(
        tls,
        Vec::new(),
        limiter,
        counters,
        Duration::from_secs(5),
    ));
    let (accepted, connections) = mpsc::channel(64);
    for address in &config.listen {
        let listener = TcpListener::bind(address).await?;
        tokio::spawn(door.clone().accept(listener, accepted.clone()));
    }
    drop(accepted);
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let incoming = tokio_stream::StreamExt::map(ReceiverStream::new(connections), Ok::<_, std::io::Error>);
    Server::builder()
        .add_service(AgentsServer::new(Liar { victim }))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

struct Liar {
    victim: IpAddr,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Liar {
    type AttendStream = Answers<pb::ServerMessage>;
    type TunnelStream = Answers<pb::TunnelFrame>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let (out, answers) = mpsc::unbounded_channel();
        tokio::spawn(lie(self.victim, request.into_inner(), out));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }

    async fn tunnel(
        &self,
        _: Request<Streaming<pb::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unavailable("no"))
    }

    async fn observe(
        &self,
        request: Request<pb::ObserveRequest>,
    ) -> Result<Response<pb::ObserveResponse>, Status> {
        let caller = request.extensions().get::<Caller>();
        Ok(Response::new(pb::ObserveResponse {
            observed: Some(endpoint(
                self.victim,
                caller.map_or(0, |caller| caller.observed.port),
            )),
            other_ports: Vec::new(),
            unix_milliseconds: 1,
        }))
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        Err(Status::unavailable("no"))
    }

    async fn standing(
        &self,
        _: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        Err(Status::unavailable("no"))
    }
}

type Out = mpsc::UnboundedSender<Result<pb::ServerMessage, Status>>;

async fn lie(victim: IpAddr, mut incoming: Streaming<pb::AgentMessage>, out: Out) {
    let say = |body: Hears| out.send(Ok(pb::ServerMessage { body: Some(body) })).is_ok();
    say(Hears::Hello(pb::ServerHello {
        version: 1,
        observed: Some(endpoint(victim, 1)),
        epoch: vec![7; 16],
        ping_seconds: 10,
        unix_milliseconds: 1,
    }));
    let mut again = tokio::time::interval(AGAIN);
    let mut present: Vec<Vec<u8>> = Vec::new();
    let mut reports: Vec<pb::MobilityReport> = Vec::new();
    let mut decision = 0;
    loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(message)) => match message.body {
                    Some(Says::Hello(hello)) => {
                        present = hello.pairs.into_iter().map(|pair| pair.pair_id).collect();
                    }
                    Some(Says::Report(report)) => {
                        reports.retain(|known| known.pair_id != report.pair_id);
                        reports.push(report);
                    }
                    _ => {}
                },
                _ => return,
            },
            _ = again.tick() => {
                decision += 1;
                for report in &reports {
                    say(Hears::Cancelled(pb::Cancelled {
                        pair_id: report.pair_id.clone(),
                        decision: decision - 1,
                        forgotten: decision % 5 == 0,
                    }));
                    say(Hears::Destination(destination(victim, decision, &report.pair_id, Some(report))));
                }
                for pair in &present {
                    say(Hears::Destination(destination(victim, decision, pair, None)));
                }
            }
        }
    }
}

/// `report`: what it pretends to answer.
fn destination(
    victim: IpAddr,
    decision: u64,
    pair: &[u8],
    report: Option<&pb::MobilityReport>,
) -> pb::Destination {
    let action = match decision % 3 {
        0 => Action::Proxy,
        1 => Action::SendMsyn,
        _ => Action::Simultaneous,
    };
    // The victim and its neighbours: more addresses than any agent tries.
    let address = match victim {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() + (decision % 16) as u32).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() + u128::from(decision % 16)).into()),
    };
    let connections = report.map(|report| &report.connections[..]).unwrap_or_default();
    let leg_keys = connections.iter().map(|ports| (ports.label, vec![9; 32]));
    pb::Destination {
        pair_id: pair.to_vec(),
        move_counter: report.map_or(0, |report| report.move_counter),
        decision,
        action: action.into(),
        peer_address: bytes(address),
        leg_keys: leg_keys.collect(),
        connections: connections
            .iter()
            .map(|ports| pb::ConnectionDestination {
                source_port_before: ports.source_port_before,
                source_port_after: ports.source_port_after,
                destination_port: ports.destination_port_before,
                label: ports.label,
                peer_req_no: None,
            })
            .collect(),
        ..pb::Destination::default()
    }
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn endpoint(address: IpAddr, port: u16) -> pb::Endpoint {
    pb::Endpoint {
        address: bytes(address),
        port: u32::from(port),
    }
}
