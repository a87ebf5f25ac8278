//! What a stream and a session cost while nothing happens.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use prost::Message;
use proto::mobility::v1 as pb;
use session_store::{Expected, Key, Lease, Memory, SharedStore, Sled, Swap, Table};
use tokio::task::JoinSet;

use crate::common::{Agent, Deployment, endpoint};
use crate::matches::UNLIMITED;
use crate::{Size, another, null, resident, runtime};

/// Callers of the store at once.
const CALLERS: u64 = 512;
/// Streams of one agent; more would end the oldest.
const STREAMS: usize = 8;

pub fn measure(size: Size) {
    println!(
        "\n{} agents' streams that say nothing, each its own connection",
        size.streams
    );
    let (bare, ours) = runtime().block_on(streams(size.streams));
    println!("{:<18} {:>10} {:>7}", "server", "KiB each", "ratio");
    println!("{:<18} {:>10.1} {:>7.2}", "bare tonic", bare / 1024.0, 1.0);
    println!(
        "{:<18} {:>10.1} {:>7.2}",
        "mobility-server",
        ours / 1024.0,
        ours / bare
    );

    println!("\n{} sessions stored by {CALLERS} callers at once", size.sessions);
    println!(
        "{:<18} {:>10} {:>12} {:>12}",
        "store", "1000/s", "memory MB", "disk MB"
    );
    for backend in ["memory", "sled"] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("store");
        let path = path.to_str().expect("text");
        let count = size.sessions.to_string();
        let status = another(&["fill", backend, path, &count]).status();
        assert!(status.expect("it runs").success());
    }
}

/// Resident bytes for each stream: at the bare service, and at the server.
async fn streams(count: usize) -> (f64, f64) {
    let store = "log = \"warn\"\n[store]\nbackend = \"memory\"";
    let deployment = Deployment::start(&format!("{store}\n{UNLIMITED}")).await;
    let mut agents = Vec::new();
    for number in 0..count.div_ceil(STREAMS) {
        agents.push(deployment.agent(&format!("agent{number}")).await);
    }
    let bare = null::Running::start(&deployment);
    (
        each(&agents, count, bare.port, bare.pid()).await,
        each(&agents, count, deployment.port, deployment.pid()).await,
    )
}

async fn each(agents: &[Agent], count: usize, port: u16, pid: u32) -> f64 {
    let places = |number: usize| Agent {
        port,
        ..agents[number / STREAMS].clone()
    };
    // What the first ones make it allocate for good is not theirs.
    let mut lines = Vec::new();
    for number in 0..count / 10 {
        lines.push(places(number).attend(&[]).await.expect("welcome"));
    }
    let before = resident(pid);
    for number in count / 10..count {
        lines.push(places(number).attend(&[]).await.expect("welcome"));
    }
    let grown = resident(pid).saturating_sub(before);
    grown as f64 / (count - count / 10) as f64
}

fn session(number: u64) -> pb::Session {
    pb::Session {
        session_id: id(number),
        kind: pb::session::Kind::Relayed.into(),
        owner: "spiffe://deployment/proxy/one".into(),
        pair_id: id(number),
        client: Some(endpoint([10, 0, 0, 1], 40_000)),
        server: Some(endpoint([203, 0, 113, 2], 443)),
        updated_unix_milliseconds: 1_800_000_000_000,
        lease_seconds: 300,
        ..pb::Session::default()
    }
}

/// Not in order: no proxy counts.
fn id(number: u64) -> Vec<u8> {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [scattered.to_be_bytes(), number.to_be_bytes()].concat()
}

/// Stores so many sessions, and prints the row.
pub async fn fill(backend: &str, path: &Path, count: u64) {
    let before = resident(std::process::id());
    let sled = match backend {
        "sled" => Some(Arc::new(Sled::open(path).expect("a directory"))),
        _ => None,
    };
    let store: SharedStore = match &sled {
        Some(sled) => sled.clone(),
        None => Arc::new(Memory::new()),
    };
    let began = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let store = store.clone();
        callers.spawn(async move {
            for number in (caller..count).step_by(CALLERS as usize) {
                let key = Key::new(Table::Sessions, id(number)).expect("16 bytes");
                let value = session(number).encode_to_vec().into();
                let lease = Lease::For(std::time::Duration::from_secs(3600));
                let swap = store.swap(&key, Expected::Absent, value, lease).await;
                assert!(matches!(swap.expect("there is room"), Swap::Done(_)));
            }
        });
    }
    callers.join_all().await;
    let rate = count as f64 / began.elapsed().as_secs_f64() / 1e3;
    let disk = match &sled {
        Some(sled) => sled.size_on_disk().await.expect("it works"),
        None => 0,
    };
    let memory = resident(std::process::id()).saturating_sub(before);
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{backend:<18} {rate:>10.1} {:>12.0} {:>12.0}",
        megabytes(memory),
        megabytes(disk)
    );
}
