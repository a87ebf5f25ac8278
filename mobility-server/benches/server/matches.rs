//! Matches a second, and how long one takes at 70 % of that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::mobility::v1 as pb;
use proto::mobility::v1::agent_message::Body as Says;
use proto::mobility::v1::server_message::Body as Hears;
use tokio::task::JoinSet;

use crate::common::{Agent, Deployment, Line, report};
use crate::{Size, cluster, null, runtime};

/// Nothing is limited that is measured.
pub const UNLIMITED: &str = "[limits]\nreports = 4000000000\nreports_from_prefix = 4000000000\n\
    requests = 4000000000\nhandshakes_from_prefix = 4000000000\nenrolments_from_prefix = 4000000000\n\
    pairs = 1000000000\nconnections_from_address = 20000\n";

struct Row {
    server: &'static str,
    /// Matches a second, as fast as they can.
    rate: f64,
    /// From the moment the second report was due to both destinations, at 70 % of that; ascending.
    times: Vec<Duration>,
}

/// Two agents of a pair, and what they do next.
struct Pair {
    agents: [Agent; 2],
    lines: [Line; 2],
    number: u64,
    place: u64,
}

impl Pair {
    async fn open(deployment: &Deployment, place: usize, port: u16) -> Self {
        let mut agents = [
            deployment.agent(&format!("a{place}")).await,
            deployment.agent(&format!("b{place}")).await,
        ];
        for agent in &mut agents {
            agent.port = port;
        }
        let lines = [
            agents[0].attend(&[]).await.expect("welcome"),
            agents[1].attend(&[]).await.expect("welcome"),
        ];
        let place = place as u64;
        Self {
            agents,
            lines,
            number: 0,
            place,
        }
    }

    /// One pair ID from the first report to the last withdrawal. `due`: when the second report is to be sent. Returns how
    /// long after that both ends had their destinations.
    async fn meet(&mut self, due: Option<Instant>) -> Duration {
        self.number += 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.place.to_be_bytes());
        id[8..].copy_from_slice(&self.number.to_be_bytes());
        let [first, second] = &mut self.lines;
        first
            .say(Says::Report(report(id, &self.agents[1], 1, 1, 2)))
            .await;
        let mut told = [heard(first, &id).await, None];
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let due = due.unwrap_or_else(Instant::now);
        second
            .say(Says::Report(report(id, &self.agents[0], 1, 2, 1)))
            .await;
        for (line, told) in [first, second].into_iter().zip(&mut told) {
            while told.is_none() {
                *told = heard(line, &id).await;
            }
        }
        let took = due.elapsed();
        for (line, told) in self.lines.iter().zip(told) {
            let withdraw = pb::Withdraw {
                pair_id: id.to_vec(),
                move_counter: 1,
                reason: pb::withdraw::Reason::Resumed.into(),
                decision: told.unwrap_or_default(),
                direct: true,
            };
            line.say(Says::Withdraw(withdraw)).await;
        }
        took
    }
}

/// What an agent hears next of this pair: the number of a decision, or that it has to wait.
async fn heard(line: &mut Line, id: &[u8]) -> Option<u64> {
    loop {
        match line.next().await.expect("the stream is open") {
            Hears::Destination(told) if told.pair_id == id => return Some(told.decision),
            Hears::Waiting(waiting) if waiting.pair_id == id => return None,
            Hears::Refused(no) => panic!("{no:?}"),
            _ => {}
        }
    }
}

async fn run(server: &'static str, deployment: &Deployment, port: u16, size: Size) -> Row {
    let mut pairs = Vec::new();
    for place in 0..size.pairs {
        pairs.push(Pair::open(deployment, place, port).await);
    }
    for pair in &mut pairs {
        pair.meet(None).await;
    }
    let began = Instant::now();
    let mut working = JoinSet::new();
    for mut pair in pairs {
        working.spawn(async move {
            let mut count = 0;
            while began.elapsed() < size.time {
                pair.meet(None).await;
                count += 1;
            }
            (pair, count)
        });
    }
    let done = working.join_all().await;
    let count: u64 = done.iter().map(|(_, count)| count).sum();
    let rate = count as f64 / began.elapsed().as_secs_f64();

    let between = Duration::from_secs_f64(size.pairs as f64 / (0.7 * rate));
    let began = Instant::now();
    let mut working = JoinSet::new();
    for (place, (mut pair, _)) in done.into_iter().enumerate() {
        // Not all at the same moment.
        let mut due = began + between.mul_f64(1.0 + place as f64 / size.pairs as f64);
        working.spawn(async move {
            let mut times = Vec::new();
            while due < began + size.time {
                times.push(pair.meet(Some(due)).await);
                due += between;
            }
            times
        });
    }
    let mut times: Vec<_> = working.join_all().await.into_iter().flatten().collect();
    times.sort_unstable();
    Row { server, rate, times }
}

async fn against(server: &'static str, store: &str, size: Size) -> Row {
    let deployment = Deployment::start(&format!("log = \"warn\"\n[store]\n{store}\n{UNLIMITED}")).await;
    run(server, &deployment, deployment.port, size).await
}

pub fn measure(size: Size) {
    let runtime = runtime();
    let mut rows = vec![runtime.block_on(async {
        let store = "[store]\nbackend = \"memory\"";
        let deployment = Deployment::start(&format!("{store}\n{UNLIMITED}")).await;
        let bare = null::Running::start(&deployment);
        run("bare tonic", &deployment, bare.port, size).await
    })];
    rows.push(runtime.block_on(against("memory", "backend = \"memory\"", size)));
    rows.push(runtime.block_on(against("sled", "backend = \"sled\"", size)));
    let redis = format!(
        "backend = \"redis\"\nredis = [\"redis://127.0.0.1:{}\"]",
        cluster::PORTS[0]
    );
    let found = Arc::new(std::sync::Mutex::new(None));
    let cluster = cluster::Cluster::start();
    cluster.run(|| {
        let found = found.clone();
        async move {
            let row = against("Redis, 3 masters", &redis, size).await;
            *found.lock().expect("one thread") = Some(row);
        }
    });
    rows.extend(found.lock().expect("one thread").take());
    println!(
        "\nMatches of {} pairs at a time: four messages in, two destinations out",
        size.pairs
    );
    println!(
        "{:<18} {:>10} {:>7} {:>9} {:>9}  at 70 %",
        "store", "matches/s", "ratio", "p50 ms", "p99 ms"
    );
    for row in &rows {
        let quantile = |share: f64| {
            let rank = (share * row.times.len() as f64) as usize;
            let time = row.times.get(rank.min(row.times.len().saturating_sub(1)));
            time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
        };
        println!(
            "{:<18} {:>10.0} {:>7.3} {:>9.2} {:>9.2}",
            row.server,
            row.rate,
            row.rate / rows[0].rate,
            quantile(0.5),
            quantile(0.99)
        );
    }
}
