//! The service that is compared with: the same transport, certificates and messages, and no thought.

use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::process::{Child, Stdio};
use std::sync::Arc;

use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::agents_server::{Agents, AgentsServer};
use proto::mobility::v1::server_message::Body as Hears;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::common::{Deployment, endpoint};

struct Null;

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Agents for Null {
    type AttendStream = Out<pb::ServerMessage>;
    type TunnelStream = Out<pb::TunnelFrame>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let mut says = request.into_inner();
        let (out, hears) = mpsc::channel(128);
        tokio::spawn(async move {
            while let Ok(Some(message)) = says.message().await {
                let body = match message.body {
                    Some(Says::Hello(_)) => Hears::Hello(pb::ServerHello::default()),
                    Some(Says::Report(report)) => Hears::Destination(destination(report)),
                    _ => continue,
                };
                let message = pb::ServerMessage { body: Some(body) };
                if out.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(hears))))
    }

    async fn tunnel(
        &self,
        _: Request<Streaming<pb::TunnelFrame>>,
    ) -> Result<Response<Self::TunnelStream>, Status> {
        Err(Status::unimplemented("not compared"))
    }

    async fn observe(&self, _: Request<pb::ObserveRequest>) -> Result<Response<pb::ObserveResponse>, Status> {
        Err(Status::unimplemented("not compared"))
    }

    async fn renew(&self, _: Request<pb::RenewRequest>) -> Result<Response<pb::RenewResponse>, Status> {
        Err(Status::unimplemented("not compared"))
    }

    async fn standing(
        &self,
        _: Request<pb::StandingRequest>,
    ) -> Result<Response<pb::StandingResponse>, Status> {
        Err(Status::unimplemented("not compared"))
    }
}

fn destination(report: pb::MobilityReport) -> pb::Destination {
    let connections = report.connections.iter().map(|ports| pb::ConnectionDestination {
        label: ports.label,
        ..pb::ConnectionDestination::default()
    });
    pb::Destination {
        pair_id: report.pair_id,
        move_counter: report.move_counter,
        decision: 1,
        peer_address: report.destination_before,
        connections: connections.collect(),
        observed: Some(endpoint([127, 0, 0, 1], 40_000)),
        ..pb::Destination::default()
    }
}

/// Serves with the certificates of a deployment until it is killed; says its port.
pub async fn run(directory: &Path) {
    let bundle = directory.join("ca/ca.pem");
    let tls = identity::towards_members(&directory.join("server"), &bundle).expect("a deployment");
    let tls = TlsAcceptor::from(Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    println!("{}", listener.local_addr().expect("bound").port());
    std::io::stdout().flush().expect("somebody reads");
    let (accepted, connections) = mpsc::channel::<Result<_, std::io::Error>>(64);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tls, accepted) = (tls.clone(), accepted.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                if let Ok(stream) = tls.accept(stream).await {
                    let _ = accepted.send(Ok(stream)).await;
                }
            });
        }
    });
    tonic::transport::Server::builder()
        .serve_with_incoming(AgentsServer::new(Null), ReceiverStream::new(connections))
        .await
        .expect("it serves");
}

/// A running one.
pub struct Running {
    child: Child,
    pub port: u16,
}

impl Running {
    pub fn start(deployment: &Deployment) -> Self {
        let directory = deployment.dir.path().to_str().expect("text");
        let mut child = crate::another(&["null", directory])
            .stdout(Stdio::piped())
            .spawn()
            .expect("it runs");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it listens");
        Self {
            child,
            port: line.trim().parse().expect("a port"),
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
