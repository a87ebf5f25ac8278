#![allow(dead_code, reason = "the tests and the benchmark use a part each")]
//! A deployment of one authority and one server that does as it is told, and a proxy in it.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc as line;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use identity::ticket::{LegKey, SignedTicket, Ticket, TicketLeg};
use identity::{Authority, MemberRole, Validity, towards_members};
use proto::mobility::v1 as said;
use said::relay_message::Body as Says;
use said::relay_order::Body as Hears;
use said::relays_server::{Relays, RelaysServer};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::place::until;
use crate::world::end;

type Orders = mpsc::Sender<Result<said::RelayOrder, Status>>;

/// Who the agents of all tickets are.
pub const AGENTS: [&str; 2] = ["spiffe://mobility/agent/a", "spiffe://mobility/agent/b"];

/// The server and the proxy.
pub struct Desk {
    authority: Authority,
    pub directory: tempfile::TempDir,
    me: String,
    runtime: tokio::runtime::Runtime,
    orders: Arc<Mutex<Option<Orders>>>,
    words: line::Receiver<Says>,
    proxy: Option<Child>,
    port: u16,
}

struct Book {
    orders: Arc<Mutex<Option<Orders>>>,
    words: line::Sender<Says>,
}

#[tonic::async_trait]
impl Relays for Book {
    type ServeStream = Pin<Box<dyn Stream<Item = Result<said::RelayOrder, Status>> + Send>>;

    async fn serve(
        &self,
        request: Request<Streaming<said::RelayMessage>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let (out, orders) = mpsc::channel(100_000);
        *self.orders.lock().unwrap() = Some(out);
        let words = self.words.clone();
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if let Some(body) = message.body {
                    let _ = words.send(body);
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(orders))))
    }
}

impl Desk {
    /// A server that listens and a proxy that attends it, with these lines in its configuration.
    pub fn open(config: &str) -> Desk {
        crate::place::run("ip link set lo up");
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let authority = Authority::create(&at("ca"), Validity::of_authority()).unwrap();
        let server = authority
            .issue_server(&["127.0.0.1".to_owned()], Validity::of_host())
            .unwrap();
        server.write(&at("server"), true).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let signed = authority
            .sign(request.der(), MemberRole::Proxy, "p1", Validity::of_host())
            .unwrap();
        std::fs::create_dir_all(at("identity")).unwrap();
        for (name, text) in [
            ("host.key", key.serialize_pem()),
            ("host.pem", signed.certificate_pem),
            ("ca.pem", authority.certificate_pem().to_owned()),
        ] {
            let file = at("identity").join(name);
            std::fs::write(&file, text).unwrap();
            // A key that others may read is refused.
            std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        }
        let tls = towards_members(&at("server"), &at("identity").join("ca.pem")).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (orders, (says, words)) = (Arc::default(), line::channel());
        let book = Book {
            orders: Arc::clone(&orders),
            words: says,
        };
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        runtime.spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
            let streams = TcpListenerStream::new(listener).then(move |stream| {
                let acceptor = acceptor.clone();
                async move { acceptor.accept(stream?).await }
            });
            let server = tonic::transport::Server::builder().add_service(RelaysServer::new(book));
            server.serve_with_incoming(streams).await.unwrap();
        });
        let mut desk = Desk {
            authority,
            me: signed.member.uri,
            directory,
            runtime,
            orders,
            words,
            proxy: None,
            port,
        };
        desk.configure(config);
        desk.start();
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Another configuration, for the next start or SIGHUP.
    pub fn configure(&self, lines: &str) {
        let at = |name: &str| self.path(name).display().to_string();
        let text = format!(
            "servers = [\"https://127.0.0.1:{}\"]\nidentity = \"{}\"\npin_dir = \"/sys/fs/bpf/proxy\"\n\
             control_socket = \"{}\"\nrefuse = [\"127.0.0.0/8\", \"203.0.113.0/24\"]\n{lines}",
            self.port,
            at("identity"),
            at("control"),
        );
        std::fs::write(self.path("proxy.toml"), text).unwrap();
    }

    /// The proxy's program with these words.
    pub fn program(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_symmetric-proxy"));
        command.arg("--config").arg(self.path("proxy.toml")).args(words);
        command
    }

    /// Starts the proxy, and waits until it attends and answers.
    pub fn start(&mut self) {
        *self.orders.lock().unwrap() = None;
        let mut command = self.program(&["run"]);
        // SAFETY: one system call between fork and exec.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, || {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into)
            });
        }
        self.proxy = Some(command.stdin(Stdio::null()).spawn().unwrap());
        self.attended();
        until("the proxy answers", || self.ask(&["status"]));
    }

    /// Waits until the proxy attends the server.
    pub fn attended(&mut self) {
        until("the proxy attends", || self.orders.lock().unwrap().clone());
    }

    /// A signal for the daemon.
    pub fn signal(&mut self, signal: nix::sys::signal::Signal) {
        let pid = self.proxy.as_ref().expect("it runs").id();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
    }

    /// Ends the daemon by a signal.
    pub fn end(&mut self, signal: nix::sys::signal::Signal) {
        self.signal(signal);
        self.proxy.take().expect("it runs").wait().unwrap();
    }

    /// What a command says as JSON; none: it fails.
    pub fn ask(&self, words: &[&str]) -> Option<Value> {
        let output = self.program(words).arg("--json").output().unwrap();
        let value = serde_json::from_slice(&output.stdout).ok()?;
        output.status.success().then_some(value)
    }

    /// Awaits a status.
    pub fn status(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, || self.ask(&["status"]).filter(|status| fits(status)))
    }

    /// Awaits that something was refused or dropped so often, under `refusals` or `segments`.
    pub fn counted(&self, kind: &str, why: &str, times: u64) {
        self.status(&format!("{kind}.{why} = {times}"), |status| {
            status[kind][why].as_u64().unwrap_or_default() >= times
        });
    }

    /// The keys of a lease's legs.
    pub fn keys(&self, lease: u8) -> [LegKey; 2] {
        AGENTS.map(|agent| self.authority.leg_key(&[lease; 16], agent))
    }

    /// A ticket as a server would make it.
    pub fn ticket(&self, lease: u8) -> Ticket {
        let keys = self.keys(lease);
        let mut keys = keys.into_iter();
        let leg = |agent: &str| TicketLeg {
            agent: agent.to_owned(),
            expected: None,
            key: keys.next().expect("two legs"),
        };
        let now = SystemTime::now();
        Ticket {
            lease: [lease; 16],
            pair: [1; 16],
            label: 7,
            not_before: now,
            expires: now + Duration::from_secs(120),
            legs: AGENTS.map(leg),
            proxy: self.me.clone(),
        }
    }

    pub fn sign(&self, ticket: &Ticket) -> SignedTicket {
        self.authority.sign_ticket(ticket).unwrap()
    }

    /// Gives an order of any kind.
    pub fn order(&self, body: Hears) {
        let orders = self.orders.lock().unwrap().clone().expect("the proxy attends");
        self.runtime
            .block_on(orders.send(Ok(said::RelayOrder { body: Some(body) })))
            .unwrap();
    }

    /// Awaits a word of the proxy.
    pub fn word<T>(&mut self, what: &str, fits: impl Fn(Says) -> Option<T>) -> T {
        until(what, || self.words.try_iter().find_map(&fits))
    }

    /// Presents a ticket, and awaits the answer.
    pub fn present(&mut self, lease: u8, signed: &SignedTicket) -> said::LeaseAnswer {
        self.present_as([lease; 16], signed)
    }

    fn present_as(&mut self, lease: [u8; 16], signed: &SignedTicket) -> said::LeaseAnswer {
        self.order(Hears::Lease(said::LeaseRequest {
            lease_id: lease.to_vec(),
            ticket: signed.ticket.clone(),
            signature: signed.signature.clone(),
        }));
        self.word("an answer", |word| match word {
            Says::Answer(answer) if answer.lease_id == lease => Some(answer),
            _ => None,
        })
    }

    /// One of many leases: its two ends, and the keys of its legs.
    pub fn lease_number(&mut self, number: u32) -> ([wire::tuple::Endpoint; 2], [LegKey; 2]) {
        let signed = self.sign(&self.ticket_of_number(number));
        let keys = self.keys_of_number(number);
        (self.granted(numbered(number), &signed), keys)
    }

    /// Many of them without waiting for each: their ends, in order.
    pub fn lease_many(&mut self, numbers: std::ops::Range<u32>) -> Vec<[wire::tuple::Endpoint; 2]> {
        for number in numbers.clone() {
            let mut ticket = self.ticket_of_number(number);
            // Each of a pair of its own.
            ticket.pair[12..].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
            let signed = self.sign(&ticket);
            self.order(Hears::Lease(said::LeaseRequest {
                lease_id: ticket.lease.to_vec(),
                ticket: signed.ticket,
                signature: signed.signature,
            }));
        }
        let mut answers = std::collections::HashMap::new();
        until("all answers", || {
            for word in self.words.try_iter() {
                if let Says::Answer(answer) = word {
                    answers.insert(answer.lease_id.clone(), answer);
                }
            }
            (answers.len() == numbers.len()).then_some(())
        });
        let answers = numbers.filter_map(|number| answers.remove(&numbered(number)[..]));
        answers.map(endpoints).collect()
    }

    /// The keys of such a lease's legs.
    pub fn keys_of_number(&self, number: u32) -> [LegKey; 2] {
        AGENTS.map(|agent| self.authority.leg_key(&numbered(number), agent))
    }

    fn ticket_of_number(&self, number: u32) -> Ticket {
        let mut ticket = self.ticket(0);
        ticket.lease = numbered(number);
        for (leg, key) in ticket.legs.iter_mut().zip(self.keys_of_number(number)) {
            leg.key = key;
        }
        ticket
    }

    /// Bytes of the daemon's memory.
    pub fn resident(&self) -> u64 {
        let pages = std::fs::read_to_string(format!("{}/statm", self.proc()));
        let pages = pages.expect("it runs");
        let resident = pages
            .split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok());
        resident.expect("a number of pages") * 4096
    }

    /// Bytes of its BPF maps.
    pub fn maps(&self) -> u64 {
        let open = std::fs::read_dir(format!("{}/fdinfo", self.proc())).expect("it runs");
        let texts = open.filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok());
        let lines = |text: &str, name: &str| -> Option<u64> {
            let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
            lines.next()?.trim().parse().ok()
        };
        let of_maps = texts.filter(|text| text.contains("map_type:"));
        // A map may be open more than once.
        let sizes: std::collections::BTreeMap<u64, u64> = of_maps
            .filter_map(|text| Some((lines(&text, "map_id:")?, lines(&text, "memlock:")?)))
            .collect();
        sizes.values().sum()
    }

    fn proc(&self) -> String {
        format!("/proc/{}", self.proxy.as_ref().expect("it runs").id())
    }

    /// A lease that the proxy grants: its two ends.
    pub fn lease(&mut self, lease: u8, ticket: &Ticket) -> [wire::tuple::Endpoint; 2] {
        let signed = self.sign(ticket);
        self.granted([lease; 16], &signed)
    }

    fn granted(&mut self, lease: [u8; 16], signed: &SignedTicket) -> [wire::tuple::Endpoint; 2] {
        endpoints(self.present_as(lease, signed))
    }
}

/// The name of one of many leases.
fn numbered(number: u32) -> [u8; 16] {
    let mut lease = [0xee; 16];
    lease[..4].copy_from_slice(&number.to_be_bytes());
    lease
}

/// Where both ends knock, of an answer that is no refusal.
fn endpoints(answer: said::LeaseAnswer) -> [wire::tuple::Endpoint; 2] {
    assert_eq!(answer.refusal, "");
    [answer.first, answer.second].map(|end| {
        let end = end.expect("an endpoint");
        let address = match <[u8; 4]>::try_from(end.address.as_slice()) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(end.address).expect("an address").into(),
        };
        wire::tuple::Endpoint::new(address, end.port as u16)
    })
}

/// Where the two agents are, if nothing else is said.
pub fn agents() -> [wire::tuple::Endpoint; 2] {
    [end("192.0.2.1:4000"), end("192.0.2.2:5000")]
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(mut proxy) = self.proxy.take() {
            let _ = proxy.kill();
            let _ = proxy.wait();
        }
    }
}
