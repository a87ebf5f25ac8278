//! A Redis cluster of a run: three masters and three replicas on one host, which mobility servers share.
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::machine::{Station, spawn};
use crate::story::programs::{Launch, Programs};

/// Masters at first are those of the first three.
const PORTS: [u16; 6] = [7101, 7102, 7103, 7104, 7105, 7106];
/// How long the cluster may need until it serves.
const READY: Duration = Duration::from_secs(60);
/// Between two questions whether it does.
const AGAIN: Duration = Duration::from_millis(50);

/// The cluster, if the run has one.
#[derive(Default)]
pub struct RedisCluster {
    name: String,
    address: Option<IpAddr>,
    station: Option<Station>,
}

impl RedisCluster {
    /// Where servers find it; empty without one.
    pub fn urls(&self) -> Vec<String> {
        let nodes = self
            .address
            .iter()
            .flat_map(|address| PORTS.map(|port| format!("redis://{address}:{port}")));
        nodes.collect()
    }

    /// Starts all six and returns once the cluster serves and every master has a replica.
    pub fn start(
        &mut self,
        name: &str,
        address: IpAddr,
        station: &Station,
        programs: &mut Programs,
        slow: f64,
    ) -> Result<(), String> {
        let directory = station.directory.join(format!("redis-{name}"));
        for port in PORTS {
            let own = directory.join(port.to_string());
            std::fs::create_dir_all(&own)
                .map_err(|error| format!("cannot create {}: {error}", own.display()))?;
            let mut command = Command::new("redis-server");
            let (port, address) = (port.to_string(), address.to_string());
            let settings = [
                ("--port", port.as_str()),
                ("--bind", address.as_str()),
                ("--cluster-announce-ip", address.as_str()),
                ("--save", ""),
                ("--appendonly", "no"),
                ("--cluster-enabled", "yes"),
                ("--cluster-node-timeout", "1000"),
                ("--cluster-replica-validity-factor", "0"),
                ("--repl-diskless-sync-delay", "0"),
                ("--protected-mode", "no"),
            ];
            command.arg("--dir").arg(&own);
            command.args(settings.iter().flat_map(|(key, value)| [*key, *value]));
            let launch = Launch {
                name: format!("{name}-{port}"),
                what: "redis-server started".to_owned(),
                command,
                reports: false,
                stands: true,
                connections: 0,
            };
            programs.launch(station, launch)?;
        }
        self.name = name.to_owned();
        self.address = Some(address);
        self.station = Some(station.clone());
        let deadline = Instant::now() + READY.mul_f64(slow);
        let nodes = PORTS.map(|port| format!("{address}:{port}"));
        self.until(deadline, "does not answer", |cluster| {
            PORTS.iter().all(|port| cluster.ask(*port, &["ping"]).is_ok())
        })?;
        let mut create = vec!["--cluster", "create"];
        create.extend(nodes.iter().map(String::as_str));
        create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
        self.cli(&create)?;
        self.until(deadline, "does not come up", |cluster| {
            PORTS
                .iter()
                .all(|port| cluster.serves(*port) && cluster.is_replicated(*port))
        })?;
        programs.timeline.note(&station.name, format!("{name} serves"));
        Ok(())
    }

    /// SIGKILL to one that is a master now.
    pub fn kill_a_master(&self, programs: &Programs) -> Result<(), String> {
        let is_master = |port: &u16| {
            self.ask(*port, &["info", "replication"])
                .is_ok_and(|said| said.contains("role:master"))
        };
        let Some(port) = PORTS.into_iter().find(is_master) else {
            // A run without agents has no servers, and none of this.
            return match self.station {
                None => Ok(()),
                Some(_) => Err(format!("{} has no master", self.name)),
            };
        };
        programs.kill(&format!("{}-{port}", self.name));
        Ok(())
    }

    fn serves(&self, port: u16) -> bool {
        self.ask(port, &["cluster", "info"])
            .is_ok_and(|said| said.contains("cluster_state:ok"))
    }

    fn is_replicated(&self, port: u16) -> bool {
        self.ask(port, &["info", "replication"])
            .is_ok_and(|said| said.contains("master_link_status:up") || said.contains("connected_slaves:1"))
    }

    fn until(&self, deadline: Instant, otherwise: &str, holds: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !holds(self) {
            if Instant::now() > deadline {
                return Err(format!("the Redis cluster {} {otherwise}", self.name));
            }
            std::thread::sleep(AGAIN);
        }
        Ok(())
    }

    fn ask(&self, port: u16, words: &[&str]) -> Result<String, String> {
        let address = self.address.ok_or("no cluster")?;
        let (address, port) = (address.to_string(), port.to_string());
        let mut all = vec!["-h", address.as_str(), "-p", port.as_str()];
        all.extend(words);
        self.cli(&all)
    }

    fn cli(&self, words: &[&str]) -> Result<String, String> {
        let station = self.station.as_ref().ok_or("no cluster")?;
        let mut command = Command::new("redis-cli");
        command.args(words);
        spawn::run(station, &mut command).map_err(|error| error.to_string())
    }
}
