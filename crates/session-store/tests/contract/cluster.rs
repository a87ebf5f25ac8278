//! A Redis cluster of three masters and three replicas, in a network namespace and a directory of its own.
//!
//! A shell in new network and process namespaces starts the servers and obeys what is written to it. It is the first
//! process there, so everything goes with it; and it goes when its standard input closes, however this program ends.
use std::fs::File;
use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use session_store::{Redis, RedisSettings, SharedStore};

/// Masters at first are those of the first three.
pub const PORTS: [u16; 6] = [7001, 7002, 7003, 7004, 7005, 7006];

/// `$0` is the directory, the arguments are the ports. Speaks to standard output what is to be waited for.
const KEEPER: &str = r#"
cd "$0" || exit 1
ip link set lo up || exit 1
nodes=
for port; do
    mkdir "$port"
    redis-server --port "$port" --bind 127.0.0.1 --dir "$0/$port" --logfile "$0/$port/log" --save '' \
        --appendonly no --cluster-enabled yes --cluster-node-timeout 1000 --protected-mode no \
        --cluster-replica-validity-factor 0 --repl-diskless-sync-delay 0 >/dev/null </dev/null &
    eval "pid_$port=$!"
    nodes="$nodes 127.0.0.1:$port"
done
for port; do
    until redis-cli -p "$port" ping >/dev/null 2>&1; do sleep 0.05; done
done
redis-cli --cluster create $nodes --cluster-replicas 1 --cluster-yes >create.log 2>&1 || { cat create.log; exit 1; }
for port; do
    until redis-cli -p "$port" cluster info | grep -q cluster_state:ok; do sleep 0.05; done
done
for port; do
    until redis-cli -p "$port" info replication | grep -q 'master_link_status:up\|connected_slaves:1'; do sleep 0.05; done
done
echo ready
while read -r word port; do
    case $word in
        kill) eval "kill -9 \$pid_$port"; echo killed ;;
        settle) for each in 7001 7002 7003; do redis-cli -p "$each" wait 1 5000 >/dev/null; done; echo settled ;;
    esac
done
cd /
rm -rf "$0"
"#;

/// A running cluster.
pub struct Cluster {
    keeper: Child,
    talk: Mutex<(Option<ChildStdin>, Box<dyn BufRead + Send>)>,
    network: File,
}

impl Cluster {
    /// Starts one; takes some seconds.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("there is room for a directory").keep();
        let mut keeper = Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "sh", "-c", KEEPER])
            .arg(&directory)
            .args(PORTS.map(|port| port.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare of util-linux, and root");
        let listener = BufReader::new(keeper.stdout.take().expect("piped"));
        let mut cluster = Cluster {
            // Of unshare itself, which goes before the shell.
            network: File::open("/proc/self/ns/net").expect("proc is mounted"),
            talk: Mutex::new((keeper.stdin.take(), Box::new(listener))),
            keeper,
        };
        cluster.hear("ready");
        let network = format!("/proc/{}/ns/net", cluster.keeper.id());
        cluster.network = File::open(network).expect("unshare runs");
        cluster
    }

    /// Awaits a line of the keeper.
    fn hear(&self, expected: &str) {
        let mut said = String::new();
        let mut talk = self.talk.lock().unwrap();
        loop {
            let before = said.len();
            let length = talk.1.read_line(&mut said).expect("the keeper speaks text");
            assert!(
                length > 0,
                "the cluster ended instead of saying {expected:?}; are redis-server and redis-tools there? {said}"
            );
            if said[before..].trim() == expected {
                return;
            }
        }
    }

    fn tell(&self, order: &str, answer: &str) {
        if let Some(stdin) = &mut self.talk.lock().unwrap().0 {
            writeln!(stdin, "{order}").expect("the keeper listens");
        }
        self.hear(answer);
    }

    /// SIGKILL to one server.
    pub fn kill(&self, port: u16) {
        self.tell(&format!("kill {port}"), "killed");
    }

    /// Waits until the replicas have what the masters have.
    pub fn settle(&self) {
        self.tell("settle", "settled");
    }

    /// Runs a test on a runtime whose threads are in the cluster's network.
    pub fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        let network = Arc::new(self.network.try_clone().expect("there are descriptors left"));
        let enter =
            move || setns(&*network, CloneFlags::CLONE_NEWNET).expect("the network namespace is there");
        std::thread::scope(|scope| {
            let test = scope.spawn(move || {
                enter();
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .on_thread_start(enter)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(test());
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The keeper's standard input closes; it tidies up.
        self.talk.lock().unwrap().0 = None;
        let _ = self.keeper.wait();
    }
}

/// The one that the tests of the contract share. It goes with the process.
pub fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

/// An instance of the server, as it were.
pub async fn open() -> SharedStore {
    let settings = RedisSettings {
        nodes: vec![
            format!("redis://127.0.0.1:{}", PORTS[0]),
            format!("redis://127.0.0.1:{}", PORTS[1]),
        ],
        patience: Duration::from_secs(60),
    };
    Arc::new(
        Redis::open(settings)
            .await
            .unwrap_or_else(|error| panic!("{error}")),
    )
}
