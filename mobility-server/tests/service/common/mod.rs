//! A deployment for one test: the real program on loopback ports, and agents that talk to it.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use identity::{Application, EnrolmentToken, HostIdentity, first_contact, towards_servers};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Longer than this nothing takes on a machine that is not broken.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub struct Deployment {
    pub dir: tempfile::TempDir,
    child: Option<Child>,
    pub port: u16,
}

impl Deployment {
    /// `more`: lines of configuration after the tables' heads `[store]` and `[limits]` are chosen by the caller.
    pub async fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let at = dir.path().display();
        let config = format!(
            "listen = [\"127.0.0.1:0\"]\nidentity = \"{at}/server\"\nauthority = \"{at}/ca\"\n\
             state_dir = \"{at}/state\"\ncontrol_socket = \"{at}/control.sock\"\n{more}\n"
        );
        std::fs::write(dir.path().join("server.toml"), config).expect("a file");
        let mut deployment = Self {
            dir,
            child: None,
            port: 0,
        };
        deployment.cli(&["init", "--name", "127.0.0.1"]);
        deployment.run().await;
        deployment
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mobility-server"));
        command.arg("--config").arg(self.dir.path().join("server.toml"));
        command
    }

    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = self.command().args(arguments).output().expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    pub fn status(&self) -> serde_json::Value {
        serde_json::from_str(&self.cli(&["status", "--json"])).expect("JSON")
    }

    /// Where the program sees its state: under its own mounts.
    pub fn state(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.pid()));
        root.join(self.dir.path().strip_prefix("/").expect("an absolute path"))
            .join("state")
    }

    pub async fn run(&mut self) {
        let command = self.command();
        self.run_as(command).await;
    }

    /// With a disk of its own for its state, of so many MiB, empty. Needs root.
    pub async fn run_on_disk_of(&mut self, mib: u32) {
        let mut command = Command::new("unshare");
        let mount = format!("mount -t tmpfs -o size={mib}m tmpfs \"$STATE\" && exec \"$@\"");
        command
            .args(["--mount", "sh", "-c", &mount, "sh"])
            .env("STATE", self.dir.path().join("state"))
            .arg(self.command().get_program())
            .args(self.command().get_args());
        self.run_as(command).await;
    }

    async fn run_as(&mut self, mut command: Command) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a file");
        self.child = Some(
            command
                .arg("run")
                .stderr(log)
                .stdout(Stdio::null())
                .spawn()
                .expect("it runs"),
        );
        let until = Instant::now() + PATIENCE;
        loop {
            let output = self
                .command()
                .args(["status", "--json"])
                .output()
                .expect("it runs");
            if output.status.success() {
                break;
            }
            assert!(Instant::now() < until, "it never answered: {}", self.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let listening = self.status()["listening"][0]
            .as_str()
            .expect("an address")
            .to_owned();
        self.port = listening
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("a port");
    }

    /// Of the running program.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A signal for the running program.
    pub fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = Pid::from_raw(child.id().try_into().expect("a process ID"));
        kill(pid, signal).expect("ours");
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.child.take().expect("it runs").wait().expect("ours")
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("ours");
        child.wait().expect("ours");
    }

    pub fn token(&self) -> EnrolmentToken {
        self.cli(&["enroll-token"]).trim().parse().expect("a token")
    }

    /// A host that has joined.
    pub async fn agent(&self, name: &str) -> Agent {
        self.member(name, "agent").await
    }

    /// A host that has joined through a load balancer which says this first.
    pub async fn agent_through(&self, name: &str, first: &'static [u8]) -> Agent {
        self.joined(name, "agent", first).await
    }

    /// Somebody who has joined in this role.
    pub async fn member(&self, name: &str, role: &str) -> Agent {
        self.joined(name, role, b"").await
    }

    async fn joined(&self, name: &str, role: &str, first: &'static [u8]) -> Agent {
        let token = self.cli(&["enroll-token", "--role", role]);
        let token: EnrolmentToken = token.trim().parse().expect("a token");
        let tls = first_contact(token.authority()).expect("TLS");
        let channel = connect_after(self.port, tls, first).await.expect("it listens");
        let application = Application::new(name).expect("a key");
        let mut client = pb::enrolment_client::EnrolmentClient::new(channel);
        let request = pb::EnrolRequest {
            token: token.reveal(),
            certificate_request: application.request.clone(),
            name: name.into(),
        };
        let answer = client
            .enrol(request)
            .await
            .expect("the token is good")
            .into_inner();
        let expected = Some(token.authority());
        application
            .check(&answer.certificate, &answer.authority, expected)
            .expect("it fits");
        let dir = self.dir.path().join(name);
        application
            .settle(&dir, &answer.certificate, &answer.authority, false)
            .expect("it is new");
        Agent {
            uri: HostIdentity::load(&dir)
                .expect("just made")
                .agent_id()
                .to_string()
                // A certificate says the role, the identity directory does not.
                .replace("/agent/", &format!("/{role}/")),
            dir,
            port: self.port,
            first,
        }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub async fn connect(port: u16, tls: ClientConfig) -> Result<Channel, tonic::transport::Error> {
    connect_after(port, tls, b"").await
}

/// Connects and says `first` before TLS begins, as a load balancer does.
pub async fn connect_after(
    port: u16,
    tls: ClientConfig,
    first: &'static [u8],
) -> Result<Channel, tonic::transport::Error> {
    let tls = TlsConnector::from(Arc::new(tls));
    Endpoint::from_static("http://server.invalid")
        .connect_with_connector(tower::service_fn(move |_| {
            let tls = tls.clone();
            async move {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
                stream.set_nodelay(true)?;
                stream.write_all(first).await?;
                let name = "127.0.0.1".try_into().expect("an address");
                tls.connect(name, stream).await.map(TokioIo::new)
            }
        }))
        .await
}

#[derive(Clone)]
pub struct Agent {
    pub uri: String,
    pub dir: PathBuf,
    pub port: u16,
    /// What its load balancer says first.
    pub first: &'static [u8],
}

pub struct Line {
    pub say: mpsc::Sender<pb::AgentMessage>,
    pub hear: Streaming<pb::ServerMessage>,
}

impl Agent {
    pub fn tls(&self) -> ClientConfig {
        let identity = HostIdentity::load(&self.dir).expect("it has joined");
        towards_servers(&identity, &self.dir.join("ca.pem")).expect("TLS")
    }

    pub async fn client(&self) -> Result<pb::agents_client::AgentsClient<Channel>, tonic::transport::Error> {
        let channel = connect_after(self.port, self.tls(), self.first).await?;
        Ok(pb::agents_client::AgentsClient::new(channel))
    }

    /// Attends, and says for which pairs.
    pub async fn attend(&self, pairs: &[(u8, &Agent)]) -> Result<Line, Status> {
        let mut client = self
            .client()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let (say, says) = mpsc::channel(4096);
        let hello = pb::AgentHello {
            version: 1,
            local: Some(endpoint([10, 0, 0, 9], 40000)),
            agent_port: 0,
            pairs: pairs
                .iter()
                .map(|(id, peer)| pb::PairPresence {
                    pair_id: vec![*id; 16],
                    peer: peer.uri.clone(),
                })
                .collect(),
            direct_addresses: Vec::new(),
        };
        say.send(message(Says::Hello(hello)))
            .await
            .expect("there is room");
        let hear = client.attend(ReceiverStream::new(says)).await?.into_inner();
        let mut line = Line { say, hear };
        match line.next().await? {
            Hears::Hello(_) => Ok(line),
            other => panic!("{other:?} instead of a hello"),
        }
    }
}

impl Line {
    pub async fn say(&self, body: Says) {
        self.say.send(message(body)).await.expect("the stream is open");
    }

    /// What is heard next, pings apart.
    pub async fn next(&mut self) -> Result<Hears, Status> {
        loop {
            let heard = tokio::time::timeout(PATIENCE, self.hear.message()).await;
            match heard
                .expect("something is heard in time")?
                .and_then(|message| message.body)
            {
                Some(Hears::Ping(_)) => {}
                Some(body) => return Ok(body),
                None => return Err(Status::cancelled("the end")),
            }
        }
    }

    pub async fn destination(&mut self) -> pb::Destination {
        loop {
            match self.next().await.expect("the stream is open") {
                Hears::Destination(destination) => return destination,
                Hears::Waiting(_) | Hears::Cancelled(_) => {}
                other => panic!("{other:?} instead of a destination"),
            }
        }
    }
}

pub fn message(body: Says) -> pb::AgentMessage {
    pb::AgentMessage { body: Some(body) }
}

pub fn endpoint(address: [u8; 4], port: u32) -> pb::Endpoint {
    pb::Endpoint {
        address: address.to_vec(),
        port,
    }
}

/// A report of one connection: `from` 10.0.0.x to `to`, now at 10.9.0.x.
pub fn report(pair: [u8; 16], peer: &Agent, counter: u64, own: u8, other: u8) -> pb::MobilityReport {
    pb::MobilityReport {
        pair_id: pair.to_vec(),
        peer: peer.uri.clone(),
        move_counter: counter,
        source_before: vec![10, 0, 0, own],
        destination_before: vec![10, 0, 0, other],
        source_after: vec![10, 9, 0, own],
        connections: vec![pb::ConnectionPorts {
            source_port_before: 1000 + u32::from(own),
            destination_port_before: 1000 + u32::from(other),
            label: 7,
            ..pb::ConnectionPorts::default()
        }],
        ..pb::MobilityReport::default()
    }
}
